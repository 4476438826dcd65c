"""`TalkingHeadOutput`: the takes that a pipeline returns."""

from __future__ import annotations

import base64
import os
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import numpy as np
from PIL import Image
from tqdm import tqdm

from osmnet.media.audio import FPS, SAMPLES_PER_FRAME
from osmnet.provenance.label import Label, label_for
from osmnet.rendering.chunks import Chunk, chunk_bounds, chunk_length
from osmnet.structures import Motion, Source, StreamChunk
from osmnet.utils.checks import check_flag, short
from osmnet.utils.memory import available_bytes, readable_size
from osmnet.utils.profiling import span

Progress = Callable[[int, int], None]
NOTEBOOK_TAKES, NOTEBOOK_SECONDS = 4, 60  # more would make a notebook of hundreds of megabytes
MEMORY_SHARE = 0.8  # of the free memory that frames may take


class TakeRenderer(Protocol):
    """Renderer of a lazy output; made by the pipeline."""

    @property
    def device(self) -> str:
        """Device type, such as `"cpu"`."""

    @property
    def precision(self) -> str:
        """Precision of the video generator, such as `"float32"`."""

    def render(self, motion: Motion, chunks: Sequence[Chunk]) -> Generator[np.ndarray]:
        """Yield `(num_videos, n, H, W, 3)` uint8 for every chunk."""

    def digest(self) -> str:
        """Return a digest of all that frames depend on, except motion."""


@dataclass(repr=False, eq=False)
class TalkingHeadOutput:
    """Takes of one portrait and one recording; supports `len`, indexing and slicing.

    Attributes:
        frames (`np.ndarray` of shape `(num_videos, frames, height, width, 3)`): uint8; lists of PIL images with
            `output_type="pil"`; `None` with `"lazy"`, until `videos` or `render`.
        head_pose (`np.ndarray` of shape `(num_videos, frames, 6)`): Yaw, pitch, roll [rad], tx, ty, tz [head units],
            absolute in the source camera (docs/conventions.md); float32.
        motion (`Motion`): The sampled motion.
        source (`Source`): The encoded portrait.
        model (`str`): Name of the weights.
        seed (`int`, *optional*): Seed of the generator; `None` if the generator had been used before. `motion.seeds`
            reproduce the takes in any case.
        renderer (`TakeRenderer`): Renders lazy takes.
    """

    frames: Any
    head_pose: np.ndarray
    motion: Motion
    source: Source
    model: str
    seed: int | None
    renderer: TakeRenderer = field(repr=False)

    def __len__(self) -> int:
        return len(self.head_pose)

    def __getitem__(self, index: int | slice) -> Self:
        if isinstance(index, slice):
            takes = list(range(len(self)))[index]
        elif isinstance(index, int | np.integer) and not isinstance(index, bool):
            if not -len(self) <= index < len(self):
                raise IndexError(f"There are {len(self)} takes, so there is no take {index}.")
            takes = [int(index) % len(self)]
        else:
            raise TypeError(f"A take is chosen by its number or a slice, not by {type(index).__name__}.")
        frames: Any = None
        if isinstance(self.frames, np.ndarray):  # one take is a view, not a copy
            frames = self.frames[takes] if len(takes) != 1 else self.frames[takes[0] : takes[0] + 1]
        elif self.frames is not None:
            frames = [self.frames[take] for take in takes]
        return replace(self, frames=frames, head_pose=self.head_pose[takes], motion=self.motion.take(takes))

    def __iter__(self) -> Iterator[Self]:
        return (self[take] for take in range(len(self)))

    def __repr__(self) -> str:
        height, width = self.source.frame_size
        takes = f"{len(self)} take{'s' * (len(self) != 1)} of {self.num_frames / FPS:.1f} s"
        seed = f", seed {self.seed}" if self.seed is not None else ""
        state = "lazy" if self.frames is None else "rendered"
        return f"{type(self).__name__}({takes}, {width} × {height}{seed}, {state})"

    def _repr_html_(self) -> str:
        """Return playable videos for notebooks."""
        if self.num_frames > NOTEBOOK_SECONDS * FPS:
            return f"<p>{self!r}: too long to show here; use <code>save(folder)</code>.</p>"
        shown = self[:NOTEBOOK_TAKES]
        with tempfile.TemporaryDirectory() as folder:
            videos = [path for path in shown.save(folder, sheet=False) if path.suffix == ".mp4"]
            sources = [base64.b64encode(path.read_bytes()).decode("ascii") for path in videos]
        players = "".join(
            f'<video controls loop width="{min(self.source.frame_size[1], 320)}" '
            f'src="data:video/mp4;base64,{source}"></video> '
            for source in sources
        )
        hidden = len(self) - len(shown)
        more = f"<p>{hidden} more take{'s' * (hidden != 1)}: <code>out[{NOTEBOOK_TAKES}:]</code></p>" if hidden else ""
        return f"<div>{players}</div>{more}"

    @property
    def num_frames(self) -> int:
        """Frames of each take, at 25 fps."""
        return int(self.head_pose.shape[1])

    @property
    def videos(self) -> list[Any]:
        """Frames of each take: `(frames, height, width, 3)` uint8 or PIL images; rendered if lazy.

        Raises:
            ValueError: If the frames do not fit into memory.
        """
        if self.frames is None:
            self.render()
        return list(self.frames)

    def render(self, output_type: Literal["np", "pil"] = "np", progress: bool = False) -> Self:
        """Render all frames into memory, if lazy.

        Args:
            output_type (`"np" | "pil"`): Arrays or PIL images.
            progress (`bool`): Show a progress bar.

        Returns:
            `TalkingHeadOutput`: The output itself, with `frames`.

        Raises:
            ValueError: If they do not fit into memory.
        """
        if self.frames is not None:
            return self
        check_memory(len(self), self.num_frames, self.source.frame_size, output_type)
        frames = np.empty((len(self), self.num_frames, *self.source.frame_size, 3), np.uint8)
        done = 0
        with tqdm(total=self.num_frames, desc="rendering", unit="frame", disable=not progress) as bar:
            for chunk in self.renderer.render(self.motion, self.chunk_bounds()):  # (N, n, H, W, 3)
                frames[:, done : done + chunk.shape[1]] = chunk
                done += chunk.shape[1]
                bar.update(chunk.shape[1])
        self.frames = [[Image.fromarray(f) for f in take] for take in frames] if output_type == "pil" else frames
        return self

    def save(
        self,
        path: str | os.PathLike[str],
        sheet: bool = True,
        progress: Progress | bool | None = None,
        resume: bool = False,
        label: bool = True,
        consent: bool | None = None,
        *,
        overwrite: bool = False,
        animation: Literal["webp", "gif"] | None = None,
    ) -> list[Path]:
        """Write `take-1.mp4` … `take-N.mp4`, `take-i.json` and `sheet.png` into a folder.

        A file appears only when complete. Takes longer than a minute are written in parts, which an interrupted run
        keeps. Videos and sheet are signed as AI-generated (docs/provenance.md).

        Args:
            path (`str` or `os.PathLike`): A folder, created if needed; or, for a single take, a file `*.mp4` without
                JSON and sheet.
            sheet (`bool`): Also draw a contact sheet of the takes with pose curves.
            progress (`Callable` or `bool`, *optional*): Called with frames done and frames in total; `True` shows a
                progress bar.
            resume (`bool`): Resume an interrupted run with the same inputs and settings in this folder, if there is
                one. Frames and sound equal those of an uninterrupted run.
            label (`bool`): Draw a small "AI-generated" into a corner of every frame, clear of the face. Without it,
                declare in another way that the video is generated.
            consent (`bool`, *optional*): `True` declares that the people seen and heard have agreed; the signed
                manifest records the declaration, no name.
            overwrite (`bool`): Replace the takes in the folder, or the file.
            animation (`"webp" | "gif"`, *optional*): Also write a small animation of each take's first seconds.

        Returns:
            `list[Path]`: The files, in the order above.

        Raises:
            ValueError: If the path cannot be written or holds other takes, several takes are to go into one file,
                `consent` is neither `True` nor left out, or the run to resume was a different one.
        """
        from osmnet.takes.writer import TakeWriter

        if not (progress is None or isinstance(progress, bool) or callable(progress)):
            raise ValueError(f"progress must be True, False or a function, not {short(progress)}.")
        writer = TakeWriter(
            self, path, sheet=sheet, resume=resume, label=label, consent=consent, overwrite=overwrite,
            animation=animation,
        )  # fmt: skip
        if progress is not None and not callable(progress) and not isinstance(progress, bool):
            raise ValueError(f"progress must be a function, True or False, not {short(progress)}.")
        if not isinstance(progress, bool):
            return writer.write(progress)
        with tqdm(desc="rendering", unit="frame", disable=not progress) as bar:

            def show(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            return writer.write(show)

    def stream(self, label: bool = True) -> Generator[StreamChunk]:
        """Yield frames of all takes with their sound as they are rendered.

        A few chunks are rendered ahead. Closing the generator stops rendering.

        Args:
            label (`bool`): Draw a small "AI-generated" into every frame, as `save` does.

        Yields:
            `StreamChunk`: In order; concatenated they are `frames`, except for the label.
        """
        check_flag("label", label)
        begin, mark = 0, label_for(self.source, self.head_pose) if label else None
        for frames in self.chunks(range(len(self)), self.chunk_bounds(), mark):
            end = begin + frames.shape[1]
            waveform = self.motion.speech.recording[begin * SAMPLES_PER_FRAME : end * SAMPLES_PER_FRAME]
            yield StreamChunk(frames, begin, waveform)
            begin = end

    def chunks(self, takes: Sequence[int], bounds: Sequence[Chunk], label: Label | None) -> Generator[np.ndarray]:
        """Yield labelled frames of some takes, `(takes, n, H, W, 3)`."""
        if self.frames is not None:
            made = self._rendered(takes, bounds)
        else:
            made = self.renderer.render(self.motion.take(takes), bounds)
        return made if label is None else _labelled(made, label)

    def chunk_bounds(self, begin: int = 0) -> list[Chunk]:
        """Divide frames from `begin` into chunks."""
        return chunk_bounds(self.num_frames, chunk_length(self.source.frame_size, self.renderer.device), begin)

    def _rendered(self, takes: Sequence[int], bounds: Sequence[Chunk]) -> Generator[np.ndarray]:
        for start, stop in bounds:
            yield np.stack([[np.asarray(image) for image in self.frames[take][start:stop]] for take in takes])


def check_memory(num_videos: int, num_frames: int, frame_size: tuple[int, int], output_type: str) -> None:
    """Refuse frames that do not fit into memory.

    Raises:
        ValueError: If the frames do not fit.
    """
    size = num_videos * num_frames * frame_size[0] * frame_size[1] * 3  # bytes
    needed = size * (2 if output_type == "pil" else 1)  # images are copies of the arrays
    available = available_bytes()
    if needed > MEMORY_SHARE * available:
        raise ValueError(
            f"The frames take {readable_size(needed)} of memory, and {readable_size(available)} are free; use "
            'output_type="lazy", which renders while `save` or `stream` runs.'
        )


def _labelled(chunks: Generator[np.ndarray], label: Label) -> Generator[np.ndarray]:
    try:
        for frames in chunks:
            with span("label"):
                label.draw(frames)
            yield frames
    finally:
        chunks.close()
