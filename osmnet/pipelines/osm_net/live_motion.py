"""Head motion and upper face of a live take."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d

from osmnet.face.upper_face import COORDINATES
from osmnet.models.osm_net.motion_space import MotionWalk
from osmnet.pipelines.osm_net.head_motion import MAX_MOTION, PULL, SMOOTHING
from osmnet.pipelines.osm_net.upper_face import UpperFaceTake

if TYPE_CHECKING:
    from osmnet.pipelines.osm_net.components import OSMNetComponents

REACH = int(4 * SMOOTHING + 0.5)  # frames, half the width of the smoothing
STEADY_CLIPS = 375  # clips of 4 frames, 60 s: window of the mean that is subtracted from the centre's motion
STEP = 4  # frames of the upper face sampled at a time


class LiveMotion:
    """Samples the head's path clip by clip, as `sample_motion` does offline.

    Motion begins with the first word, not before it.

    Args:
        pipe (`OSMNetComponents`): The networks.
        generator (`torch.Generator`): Source of randomness.
        epsilon (`float`): Radius ε.
        keep (`int`): Frames of the path to keep.
    """

    def __init__(self, pipe: OSMNetComponents, generator: torch.Generator, epsilon: float, keep: int):
        self._pipe = pipe
        self._walk = MotionWalk(pipe.motion_space, generator)
        self._epsilon = float(epsilon)
        self._length = pipe.motion_decoder.config.clip_length
        # The centre nods slightly, differently in silence and speech: without its running mean the head would sink.
        self._steady = _Steady()
        self._offset = np.zeros(6, np.float32)  # pose in which the next clip starts
        self._path: deque[np.ndarray] = deque(maxlen=keep + 2 * REACH + self._length)  # not smoothed
        self._frames = 0  # poses of the path in all, up to the one in which the next clip starts
        self._rest: np.ndarray | None = None  # the smoothed path at its beginning

    def clips_until(self, frame: int) -> range:
        """Return the missing clips before `frame`."""
        step = self._length - 1
        return range(self._frames // step, -(-(frame + REACH) // step))

    @torch.inference_mode()
    def add_clip(self, mel_windows: np.ndarray, activity: float) -> None:
        """Sample the next clip.

        Args:
            mel_windows (`np.ndarray` of shape `(clip_length, 16, 16)`): Mel windows of the frames.
            activity (`float`): Share of speech, 0 to 1.
        """
        space, device = self._pipe.motion_space, self._pipe.device
        # 1. Sample a feature near the centre.
        weights = self._pipe.audio_motion_encoder(torch.from_numpy(mel_windows)[None].to(device)).exp()  # (1, S)
        center = space.reconstruct(weights).float().cpu()  # (1, C)
        feature = space.around(center, self._walk.advance(1, torch.tensor([activity])), self._epsilon)
        # 2. Decode both, (T, 6) each, and subtract the centre's mean.
        sampled, steady = self._pipe.motion_decoder(torch.cat([feature, center]).to(device)).float().cpu().numpy()
        clip = sampled - self._steady.update(steady, activity)
        # 3. Append to the path; the offset is pulled towards rest.
        fade = 1 - PULL * np.linspace(0, 1, self._length, dtype=np.float32)[:, None]
        path = fade * self._offset + clip
        self._path.extend(path[:-1])
        self._offset = path[-1]
        self._frames += self._length - 1

    @property
    def known(self) -> int:
        """Number of known poses."""
        return max(self._frames + 1 - REACH, 0)

    def path(self, first: int, stop: int) -> np.ndarray:
        """Return kept poses relative to the first frame, `(stop - first, 6)` float32."""
        begin, remembered = max(first - REACH, 0), self._frames - len(self._path)
        raw = np.stack([*self._path, self._offset])[begin - remembered : stop + REACH - remembered]
        smooth = gaussian_filter1d(raw, SMOOTHING, axis=0, mode="mirror")[first - begin : stop - begin]
        if self._rest is None:
            self._rest = smooth[0].copy()
        limits = np.array(MAX_MOTION, np.float32)
        path: np.ndarray = limits * np.tanh((smooth - self._rest) / limits)
        return path


class _Steady:
    """Running mean of the centre's motion with and without speech."""

    def __init__(self) -> None:
        self._mean: np.ndarray | None = None  # (2, T, 6)
        self._weight = np.zeros(2)

    def update(self, clip: np.ndarray, activity: float) -> np.ndarray:
        """Add a clip `(T, 6)` and return the mean."""
        share = np.array([1 - activity, activity])
        if self._mean is None:
            self._mean = np.stack([clip, clip])
        self._weight = np.minimum(self._weight + share, STEADY_CLIPS)
        rate = share / np.maximum(self._weight, 1e-6)
        self._mean += rate[:, None, None].astype(np.float32) * (clip - self._mean)
        return np.tensordot(share, self._mean, 1).astype(np.float32)


class LiveUpperFace:
    """Upper face of a live take: the one that the same seed has offline.

    Args:
        take (`UpperFaceTake`): Samples it.
    """

    def __init__(self, take: UpperFaceTake):
        self._take = take
        self._first = 0  # frame of the first row kept
        self._rows = np.zeros((0, len(COORDINATES) + 1), np.float32)  # coordinates and blinks

    def frames(
        self, begin: int, end: int, known: int, activity: Callable[[int], np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return coordinates `(n, 8)` and blinks `(n,)` of `begin …`, at least to `end` and otherwise as far as known.

        Args:
            begin (`int`): First frame; must not fall.
            end (`int`): Frame after the last that is needed.
            known (`int`): Frames whose sound has arrived.
            activity (`Callable`): Maps a frame to the shares of speech from there on.
        """
        self._rows, self._first = self._rows[begin - self._first :], begin
        while (ready := begin + len(self._rows)) < end or ready + STEP <= known:
            share = activity(min(ready, known - 1))[:STEP]
            drawn = self._take.add(np.pad(share, (0, STEP - len(share)), mode="edge"))
            self._rows = np.concatenate([self._rows, np.column_stack(drawn)])
        return self._rows[:, :-1], self._rows[:, -1]
