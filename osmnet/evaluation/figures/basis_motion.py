"""Head motion of the motion bases, held and swung, and portraits turned by them (docs/paper_figures.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.optimize import nnls
from torch.nn import functional as F

from osmnet.media.audio import FPS
from osmnet.models.osm_net.motion_codec import compose_clips
from osmnet.pipelines.osm_net.head_motion import MAX_MOTION, MAX_TURN_DEG, PULL, SMOOTHING
from osmnet.utils.checks import short

if TYPE_CHECKING:
    from osmnet.pipelines.osm_net.pipeline_osm_net import OSMNetPipeline
    from osmnet.structures import Source

HELD_SECONDS, SWING_SECONDS = 2.4, 0.5
STILL_DEG = 2.0  # a head that moves less is still: breathing moves it by about a degree
POSTURE_DEG = 4.0  # a head turned further looks turned
MINOR = 0.5  # of the strongest angle's motion; smaller motions are not named
# Names for each angle: movement to and fro, to the positive and to the negative side, and rest on either side. Right
# and left are those of the picture (docs/conventions.md).
YAW = ("shake", "turn right", "turn left", "turned right", "turned left")
PITCH = ("nod", "up", "down", "raised", "lowered")
ROLL = ("sway", "tilt right", "tilt left", "tilted right", "tilted left")
WORDS = (YAW, PITCH, ROLL)
CORRECTIONS = 8  # the decoder is nearly linear: three rounds bring a head to within a tenth of a degree


@dataclass(frozen=True)
class Basis:
    """Head motion of one motion basis.

    Attributes:
        index (`int`): Row in `motion_bases`, from 0.
        name (`str`): Name of the motion while the basis is held, see `name_motion`.
        swing (`str`): Name of the motion while it is swung.
        clip (`np.ndarray` of shape `(clip_length, 6)`): Decoded clip of the basis itself, radians and head units.
        held (`np.ndarray` of shape `(frames, 6)`): Path while it is held, relative to its first frame.
        swung (`np.ndarray` of shape `(frames, 6)`): Path while it is swung.
    """

    index: int
    name: str
    swing: str
    clip: np.ndarray
    held: np.ndarray
    swung: np.ndarray


@dataclass(frozen=True)
class Rotation:
    """A head turned by bases.

    Attributes:
        head_pose (`np.ndarray` of shape `(6,)`): Absolute pose in the source's camera.
        bases (`dict[int, float]`): Distance of the feature from the centre towards each basis, in units of ε.
    """

    head_pose: np.ndarray
    bases: dict[int, float]


def name_motion(head_pose: np.ndarray) -> str:
    """Name a head motion `(frames, 6)` or `(frames, 3)`: yaw, pitch, roll in radians first.

    docs/paper_figures.md gives the rules.

    Raises:
        ValueError: If the shape is another one or a number is not finite.
    """
    pose = np.asarray(head_pose, float)
    if pose.ndim != 2 or pose.shape[0] < 1 or pose.shape[1] not in (3, 6) or not np.isfinite(pose).all():
        raise ValueError(f"head_pose must be finite and of shape (frames, 6) or (frames, 3), not {pose.shape}.")
    # 1. Name angles that go to and fro.
    turn = np.rad2deg(pose[:, :3])
    late = turn[len(turn) // 2 :]
    strokes = [_strokes(angle) for angle in turn.T]
    swings = np.array([min(max(s[:-1], default=0), max(s[1:], default=0)) for s in strokes])
    if swings.any():
        movement = ", ".join(WORDS[k][0] for k in _strongest(swings, STILL_DEG))
        return " ".join([*_posture(turn.mean(0)), movement])
    # 2. Name angles that still move at the end.
    travel = turn[-1] - turn[0]
    moving = np.abs(travel) * (np.abs(late[-1] - late[0]) >= STILL_DEG)
    if moving.max() >= POSTURE_DEG:
        return ", ".join(WORDS[k][1 if travel[k] > 0 else 2] for k in _strongest(moving, POSTURE_DEG))
    return " ".join([*_posture(late.mean(0)), "still"])


def _strokes(angle: np.ndarray) -> list[float]:
    """Return the lengths of movements to and fro of at least `STILL_DEG`."""
    strokes: list[float] = []
    low = high = turning = angle[0]  # extremes since the last turning point
    direction = 0
    for value in angle:
        low, high = min(low, value), max(high, value)
        if direction <= 0 and value - low >= STILL_DEG:
            if direction:
                strokes.append(turning - low)
            direction, turning, high = 1, low, value
        elif direction >= 0 and high - value >= STILL_DEG:
            if direction:
                strokes.append(high - turning)
            direction, turning, low = -1, high, value
    if direction:
        strokes.append(high - turning if direction > 0 else turning - low)
    return strokes


def _strongest(size: np.ndarray, least: float) -> list[int]:
    """Return indices of values of at least `least` and half of the largest, largest first."""
    order = np.argsort(-size, kind="stable")
    return [int(k) for k in order if size[k] >= max(least, MINOR * size.max())]


def _posture(turn: np.ndarray) -> list[str]:
    if np.abs(turn).max() < POSTURE_DEG:
        return []
    return [", ".join(WORDS[k][3 if turn[k] > 0 else 4] for k in _strongest(np.abs(turn), POSTURE_DEG))]


@torch.inference_mode()
def decode_bases(pipe: OSMNetPipeline, epsilon: float = 1.0) -> list[Basis]:
    """Decode every basis of a motion space, held and swung.

    Args:
        pipe (`OSMNetPipeline`): The pipeline.
        epsilon (`float`): Distance of the bases from the centre, above 0; 95 % of real motion lies within 1.

    Returns:
        `list[Basis]`: In the order of `motion_bases`.

    Source:
        arXiv 2309.16148, Section IV-E.2 and Fig. 6, which decodes the bases themselves; distance and swing are ours.
    """
    if not 0 < epsilon < float("inf"):
        raise ValueError(f"epsilon must be a finite number above 0, not {short(epsilon)}.")
    bases = pipe.motion_space.motion_bases.float()
    amounts = epsilon * torch.eye(len(bases), device=bases.device)
    clips = pipe.motion_decoder(bases).float().cpu().numpy()
    held, swung = (_paths(pipe, amounts, swing=swing) for swing in (False, True))
    return [
        Basis(index, name_motion(held[index]), name_motion(swung[index]), clips[index], held[index], swung[index])
        for index in range(len(bases))
    ]


@torch.inference_mode()
def _paths(pipe: OSMNetPipeline, amounts: torch.Tensor, swing: bool = False) -> np.ndarray:
    """Decode features, `amounts` `(n, num_bases)` towards the bases, to paths `(n, frames, 6)`."""
    bases = pipe.motion_space.motion_bases.float()
    center = bases.mean(0)
    offset = amounts @ F.normalize(bases - center, dim=-1)  # (n, C)
    # As in sampling, the centre's own clip counts as no motion.
    there, back, steady = (pipe.motion_decoder(center + sign * offset).float().cpu() for sign in (1, -1, 0))
    seconds = (pipe.motion_decoder.config.clip_length - 1) / FPS
    count = max(round(HELD_SECONDS / seconds), 1)
    signs = np.ones(count, int)
    if swing:
        half = max(round(SWING_SECONDS / seconds), 1)
        signs = 1 - 2 * (((np.arange(count) + half // 2) // half) % 2)  # half a swing first, to centre it on the rest
    clips = torch.stack([(there if sign > 0 else back) - steady for sign in signs], 1)  # (n, K, T, 6)
    path = compose_clips(clips, PULL, SMOOTHING)
    limits = torch.tensor(MAX_MOTION)
    return (limits * torch.tanh(path / limits)).numpy()


def rotate(pipe: OSMNetPipeline, source: Source) -> dict[str, Rotation]:
    """Turn a portrait's head right, left and to the front by motion bases.

    Right and left are held bases with the purest turns; the front mixes at most three bases.

    Args:
        pipe (`OSMNetPipeline`): The pipeline.
        source (`Source`): From `pipe.encode_source`.

    Returns:
        `dict[str, Rotation]`: Keys `"right"`, `"left"` and `"frontal"`.

    Source:
        arXiv 2309.16148, Section IV-E.3 and Fig. 7. The mixture is ours; the paper picks a frontal basis.
    """
    own = source.fit.head_pose.astype(float)
    limit = np.maximum(np.abs(own[:3]), np.deg2rad(MAX_TURN_DEG))

    def turned(weights: np.ndarray) -> Rotation:
        pose = own + _paths(pipe, torch.from_numpy(weights[None]).float().to(pipe.device))[0, -1]
        pose[:3] = np.clip(pose[:3], -limit, limit)
        chosen = {int(i): round(float(weights[i]), 3) for i in np.argsort(-weights) if weights[i] > 0.005}
        return Rotation(pose.astype(np.float32), chosen)

    # 1. Choose the bases that turn most and raise, lower or tilt least.
    each = np.eye(pipe.motion_space.config.num_bases)
    ends = _paths(pipe, torch.from_numpy(each).float().to(pipe.device))[:, -1, :3]
    result = {}
    for name, sign in (("right", 1), ("left", -1)):
        score = sign * ends[:, 0] - 0.5 * np.abs(ends[:, 1:]).sum(1)
        result[name] = turned(each[score.argmax()])
    # 2. Mix bases that undo the portrait's own turn.
    wanted, best = -own[:3], turned(np.zeros(len(each)))
    for _ in range(CORRECTIONS):  # strokes add up only approximately, so the rest is requested again
        rotation = turned(nnls(_unlimited(ends).T, _unlimited(wanted))[0])
        if np.linalg.norm(rotation.head_pose[:3]) < np.linalg.norm(best.head_pose[:3]):
            best = rotation
        wanted = wanted - rotation.head_pose[:3]
    return {**result, "frontal": best}


def _unlimited(turn: np.ndarray) -> np.ndarray:
    """Invert the soft limit of turns `(..., 3)`."""
    # Before the limit, the turns of several bases add up.
    limits = np.array(MAX_MOTION[:3])
    return limits * np.arctanh(np.clip(turn / limits, -0.97, 0.97))


def varied(bases: Sequence[Basis], count: int = 6) -> list[Basis]:
    """Choose at most `count` bases with different motions, as in Fig. 6."""
    # Candidates: the basis with most motion of each name. New kinds of swing come first, then short names.
    strongest: dict[str, Basis] = {}
    for basis in sorted(bases, key=lambda each: -float(np.abs(each.held[:, :3]).max())):
        strongest.setdefault(basis.name, basis)
    shown: list[Basis] = []
    left = sorted(strongest.values(), key=lambda each: each.name.count(","))
    while left and len(shown) < count:
        new = [basis for basis in left if basis.swing not in {each.swing for each in shown}]
        shown.append((new or left)[0])
        left.remove(shown[-1])
    return sorted(shown, key=lambda each: each.index)
