"""Prepared clips as arrays."""

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import soundfile

from osmnet.face.morphable import FaceFit, FaceModel
from osmnet.media.audio import mel_windows


class _HasSpeaker(Protocol):
    @property
    def speaker(self) -> str: ...


Spoken = TypeVar("Spoken", bound=_HasSpeaker)


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
    clips = [Clip(file.parent) for file in sorted(Path(folder).glob("[!.]*/clip.json"))]
    if not clips:
        raise ValueError(f"No prepared clips in '{folder}'; make some with `osmnet prepare CLIPS --out {folder}`.")
    chosen = [clip for clip in clips if speech is None or clip.has_speech == speech]
    if not chosen:
        wanted = "has" if speech else "is without"
        raise ValueError(f"None of the {len(clips)} clips in '{folder}' {wanted} speech; prepare others.")
    return chosen


def is_held_out(speaker: str) -> bool:
    """Whether a speaker is kept from training: about one in eight, by name, so that every stage agrees."""
    return zlib.crc32(speaker.encode()) % 8 == 3


def split_clips(clips: Sequence[Spoken]) -> tuple[list[Spoken], list[Spoken]]:
    """Part clips by speaker into those to train on and those to validate on.

    Args:
        clips (sequence of `Clip` or of what else has a `speaker`): In any order.

    Returns:
        `tuple[list, list]`: The training clips, and the held-out ones. Without a held-out speaker (fine-tuning on
        one person) the second list is the training clips again, so that there always is something to look at.

    Raises:
        ValueError: If there is nothing to train on.
    """
    training = [clip for clip in clips if not is_held_out(clip.speaker)]
    held_out = [clip for clip in clips if is_held_out(clip.speaker)]
    if not training:
        names = ", ".join(sorted({clip.speaker for clip in clips})) or "none"
        raise ValueError(f"No clips to train on: all speakers ({names}) are held out by name; add or rename some.")
    return training, held_out or training
