"""Prepared clips as arrays."""

import json
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import soundfile

from osmnet.face.morphable import FaceFit, FaceModel
from osmnet.media.audio import mel_windows


@dataclass(frozen=True)
class Clip:
    """One prepared clip; see `osmnet.data.prepare` for the files."""

    folder: Path

    @property
    def name(self) -> str:
        """The clip's name."""
        return self.folder.name

    @property
    def speaker(self) -> str:
        """Who is seen, as far as the clip's name tells: held-out splits go by this."""
        return speaker_of(self.name)

    @cached_property
    def info(self) -> dict:
        """What `clip.json` says."""
        return json.loads((self.folder / "clip.json").read_text(encoding="utf-8"))

    @property
    def size(self) -> int:
        """Side of the crop in pixels."""
        return self.info["size"]

    @property
    def has_speech(self) -> bool:
        """Whether sound that belongs to the lips is there."""
        return (self.folder / "speech.wav").is_file()

    @property
    def video(self) -> Path:
        """The cropped video."""
        return self.folder / "crop.mp4"

    def landmarks_px(self) -> np.ndarray:
        """Vertices `(frames, 478, 3)` in pixels of the crop."""
        with np.load(self.folder / "track.npz") as track:
            return track["landmarks_px"]

    def speech(self) -> np.ndarray:
        """The sound, 16 kHz mono, as long as the picture."""
        return soundfile.read(self.folder / "speech.wav", dtype="float32")[0]

    def mel_windows(self) -> np.ndarray:
        """Speech features `(frames, 16, 16)`, as many frames as the picture has."""
        windows = mel_windows(self.speech())
        frames = self.info["frames"]
        return np.pad(windows, ((0, max(frames - len(windows), 0)), (0, 0), (0, 0)), mode="edge")[:frames]

    def fit(self, face_model: FaceModel) -> FaceFit:
        """Pose, expression and identity of every frame."""
        return face_model.fit_track(self.landmarks_px(), self.size)


def speaker_of(name: str) -> str:
    """The part of a clip's name that stands for its speaker (a clip of unknown origin is a speaker of its own)."""
    parts = name.split("-")
    if "clip" in parts and parts.index("clip") + 1 < len(parts):  # ...-clip-m030-front-angry-...
        return "-".join(parts[: parts.index("clip") + 2])
    stem = "-".join(part for part in parts if not part.lstrip("clipv").isdigit())
    return stem or name


def load_clips(folder: Path, speech: bool | None = None) -> list[Clip]:
    """All whole clips of a prepared folder, by name.

    Args:
        folder (`Path`): Made by `osmnet prepare`.
        speech (`bool`, *optional*): Only clips with (or without) speech.

    Returns:
        `list[Clip]`: Never empty.

    Raises:
        ValueError: If the folder has none.
    """
    clips = [Clip(file.parent) for file in sorted(Path(folder).glob("*/clip.json"))]
    clips = [clip for clip in clips if speech is None or clip.has_speech == speech]
    if not clips:
        raise ValueError(f"No prepared clips in '{folder}'; make some with `osmnet prepare CLIPS --out {folder}`.")
    return clips


def is_held_out(speaker: str) -> bool:
    """Whether a speaker is kept from training: about one in eight, by name, so that every stage agrees."""
    return zlib.crc32(speaker.encode()) % 8 == 3
