"""What the pipeline returns: takes, rendered already or while they are saved or streamed."""

import contextlib
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

import osmnet
from osmnet.media.audio import FPS, SAMPLES_PER_FRAME
from osmnet.media.video_reader import count_pictures
from osmnet.media.video_writer import VideoWriter, best_codec, join_videos
from osmnet.provenance.label import TEXT, Label, label_for
from osmnet.provenance.manifest import check_consent, sign
from osmnet.rendering.chunks import Chunk, chunk_bounds, chunk_length
from osmnet.structures import Motion, Source, StreamChunk
from osmnet.takes.background import BackgroundWriter
from osmnet.takes.sheet import MAX_TAKES, contact_sheet
from osmnet.takes.unfinished import PART_SECONDS, UnfinishedRun
from osmnet.utils.files import write_whole
from osmnet.utils.lazy_rows import LazyRows
from osmnet.utils.profiling import stage

SHEET_COLUMNS, SHEET_SIDE = 8, 192
TAKES_AT_ONCE = 4  # encoders that run side by side
SOUND_AT_ONCE = 2**20  # samples
COMMENT = TEXT + " talking head, made with osmnet {version}"

Progress = Callable[[int, int], None]


@dataclass
class OSMNetPipelineOutput:
    """What the pipeline returns.

    Attributes:
        frames (`np.ndarray` of shape `(num_videos, frames, height, width, 3)`): uint8; a list of lists of PIL images
            with `output_type="pil"`, `None` with `"lazy"`: then `save` renders while it writes.
        head_pose (`np.ndarray` of shape `(num_videos, frames, 6)`): Yaw, pitch, roll [rad], tx, ty, tz [head units],
            absolute in the source camera (docs/conventions.md); float32.
        expression (`np.ndarray` of shape `(frames, 64)`): β of every frame without blinks; float32. With `"lazy"` a
            `LazyRows`, read as an array is, whose rows are worked out when they are looked at.
        motion (`Motion`): What was sampled.
        source (`Source`): The encoded portrait.
        model (`str`): Which weights were used.
        seed (`int`, *optional*): Seed of the generator given; `None` if it had been drawn from before, for then its
            seed alone does not make these takes again (`motion.seeds` do).
        expression_scale (`float`): Factor of the mouth's movement.
    """

    frames: Any
    head_pose: np.ndarray
    expression: np.ndarray | LazyRows
    motion: Motion
    source: Source
    model: str
    seed: int | None
    expression_scale: float
    _render: Callable[[Motion, Sequence[Chunk]], Generator[np.ndarray]] = field(repr=False)
    _digest: Callable[[], str] = field(repr=False)
    _device: str = field(repr=False)
    _precision: str = field(repr=False)

    def save(
        self,
        folder: str | os.PathLike[str],
        sheet: bool = True,
        progress: Progress | bool | None = None,
        resume: bool = False,
        label: bool = True,
        consent: bool | None = None,
    ) -> list[Path]:
        """Write `take-1.mp4` … `take-N.mp4` with `take-i.json` beside each, and `sheet.png`.

        Rendering and encoding run side by side. Every file appears under its name only when it is whole. Takes of
        more than a minute are written in parts, which stay when the run is stopped. Videos and sheet are signed as
        made by a trained model (docs/provenance.md); changing them afterwards breaks the signature.

        Args:
            folder (`str` or `os.PathLike`): Made if it is not there.
            sheet (`bool`): Also draw a contact sheet of all takes with their pose curves.
            progress (`Callable` or `bool`, *optional*): Called with the frames done and the frames in all; `True`
                shows a progress bar.
            resume (`bool`): Go on where a run with the same inputs and settings was stopped in this folder; with
                nothing to go on from, begin anew. Pictures and sound are those of a run that was never stopped.
            label (`bool`): Write a small "AI-generated" into a corner of every frame, clear of the face. Who leaves it
                out must say in another way, where a video is shown, that it is generated.
            consent (`bool`, *optional*): `True`: you declare that the people who are seen and heard have agreed; the
                signed manifest says that this was declared, and nothing of them or you.

        Returns:
            `list[Path]`: The files, in the order above.

        Raises:
            ValueError: If the folder cannot be written, `consent` is neither `True` nor left out, or the run that was
                stopped there was another one.
        """
        check_consent(consent)
        if not isinstance(folder, str | os.PathLike):
            raise ValueError(f"folder must be the path of a folder, not {type(folder).__name__}.")
        if isinstance(progress, bool):
            with tqdm(desc="rendering", unit="frame", disable=not progress) as bar:

                def show(done: int, total: int) -> None:
                    bar.total = total
                    bar.update(done - bar.n)

                return self.save(folder, sheet, show, resume, label, consent)
        folder = Path(folder)
        finish = _Finish(label_for(self.source, self.head_pose) if label else None, partial(sign, consent=consent))
        run = UnfinishedRun(folder, self._record() | {"label": label, "consent": consent})
        is_new = not folder.exists()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            run.begin(resume)
        except OSError as error:
            raise ValueError(f"The folder '{folder}' cannot be made ({error.strerror}); choose another.") from error
        count, frames = self.head_pose.shape[:2]
        seen: dict[tuple[int, int], np.ndarray] = {}  # pictures of the sheet by take and frame
        paths: list[Path] = []
        try:
            for first in range(0, count, TAKES_AT_ONCE):
                takes = range(first, min(first + TAKES_AT_ONCE, count))
                before = first * frames

                def tell(done: int, before: int = before) -> None:
                    if progress:
                        progress(before + done, count * frames)

                self._write_takes(takes, folder, run, seen, tell, finish)
                for take in takes:
                    paths += [_video(folder, take), self._write_json(_video(folder, take).with_suffix(".json"), take)]
            if sheet:
                paths.append(self._write_sheet(folder / "sheet.png", run, seen, finish))
        except BaseException:
            run.leave()
            if is_new:
                with contextlib.suppress(OSError):  # there is something in it
                    folder.rmdir()
            raise
        run.remove()
        return paths

    def stream(self, label: bool = True) -> Generator[StreamChunk]:
        """Yield the frames of all takes as they are made, the first few at once, each with its sound.

        What comes later is rendered meanwhile, but only a few chunks ahead. Closing the generator stops the rendering.

        Args:
            label (`bool`): Write a small "AI-generated" into every frame, as `save` does.

        Yields:
            `StreamChunk`: In order; put together they are `frames`, but for the label.
        """
        begin, mark = 0, label_for(self.source, self.head_pose) if label else None
        for frames in self._chunks(range(len(self.head_pose)), self._bounds(0), mark):
            end = begin + frames.shape[1]
            waveform = self.motion.speech.recording[begin * SAMPLES_PER_FRAME : end * SAMPLES_PER_FRAME]
            yield StreamChunk(frames, begin, waveform)
            begin = end

    def _write_takes(
        self,
        takes: Sequence[int],
        folder: Path,
        run: UnfinishedRun,
        seen: dict[tuple[int, int], np.ndarray],
        tell: Callable[[int], None],
        finish: "_Finish",
    ) -> None:
        """Write the videos of some takes side by side, part by part, but for those that are finished."""
        frames = self.head_pose.shape[1]
        size, columns = self._part_frames, self._sheet_columns
        parts = -(-frames // size)
        done = frames * sum(run.has_take(take) for take in takes)
        takes = [take for take in takes if not run.has_take(take)]
        if not takes:
            tell(done)
            return

        def is_whole(path: Path, index: int) -> bool:
            return count_pictures(path) == min(size, frames - index * size)

        kept = run.parts_finished(takes, parts, is_whole) if parts > 1 else 0
        position = kept * size
        done += len(takes) * min(position, frames)
        tell(done)
        chunks = self._chunks(takes, self._bounds(position), finish.label)
        try:
            for index in range(kept, parts):
                with ExitStack() as stack:
                    writers = [
                        stack.enter_context(BackgroundWriter(self._writer(folder, run, take, index, parts, finish)))
                        for take in takes
                    ]
                    while position < min((index + 1) * size, frames):
                        chunk = next(chunks)  # (takes, n, H, W, 3)
                        for take, writer, images in zip(takes, writers, chunk, strict=True):
                            writer.write(images)
                            for column in columns[(columns >= position) & (columns < position + len(images))]:
                                seen[take, int(column)] = _thumbnail(images[column - position])
                        position += chunk.shape[1]
                        done += len(takes) * chunk.shape[1]
                        tell(done)
        finally:
            chunks.close()
        for take in takes:
            if parts > 1:
                sound, comment = self.motion.speech.recording, COMMENT.format(version=osmnet.__version__)
                files = [run.part(take, index) for index in range(parts)]
                video = _video(folder, take)
                join_videos(files, video, sound, comment=comment, temporary_folder=run.folder, seal=finish.seal)
            run.finish_take(take)

    def _writer(
        self, folder: Path, run: UnfinishedRun, take: int, index: int, parts: int, finish: "_Finish"
    ) -> VideoWriter:
        size = self.source.frame_size
        codec = best_codec(self._device, size)
        if parts > 1:
            return VideoWriter(run.part(take, index), size, FPS, codec=codec)
        sound, comment = self.motion.speech.recording, COMMENT.format(version=osmnet.__version__)
        return VideoWriter(
            _video(folder, take), size, FPS, sound, comment=comment, codec=codec, temporary_folder=run.folder,
            seal=finish.seal,
        )  # fmt: skip

    def _chunks(self, takes: Sequence[int], chunks: Sequence[Chunk], label: Label | None) -> Generator[np.ndarray]:
        """Frames of some takes, `(takes, n, H, W, 3)` for every chunk, with the label."""
        made = self._made(takes, chunks) if self.frames is not None else self._render(self.motion.take(takes), chunks)
        if label is None:
            return made
        return _labelled(made, label)

    def _made(self, takes: Sequence[int], chunks: Sequence[Chunk]) -> Generator[np.ndarray]:
        for start, stop in chunks:
            yield np.stack([[np.asarray(image) for image in self.frames[take][start:stop]] for take in takes])

    def _bounds(self, begin: int) -> list[Chunk]:
        return chunk_bounds(self.head_pose.shape[1], chunk_length(self.source.frame_size, self._device), begin)

    @property
    def _part_frames(self) -> int:
        """Frames of a part: a minute in whole chunks, so that chunks are the same wherever a run goes on."""
        step = chunk_length(self.source.frame_size, self._device)
        return step * round(PART_SECONDS * FPS / step)

    @property
    def _sheet_columns(self) -> np.ndarray:
        """Frames that the sheet shows."""
        frames = self.head_pose.shape[1]
        return np.unique(np.linspace(0, frames - 1, SHEET_COLUMNS + 2).astype(int)[1:-1])

    def _record(self) -> dict[str, Any]:
        """What the files depend on."""
        digest = hashlib.blake2b(self._digest().encode(), digest_size=16)
        sound = self.motion.speech.recording
        for start in range(0, len(sound), SOUND_AT_ONCE):
            digest.update(np.ascontiguousarray(sound[start : start + SOUND_AT_ONCE]).data)
        for array in (self.head_pose, self.motion.blink, self.expression, self.source.picture, self.source.crop):
            digest.update(np.ascontiguousarray(array).data)
        return {
            "seed": self.seed,
            "take_seeds": list(self.motion.seeds),
            "frames": self.head_pose.shape[1],
            "part_frames": self._part_frames,
            "frame_size": list(self.source.frame_size),
            "precision": self._precision,
            "drawn_on": [self._device, best_codec(self._device, self.source.frame_size)],
            "inputs": digest.hexdigest(),
            "versions": {"osmnet": osmnet.__version__, "torch": torch.__version__, "av": av.__version__},
        }

    def _write_sheet(
        self, path: Path, run: UnfinishedRun, seen: dict[tuple[int, int], np.ndarray], finish: "_Finish"
    ) -> Path:
        columns, shown = self._sheet_columns, range(min(len(self.head_pose), MAX_TAKES))
        for take in shown:  # what an earlier run has rendered was not seen by this one
            missing = [int(column) for column in columns if (take, int(column)) not in seen]
            # In the same chunks as before: rounding depends on them.
            chunks = [(start, stop) for start, stop in self._bounds(0) if any(start <= c < stop for c in missing)]
            if chunks:
                for (start, stop), images in zip(chunks, self._chunks([take], chunks, finish.label), strict=True):
                    for column in (column for column in missing if start <= column < stop):
                        seen[take, column] = _thumbnail(images[0, column - start])
        count = len(self.head_pose)
        title = f"{count} take{'s' * (count > 1)}, ε = {self.motion.epsilon:g}" + (
            f", seed {self.seed}" if self.seed is not None else ""
        )
        takes = [np.stack([seen[take, int(column)] for column in columns]) for take in shown]
        unsigned = run.folder / f".{path.name}"
        contact_sheet(takes, (columns + 0.5) / FPS, self.head_pose, unsigned, title)
        finish.seal(unsigned)
        unsigned.replace(path)
        return path

    def _write_json(self, path: Path, take: int) -> Path:
        pose = self.head_pose[take]
        content = {
            "ai_generated": True,
            "take": take + 1,
            "seed": self.seed,
            "take_seed": self.motion.seeds[take],
            **({"near": list(self.motion.near)} if self.motion.near else {}),
            "epsilon": self.motion.epsilon,
            "sampling": self.motion.sampling,
            "settings": {
                **self.motion.settings,
                "expression_scale": self.expression_scale,
                "full_frame": self.source.full_frame,
                **({} if self.source.full_frame else {"size": self.source.size}),
            },
            "model": self.model,
            "fps": FPS,
            "frames": len(pose),
            "head_pose_columns": ["yaw [rad]", "pitch [rad]", "roll [rad]", "tx", "ty", "tz [head units]"],
            "head_pose": [[round(float(value), 5) for value in row] for row in pose],
            "versions": {
                "osmnet": osmnet.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        write_whole(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
        return path


@dataclass(frozen=True)
class _Finish:
    """What is done to frames and files so that they are known for what they are."""

    label: Label | None
    seal: Callable[[Path], None]


def _labelled(chunks: Generator[np.ndarray], label: Label) -> Generator[np.ndarray]:
    try:
        for frames in chunks:
            with stage("label"):
                label.draw(frames)
            yield frames
    finally:
        chunks.close()


def _video(folder: Path, take: int) -> Path:
    return folder / f"take-{take + 1}.mp4"


def _thumbnail(image: np.ndarray) -> np.ndarray:
    picture = Image.fromarray(image)
    factor = SHEET_SIDE / max(picture.size)
    size = max(round(picture.width * factor), 1), max(round(picture.height * factor), 1)
    return np.asarray(picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0))
