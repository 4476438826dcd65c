"""Widgets for files of visitors: they read uploads and the examples, and no other file of this machine."""

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
NOT_UPLOADED = "Only files that were uploaded here can be used; upload the file first."


def make_portrait(**options: Any) -> gr.Image:
    """A widget for a picture; its value is a path.

    The pipeline decodes the file: Gradio would fail on one that is not a picture, and name its path.
    """
    return _restricted(gr.Image(type="filepath", sources=["upload", "webcam", "clipboard"], **options))


def make_speech(**options: Any) -> gr.Audio:
    """A widget for a recording; its value is a path."""
    return _restricted(gr.Audio(type="filepath", sources=["upload", "microphone"], **options))


def _restricted(widget: Any) -> Any:
    # Gradio checks paths only in JSON that says it is a file (`meta`); a picture's JSON need not say so.
    widget.preprocess = uploaded_path
    return widget


def uploaded_path(payload: Any) -> str | None:
    """Path in a request's JSON.

    Raises:
        gradio.Error: If it is no upload and no example, whether or not there is such a file.
    """
    if payload is None or not payload.path:
        return None
    try:
        path = Path(payload.path).resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of links, a NUL
        path = Path("/")
    if not any(path.is_relative_to(folder) for folder in (Path(get_upload_folder()).resolve(), EXAMPLES)):
        raise gr.Error(NOT_UPLOADED, print_exception=False)
    return str(payload.path)
