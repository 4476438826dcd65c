"""`Studio`: drafts and takes of a service."""

import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from osmnet import OSMNetPipeline
from osmnet.pipelines.options import MotionOptions, PictureOptions, build_options
from osmnet.pipelines.talking_head import takes_options
from osmnet.serving.disk import DiskBudget
from osmnet.serving.drafts import Draft, RenderedTake
from osmnet.serving.inputs import Inputs, RefusedInputError
from osmnet.serving.jobs import (
    FILES,
    MOVEMENT,
    PICTURES,
    POLL_SECONDS,
    PORTRAIT,
    SPEECH,
    Job,
    Step,
    Tell,
    in_background,
)
from osmnet.serving.settings import Settings
from osmnet.serving.sketch import curves, sketch
from osmnet.serving.workspace import Workspace, sweep
from osmnet.structures import Motion, Speech

TOO_LONG = "Rendering took more than {} s, the limit of a request; ask for fewer takes, or shorten the recording."
STUDIO_PREFIX = "osmnet-studio-"
CLOSE_SECONDS = 10.0  # s that `close` waits for work to end; rendering ends within a chunk


class StudioClosedError(RuntimeError):
    """The studio is closed."""


class Studio:
    """Makes takes for a service.

    Args:
        settings (`Settings`): Limits of the service.
        pipe (`OSMNetPipeline`): Encodes inputs and samples motion.
        render_pipe (`OSMNetPipeline`, *optional*): Renders on another device.
        folders (sequence of `Path`): Of uploads and results: they count towards the disk budget, too, and their
            files are removed after `keep_seconds`.

    Attributes:
        inputs (`Inputs`): Checks and encodes portraits and speech.
        folder (`Path`): Temporary files; removed by `close`.

    Example:
        >>> studio = Studio.load(Settings.from_environment())
        >>> draft = studio.draft("portrait.jpg", "speech.wav", num_videos=6, seed=7).result()
        >>> takes = studio.render(draft.take([0, 3]), Path("out"), consent=True).result()
    """

    def __init__(
        self,
        settings: Settings,
        pipe: OSMNetPipeline,
        render_pipe: OSMNetPipeline | None = None,
        folders: Sequence[Path] = (),
    ):
        self.settings = settings
        self.pipe = pipe
        self.render_pipe = render_pipe or pipe
        self.inputs = Inputs(settings, pipe)
        self._workspace = Workspace(STUDIO_PREFIX)
        self.folder = self._workspace.folder
        # No lock: a process that is forked while another thread held it would wait for ever.
        self._closed = False
        self._work: set[object] = set()  # what is writing to the folder
        self.disk = DiskBudget([self.folder], settings.max_disk_mb, folders, settings.keep_seconds)

    @classmethod
    def load(cls, settings: Settings, folders: Sequence[Path] = ()) -> "Studio":
        """Load weights; render on a GPU if available.

        Args:
            settings (`Settings`): Limits and weights.
            folders (sequence of `Path`): See `Studio`.

        Raises:
            ValueError: If the weights cannot be loaded.
        """
        sweep(STUDIO_PREFIX)
        model = settings.model or None
        pipe = OSMNetPipeline.from_pretrained(model)
        # Encoding takes a second on a CPU too; a GPU lent for the length of a call is kept for rendering.
        render_pipe = OSMNetPipeline.from_pretrained(model, device="cuda") if torch.cuda.is_available() else None
        studio = cls(settings, pipe, render_pipe, folders)
        if studio.inputs.decoder is not None:
            studio.inputs.decoder.start()
        return studio

    def close(self) -> None:
        """Stop rendering; remove temporary files and cached inputs."""
        self._closed = True
        end = time.monotonic() + CLOSE_SECONDS
        while self._work and time.monotonic() < end:
            time.sleep(POLL_SECONDS / 4)
        self.inputs.cache.clear()
        if self.inputs.decoder is not None:
            self.inputs.decoder.close()
        self._workspace.remove()

    @contextmanager
    def at_work(self) -> Iterator[Path]:
        """Yield the folder; `close` waits for the `with` block.

        Raises:
            StudioClosedError: If the studio is closed.
        """
        work = object()
        self._work.add(work)  # before the check: `close` does it the other way round
        try:
            self.check_open()
            self.folder.mkdir(exist_ok=True)
            yield self.folder
        finally:
            self._work.remove(work)

    def check_open(self) -> None:
        """Raise `StudioClosedError` if closed."""
        if self._closed:
            raise StudioClosedError("The studio is closed.")

    def temporary_folder(self) -> tempfile.TemporaryDirectory[str]:
        """Make a temporary folder for one request."""
        with self.at_work() as folder:
            return tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True)

    @takes_options(MotionOptions, PictureOptions)
    def draft(self, portrait: str | None, speech: str | None, *, seed: int, **options: Any) -> Job[Draft]:
        """Sample takes.

        Args:
            portrait (`str`, *optional*): Path of a picture.
            speech (`str`, *optional*): Path of a recording.
            seed (`int`): The same seed gives the same takes.
            **options: Fields of `MotionOptions` and `PictureOptions`.

        Returns:
            `Job[Draft]`: Raises `RefusedInputError` if an input is missing or cannot be used.

        Raises:
            RefusedInputError: If an option is out of its range.
            TypeError: If an option is unknown.
        """
        most = self.settings.max_takes
        if options.get("num_videos", 1) not in range(1, most + 1):
            raise RefusedInputError("takes", f"Choose from 1 to {most} takes.")
        try:
            motion_options, picture = build_options("draft", options, MotionOptions, PictureOptions)
        except ValueError as error:
            raise RefusedInputError("takes", str(error)) from error
        return Job(self._draft(portrait, speech, motion_options, picture, seed))

    def _draft(
        self, portrait: str | None, speech: str | None, options: MotionOptions, picture: PictureOptions, seed: int
    ) -> Generator[Step, None, Draft]:
        yield Step(PORTRAIT)
        source, notes = self.inputs.portrait(portrait, picture)
        yield Step(SPEECH)
        encoded, more_notes = self.inputs.speech(speech)
        yield Step(MOVEMENT)
        motion = self._sample(encoded, options, seed)
        return Draft(source, motion, options, seed, _numbers(motion), (*notes, *more_notes), str(speech))

    def more_like(self, draft: Draft, take: int, seed: int) -> Draft:
        """Sample takes near one of a draft.

        Args:
            draft (`Draft`): The takes.
            take (`int`): Index of the take to sample near.
            seed (`int`): Seed of the new takes.

        Returns:
            `Draft`: As many takes as were asked for before.

        Raises:
            RefusedInputError: If there is no such take, or its head keeps still.
        """
        if draft.options.still:
            raise RefusedInputError("takes", "A still head has no movement to stay near to; untick 'Keep still'.")
        (own,) = draft.take([take]).motion.seeds
        try:
            options = replace(draft.options, near=(*draft.options.near, own))
        except ValueError as error:  # too long a chain
            raise RefusedInputError("takes", str(error)) from error
        motion = self._sample(draft.motion.speech, options, seed)
        note = f"New takes that move much like take {draft.numbers[take]} of the last ones."
        return replace(draft, motion=motion, options=options, seed=seed, numbers=_numbers(motion), notes=(note,))

    def _sample(self, speech: Speech, options: MotionOptions, seed: int) -> Motion:
        try:
            motion: Motion = self.pipe.sample_motion(speech, seed=seed, **vars(options))
        except ValueError as error:
            raise RefusedInputError("takes", str(error)) from error
        return motion

    def sketch(self, draft: Draft) -> dict[str, Any]:
        """Describe a draft; see `osmnet.serving.sketch`."""
        expression = self.pipe.extract_expression(draft.source, draft.motion.speech, draft.options.expression_scale)
        return sketch(self.pipe, draft.source, draft.motion, expression)

    def render(
        self, draft: Draft, folder: Path, consent: bool | None = None, pipe: OSMNetPipeline | None = None
    ) -> Job[list[RenderedTake]]:
        """Render all takes of a draft to files.

        Args:
            draft (`Draft`): The takes.
            folder (`Path`): Folder for the files.
            consent (`bool`, *optional*): See `OSMNetPipelineOutput.save`.
            pipe (`OSMNetPipeline`, *optional*): Renders instead of `render_pipe`.

        Returns:
            `Job[list[RenderedTake]]`: Raises `RefusedInputError` if the disk budget or the time is used up, and
            `ValueError` if a file cannot be written. A job that is stopped leaves no video; closing
            the studio stops it, too.
        """
        return Job(self._render(draft, folder, consent, pipe or self.render_pipe))

    def _render(
        self, draft: Draft, folder: Path, consent: bool | None, pipe: OSMNetPipeline
    ) -> Generator[Step, None, list[RenderedTake]]:
        self.disk.check()
        yield Step(PICTURES, 0.0)
        end = time.monotonic() + self.settings.max_request_seconds
        output = pipe.takes(draft.source, draft.motion, seed=draft.seed)

        def save(tell: Tell) -> list[Path]:
            def progress(done: int, total: int) -> None:
                self.check_open()
                if time.monotonic() > end:
                    raise RefusedInputError("takes", TOO_LONG.format(self.settings.max_request_seconds))
                tell(done, total)

            with self.at_work():
                return output.save(folder, sheet=False, progress=progress, consent=consent)

        def step_at(done: float, seconds_left: float | None) -> Step:
            return Step(PICTURES, done, seconds_left) if done < 1 else Step(FILES)

        paths = yield from in_background(save, step_at)
        takes = []
        for number, seed, video, details, turn in zip(
            draft.numbers, draft.motion.seeds, paths[::2], paths[1::2], curves(draft.motion, draft.source), strict=True
        ):
            name = f"osmnet-take-{number}-seed-{seed}"  # also the name of a download
            takes.append(RenderedTake(number, seed, _renamed(video, name), _renamed(details, name), turn))
        return takes


def _numbers(motion: Motion) -> tuple[int, ...]:
    return tuple(range(1, motion.num_videos + 1))


def _renamed(path: Path, stem: str) -> Path:
    return path.replace(path.with_stem(stem))
