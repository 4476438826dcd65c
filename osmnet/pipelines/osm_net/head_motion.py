"""The head motion of some takes, before any picture is made."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from osmnet.media.audio import FPS
from osmnet.models.osm_net.motion import clip_frames
from osmnet.rendering.mesh_renderer import Source
from osmnet.structures import Speech

# How sampled clips become a path (measured against real motion in docs/experiments.md).
PULL, SMOOTHING = 0.06, 0.6
LEAD = 4  # frames: heads move on when speech is about to begin
# Sampled motion stays below these turns [rad] and translations [head units]: further than people move while they speak
# to a camera, and further than the square around the head leaves room for.
MAX_MOTION = (math.radians(25), math.radians(16), math.radians(20), 0.45, 0.35, 1.2)
MAX_TURN_DEG = 45.0  # of a head in all, where it began nearer: past it the warp has nothing left to show


@dataclass(frozen=True, eq=False)
class Motion:
    """Sampled head motion of some takes, before any picture is made.

    Attributes:
        head_pose (`np.ndarray` of shape `(num_videos, frames, 6)`): Poses relative to the portrait's: yaw, pitch, roll
            [rad], tx, ty, tz [head units]; float32.
        blink (`np.ndarray` of shape `(num_videos, frames)`): How far the lids are closed, 0 to 1.
        speech (`Speech`): What is said.
        seeds (`tuple[int, ...]`): For each take the seed that makes it again on its own.
        epsilon (`float`): Radius ε.
        sampling (`str`): `"span"`, `"ball"`, `"still"` or `"video"`.
        near (`tuple[int, ...]`): Seeds of the take that these were sampled near to; empty for none.
        settings (`dict`): What else `sample_motion` was asked for, for the records; turns in degrees.
    """

    head_pose: np.ndarray
    blink: np.ndarray
    speech: Speech
    seeds: tuple[int, ...]
    epsilon: float
    sampling: str
    near: tuple[int, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def num_videos(self) -> int:
        """Number of takes."""
        return len(self.head_pose)

    def take(self, takes: Sequence[int]) -> "Motion":
        """Some of the takes, by their numbers from 0.

        Raises:
            ValueError: If there is no such take, or none is chosen.
        """
        chosen = list(takes)
        if not chosen or not all(-self.num_videos <= take < self.num_videos for take in chosen):
            raise ValueError(f"Choose at least one of the takes 0 to {self.num_videos - 1}, not {chosen}.")
        seeds = tuple(self.seeds[take] for take in chosen)
        return replace(self, head_pose=self.head_pose[chosen], blink=self.blink[chosen], seeds=seeds)


def absolute_pose(source: Source, motion: Motion) -> np.ndarray:
    """Poses in the source's camera: those of the portrait plus the motion, `(num_videos, frames, 6)`, within 45°."""
    return to_camera(source, motion.head_pose)


def to_camera(source: Source, head_pose: np.ndarray) -> np.ndarray:
    """Poses `(..., 6)` relative to the portrait's as poses in the source's camera, within 45°."""
    own = source.fit.head_pose
    limit = np.maximum(np.abs(own[:3]), math.radians(MAX_TURN_DEG))
    pose = own + head_pose
    pose[..., :3] = np.clip(pose[..., :3], -limit, limit)
    return pose


def clip_activity(activity: np.ndarray, clip_length: int) -> torch.Tensor:
    """How much of each clip and of the `LEAD` frames after it is speech.

    Args:
        activity (`np.ndarray` of shape `(frames,)`): 0 in silence, 1 in speech.
        clip_length (`int`): Frames of a clip T.

    Returns:
        `torch.Tensor` of shape `(clips,)`: 0 to 1, float32.
    """
    clips = clip_frames(len(activity), clip_length)[:, :1] + np.arange(clip_length + LEAD)
    return torch.from_numpy(activity[np.minimum(clips, len(activity) - 1)].mean(1, dtype=np.float32))


def blink_curve(frames: int, generator: torch.Generator) -> np.ndarray:
    """Natural blinks: how far the lids are closed in every frame.

    Pauses between blinks are log-normal with a median of 3.2 s (people who speak blink some 15 to 25 times a minute);
    lids close in about 0.1 s and open in about 0.2 s.

    Args:
        frames (`int`): Length at 25 fps.
        generator (`torch.Generator`): Source of randomness.

    Returns:
        `np.ndarray` of shape `(frames,)`: float32, 0 open to 1 closed.
    """
    curve = np.zeros(frames, np.float32)
    shape = np.array([0.25, 0.8, 1.0, 0.9, 0.6, 0.3, 0.1], np.float32)
    draw = torch.randn(frames // 8 + 4, 2, generator=generator).numpy()
    at = FPS * float(np.exp(0.3 + 0.5 * draw[0, 0]))
    for pause, strength in draw[1:]:
        start = int(at)
        if start >= frames:
            break
        part = curve[start : start + len(shape)]
        part[:] = np.maximum(part, (shape * min(1.0, 0.97 + 0.05 * strength))[: len(part)])
        at += len(shape) + FPS * float(np.exp(np.log(2.9) + 0.55 * pause))
    return curve
