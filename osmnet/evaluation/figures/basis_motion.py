"""`osmnet bases`: what the learned motion bases do (the paper's Fig. 6), and faces turned by them (its Fig. 7).

A clip of five frames is a stroke of a sixth of a second, not yet a nod. So each basis is shown at work, in two ways:

- **held**: the feature stays at the basis for about 2.4 seconds. Clips are relative, so the head moves on with every
  clip, and comes to rest where the pull towards the rest pose balances the stroke.
- **swung**: the feature goes to the basis and to its mirror image through the centre in turn, half a second each, as
  sampled motion does. A stroke of yaw becomes a shake, one of pitch a nod.

"At the basis" means on the line from the centre of the space to the basis, at distance ε. The bases themselves are the
corners of the space (about ten times as far as real clips lie); the way they move the head is the same to a
correlation of 0.97, only too far to be looked at.
"""

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

if TYPE_CHECKING:
    from osmnet.pipelines.osm_net.pipeline_osm_net import OSMNetPipeline
    from osmnet.structures import Source

HELD_SECONDS, SWING_SECONDS = 2.4, 0.5
STILL_DEG = 2.0  # a head that moves less than this keeps still: breathing moves it by about a degree
POSTURE_DEG = 4.0  # a head that is turned further than this looks turned
MINOR = 0.5  # an angle that does less than this share of the strongest one goes unnamed
# For each angle: what a movement there and back, one to the positive and one to the negative side is called, and a
# head that rests there. Right and left are those of the picture (docs/conventions.md).
YAW = ("shake", "turn right", "turn left", "turned right", "turned left")
PITCH = ("nod", "up", "down", "raised", "lowered")
ROLL = ("sway", "tilt right", "tilt left", "tilted right", "tilted left")
WORDS = (YAW, PITCH, ROLL)
CORRECTIONS = 8  # the decoder is nearly linear: three rounds bring a head to within a tenth of a degree


@dataclass(frozen=True)
class Basis:
    """What one basis of the motion space does.

    Attributes:
        index (`int`): Its row in `motion_bases`, from 0.
        name (`str`): What the head does while the basis is held, see `name_motion`.
        swing (`str`): What it does while the basis is swung.
        clip (`np.ndarray` of shape `(clip_length, 6)`): The clip that the basis itself decodes to, radians and head
            units.
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
        bases (`dict[int, float]`): How far the feature lies from the centre towards each basis, in units of ε.
    """

    head_pose: np.ndarray
    bases: dict[int, float]


def name_motion(head_pose: np.ndarray) -> str:
    """Say in a word or two what a head does.

    The rules, for each of yaw, pitch and roll, in degrees:

    - An angle that goes at least 2° one way and at least 2° back is a *shake* (yaw), a *nod* (pitch) or a *sway*
      (roll).
    - Without any of these, an angle that moves by at least 2° in the second half of the path, and at least 4° in all,
      is a *turn right*, *turn left*, *up*, *down*, *tilt right* or *tilt left*.
    - Without these, the head is *still*.
    - A head that is on average (for a still head: in the second half) turned by 4° or more is said to be: *tilted
      left still*, *turned right nod*.
    - What an angle does that is less than half of what the strongest one does is left out.

    Args:
        head_pose (`np.ndarray` of shape `(frames, 6)` or `(frames, 3)`): Yaw, pitch, roll in radians first; relative
            or absolute.

    Returns:
        `str`: E.g. `"nod"`, `"turn right, down"`, `"tilted left shake"`, `"still"`. Right and left as in the picture.

    Raises:
        ValueError: If the shape is another one or a number is not finite.
    """
    pose = np.asarray(head_pose, float)
    if pose.ndim != 2 or pose.shape[0] < 1 or pose.shape[1] not in (3, 6) or not np.isfinite(pose).all():
        raise ValueError(f"head_pose must be finite and of shape (frames, 6) or (frames, 3), not {pose.shape}.")
    turn = np.rad2deg(pose[:, :3])
    late = turn[len(turn) // 2 :]
    strokes = [_strokes(angle) for angle in turn.T]
    swings = np.array([min(max(s[:-1], default=0), max(s[1:], default=0)) for s in strokes])
    if swings.any():
        movement = ", ".join(WORDS[k][0] for k in _strongest(swings, STILL_DEG))
        return " ".join([*_posture(turn.mean(0)), movement])
    travel = turn[-1] - turn[0]
    moving = np.abs(travel) * (np.abs(late[-1] - late[0]) >= STILL_DEG)
    if moving.max() >= POSTURE_DEG:
        return ", ".join(WORDS[k][1 if travel[k] > 0 else 2] for k in _strongest(moving, POSTURE_DEG))
    return " ".join([*_posture(late.mean(0)), "still"])


def _strokes(angle: np.ndarray) -> list[float]:
    """Lengths of the movements to and fro of at least `STILL_DEG` that a curve consists of, in order."""
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
    """Angles of at least `least` and of at least half of the largest, the largest first."""
    order = np.argsort(-size, kind="stable")
    return [int(k) for k in order if size[k] >= max(least, MINOR * size.max())]


def _posture(turn: np.ndarray) -> list[str]:
    if np.abs(turn).max() < POSTURE_DEG:
        return []
    return [", ".join(WORDS[k][3 if turn[k] > 0 else 4] for k in _strongest(np.abs(turn), POSTURE_DEG))]


@torch.inference_mode()
def decode_bases(pipe: OSMNetPipeline, epsilon: float = 1.0) -> list[Basis]:
    """Decode every basis of a pipeline's motion space, held and swung (see the top of this file).

    Args:
        pipe (`OSMNetPipeline`): Its motion space and decoder are used.
        epsilon (`float`): Distance from the centre at which the bases are shown; 1 is as far as 95 % of real motion.

    Returns:
        `list[Basis]`: In the order of `motion_bases`.

    Raises:
        ValueError: If `epsilon` is not above 0.

    Source:
        arXiv 2309.16148, Section IV-E.2 and Fig. 6. That figure feeds the basis itself; the distance and the swing are
        ours.
    """
    if not 0 < epsilon < float("inf"):
        raise ValueError(f"epsilon must be a finite number above 0, not {epsilon!r}.")
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
    """Paths `(n, frames, 6)` of features that lie `amounts` `(n, num_bases)` from the centre towards the bases."""
    bases = pipe.motion_space.motion_bases.float()
    center = bases.mean(0)
    offset = amounts @ F.normalize(bases - center, dim=-1)  # (n, C)
    # As when sampling: what the centre itself does is no movement.
    there, back, steady = (pipe.motion_decoder(center + sign * offset).float().cpu() for sign in (1, -1, 0))
    seconds = (pipe.motion_decoder.config.clip_length - 1) / FPS
    count = max(round(HELD_SECONDS / seconds), 1)
    signs = np.ones(count, int)
    if swing:
        half = max(round(SWING_SECONDS / seconds), 1)
        signs = 1 - 2 * (((np.arange(count) + half // 2) // half) % 2)  # half a swing first: it is around the rest
    clips = torch.stack([(there if sign > 0 else back) - steady for sign in signs], 1)  # (n, K, T, 6)
    path = compose_clips(clips, PULL, SMOOTHING)
    limits = torch.tensor(MAX_MOTION)
    return (limits * torch.tanh(path / limits)).numpy()


def rotate(pipe: OSMNetPipeline, source: Source) -> dict[str, Rotation]:
    """Turn a portrait's head right, left and to the front by motion bases.

    Right and left are the ends of the held path, at ε = 1, of the one basis that turns that way the most (and raises,
    lowers or tilts the least); the front is that of a mixture of at most three bases that undoes the portrait's own
    yaw, pitch and roll.

    Args:
        pipe (`OSMNetPipeline`): Its motion space and decoder are used.
        source (`Source`): From `pipe.encode_source`.

    Returns:
        `dict[str, Rotation]`: Keys `"right"`, `"left"` and `"frontal"`.

    Source:
        arXiv 2309.16148, Section IV-E.3 and Fig. 7. The mixture is ours: the paper picks a basis that is frontal.
    """
    own = source.fit.head_pose.astype(float)
    limit = np.maximum(np.abs(own[:3]), np.deg2rad(MAX_TURN_DEG))

    def turned(weights: np.ndarray) -> Rotation:
        pose = own + _paths(pipe, torch.from_numpy(weights[None]).float().to(pipe.device))[0, -1]
        pose[:3] = np.clip(pose[:3], -limit, limit)
        chosen = {int(i): round(float(weights[i]), 3) for i in np.argsort(-weights) if weights[i] > 0.005}
        return Rotation(pose.astype(np.float32), chosen)

    each = np.eye(pipe.motion_space.config.num_bases)
    ends = _paths(pipe, torch.from_numpy(each).float().to(pipe.device))[:, -1, :3]
    result = {}
    for name, sign in (("right", 1), ("left", -1)):
        score = sign * ends[:, 0] - 0.5 * np.abs(ends[:, 1:]).sum(1)
        result[name] = turned(each[score.argmax()])
    wanted, best = -own[:3], turned(np.zeros(len(each)))
    for _ in range(CORRECTIONS):  # strokes add up nearly, not exactly: what is left over is asked for once more
        rotation = turned(nnls(_unlimited(ends).T, _unlimited(wanted))[0])
        if np.linalg.norm(rotation.head_pose[:3]) < np.linalg.norm(best.head_pose[:3]):
            best = rotation
        wanted = wanted - rotation.head_pose[:3]
    return {**result, "frontal": best}


def _unlimited(turn: np.ndarray) -> np.ndarray:
    """Turns `(..., 3)` before the soft limit of the path, where those of several bases add up."""
    limits = np.array(MAX_MOTION[:3])
    return limits * np.arctanh(np.clip(turn / limits, -0.97, 0.97))


def varied(bases: Sequence[Basis], count: int = 6) -> list[Basis]:
    """Choose bases that do different things, as Fig. 6 of the paper does.

    Args:
        bases (`Sequence[Basis]`): From `decode_bases`.
        count (`int`): How many at most.

    Returns:
        `list[Basis]`: In the order given: of each name the basis that moves the head the most, first those that swing
        in a way not yet shown, then those with the shortest names.
    """
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
