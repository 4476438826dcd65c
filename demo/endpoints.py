"""The page for programs: the endpoints `/generate`, `/preview` and `/bases`, which are the MCP server's tools, too."""

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import gradio as gr

from demo.motion_space import MotionSpace
from demo.parts import make_portrait
from demo.studio import Draft, RefusedInputError, Step, Studio, Wishes, run

NO_CONSENT = "Set consent to true to say that the people who are seen and heard have agreed."
Paint = Callable[[Draft, Path, bool | None], Generator[Any]]


def refuse(error: RefusedInputError) -> gr.Error:
    """The error that the page shows, and that programs get."""
    return gr.Error(str(error), duration=6, print_exception=False)


def add_endpoints(
    studio: Studio, space: MotionSpace, paint: Paint, light: dict[str, Any], heavy: dict[str, Any]
) -> None:
    """Add the endpoints to the page that is being laid out.

    Args:
        studio (`Studio`): Does the work.
        space (`MotionSpace`): Shows bases.
        paint (`Callable`): Renders a draft into a folder; yields steps, and at last the takes.
        light (`dict`): How many may preview at a time, for Gradio's events.
        heavy (`dict`): How many may render at a time.
    """

    def generate(
        portrait: str,
        speech: str,
        num_videos: int = 4,
        epsilon: float = 1.0,
        seed: int = 7,
        motion_scale: float = 1.0,
        expression_scale: float = 1.0,
        still: bool = False,
        blink: bool = True,
        whole_picture: bool = False,
        yaw: float = 0.0,
        pitch: float = 0.0,
        roll: float = 0.0,
        consent: bool = False,
    ) -> Generator[tuple[list[str], list[dict[str, Any]]]]:
        """Make talking-head videos from one portrait and one recording of speech: each take moves differently.

        Args:
            portrait: A picture with one clearly visible face.
            speech: A recording of speech.
            num_videos: How many takes.
            epsilon: How far takes may differ from the most likely movement, 0 to 2; 1 is as real speakers do.
            seed: The same seed gives the same takes.
            motion_scale: Factor of the head's movement.
            expression_scale: Factor of the mouth's movement.
            still: Keep the head still.
            blink: Blink.
            whole_picture: The whole picture instead of the square around the head.
            yaw: Turns the head for the whole video, in degrees.
            pitch: Lifts the chin likewise.
            roll: Tilts the head likewise.
            consent: Must be true: the people who are seen and heard have agreed to it.

        Returns:
            The files (osmnet-take-1-seed-….mp4 and .json, …), and of each take its number and seed.
        """
        try:
            if consent is not True:
                raise RefusedInputError("consent", NO_CONSENT)
            wishes = Wishes(
                int(num_videos), epsilon, int(seed), motion_scale, expression_scale, still, blink, whole_picture,
                yaw, pitch, roll,
            )  # fmt: skip
            draft = run(studio.draft(portrait, speech, wishes))
        except RefusedInputError as error:
            raise refuse(error) from None
        with studio.workplace() as folder:
            for made in paint(draft, Path(folder), True):
                if isinstance(made, Step):
                    yield gr.skip(), gr.skip()  # a program that went away is noticed here
                    continue
                yield (
                    [str(path) for take in made for path in (take.video, take.details)],
                    [{"take": take.number, "take_seed": take.seed} for take in made],
                )

    def preview(
        portrait: str,
        speech: str,
        num_videos: int = 4,
        epsilon: float = 1.0,
        seed: int = 7,
        motion_scale: float = 1.0,
        still: bool = False,
        yaw: float = 0.0,
        pitch: float = 0.0,
        roll: float = 0.0,
    ) -> dict[str, Any]:
        """Sample head movement without rendering: a second or two for all takes.

        Args:
            portrait: A picture with one clearly visible face.
            speech: A recording of speech.
            num_videos: How many takes.
            epsilon: How far takes may differ from the most likely movement, 0 to 2.
            seed: The same seed gives the same takes, also of `generate`.
            motion_scale: Factor of the head's movement.
            still: Keep the head still.
            yaw: Turns the head for the whole video, in degrees.
            pitch: Lifts the chin likewise.
            roll: Tilts the head likewise.

        Returns:
            `fps`, `seconds` and `takes`: of each its `take_seed`, and `turn`, flat: yaw, pitch and roll at every step
            in tenths of a degree.
        """
        wishes = Wishes(
            int(num_videos), epsilon, int(seed), motion_scale, still=still, yaw=yaw, pitch=pitch, roll=roll
        )
        try:
            draft = run(studio.draft(portrait, speech, wishes))
        except RefusedInputError as error:
            raise refuse(error) from None
        drawn = studio.sketch(draft)
        takes = [{"take_seed": int(take["seed"]), "turn": take["turn"]} for take in drawn["takes"]]
        return {"fps": drawn["fps"], "seconds": drawn["seconds"], "takes": takes}

    def bases(
        portrait: str | None = None, basis: int = 0, consent: bool = False
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
        every = [{"basis": each.index, "held": each.name, "swung": each.swing} for each in space.bases]
        try:
            with studio.workplace() as folder:
                path = Path(folder) / f"basis-{int(basis)}.mp4"
                yield str(space.film(portrait, int(basis), path, bool(consent))), every
        except RefusedInputError as error:
            raise refuse(error) from None

    with gr.Row(visible=False):  # what an endpoint takes and gives: Gradio keeps the types with widgets
        face, voice, agreed = make_portrait(label="Portrait"), gr.Audio(label="Speech", type="filepath"), gr.Checkbox()
        count, radius, seed = gr.Number(4, precision=0), gr.Number(1.0), gr.Number(7, precision=0)
        motion, expression, yaw, pitch, roll = (gr.Number(value) for value in (1.0, 1.0, 0.0, 0.0, 0.0))
        still, blink, whole = gr.Checkbox(), gr.Checkbox(True), gr.Checkbox()
        basis = gr.Number(0, precision=0)
        files, details = gr.File(label="Videos and details", file_count="multiple"), gr.JSON(label="Takes")
        drawn, film, names = gr.JSON(label="Takes"), gr.File(label="Film"), gr.JSON(label="All bases")
    first, turns = [face, voice, count, radius, seed, motion], [yaw, pitch, roll]
    given = [*first, expression, still, blink, whole, *turns, agreed]
    gr.on([], generate, given, [files, details], api_name="generate", **heavy)
    gr.on([], preview, [*first, still, *turns], drawn, api_name="preview", **light)
    gr.on([], bases, [face, basis, agreed], [film, names], api_name="bases", **heavy)
