"""Upper face of takes: sampled brows, lids, gaze and blinks, and their limits in a portrait."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from osmnet.face.morphable import FaceModel
from osmnet.face.topology import LEFT_IRIS, RIGHT_IRIS, eye_opening
from osmnet.face.upper_face import (
    BROWS,
    COORDINATES,
    EXPRESSION,
    EYES,
    LEFT_CORNERS,
    LIDS,
    RIGHT_CORNERS,
    brow_gap,
    eye_width,
    upper_face_directions,
)
from osmnet.media.audio import FPS
from osmnet.models.osm_net.motion_space import MotionWalk, near_noise
from osmnet.models.osm_net.upper_face_space import EYES as HABITS
from osmnet.models.osm_net.upper_face_space import UpperFaceSpace
from osmnet.pipelines.options import MotionOptions
from osmnet.structures import Motion, Source

PULL = 0.12  # share of the offset that brows and lids are pulled back to rest within a clip; as real brows return
SALT = 0x5EED_FACE  # sets the upper face's noise apart from the head's, which stays as it was without it
SILENT = 0.3  # share of speech below which a speaker pauses
PAUSE_GLANCES = 4.0  # times as many glances where a pause begins
WANDER = (0.028, 0.012)  # head units; spread of the places a free gaze looks at, to the side and up or down
SACCADE_MS, SACCADE_MS_PER_DEG = 21.0, 2.2  # duration of a saccade; Carpenter, Movements of the Eyes, 1988
GLANCE_DOWN = 0.4  # of a glance's way to the side
FULL_BLINK = 0.9  # least closure at the bottom of a blink
HOLD = 1.0  # frames for which the lids stay shut, so that one of them shows it
GAZE_ROOM = (0.26, 0.3)  # how far an iris may be from the eye's middle: eye widths, and openings up or down
# The warp moves an iris's centre, and its rim by a part of that; brows drag skin that stays. Tracked in rendered
# takes, brows go 0.7 and irises 0.55 of the way, so they are drawn further.
DRAWN_BROWS, DRAWN_GAZE = 1.35, 1.7
LIDS_RANGE = (-0.15, 0.4)  # of the open eye
BROW_ROOM = (0.35, 0.45)  # of the skin between brow and lid: how far brows sink and rise; more stretches it to bands


class UpperFaceTake:
    """Samples one take's upper face, in order and without end.

    Args:
        space (`UpperFaceSpace`, *optional*): Without it, eyes blink, and all else is as in the portrait.
        seeds (sequence of `int`): Seeds of the takes to stay near to, then the take's own.
        options (`MotionOptions`): Its `epsilon`, `upper_face`, `gaze` and `blink` are used; ε = 0 makes all takes
            alike.
    """

    def __init__(self, space: UpperFaceSpace | None, seeds: Sequence[int], options: MotionOptions):
        brows, eyes, lids = zip(*map(_streams, seeds), strict=True)
        habits = HABITS if space is None else {name: space.habit(name) for name in HABITS}
        self._strength = options.upper_face
        # Beyond ε = 1 people would look away more than they do, and blink at random.
        reach, free = min(options.epsilon, 1.0), options.gaze == "free"
        self._brows = None if space is None or self._strength == 0 else _Brows(space, options.epsilon, brows)
        self._gaze = None if space is None or options.gaze == "fixed" else _Gaze(habits, reach, free, eyes)
        self._blinks = _Blinks(habits, reach, lids) if options.blink else None

    def add(self, activity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sample the next frames.

        Args:
            activity (`np.ndarray` of shape `(frames,)`): 0 in silence, 1 in speech; a multiple of 4 frames, but for
                the last ones.

        Returns:
            `tuple[np.ndarray, np.ndarray]`: Coordinates `(frames, 8)` and closure of blinking lids `(frames,)`.
        """
        frames = len(activity)
        coordinates = np.zeros((frames, len(COORDINATES)), np.float32)
        if self._brows is not None:
            coordinates[:, : len(EXPRESSION)] = self._strength * self._brows.add(activity)
        if self._gaze is not None:
            coordinates[:, EYES] = self._gaze.add(activity)
        blink = np.zeros(frames, np.float32) if self._blinks is None else self._blinks.add(frames)
        return coordinates, blink


class _Brows:
    """Path of brows and lids from clips sampled within ε."""

    @torch.no_grad()
    def __init__(self, space: UpperFaceSpace, epsilon: float, generators: Sequence[torch.Generator]):
        self._space, self._epsilon = space, float(epsilon)
        self._walk = MotionWalk(space.space, *generators, liveliness=space.pace())
        self._center = space.center()[None]  # (1, C)
        self._steady = space.decoder(self._center).float().cpu().numpy()  # (1, T, E)
        self._offset = np.zeros(self._steady.shape[-1], np.float32)
        self._limits = space.limits.float().cpu().numpy()

    @torch.no_grad()
    def add(self, activity: np.ndarray) -> np.ndarray:
        step = self._steady.shape[1] - 1
        clips = -(-len(activity) // step)
        padded = np.pad(activity, (0, clips * step - len(activity)), mode="edge").reshape(clips, step)
        steps = self._walk.advance(clips, torch.from_numpy(padded.mean(1, dtype=np.float32)))
        features = self._space.space.around(self._center.expand(clips, -1), steps, self._epsilon)
        decoded = self._space.decoder(features).float().cpu().numpy() - self._steady  # (K, T, E)
        fade = 1 - PULL * np.linspace(0, 1, step + 1, dtype=np.float32)[:, None]
        path = np.empty((clips, step, decoded.shape[-1]), np.float32)
        for clip, moved in enumerate(decoded):
            placed = fade * self._offset + moved
            path[clip], self._offset = placed[:-1], placed[-1]
        limited: np.ndarray = self._limits * np.tanh(path.reshape(clips * step, -1)[: len(activity)] / self._limits)
        return limited


class _Gaze:
    """Places that the eyes look at, relative to the viewer: fixations, saccades and glances away."""

    def __init__(self, habits: dict[str, float], reach: float, free: bool, generators: Sequence[torch.Generator]):
        self._habits, self._reach, self._free, self._generators = habits, reach, free, generators
        self._at = self._target = np.zeros(2)
        self._left = 0  # frames until the next saccade
        self._away, self._speaking = False, False
        self._looked = 0.0  # s since the last saccade
        self._begin(0.0)
        self._at = self._target = np.zeros(2)  # a take begins as the portrait

    def add(self, activity: np.ndarray) -> np.ndarray:
        places = np.empty((len(activity), 2), np.float32)
        for frame, share in enumerate(activity.tolist()):
            pauses = self._speaking and share < SILENT
            self._speaking = share >= SILENT
            if self._left <= 0 or (pauses and not self._away):
                self._begin(1.0 if pauses else 0.0)
            self._left -= 1
            self._looked += 1 / FPS
            # One frame on the way if a saccade takes longer than that.
            way = self._target - self._at
            degrees = math.degrees(float(np.hypot(*way)) / self._habits["eye_radius"])
            share_of_way = min(1000 / FPS / (SACCADE_MS + SACCADE_MS_PER_DEG * degrees), 1.0)
            self._at = self._at + share_of_way * way if degrees > 1 else self._target
            places[frame] = self._reach * self._at
        return places

    def _begin(self, pause: float) -> None:
        """Choose the next place and how long to look at it."""
        z = near_noise((5,), self._generators).double().numpy()
        habits = self._habits
        hazard = habits["glance_rate"] * self._looked * (1 + (PAUSE_GLANCES - 1) * pause) + 0.3 * pause
        glances = not self._away and not self._free and _uniform(z[0]) < 1 - math.exp(-hazard)
        if glances:
            reach = habits["glance_reach"] * math.exp(habits["glance_reach_spread"] * z[1])
            self._target = reach * np.array([math.copysign(1, z[2]), GLANCE_DOWN * z[3]])
            seconds = habits["glance"] * math.exp(habits["glance_spread"] * z[4])
        else:
            spread = WANDER if self._free else (habits["fixation_right"], habits["fixation_down"])
            self._target = np.array(spread) * z[2:4]
            seconds = habits["fixation"] * math.exp(habits["fixation_spread"] * z[4])
        self._away, self._looked = glances, 0.0
        self._left = max(round(FPS * seconds), 3)


class _Blinks:
    """Blinks: fast shut, slowly open, at a pace of the take's own."""

    def __init__(self, habits: dict[str, float], spread: float, generators: Sequence[torch.Generator]):
        self._habits, self._spread, self._generators = habits, spread, generators
        own, first = near_noise((2,), generators).double().tolist()
        rate = habits["blink_rate"] * math.exp(habits["blink_rate_spread"] * spread * own)
        # Pauses are log-normal: their mean is this far above their median.
        self._median = max(1 / rate * math.exp(-(habits["blink_spread"] ** 2) / 2), 0.4)
        self._next = FPS * self._median * _uniform(spread * first)
        self._frames = 0
        self._begun: list[tuple[float, float, float]] = []  # start in frames, depth, factor of the duration

    def add(self, frames: int) -> np.ndarray:
        stop = self._frames + frames
        while self._next < stop:
            pause, depth, length = near_noise((3,), self._generators).double().tolist()
            depth = max(1 - 0.04 * self._spread * abs(depth), FULL_BLINK)
            length = math.exp(0.15 * self._spread * length)
            self._begun.append((self._next, depth, length))
            self._next += FPS * max(self._median * math.exp(self._habits["blink_spread"] * self._spread * pause), 0.3)
        at = np.arange(self._frames, stop)
        curve = np.zeros(frames, np.float32)
        for start, depth, length in self._begun:
            curve = np.maximum(curve, depth * self._shape(at - start, length))
        # Those that go on in later frames.
        self._begun = [each for each in self._begun if each[0] + 2 * FPS > stop]
        self._frames = stop
        return curve

    def _shape(self, frames: np.ndarray, length: float) -> np.ndarray:
        """Return the closure `frames` after a blink's start."""
        closing, opening = (FPS * length * self._habits[f"blink_{name}"] for name in ("closing", "opening"))
        shut = np.sin(np.pi / 2 * np.clip(frames / closing, 0, 1)) ** 2
        again = (1 - np.clip((frames - closing - HOLD) / opening, 0, 1)) ** 2.5
        shape: np.ndarray = np.minimum(shut, again).astype(np.float32)
        return shape


def on_viewer(coordinates: np.ndarray, head_pose: np.ndarray, radius: float) -> np.ndarray:
    """Turn eyes against the head, so that they stay where they look.

    Args:
        coordinates (`np.ndarray` of shape `(..., frames, 8)`): From `UpperFaceTake`.
        head_pose (`np.ndarray` of shape `(..., frames, 6)`): Relative to the portrait's.
        radius (`float`): From the centre of the eyeball to the iris, head units.
    """
    turned = coordinates.copy()
    against = radius * np.stack([-np.sin(head_pose[..., 0]), np.sin(head_pose[..., 1])], -1)
    turned[..., EYES] += against.astype(np.float32)
    return turned


class UpperFace:
    """The upper face of one portrait: how far its brows, lids and eyes may move, and the β that moves them.

    Args:
        space (`UpperFaceSpace`, *optional*): The habits of eyes.
        face_model (`FaceModel`): The linear face model.
        source (`Source`): The portrait.
    """

    def __init__(self, space: UpperFaceSpace | None, face_model: FaceModel, source: Source):
        shape = source.fit.shape
        self._follow = 0.0 if space is None else space.habit("lid_follow")
        self._directions = upper_face_directions(face_model)
        self._brow_room = np.array(BROW_ROOM) * brow_gap(shape)  # head units, down and up
        # Room for the irises on either side of where they are: (2 sides, 2 axes).
        irises = shape[[RIGHT_IRIS, LEFT_IRIS], :2].mean(0)
        middle = shape[np.concatenate([RIGHT_CORNERS, LEFT_CORNERS]), :2].mean(0)
        room = np.array([GAZE_ROOM[0] * eye_width(shape), GAZE_ROOM[1] * float(eye_opening(shape))])
        own = np.clip((irises - middle) * np.array([1.0, 0.0]), -0.8 * room, 0.8 * room)
        self._room = np.maximum(np.stack([room + own, room - own]), 1e-6)

    def gaze(self, coordinates: np.ndarray, factor: float = 1.0) -> np.ndarray:
        """Limit gazes `(..., 2)` of coordinates `(..., 8)`, times a factor, to the eyes."""
        return _within(factor * coordinates[..., EYES], *self._room)

    def closure(self, coordinates: np.ndarray, blink: np.ndarray) -> np.ndarray:
        """Return how far lids are closed by expression, gaze and blinks `(...)`; below 0 they are wider open."""
        lids = coordinates[..., LIDS] + self._follow * self.gaze(coordinates)[..., 1]
        closure: np.ndarray = (1 - (1 - blink) * (1 - np.clip(lids, *LIDS_RANGE))).astype(np.float32)
        return closure

    def change(self, coordinates: np.ndarray, drawn: bool = True) -> np.ndarray:
        """Return changes of β `(..., 64)` by brows and gaze, enlarged for the warp if `drawn`."""
        brows, gaze = (DRAWN_BROWS, DRAWN_GAZE) if drawn else (1.0, 1.0)
        limited = np.concatenate([coordinates[..., : len(EXPRESSION)], self.gaze(coordinates, gaze)], -1)
        limited[..., BROWS] = _within(brows * limited[..., BROWS], *self._brow_room)
        changed: np.ndarray = (limited @ self._directions).astype(np.float32)
        return changed

    def of(self, motion: Motion) -> tuple[np.ndarray, Callable[[int, np.ndarray], np.ndarray] | None]:
        """Return closure `(num_videos, frames)` and a function of take and frames to changes of β."""
        coordinates = motion.upper_face
        if coordinates is None:
            return motion.blink, None
        return self.closure(coordinates, motion.blink), lambda take, frames: self.change(coordinates[take, frames])


def _streams(seed: int) -> list[torch.Generator]:
    """Derive sources of randomness for brows, gaze and blinks."""
    base = torch.Generator().manual_seed(seed ^ SALT)
    return [
        torch.Generator().manual_seed(int(torch.randint(0, 2**53, (), generator=base, dtype=torch.int64)))
        for _ in range(3)
    ]


def _within(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Bend values to stay above `-low` and below `high`."""
    room = np.where(values < 0, low, high)
    bent: np.ndarray = room * np.tanh(values / room)
    return bent


def _uniform(normal: float) -> float:
    return 0.5 * (1 + math.erf(normal / math.sqrt(2)))
