"""Endpoints for programs: `/generate`, `/preview` and `/bases`, which are also the tools of the MCP server."""

from collections.abc import Generator
from dataclasses import fields
from pathlib import Path
from typing import Any

import gradio as gr

from demo.create_layout import DEFAULTS, SEED
from demo.events import HEAVY, LIGHT, refuse
from demo.uploads import make_portrait, make_speech
from demo.zero_gpu import Paint
from osmnet.pipelines.options import NUM_VIDEOS, MotionOptions, PictureOptions
from osmnet.serving.basis_films import BasisFilms
from osmnet.serving.inputs import RefusedInputError
from osmnet.serving.jobs import Step
from osmnet.serving.studio import Studio

NO_CONSENT = "Set consent to true to say that the people who are seen and heard have agreed."
FULL_FRAME = PictureOptions().whole_picture
Files = list[str]
Details = list[dict[str, Any]]


class Endpoints:
    """Adds the endpoints to the page that is being built.

    Their options are those of `MotionOptions` and `PictureOptions`; `null` stands for the default.

    Args:
        studio (`Studio`): Does the work.
        films (`BasisFilms`): Shows bases.
        paint (`Callable`): Renders a draft, see `make_paint`.
    """

    def __init__(self, studio: Studio, films: BasisFilms, paint: Paint):
        self.studio, self.films, self.paint = studio, films, paint
        with gr.Row(visible=False):  # Gradio takes the types of an endpoint from widgets
            portrait, speech, consent = make_portrait(label="Portrait"), make_speech(label="Speech"), gr.Checkbox()
            option = _option_widgets()
            basis = gr.Number(0, precision=0)
            files, details = gr.File(label="Videos and details", file_count="multiple"), gr.JSON(label="Takes")
            sketched, film, names = gr.JSON(label="Takes"), gr.File(label="Film"), gr.JSON(label="All bases")
        first = [portrait, speech, *(option[name] for name in ("num_videos", "epsilon", "seed", "motion_scale"))]
        picture = [option[name] for name in ("expression_scale", "still", "blink", "full_frame")]
        turns = [option[name] for name in ("yaw", "pitch", "roll")]
        every = [*first, *picture, *turns, *(option[name] for name in ("upper_face", "gaze")), consent]
        gr.on([], self.generate, every, [files, details], api_name="generate", **HEAVY)
        gr.on([], self.preview, [*first, option["still"], *turns], sketched, api_name="preview", **LIGHT)
        gr.on([], self.bases, [portrait, basis, consent], [film, names], api_name="bases", **HEAVY)

    def generate(
        self,
        portrait: str,
        speech: str,
        num_videos: int = NUM_VIDEOS,
        epsilon: float = MotionOptions.epsilon,
        seed: int = SEED,
        motion_scale: float = MotionOptions.motion_scale,
        expression_scale: float = MotionOptions.expression_scale,
        still: bool = MotionOptions.still,
        blink: bool = MotionOptions.blink,
        full_frame: bool = FULL_FRAME,
        yaw: float = 0.0,
        pitch: float = 0.0,
        roll: float = 0.0,
        upper_face: float = MotionOptions.upper_face,
        gaze: str = MotionOptions.gaze,
        consent: bool = False,
    ) -> Generator[tuple[Files, Details]]:
        """Make talking-head videos from one portrait and one recording of speech: each take moves differently.

        Args:
            portrait: A picture with one clearly visible face.
            speech: A recording of speech.
            num_videos: Number of takes.
            epsilon: How far takes may differ from the most likely movement, 0 to 2; 1 is as real speakers do.
            seed: The same seed gives the same takes.
            motion_scale: Factor of the head's movement.
            expression_scale: Factor of the mouth's movement.
            still: Keep the head still.
            blink: Blink.
            full_frame: The whole picture instead of the square around the head.
            yaw: Turns the head for the whole video, in degrees.
            pitch: Lifts the chin likewise.
            roll: Tilts the head likewise.
            upper_face: Factor of the brows' movement, 0 to 2.
            gaze: "viewer" keeps the eyes on the viewer, "free" looks around, "fixed" turns them with the head.
            consent: Must be true: the people who are seen and heard have agreed to it.

        Returns:
            The files (osmnet-take-1-seed-….mp4 and .json, …), and of each take its number and seed.
        """
        options = _given(
            num_videos=num_videos, epsilon=epsilon, motion_scale=motion_scale, expression_scale=expression_scale,
            still=still, blink=blink, full_frame=full_frame, yaw=yaw, pitch=pitch, roll=roll,
            upper_face=upper_face, gaze=gaze,
        )  # fmt: skip
        yield from self._generate(portrait, speech, consent, seed, options)

    def _generate(
        self, portrait: str, speech: str, consent: bool, seed: int, options: dict[str, Any]
    ) -> Generator[tuple[Any, Any]]:
        try:
            if consent is not True:
                raise RefusedInputError("consent", NO_CONSENT)
            draft = self.studio.draft(portrait, speech, seed=seed, **options).result()
            with self.studio.temporary_folder() as folder:
                for made in self.paint(draft, Path(folder), True):
                    if isinstance(made, Step):
                        yield gr.skip(), gr.skip()  # Gradio notices here that the program went away
                        continue
                    yield (
                        [str(path) for take in made for path in (take.video, take.details)],
                        [{"take": take.number, "take_seed": take.seed} for take in made],
                    )
        except RefusedInputError as error:
            raise refuse(error) from None

    def preview(
        self,
        portrait: str,
        speech: str,
        num_videos: int = NUM_VIDEOS,
        epsilon: float = MotionOptions.epsilon,
        seed: int = SEED,
        motion_scale: float = MotionOptions.motion_scale,
        still: bool = MotionOptions.still,
        yaw: float = 0.0,
        pitch: float = 0.0,
        roll: float = 0.0,
    ) -> dict[str, Any]:
        """Sample head movement without rendering: a second or two for all takes.

        Args:
            portrait: A picture with one clearly visible face.
            speech: A recording of speech.
            num_videos: Number of takes.
            epsilon: How far takes may differ from the most likely movement, 0 to 2.
            seed: The same seed gives the same takes, also those of `generate`.
            motion_scale: Factor of the head's movement.
            still: Keep the head still.
            yaw: Turns the head for the whole video, in degrees.
            pitch: Lifts the chin likewise.
            roll: Tilts the head likewise.

        Returns:
            `fps`, `seconds` and `takes`: of each its `take_seed`, and `turn`, flat: yaw, pitch and roll at every step
            in tenths of a degree.
        """
        options = _given(
            num_videos=num_videos, epsilon=epsilon, motion_scale=motion_scale, still=still, yaw=yaw, pitch=pitch,
            roll=roll,
        )  # fmt: skip
        try:
            sketch = self.studio.sketch(self.studio.draft(portrait, speech, seed=seed, **options).result())
        except RefusedInputError as error:
            raise refuse(error) from None
        takes = [{"take_seed": int(take["seed"]), "turn": take["turn"]} for take in sketch["takes"]]
        return {"fps": sketch["fps"], "seconds": sketch["seconds"], "takes": takes}

    def bases(
        self, portrait: str | None = None, basis: int = 0, consent: bool = False
    ) -> Generator[tuple[str, list[dict[str, Any]]]]:
        """Film what one of the learned motion bases does to a face, and list all of them.

        Args:
            portrait: A picture with one clearly visible face; an example's if there is none.
            basis: Which basis, counted from 0.
            consent: Must be true with a portrait of your own: the person has agreed to it.

        Returns:
            A film, held on the left and swung on the right; and of every basis its number, what the head does while
            it is held, and while it is swung.
        """
        every = [{"basis": each.index, "held": each.name, "swung": each.swing} for each in self.films.bases]
        try:
            with self.studio.temporary_folder() as folder:
                path = Path(folder) / f"basis-{int(basis)}.mp4"
                yield str(self.films.film(portrait, int(basis), path, bool(consent))), every
        except RefusedInputError as error:
            raise refuse(error) from None


def _option_widgets() -> dict[str, Any]:
    """A widget for every option that is a number, a flag or a choice; clients take the defaults from them."""
    widgets: dict[str, Any] = {"seed": gr.Number(SEED, precision=0), "full_frame": gr.Checkbox(FULL_FRAME)}
    for each in fields(MotionOptions):
        default = getattr(DEFAULTS, each.name)
        if isinstance(default, bool):
            widgets[each.name] = gr.Checkbox(default)
        elif each.metadata["choices"] is not None:
            widgets[each.name] = gr.Radio(list(each.metadata["choices"]), value=default)
        elif isinstance(default, int | float):
            widgets[each.name] = gr.Number(default, precision=0 if each.metadata["whole"] else None)
    return widgets


def _given(**options: Any) -> dict[str, Any]:
    defaults = {"num_videos": NUM_VIDEOS}
    return defaults | {name: value for name, value in options.items() if value is not None}
