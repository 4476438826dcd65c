"""Parts of the page that Gradio has no widget for: a script of `assets/` draws the value of each."""

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import FileData

from osmnet.media.audio import FPS
from osmnet.serving.drafts import Draft, RenderedTake
from osmnet.serving.jobs import STEPS, Step
from osmnet.serving.sketch import STEP
from osmnet.serving.studio import Studio

ASSETS = Path(__file__).parent / "assets"
SKETCH_HINT = "Sketches of the head movement. Keep the ones you like and render them."
VIDEO_HINT = "They play together; choose whose sound you hear."


# Functions, not subclasses of Gradio's: Gradio writes a `.pyi` file beside the module of each subclass.


def make_part(script: str, **options: Any) -> gr.HTML:
    """A part of the page; its value is JSON, in which files are `FileData`.

    Args:
        script (`str`): Which: `"drafts"`, takes before they are rendered, with the events `chosen` (with `takes`) and
            `more` (with `take`); `"gallery"`, rendered takes, with the event `more`; `"progress"`; `"examples"`, with
            the event `pick` (with `index`).
        **options: Arguments of `gr.HTML`.
    """
    return gr.HTML(
        html_template='<div class="root"></div>',
        js_on_load="\n".join((ASSETS / f"{name}.js").read_text("utf-8") for name in ("common", script)),
        apply_default_css=False,
        **options,
    )


def file_data(path: Path | str) -> dict[str, Any]:
    """A file for the browser: Gradio copies it, byte for byte, under a name that cannot be guessed."""
    return FileData(path=str(path)).model_dump()


def drafts_value(studio: Studio, draft: Draft) -> dict[str, Any]:
    """Value of the part `drafts`."""
    count = draft.motion.num_videos
    return {
        "title": f"{count} take{'s' * (count > 1)} to choose from",
        "hint": SKETCH_HINT,
        "notes": list(draft.notes),
        "numbers": list(draft.numbers),
        "moving": not draft.options.still,
        "speech": file_data(draft.recording),
        **studio.sketch(draft),
    }


def waiting_value(title: str) -> dict[str, Any]:
    """Value of the part `gallery` before there is a take."""
    return {"title": title, "hint": "", "notes": [], "takes": []}


def gallery_value(draft: Draft, takes: list[RenderedTake], title: str, is_new: bool) -> dict[str, Any]:
    """Value of the part `gallery`; it scrolls into view if `is_new`."""
    return {
        "title": title,
        "isNew": is_new,
        "hint": VIDEO_HINT,
        "notes": [],
        "seconds": draft.motion.speech.num_frames / FPS,
        "fps": FPS / STEP,
        "moving": not draft.options.still,
        "takes": [
            {
                "number": take.number,
                "seed": str(take.seed),
                "video": file_data(take.video),
                "details": file_data(take.details),
                "turn": take.turn,
            }
            for take in takes
        ],
    }


def progress_value(step: Step) -> dict[str, Any]:
    """Value of the part `progress`."""
    return {"steps": list(STEPS), "step": step.index, "done": step.done, "left": step.seconds_left}
