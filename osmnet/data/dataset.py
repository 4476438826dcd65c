"""Read prepared datasets."""

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from osmnet.data.manifest import read_manifest
from osmnet.data.shards import SUBPIXELS, decode_sound, decode_track, fingerprint, read_member
from osmnet.face.morphable import FaceFit, FaceModel
from osmnet.face.pose import fit_similarity
from osmnet.face.topology import STABLE
from osmnet.media.features import mel_windows
from osmnet.media.video_reader import read_frames
from osmnet.utils.checks import check_flag, check_path, check_range, short

PADDING = 64  # px by which a decoder's pictures may be larger
MAX_CROP = 2**16  # px, that can be asked for
CLIPS_PER_HELD_OUT = 5  # clips; of a split by clip one in five is held out


@dataclass(frozen=True)
class Clip:
    """A prepared clip; files are read on demand.

    Attributes:
        where (`str`): Folder or address of the dataset.
        info (`dict`): Its line of the manifest.
    """

    where: str
    info: dict[str, Any]

    @property
    def name(self) -> str:
        """Unique key."""
        return self.info["key"]

    @property
    def speaker(self) -> str:
        """Speaker, by which datasets are split."""
        return self.info["speaker"]

    @property
    def size(self) -> int:
        """Crop side in pixels."""
        return self.info["size"]

    @property
    def frames(self) -> int:
        """Number of frames at 25 fps."""
        return self.info["frames"]

    @property
    def has_speech(self) -> bool:
        """Whether the clip has sound in sync with the lips."""
        return "wav" in self.info["files"]

    def _read(self, ending: str) -> bytes:
        if ending not in self.info["files"]:
            raise ValueError(f"Clip '{self.name}' has no {ending} in '{self.where}'; run `osmnet prepare` again.")
        return read_member(f"{self.where}/{self.info['shard']}", f"{self.name}.{ending}", *self.info["files"][ending])

    def _track(self) -> dict[str, np.ndarray]:
        content = self._read("npz")
        try:
            return decode_track(content, self.frames)
        except ValueError as error:
            raise ValueError(f"The track of clip '{self.name}' is damaged ({error}); prepare it again.") from error

    def landmarks_px(self) -> np.ndarray:
        """Read the vertices `(frames, 478, 3)`, float32 crop pixels.

        Raises:
            ValueError: As `fit`.
        """
        return self._track()["landmarks"].astype(np.float32) / SUBPIXELS

    def descriptor(self) -> np.ndarray | None:
        """Read the identity network's answer `(128,)`; `None` in datasets of an earlier version."""
        return self._track().get("descriptor")

    def speech(self) -> np.ndarray:
        """Read 16 kHz mono sound `(frames * 640,)`, float32.

        Raises:
            ValueError: If the clip has no speech, or its sound is missing, damaged or of another kind or length.
        """
        if not self.has_speech:
            raise ValueError(f"Clip '{self.name}' has no speech; ask for clips with speech only.")
        content = self._read("wav")
        try:
            return decode_sound(content, self.frames)
        except ValueError as error:
            raise ValueError(f"The sound of clip '{self.name}' is damaged ({error}); prepare it again.") from error

    def mel_windows(self) -> np.ndarray:
        """Compute mel windows `(frames, 16, 16)`."""
        windows = mel_windows(self.speech())
        return np.pad(windows, ((0, max(self.frames - len(windows), 0)), (0, 0), (0, 0)), mode="edge")[: self.frames]

    def fit(self, face_model: FaceModel) -> FaceFit:
        """Load the stored fit, or refit if it belongs to another face model.

        Raises:
            ValueError: If the track is missing or damaged, or has other lengths than `frames` or the face model.
        """
        track = self._track()
        landmarks = track["landmarks"].astype(np.float32) / SUBPIXELS
        if str(track["face_model"]) != fingerprint(face_model):
            return face_model.fit_track(landmarks, self.size)
        found = track["identity"].shape[0], track["expression"].shape[1]
        if found != (face_model.config.identity_dim, face_model.config.expression_dim):
            raise ValueError(
                f"The track of clip '{self.name}' is damaged (it has {found[0]} and {found[1]} coefficients); prepare "
                "it again."
            )
        similarity = fit_similarity(face_model.array("mean_shape")[STABLE], landmarks[:, STABLE])
        shape = similarity.unplace(landmarks)
        return FaceFit(shape, track["identity"], track["expression"], track["head_pose"], similarity)

    def read_frames(self, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """Decode frames `start` to `stop - 1`, each `(size, size, 3)` uint8 RGB.

        Raises:
            ValueError: If the video is missing or damaged, or has pictures of another size or too few.
        """
        content, stop = self._read("mp4"), self.frames if stop is None else min(stop, self.frames)
        most = (self.size + PADDING) ** 2 / 1e6
        try:
            done = start
            for frame in islice(read_frames(content, max_megapixels=most), start, stop):
                if frame.shape != (self.size, self.size, 3):
                    raise ValueError(f"a picture of {frame.shape[1]} x {frame.shape[0]} pixels instead of {self.size}")
                yield frame
                done += 1
            if done < stop:
                raise ValueError(f"{done} frames instead of {self.frames}")
        except ValueError as error:
            reason = str(error).rstrip(".")
            raise ValueError(f"The video of clip '{self.name}' is damaged ({reason}); prepare it again.") from error


class Dataset:
    """A dataset made by `osmnet prepare`.

    Args:
        where (`str`): Folder or address.
        rows (`list[dict]`): Its manifest.
    """

    def __init__(self, where: str, rows: list[dict[str, Any]]):
        self.where = where
        self._clips = sorted((Clip(where, row) for row in rows if row["status"] == "kept"), key=lambda clip: clip.name)

    @classmethod
    def open(cls, source: str | Path) -> Self:
        """Open a dataset.

        Args:
            source (`str` or `Path`): Folder or fsspec address (`https://…`, `hf://datasets/…`), from which clips are
                fetched on demand.

        Raises:
            ValueError: If there is none, or it is of another version or damaged, see `read_manifest`.
        """
        check_path("The dataset", source)
        where = str(source).rstrip("/")
        return cls(where, read_manifest(where))

    @property
    def fingerprint(self) -> str:
        """`clips_fingerprint` of all clips."""
        return clips_fingerprint(self._clips)

    def clips(self, speech: bool | None = None, min_size: int = 0) -> list[Clip]:
        """List clips by name.

        Args:
            speech (`bool`, *optional*): Only clips with (or without) speech.
            min_size (`int`): Smallest side of the crop in pixels.

        Returns:
            `list[Clip]`: Never empty.

        Raises:
            ValueError: If there are none.
        """
        if speech is not None:
            check_flag("speech", speech)
        check_range("min_size", min_size, 0, MAX_CROP)
        chosen = [clip for clip in self._clips if (speech is None or clip.has_speech == speech)]
        if not chosen:
            wanted = {True: " with speech", False: " without speech", None: ""}[speech]
            raise ValueError(
                f"'{self.where}' has no clips{wanted}; prepare others (report.html lists what was dropped)."
            )
        large = [clip for clip in chosen if clip.size >= min_size]
        if not large:
            raise ValueError(
                f"No clip in '{self.where}' has a crop of {min_size} pixels; prepare videos with larger faces."
            )
        return large

    def split(
        self, speech: bool | None = None, min_size: int = 0, by: Literal["speaker", "clip"] = "speaker"
    ) -> tuple[list[Clip], list[Clip]]:
        """Split into training and held-out clips, alike in every stage.

        Args:
            speech (`bool`, *optional*): As in `clips`.
            min_size (`int`): As in `clips`.
            by (`"speaker"` or `"clip"`): Hold out speakers (about one in eight, by name), or every fifth clip, for
                fine-tuning on one person.

        Returns:
            `tuple[list[Clip], list[Clip]]`: Training and held-out clips; if no speaker is held out, the latter repeat
            the former.

        Raises:
            ValueError: If there is nothing to train on, or only one clip to split.
        """
        clips = self.clips(speech, min_size)
        if isinstance(by, str) and by == "clip":
            # Chosen among all clips, so that stages that use a subset agree.
            held = {clip.name for clip in self._clips[CLIPS_PER_HELD_OUT - 1 :: CLIPS_PER_HELD_OUT]}
            held &= {clip.name for clip in clips}
            if len(held) in (0, len(clips)):
                held = {clips[-1].name}
            if len(clips) < 2:
                raise ValueError(
                    f"'{self.where}' has a single clip to use, and one must be held out; add another one, or prepare "
                    "with a smaller --max-seconds."
                )
        elif isinstance(by, str) and by == "speaker":
            held = {clip.name for clip in clips if is_held_out(clip.speaker)}
        else:
            raise ValueError(f"split must be 'speaker' or 'clip', not {short(by)}.")
        training = [clip for clip in clips if clip.name not in held]
        if not training:
            names = ", ".join(sorted({clip.speaker for clip in clips}))
            raise ValueError(
                f"No clips to train on: all speakers ({names}) are held out by name; add or rename some, or hold out "
                "every fifth clip (--set split=clip)."
            )
        return training, [clip for clip in clips if clip.name in held] or training


def clips_fingerprint(clips: list[Clip]) -> str:
    """Hash the clips' manifest lines to eight hex digits."""
    return f"{zlib.crc32(json.dumps([clip.info for clip in clips], sort_keys=True).encode()):08x}"


def speaker_of(name: str) -> str:
    """Derive the speaker from a clip's name."""
    parts = name.split("-")
    if "clip" in parts and parts.index("clip") + 1 < len(parts):  # ...-clip-m030-front-angry-...
        return "-".join(parts[: parts.index("clip") + 2])
    stem = "-".join(part for part in parts if not part.lstrip("clipv").isdigit())
    return stem or name


def is_held_out(speaker: str) -> bool:
    """Whether a speaker is held out: about one in eight, by name."""
    return zlib.crc32(speaker.encode()) % 8 == 3
