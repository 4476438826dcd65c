"""Data passed between the steps of a pipeline."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from osmnet.face.crop import CropBox
from osmnet.face.morphable import FaceFit
from osmnet.media.features import cut_windows
from osmnet.media.recording import Recording
from osmnet.utils.lazy_rows import LazyRows


@dataclass(frozen=True, eq=False)
class Source:
    """An encoded portrait.

    Attributes:
        picture (`np.ndarray` of shape `(height, width, 3)`): The whole picture, uint8.
        crop (`np.ndarray` of shape `(size, size, 3)`): The square around the head at the size it is rendered.
        box (`CropBox`): Where the square lies in the picture.
        fit (`FaceFit`): Shape, identity, expression and pose of the head.
        full_frame (`bool`): Whether frames are whole pictures or squares.
        num_faces (`int`): Number of faces in the picture.
    """

    picture: np.ndarray
    crop: np.ndarray
    box: CropBox
    fit: FaceFit
    full_frame: bool
    num_faces: int = 1

    @property
    def size(self) -> int:
        """Side of the square, px."""
        return int(self.crop.shape[0])

    @property
    def frame_size(self) -> tuple[int, int]:
        """Frame height and width, px."""
        return self.picture.shape[:2] if self.full_frame else (self.size, self.size)


@dataclass(frozen=True, eq=False)
class Speech:
    """Encoded speech: 0.6 MB a minute, 6 MB pickled (for a spawned process).

    Large features are computed when read.

    Attributes:
        recording (`Recording`): The sound, mono, 16 kHz.
        mel (`np.ndarray` of shape `(4 * frames, 16)`): Log-mel spectrogram, 4 steps a video frame.
        activity (`np.ndarray` of shape `(frames,)`): 0 in silence, 1 in speech.
        weights (`torch.Tensor` of shape `(clips, num_bases)`): w_a of every clip, which mix the centre F_c.
        features (`LazyRows` of shape `(frames, 288)`, *optional*): Features of the speech encoder for every frame,
            computed when they are read; 1.7 MB a minute.
    """

    recording: Recording
    mel: np.ndarray
    activity: np.ndarray
    weights: torch.Tensor
    features: LazyRows | None = None

    @property
    def num_frames(self) -> int:
        """Video frames at 25 fps."""
        return len(self.activity)

    @property
    def waveform(self) -> np.ndarray:
        """Whole sound, `(samples,)`."""
        return self.recording.waveform

    @property
    def mel_windows(self) -> np.ndarray:
        """Mel window of each frame, `(frames, 16, 16)`; read-only."""
        return cut_windows(self.mel)


@dataclass(frozen=True, eq=False)
class Motion:
    """Sampled motion of head, brows and eyes of some takes.

    Attributes:
        head_pose (`np.ndarray` of shape `(num_videos, frames, 6)`): Poses relative to the portrait's: yaw, pitch, roll
            [rad], tx, ty, tz [head units]; float32.
        blink (`np.ndarray` of shape `(num_videos, frames)`): Closure of the lids, 0 to 1.
        speech (`Speech`): The encoded speech.
        seeds (`tuple[int, ...]`): One a take, which makes it again on its own.
        epsilon (`float`): Radius ε.
        sampling (`str`): `"span"`, `"ball"`, `"still"` or `"video"`.
        near (`tuple[int, ...]`): Seeds of the take that these were sampled near.
        settings (`dict`): The other options of `sample_motion`, for the records; turns in degrees.
        upper_face (`np.ndarray` of shape `(num_videos, frames, 8)`, *optional*): `COORDINATES` of
            `osmnet/face/upper_face.py`, float32; as in the portrait if not given.
    """

    head_pose: np.ndarray
    blink: np.ndarray
    speech: Speech
    seeds: tuple[int, ...]
    epsilon: float
    sampling: str
    near: tuple[int, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    upper_face: np.ndarray | None = None

    @property
    def expression_scale(self) -> float:
        """Factor of mouth movement."""
        return float(self.settings.get("expression_scale", 1.0))

    @property
    def num_videos(self) -> int:
        """Number of takes."""
        return len(self.head_pose)

    def take(self, takes: Sequence[int]) -> "Motion":
        """Return some takes, by index.

        Raises:
            ValueError: If there is no such take, or none is chosen.
        """
        chosen = list(takes)
        if not chosen or not all(-self.num_videos <= take < self.num_videos for take in chosen):
            raise ValueError(f"Choose at least one of the takes 0 to {self.num_videos - 1}, not {chosen}.")
        seeds = tuple(self.seeds[take] for take in chosen)
        upper_face = None if self.upper_face is None else self.upper_face[chosen]
        return replace(
            self, head_pose=self.head_pose[chosen], blink=self.blink[chosen], seeds=seeds, upper_face=upper_face
        )


@dataclass(frozen=True)
class StreamChunk:
    """Frames of all takes with their sound.

    Attributes:
        frames (`np.ndarray` of shape `(num_videos, n, height, width, 3)`): uint8.
        first_frame (`int`): Number of the first of them; its time is `first_frame / 25` s.
        waveform (`np.ndarray` of shape `(640 · n,)`): Mono sound at 16 kHz; shorter where the recording ends.
    """

    frames: np.ndarray
    first_frame: int
    waveform: np.ndarray
