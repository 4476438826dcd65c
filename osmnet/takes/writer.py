"""Writer of take files: videos, JSON records, contact sheet."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import av
import numpy as np
import torch
from PIL import Image

import osmnet
from osmnet.media.audio import FPS
from osmnet.media.video_reader import count_pictures
from osmnet.media.video_writer import VideoWriter, best_codec, join_videos
from osmnet.provenance.label import TEXT, Label, label_for
from osmnet.provenance.manifest import check_consent, check_signing, seal
from osmnet.rendering.chunks import chunk_length
from osmnet.takes.background import BackgroundWriter
from osmnet.takes.files import ANIMATIONS, TakeFiles, free_folder
from osmnet.takes.sheet import MAX_TAKES, as_png, contact_sheet
from osmnet.takes.unfinished import PART_SECONDS, UnfinishedRun
from osmnet.utils.checks import check_flag, check_path, short
from osmnet.utils.files import why, write_whole

if TYPE_CHECKING:
    from osmnet.takes.output import Progress, TalkingHeadOutput

SHEET_COLUMNS, SHEET_SIDE = 8, 192  # frames a take; px, longer side of each
TAKES_AT_ONCE = 4  # encoders that run side by side
SOUND_AT_ONCE = 2**20  # samples
COMMENT = TEXT + " talking head, made with osmnet {version}"


@dataclass(frozen=True)
class Finish:
    """Marks of generated media: label in the frames, signature in the files."""

    label: Label | None
    seal: Callable[[Path], None]


class TakeWriter:
    """Writes the takes of one output; see `TalkingHeadOutput.save`."""

    def __init__(
        self,
        output: TalkingHeadOutput,
        path: str | os.PathLike[str],
        *,
        sheet: bool,
        resume: bool,
        label: bool,
        consent: bool | None,
        overwrite: bool,
        animation: Literal["webp", "gif"] | None,
    ):
        check_consent(consent)
        for name, flag in (("sheet", sheet), ("resume", resume), ("label", label), ("overwrite", overwrite)):
            check_flag(name, flag)
        if animation is not None and not (isinstance(animation, str) and animation in ANIMATIONS):
            raise ValueError(f"animation must be 'webp' or 'gif', not {short(animation)}.")
        self.output, self.files = output, TakeFiles(check_path("path", path), len(output))
        self.sheet = sheet and not self.files.is_file
        self.resume, self.overwrite = resume, overwrite
        self.animation = animation
        mark = label_for(output.source, output.head_pose) if label else None
        self.finish = Finish(mark, partial(seal, consent=consent))
        self.run = UnfinishedRun(self.files.folder, self._record() | {"label": label, "consent": consent})
        self._seen: dict[tuple[int, int], np.ndarray] = {}  # thumbnails of the sheet by take and frame
        self._replaced: set[Path] = set()  # earlier files, which go when the new ones are complete

    def write(self, progress: Progress | None = None) -> list[Path]:
        """Write all files."""
        check_signing()  # a key or service that fails must not cost a rendering
        is_new = not self.files.folder.exists()
        try:
            self._begin()
            return self._write(progress)
        except BaseException:
            if is_new:
                with contextlib.suppress(OSError):  # there is something in it
                    self.files.folder.rmdir()
            raise

    def _write(self, progress: Progress | None) -> list[Path]:
        count, frames = len(self.output), self.output.num_frames
        paths: list[Path] = []
        try:
            for first in range(0, count, TAKES_AT_ONCE):
                takes = range(first, min(first + TAKES_AT_ONCE, count))

                def tell(done: int, before: int = first * frames) -> None:
                    if progress:
                        progress(before + done, count * frames)

                self._write_videos(takes, tell)
                for take in takes:
                    paths += self._write_beside(take)
            if self.sheet:
                paths.append(self._write_sheet())
            self._remove_replaced(self._replaced - set(paths))
        except BaseException:
            self.run.leave()
            raise
        self.run.remove()
        return paths

    def _begin(self) -> None:
        """Make and lock the folder; refuse one with other takes."""
        folder, existing = self.files.folder, self.files.existing()
        if self.resume and self.run.is_there():
            self._replaced = self.run.replaced(existing)
            existing = [path for path in existing if path not in self._replaced | self._own(existing)]
        if existing and not self.overwrite:
            if self.files.is_file:
                raise ValueError(f"There is a file '{self.files.path}' already; pass overwrite=True, or name another.")
            resume = "resume=True to complete them, " if self.run.is_there() and not self.resume else ""
            raise ValueError(
                f"The folder '{folder}' holds takes already; pass {resume}overwrite=True to replace them, or name "
                f"another, such as '{free_folder(folder)}'."
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._replaced |= set(existing)
            self.run.begin(self.resume, self._replaced)
        except OSError as error:
            raise ValueError(f"The folder '{folder}' cannot be made ({why(error)}); choose another.") from error

    def _own(self, existing: Sequence[Path]) -> set[Path]:
        """Return the files that this run, interrupted, has written."""
        videos = {take: self.files.video(take) for take in range(len(self.output))}
        own = [v.stem for take, v in videos.items() if self.run.has_take(take, v) or self.run.lost_take(take, v)]
        return {path for path in existing if own and path.stem in (*own, "sheet")}

    def _write_videos(self, takes: Sequence[int], tell: Callable[[int], None]) -> None:
        """Write unfinished videos of some takes side by side."""
        output, run = self.output, self.run
        frames, size, columns = output.num_frames, self._part_frames, self._sheet_columns
        parts = -(-frames // size)
        # 1. Skip what a resumed run has finished: whole takes, then leading parts.
        done = frames * sum(run.has_take(take, self.files.video(take)) for take in takes)
        takes = [take for take in takes if not run.has_take(take, self.files.video(take))]
        if not takes:
            tell(done)
            return

        def is_whole(path: Path, index: int) -> bool:
            return count_pictures(path) == min(size, frames - index * size)

        kept = run.parts_finished(takes, parts, is_whole) if parts > 1 else 0
        position = kept * size
        done += len(takes) * min(position, frames)
        tell(done)
        # 2. Render chunk by chunk into one encoder a take.
        chunks = output.chunks(takes, output.chunk_bounds(position), self.finish.label)
        try:
            for index in range(kept, parts):
                with ExitStack() as stack:
                    writers = [
                        stack.enter_context(BackgroundWriter(self._video_writer(take, index, parts))) for take in takes
                    ]
                    while position < min((index + 1) * size, frames):
                        chunk = next(chunks)  # (takes, n, H, W, 3)
                        for take, writer, images in zip(takes, writers, chunk, strict=True):
                            writer.write(images)
                            for column in columns[(columns >= position) & (columns < position + len(images))]:
                                self._seen[take, int(column)] = _thumbnail(images[column - position])
                        position += chunk.shape[1]
                        done += len(takes) * chunk.shape[1]
                        tell(done)
        finally:
            chunks.close()
        # 3. Join the parts without encoding again.
        for take in takes:
            if parts > 1:
                files = [run.part(take, index) for index in range(parts)]
                join_videos(
                    files, self.files.video(take), output.motion.speech.recording, comment=_comment(),
                    temporary_folder=run.folder, seal=partial(self._seal_video, take),
                )  # fmt: skip
            run.remove_parts(take)

    def _video_writer(self, take: int, index: int, parts: int) -> VideoWriter:
        size = self.output.source.frame_size
        codec = best_codec(self.output.renderer.device, size)
        if parts > 1:
            return VideoWriter(self.run.part(take, index), size, FPS, codec=codec)
        return VideoWriter(
            self.files.video(take), size, FPS, self.output.motion.speech.recording, comment=_comment(), codec=codec,
            temporary_folder=self.run.folder, seal=partial(self._seal_video, take),
        )  # fmt: skip

    def _seal_video(self, take: int, video: Path) -> None:
        self.finish.seal(video)
        self.run.mark_take(take, video)

    def _write_beside(self, take: int) -> list[Path]:
        """Write what belongs to a finished video; returns all files of the take."""
        paths = [self.files.video(take)]
        if not self.files.is_file:
            paths.append(self._write_json(take))
        if self.animation:
            paths.append(self._write_animation(take, self.animation))
        self._remove_replaced({self.files.beside(take, f".{kind}") for kind in ANIMATIONS} - set(paths))
        return paths

    def _remove_replaced(self, paths: set[Path]) -> None:
        """Remove those of some files that belong to earlier takes."""
        for path in paths & self._replaced:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise ValueError(f"'{path}' of an earlier run cannot be removed ({why(error)}); remove it.") from error

    @property
    def _part_frames(self) -> int:
        """Frames of a part: about a minute, in whole chunks."""
        # Whole chunks: a resumed run must render the same ones.
        step = chunk_length(self.output.source.frame_size, self.output.renderer.device)
        return step * round(PART_SECONDS * FPS / step)

    @property
    def _sheet_columns(self) -> np.ndarray:
        """Indices of the frames on the sheet."""
        return np.unique(np.linspace(0, self.output.num_frames - 1, SHEET_COLUMNS + 2).astype(int)[1:-1])

    def _record(self) -> dict[str, Any]:
        """Return everything the files depend on."""
        output = self.output
        digest = hashlib.blake2b(output.renderer.digest().encode(), digest_size=16)
        sound = output.motion.speech.recording
        for start in range(0, len(sound), SOUND_AT_ONCE):
            digest.update(np.ascontiguousarray(sound[start : start + SOUND_AT_ONCE]).data)
        motion = output.motion
        for array in (output.head_pose, motion.blink, motion.upper_face, output.source.picture, output.source.crop):
            if array is not None:
                digest.update(np.ascontiguousarray(array).data)
        return {
            "seed": output.seed,
            "take_seeds": list(output.motion.seeds),
            "frames": output.num_frames,
            "part_frames": self._part_frames,
            "frame_size": list(output.source.frame_size),
            "precision": output.renderer.precision,
            "drawn_on": [output.renderer.device, best_codec(output.renderer.device, output.source.frame_size)],
            "inputs": digest.hexdigest(),
            "versions": {"osmnet": osmnet.__version__, "torch": torch.__version__, "av": av.__version__},
        }

    def _write_animation(self, take: int, kind: str) -> Path:
        from osmnet.media.animation import animate_video

        path = self.files.beside(take, f".{kind}")
        animate_video(self.files.video(take), path, seal=self.finish.seal)
        return path

    def _write_sheet(self) -> Path:
        output, columns = self.output, self._sheet_columns
        path = self.files.folder / "sheet.png"
        shown = range(min(len(output), MAX_TAKES))
        for take in shown:  # frames that an earlier, resumed run has rendered were not seen by this one
            missing = [int(column) for column in columns if (take, int(column)) not in self._seen]
            # In the same chunks as before: rounding depends on them.
            bounds = [
                (start, stop) for start, stop in output.chunk_bounds() if any(start <= c < stop for c in missing)
            ]
            if bounds:
                chunks = output.chunks([take], bounds, self.finish.label)
                for (start, stop), images in zip(bounds, chunks, strict=True):
                    for column in (column for column in missing if start <= column < stop):
                        self._seen[take, column] = _thumbnail(images[0, column - start])
        title = f"{len(output)} take{'s' * (len(output) > 1)}, ε = {output.motion.epsilon:g}" + (
            f", seed {output.seed}" if output.seed is not None else ""
        )
        takes = [np.stack([self._seen[take, int(column)] for column in columns]) for take in shown]
        sheet = contact_sheet(takes, (columns + 0.5) / FPS, output.head_pose, title=title)
        write_whole(path, as_png(sheet), self.finish.seal, self.run.folder)
        return path

    def _write_json(self, take: int) -> Path:
        output, motion, source = self.output, self.output.motion, self.output.source
        pose = output.head_pose[take]
        content = {
            "ai_generated": True,
            "take": take + 1,
            "seed": output.seed,
            "take_seed": motion.seeds[take],
            **({"near": list(motion.near)} if motion.near else {}),
            "epsilon": motion.epsilon,
            "sampling": motion.sampling,
            "settings": {
                **motion.settings,
                "full_frame": source.full_frame,
                **({} if source.full_frame else {"size": source.size}),
            },
            "model": output.model,
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
        path = self.files.beside(take, ".json")
        write_whole(path, (_compact_json(content) + "\n").encode())
        return path


def _compact_json(content: dict[str, Any]) -> str:
    """Format a JSON object with one member a line."""
    members = (f" {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in content.items())
    return "{\n" + ",\n".join(members) + "\n}"


def _comment() -> str:
    return COMMENT.format(version=osmnet.__version__)


def _thumbnail(image: np.ndarray) -> np.ndarray:
    picture = Image.fromarray(image)
    factor = SHEET_SIDE / max(picture.size)
    size = max(round(picture.width * factor), 1), max(round(picture.height * factor), 1)
    return np.asarray(picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0))
