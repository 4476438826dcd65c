"""Head motion of takes: sampled paths, limits, camera poses."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from osmnet.models.osm_net.motion_codec import clip_frames, compose_clips
from osmnet.structures import Motion, Source, Speech
from osmnet.utils.profiling import span
from osmnet.utils.threads import in_order

if TYPE_CHECKING:
    from osmnet.pipelines.osm_net.components import OSMNetComponents

# How clips are composed to a path, measured against real motion (docs/notes/experiments.md): the share of the offset
# that is pulled back to rest within a clip, and the standard deviation of the smoothing in frames.
PULL, SMOOTHING = 0.06, 0.6
CENTERS_AT_ONCE = 1024  # clips: bounds the memory for an hour of speech
PAUSE = 9  # frames; shorter silences leave the mouth open
LEAD = 4  # frames; heads begin to move before the speech does
# Limits of sampled motion, rad and head units: beyond how people move while speaking, and beyond the room in the
# square around the head.
MAX_MOTION = (math.radians(25), math.radians(16), math.radians(20), 0.45, 0.35, 1.2)
MAX_TURN_DEG = 45.0  # degrees from frontal, or the portrait's own turn if larger; past it the warp has no texture


def absolute_pose(source: Source, motion: Motion) -> np.ndarray:
    """Return camera poses, `(num_videos, frames, 6)`, within 45°."""
    return to_camera(source, motion.head_pose)


def to_camera(source: Source, head_pose: np.ndarray) -> np.ndarray:
    """Convert poses `(..., 6)` relative to the portrait to camera poses, within 45°."""
    own = source.fit.head_pose
    limit = np.maximum(np.abs(own[:3]), math.radians(MAX_TURN_DEG))
    pose: np.ndarray = own + head_pose
    pose[..., :3] = np.clip(pose[..., :3], -limit, limit)
    return pose


def clip_activity(activity: np.ndarray, clip_length: int) -> torch.Tensor:
    """Compute each clip's share of speech, including `LEAD` frames after it.

    Args:
        activity (`np.ndarray` of shape `(frames,)`): 0 in silence, 1 in speech.
        clip_length (`int`): Frames of a clip T.

    Returns:
        `torch.Tensor` of shape `(clips,)`: 0 to 1, float32.
    """
    clips = clip_frames(len(activity), clip_length)[:, :1] + np.arange(clip_length + LEAD)
    return torch.from_numpy(activity[np.minimum(clips, len(activity) - 1)].mean(1, dtype=np.float32))


def sample_path(
    pipe: OSMNetComponents,
    speech: Speech,
    epsilon: float,
    generators: Sequence[torch.Generator],
    sampling: str,
    near: Sequence[int],
) -> np.ndarray:
    """Sample head paths within ε of the centre (Eq. 5).

    Args:
        pipe (`OSMNetComponents`): The networks.
        speech (`Speech`): From `encode_speech`.
        epsilon (`float`): Radius ε.
        generators (sequence of `torch.Generator`): One a take.
        sampling (`str`): `"span"` or `"ball"`.
        near (sequence of `int`): Seeds of the take to stay near to.

    Returns:
        `np.ndarray` of shape `(num_videos, frames, 6)`: Poses relative to the portrait's; float32.
    """
    space = pipe.motion_space
    # 1. Decode the centre. It nods slightly on average, so without subtracting the mean the head would sink.
    centers = map(space.reconstruct, torch.split(speech.weights.to(pipe.device), CENTERS_AT_ONCE))
    steady = decode_clips(pipe, centers).mean(0)  # (T, 6)
    activity = clip_activity(speech.activity, pipe.motion_decoder.config.clip_length)  # (clips,)
    limits = torch.tensor(MAX_MOTION)

    # 2. Sample, decode, compose and limit each take on its own.
    @torch.inference_mode()
    def path(generator: torch.Generator) -> np.ndarray:  # (frames, 6)
        features = space.sample_chunks(
            speech.weights, float(epsilon), generator, sampling=sampling, activity=activity,
            near=[torch.Generator().manual_seed(seed) for seed in near],
        )  # fmt: skip
        with span("motion"):
            composed = compose_clips((decode_clips(pipe, features) - steady)[None], PULL, SMOOTHING)
            return (limits * torch.tanh(composed[0, : speech.num_frames] / limits)).numpy()

    return np.stack(list(in_order(path, generators)))


@torch.inference_mode()
def decode_clips(pipe: OSMNetComponents, features: Iterable[torch.Tensor]) -> torch.Tensor:
    """Decode motion features to poses `(clips, T, 6)` on the CPU."""
    return torch.cat([pipe.motion_decoder(part.to(pipe.device)).float().cpu() for part in features])
