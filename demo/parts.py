"""The parts of the page that Gradio does not have: in each a script of `assets/` draws a value."""

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import FileData

from demo.sketch import STEP
from demo.studio import STAGES, Draft, Step, Studio, Take
from osmnet.media.audio import FPS

ASSETS = Path(__file__).parent / "assets"
SKETCH_HINT = "Sketches of the head movement. Keep those you like, and render them."
VIDEO_HINT = "They play together; choose whose sound you hear."


# Functions, not subclasses of Gradio's: for each of those Gradio writes a `.pyi` file beside this one.


def make_part(script: str, **options: Any) -> gr.HTML:
    """A part of the page; its value is JSON, in which files are `FileData`.

    Args:
        script (`str`): Which: `"drafts"`, takes before they are rendered, with the events `chosen` (with `takes`) and
            `more` (with `take`); `"gallery"`, rendered takes, with the event `more`; `"progress"`; `"examples"`, with
            the event `pick` (with `index`).
        **options: Of `gr.HTML`.
    """
    return gr.HTML(
        html_template='<div class="root"></div>',
        js_on_load="\n".join((ASSETS / f"{name}.js").read_text("utf-8") for name in ("common", script)),
        apply_default_css=False,
        **options,
    )


def make_portrait(**options: Any) -> gr.Image:
    """A widget for a picture, which gives the path of its file.

    The pipeline reads the file itself: Gradio would fail on one that is no picture, and say where it lay.
    """
    image = gr.Image(type="filepath", sources=["upload", "webcam", "clipboard"], **options)
    image.preprocess = lambda payload: payload.path if payload is not None else None  # type: ignore[method-assign]
    return image


def file_data(path: Path | str) -> dict[str, Any]:
    """A file for the browser: Gradio copies it, byte for byte, under a name that nobody can guess."""
    return FileData(path=str(path)).model_dump()


def drafts_value(studio: Studio, draft: Draft) -> dict[str, Any]:
    """What the part `drafts` shows of a draft."""
    count = draft.motion.num_videos
    return {
        "title": f"{count} take{'s' * (count > 1)} to choose from",
        "hint": SKETCH_HINT,
        "notes": list(draft.notes),
        "numbers": list(draft.numbers),
        "moving": not draft.wishes.still,
        "speech": file_data(draft.recording),
        **studio.sketch(draft),
    }


def waiting_value(title: str) -> dict[str, Any]:
    """What the part `gallery` shows while there is nothing yet."""
    return {"title": title, "hint": "", "notes": [], "takes": []}


def gallery_value(draft: Draft, takes: list[Take], title: str, is_new: bool) -> dict[str, Any]:
    """What the part `gallery` shows of rendered takes; it is brought into view if it is new."""
    return {
        "title": title,
        "isNew": is_new,
        "hint": VIDEO_HINT,
        "notes": [],
        "seconds": draft.motion.speech.num_frames / FPS,
        "fps": FPS / STEP,
        "moving": not draft.wishes.still,
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
    """What the part `progress` shows of a step."""
    return {"stages": list(STAGES), "stage": step.stage, "done": step.done, "left": step.seconds_left}
