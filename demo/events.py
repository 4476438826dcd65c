"""Shared by the page's tabs and endpoints: limits of concurrency, notes below widgets, refusals."""

from typing import Any

import gradio as gr

from osmnet.pipelines.options import PictureOptions
from osmnet.serving.inputs import RefusedInputError
from osmnet.serving.studio import Studio

Options = dict[str, Any]
HIDDEN: Options = {"api_visibility": "private", "show_progress": "hidden"}
LIGHT: Options = {"concurrency_id": "light", "concurrency_limit": 2}  # check and encode inputs, sample
HEAVY: Options = {"concurrency_id": "heavy", "concurrency_limit": 1}  # render


def note(text: str = "", refused: bool = False) -> Options:
    """Update of a note below a widget; it is hidden without text."""
    return gr.update(value=text, visible=bool(text), elem_classes=["refused" if refused else "said-ok"])


def refuse(error: RefusedInputError) -> gr.Error:
    """Turn a refusal into the error that visitors and programs get."""
    return gr.Error(str(error), duration=6, print_exception=False)


def portrait_note(studio: Studio, path: str, picture: PictureOptions) -> Options:
    """Check a portrait and describe the result."""
    try:
        _, notes = studio.inputs.portrait(path, picture)
    except RefusedInputError as error:
        return note(str(error), refused=True)
    return note(" ".join(notes) or "A face was found.")
