"""The page's work: from what the widgets hold to sketches and files. No widget and no Gradio in here."""

import shutil
import tempfile
import threading
import time
import warnings
import wave
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import numpy as np
import torch

from demo.settings import Settings
from demo.sketch import curves, sketch
from osmnet import OSMNetPipeline
from osmnet.media.audio import SAMPLING_RATE
from osmnet.media.recording import Recording
from osmnet.structures import Motion, Source, Speech

POLL_SECONDS = 0.2  # how long it takes at most until a stop is noticed
SURE_SPEECH = 0.5  # of the speech activity's maximum; below, no speech was heard
Result = TypeVar("Result")
STAGES = ("Portrait", "Speech", "Movement", "Pictures", "Files")


class RefusedInputError(ValueError):
    """What cannot be used, and in which widget it was.

    Attributes:
        widget (`str`): `"portrait"`, `"speech"`, `"consent"`, `"takes"` or `"basis"`.
    """

    def __init__(self, widget: str, sentence: str):
        super().__init__(sentence)
        self.widget = widget


@dataclass(frozen=True)
class Wishes:
    """What is asked for, as the widgets say it.

    Attributes:
        num_videos (`int`): How many takes.
        epsilon (`float`): Radius ε of the motion.
        seed (`int`): The same seed gives the same takes.
        motion_scale (`float`): Factor of the head's movement.
        expression_scale (`float`): Factor of the mouth's movement.
        still (`bool`): Keep the head still.
        blink (`bool`): Blink.
        whole_picture (`bool`): The whole picture instead of the square around the head.
        yaw (`float`): Turns the head for the whole video; degrees.
        pitch (`float`): Lifts it likewise.
        roll (`float`): Tilts it likewise.
    """

    num_videos: int = 4
    epsilon: float = 1.0
    seed: int = 7
    motion_scale: float = 1.0
    expression_scale: float = 1.0
    still: bool = False
    blink: bool = True
    whole_picture: bool = False
    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0


@dataclass(frozen=True)
class Draft:
    """Takes before they are rendered: what a session keeps.

    Attributes:
        source (`Source`): The portrait, encoded.
        motion (`Motion`): The takes.
        wishes (`Wishes`): What they were made for.
        numbers (`tuple[int, ...]`): What each take is called, from 1.
        notes (`tuple[str, ...]`): What the user should know about the inputs.
        recording (`str`): Path of the speech.
    """

    source: Source
    motion: Motion
    wishes: Wishes
    numbers: tuple[int, ...]
    notes: tuple[str, ...] = ()
    recording: str = ""

    def take(self, takes: Sequence[int]) -> "Draft":
        """Some of the takes, by their place from 0.

        Raises:
            RefusedInputError: If there is none of them.
        """
        chosen = sorted({take for take in takes if 0 <= take < self.motion.num_videos})
        if not chosen:
            raise RefusedInputError("takes", "No take is picked; tick at least one of them.")
        return replace(self, motion=self.motion.take(chosen), numbers=tuple(self.numbers[take] for take in chosen))


@dataclass(frozen=True)
class Step:
    """How far a job has come.

    Attributes:
        stage (`int`): Index in `STAGES` of what is being done.
        done (`float`, *optional*): Share of this stage that is done, 0 to 1.
        seconds_left (`float`, *optional*): How long the job will take, if that can be told.
    """

    stage: int
    done: float | None = None
    seconds_left: float | None = None


@dataclass(frozen=True)
class Take:
    """A finished take.

    Attributes:
        number (`int`): What it is called.
        seed (`int`): The seed that makes it again on its own.
        video (`Path`): Signed MP4.
        details (`Path`): JSON: what made it, and its head poses.
        turn (`list[int]`): Its curves, see `demo.sketch.curves`.
    """

    number: int
    seed: int
    video: Path
    details: Path
    turn: list[int]


class Studio:
    """Makes what the page shows.

    Args:
        settings (`Settings`): Its limits.
        pipe (`OSMNetPipeline`): Listens, looks and samples motion.
        painter (`OSMNetPipeline`, *optional*): Renders, when another device than that of `pipe` is to.
    """

    def __init__(self, settings: Settings, pipe: OSMNetPipeline, painter: OSMNetPipeline | None = None):
        self.settings = settings
        self.pipe = pipe
        self.painter = painter or pipe
        self.folder = Path(tempfile.mkdtemp(prefix="osmnet-page-"))

    @classmethod
    def load(cls, settings: Settings) -> "Studio":
        """Load the weights: on the CPU, and to paint also on the GPU if there is one.

        Raises:
            ValueError: If there are no such weights.
        """
        model = settings.model or None
        pipe = OSMNetPipeline.from_pretrained(model)
        # Looking and listening take a second on a CPU, too; a GPU that is lent is kept for what needs it.
        painter = OSMNetPipeline.from_pretrained(model, device="cuda") if torch.cuda.is_available() else None
        return cls(settings, pipe, painter)

    def close(self) -> None:
        """Remove what is left of the work."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def workplace(self) -> tempfile.TemporaryDirectory[str]:
        """A folder of its own for a request; it goes when the request is done."""
        self.folder.mkdir(exist_ok=True)
        return tempfile.TemporaryDirectory(dir=self.folder, ignore_cleanup_errors=True)

    # Inputs

    def look(self, portrait: str | None, whole_picture: bool = False) -> tuple[Source, list[str]]:
        """Encode a portrait; also what there is to say about it.

        Raises:
            RefusedInputError: If it cannot be used.
        """
        if not portrait:
            raise RefusedInputError("portrait", "There is no portrait yet; add a picture or take an example.")
        size = None if whole_picture else self.settings.size
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # how many faces there are is said below
                source = self.pipe.encode_source(portrait, full_frame=whole_picture, size=size)
        except ValueError as error:
            raise RefusedInputError("portrait", _without_path(error, portrait, "the upload")) from error
        count = source.num_faces
        return source, [f"The picture shows {count} faces; the largest one talks."] if count > 1 else []

    def listen(self, speech: str | None) -> Recording:
        """Open a recording, of any length.

        Raises:
            RefusedInputError: If it cannot be used.
        """
        if not speech:
            raise RefusedInputError("speech", "There is no speech yet; add a recording or take an example.")
        try:
            return Recording.open(speech)
        except ValueError as error:
            raise RefusedInputError("speech", _without_path(error, speech, "the upload")) from error

    def is_too_long(self, recording: Recording) -> bool:
        """Whether a recording is longer than the page takes."""
        return len(recording) > self.settings.max_seconds * SAMPLING_RATE

    def too_long(self, recording: Recording) -> str:
        """Say that a recording is too long, and what to do."""
        limit = self.settings.max_seconds
        return (
            f"The recording lasts {_duration(len(recording) / SAMPLING_RATE)}, and the most that can be used here is "
            f"{_duration(limit)}; use its first {_duration(limit)}, or a shorter one."
        )

    def first_seconds(self, speech: str | None, path: Path) -> Path:
        """Write the first seconds of a recording, as many as the page takes, as a WAV file.

        Raises:
            RefusedInputError: If it cannot be used.
        """
        recording = self.listen(speech)
        samples = recording[: self.settings.max_seconds * SAMPLING_RATE]
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, SAMPLING_RATE, 0, "NONE", ""))
            file.writeframes(np.rint(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
        return path

    # Takes

    def draft(
        self, portrait: str | None, speech: str | None, wishes: Wishes, near: Sequence[int] = ()
    ) -> Generator[Step, None, Draft]:
        """Sample takes; returns them.

        Yields:
            `Step`: Before each stage.

        Raises:
            RefusedInputError: If an input cannot be used.
        """
        if not 1 <= wishes.num_videos <= self.settings.max_takes:
            raise RefusedInputError("takes", f"Choose from 1 to {self.settings.max_takes} takes.")
        yield Step(0)
        source, notes = self.look(portrait, wishes.whole_picture)
        yield Step(1)
        recording = self.listen(speech)
        if self.is_too_long(recording):
            raise RefusedInputError("speech", self.too_long(recording))
        heard = self.pipe.encode_speech(recording)
        if heard.activity.max() < SURE_SPEECH:
            notes.append("No speech was heard in the recording (steady noise?); the mouth will stay at rest.")
        yield Step(2)
        numbers = tuple(range(1, wishes.num_videos + 1))
        return Draft(source, self._sample(heard, wishes, near), wishes, numbers, tuple(notes), str(speech))

    def more_like(self, draft: Draft, take: int, seed: int) -> Draft:
        """Sample takes near one of a draft, which stays the first of them.

        Raises:
            RefusedInputError: If there is no such take, or it does not move.
        """
        if draft.wishes.still:
            raise RefusedInputError("takes", "A still head has no movement to stay near to; untick 'Keep still'.")
        (own,) = draft.take([take]).motion.seeds
        near = (*draft.motion.near, own)
        wishes = replace(draft.wishes, seed=seed)
        return replace(
            draft,
            motion=self._sample(draft.motion.speech, wishes, near),
            wishes=wishes,
            numbers=tuple(range(1, wishes.num_videos + 1)),
            notes=(f"New takes that move much like take {draft.numbers[take]} of the last ones.",),
        )

    def _sample(self, heard: Speech, wishes: Wishes, near: Sequence[int]) -> Motion:
        try:
            return self.pipe.sample_motion(
                heard, num_videos=wishes.num_videos, epsilon=wishes.epsilon,
                generator=torch.Generator().manual_seed(wishes.seed), motion_scale=wishes.motion_scale,
                still=wishes.still, blink=wishes.blink, yaw=np.radians(wishes.yaw), pitch=np.radians(wishes.pitch),
                roll=np.radians(wishes.roll), near=near,
            )  # fmt: skip
        except ValueError as error:
            raise RefusedInputError("takes", str(error)) from error

    def sketch(self, draft: Draft) -> dict[str, Any]:
        """The draft for the browser, see `demo.sketch`."""
        expression = self.pipe.extract_expression(draft.source, draft.motion.speech, draft.wishes.expression_scale)
        return sketch(self.pipe, draft.source, draft.motion, expression)

    def render(
        self, draft: Draft, folder: Path, consent: bool | None, painter: OSMNetPipeline | None = None
    ) -> Generator[Step, None, list[Take]]:
        """Render all takes of a draft into a folder; returns them. Closing the generator stops the work.

        Args:
            draft (`Draft`): The takes.
            folder (`Path`): Where the files go.
            consent (`bool`, *optional*): See `OSMNetPipelineOutput.save`.
            painter (`OSMNetPipeline`, *optional*): Renders instead of the studio's own.

        Yields:
            `Step`: Several a second.

        Raises:
            ValueError: If a file cannot be written.
        """
        yield Step(3, 0.0)
        output = (painter or self.painter).takes(
            draft.source, draft.motion, expression_scale=draft.wishes.expression_scale, seed=draft.wishes.seed
        )

        def save(tell: Callable[[int, int], None]) -> list[Path]:
            return output.save(folder, sheet=False, progress=tell, consent=consent)

        paths = yield from _in_background(save)
        turns = curves(draft.motion, draft.source)
        takes = []
        for number, seed, video, details, turn in zip(
            draft.numbers, draft.motion.seeds, paths[::2], paths[1::2], turns, strict=True
        ):
            name = f"osmnet-take-{number}-seed-{seed}"  # what it is called when it is downloaded
            named = [path.replace(path.with_stem(name)) for path in (video, details)]
            takes.append(Take(number, seed, named[0], named[1], turn))
        return takes


def run(job: Generator[Step, None, Result]) -> Result:
    """Run a job to its end, without showing how far it has come, and return what it returns."""
    while True:
        try:
            next(job)
        except StopIteration as end:
            return end.value


class _StoppedError(Exception):
    """Nobody waits for the files any more."""


def _in_background(save: Callable[[Callable[[int, int], None]], list[Path]]) -> Generator[Step, None, list[Path]]:
    """Run what renders and writes in a thread, and say a few times a second how far it has come."""
    told: SimpleQueue[tuple[int, int]] = SimpleQueue()
    stopped = threading.Event()
    paths: list[Path] = []
    errors: list[BaseException] = []

    def tell(done: int, total: int) -> None:
        if stopped.is_set():
            raise _StoppedError
        told.put((done, total))

    def work() -> None:
        try:
            paths.extend(save(tell))
        except BaseException as error:  # goes on in the thread that waits
            errors.append(error)

    thread = threading.Thread(target=work, name="render")
    began, done, total = time.monotonic(), 0, 1
    thread.start()
    try:
        while thread.is_alive():
            with suppress(Empty):
                done, total = told.get(timeout=POLL_SECONDS)
                while True:  # what is new is enough
                    done, total = told.get_nowait()
            spent = time.monotonic() - began
            left = spent * (total - done) / done if done and spent > 1 else None
            yield Step(3, done / total, left) if done < total else Step(4)
            thread.join(POLL_SECONDS / 2)
    finally:
        stopped.set()
        thread.join()
    if errors:
        raise errors[0]
    return paths


def _without_path(error: ValueError, path: str, name: str) -> str:
    """The sentence of an error, without where the page keeps uploads."""
    sentence = " ".join(str(error).split()).replace(f"'{path}'", name).replace(str(path), name)
    return sentence[:1].upper() + sentence[1:]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes} min {rest} s" if minutes and rest else f"{minutes} min" if minutes > 1 else f"{round(seconds)} s"
    )
