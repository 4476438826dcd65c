"""Widgets of the tab *Create*."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from demo.parts import ASSETS, make_part
from demo.uploads import make_portrait, make_speech
from osmnet.pipelines.options import MAX_UPPER_FACE, NUM_VIDEOS, MotionOptions, PictureOptions
from osmnet.serving.settings import Settings

TRY = "Try an example, or a picture and a recording of your own:"
CONSENT = "The people in this picture and recording have agreed to this, or they are me."
SEED = 7
SEEDS = 2**31  # seeds of the page run from 0 to below this
DEFAULTS = MotionOptions(num_videos=NUM_VIDEOS)
MAX_EPSILON, MAX_SCALE, MAX_TURN = 2, 2, 30  # of the sliders; MAX_TURN in degrees


@dataclass
class CreateWidgets:
    """Widgets of the tab *Create*, and state of one visitor.

    Attributes:
        options (`dict`): Widget of every option, by its name in `MotionOptions` and `PictureOptions`, and `"seed"`.
        drafted (`gr.State`): The takes that are shown as sketches.
        rendered (`gr.State`): Those in the gallery.
    """

    examples: gr.HTML
    portrait: gr.Image
    portrait_note: gr.Markdown
    speech: gr.Audio
    speech_note: gr.Markdown
    shorten: gr.Button
    options: dict[str, Any]
    dice: gr.Button
    consent: gr.Checkbox
    consent_note: gr.Markdown
    preview: gr.Button
    drafts: gr.HTML
    progress: gr.HTML
    stop: gr.Button
    gallery: gr.HTML
    drafted: gr.State
    rendered: gr.State


def lay_out(settings: Settings) -> CreateWidgets:
    """Add the widgets to the tab that is being built."""
    drafted, rendered = (gr.State(None, time_to_live=settings.keep_seconds) for _ in range(2))
    gr.Markdown(TRY, elem_id="examples-title")
    examples = make_part("examples", elem_id="examples")
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=320, elem_id="inputs"):
            files = _files(settings)
            options, dice = _options(settings)
            consent = gr.Checkbox(False, label=CONSENT, elem_id="consent")
            consent_note = gr.Markdown(visible=False)
            preview = gr.Button("Preview takes", variant="primary", size="lg", elem_id="preview")
        with gr.Column(scale=8, min_width=320, elem_id="results"):
            drafts = make_part("drafts", elem_id="drafts")
            progress = make_part("progress", elem_id="progress")
            stop = gr.Button("Stop", visible=False, elem_id="stop")
            gallery = make_part("gallery", elem_id="gallery")
    return CreateWidgets(
        examples, *files, options, dice, consent, consent_note, preview, drafts, progress, stop, gallery,
        drafted=drafted, rendered=rendered,
    )  # fmt: skip


def _files(settings: Settings) -> tuple[gr.Image, gr.Markdown, gr.Audio, gr.Markdown, gr.Button]:
    portrait = make_portrait(
        label="Portrait", height=280, elem_id="portrait", placeholder="A picture with one clearly visible face"
    )
    portrait_note = gr.Markdown(visible=False)
    speech = make_speech(label="Speech, an audio file", elem_id="speech")
    speech_note = gr.Markdown(visible=False)
    shorten = gr.Button(f"Use its first {settings.max_seconds} seconds", visible=False, size="sm")
    return portrait, portrait_note, speech, speech_note, shorten


def _options(settings: Settings) -> tuple[dict[str, Any], gr.Button]:
    def slider(name: str, high: float, step: float, label: str, low: float = 0, **more: Any) -> None:
        widgets[name] = gr.Slider(low, high, getattr(DEFAULTS, name), step=step, label=label, **more)

    widgets: dict[str, Any] = {}
    slider("num_videos", settings.max_takes, 1, "Number of takes", low=1, elem_id="num-videos")
    slider(
        "epsilon", MAX_EPSILON, 0.05, "ε, how far takes may differ",
        info="0: every take moves in the most likely way; 1: as variously as real speakers do.",
    )  # fmt: skip
    with gr.Row(elem_id="seed-row"):
        widgets["seed"] = gr.Number(
            SEED, precision=0, label="Seed", scale=5, min_width=160, info="The same seed gives the same takes."
        )
        dice = gr.Button("Roll", icon=str(ASSETS / "dice.svg"), elem_id="dice", min_width=116, scale=1)
    with gr.Accordion("Direct the movement", open=False):
        slider("motion_scale", MAX_SCALE, 0.05, "Movement of the head")
        slider("expression_scale", MAX_SCALE, 0.05, "Movement of the mouth")
        widgets["still"] = gr.Checkbox(DEFAULTS.still, label="Keep still", info="Only the face moves.")
        slider("upper_face", MAX_UPPER_FACE, 0.05, "Movement of the brows")
        widgets["gaze"] = gr.Radio(
            [("At the viewer", "viewer"), ("Around", "free"), ("With the head", "fixed")], value=DEFAULTS.gaze,
            label="Eyes look",
        )  # fmt: skip
        widgets["blink"] = gr.Checkbox(DEFAULTS.blink, label="Blink")
        widgets["full_frame"] = gr.Checkbox(
            PictureOptions().whole_picture, label="Whole picture", info="Otherwise the square around the head."
        )
        slider("yaw", MAX_TURN, 1, "Turn, in degrees (yaw)", low=-MAX_TURN)
        slider("pitch", MAX_TURN, 1, "Lift the chin, in degrees (pitch)", low=-MAX_TURN)
        slider("roll", MAX_TURN, 1, "Tilt, in degrees (roll)", low=-MAX_TURN)
    return widgets, dice
