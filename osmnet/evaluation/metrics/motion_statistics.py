"""Head motion against real heads: how far, how fast, how jerky, how different from take to take, does it drift.

Convention:
    Poses are `(frames, 6)` as everywhere (docs/conventions.md); all results are in degrees of yaw, pitch and roll, the
    translation does not count. Speed and jerk are per frame (25 a second).
"""

from collections.abc import Sequence

import numpy as np
from scipy.fft import dct
from scipy.ndimage import gaussian_filter1d

from osmnet.evaluation.metrics.frechet import sample_frechet_distance
from osmnet.face.motion_track import SMOOTHING
from osmnet.media.audio import FPS

STRETCH = 4 * FPS  # frames over which the spread is taken: it grows with the time
WINDOW, HOP = 2 * FPS, FPS // 2  # frames of the windows of the Fréchet distance
HARMONICS = 6  # of a window: 0.25 to 1.5 Hz, in which nearly all of a head's movement lies
MIN_WINDOWS = 4  # of a half
HALVINGS = 20


def angles_deg(head_pose: np.ndarray) -> np.ndarray:
    """Yaw, pitch and roll in degrees: `(..., 6)` to `(..., 3)`."""
    return np.rad2deg(np.asarray(head_pose, np.float64)[..., :3])


def smoothed(head_pose: np.ndarray) -> np.ndarray:
    """A track `(frames, 6)` without the landmarker's noise, which would be the larger part of its jerk."""
    return gaussian_filter1d(np.asarray(head_pose, np.float64), SMOOTHING, axis=0, mode="nearest")


def diversity_deg(head_pose: np.ndarray) -> float:
    """Diversity: standard deviation of the head pose over a video, mean of yaw, pitch and roll.

    Source:
        OSM-Net, Sec. IV-B.1. The paper's figure is of the features of a network (Hopenet) and has another scale.
    """
    return float(angles_deg(head_pose).std(0).mean())


def spread_deg(head_pose: np.ndarray) -> float:
    """As diversity, but within stretches of four seconds, mean over them; NaN for a shorter track."""
    turn = angles_deg(head_pose)
    starts = range(0, len(turn) - STRETCH + 1, STRETCH)
    return float(np.mean([turn[i : i + STRETCH].std(0).mean() for i in starts])) if starts else float("nan")


def speed_deg(head_pose: np.ndarray) -> float:
    """Mean absolute change of the angles from frame to frame."""
    return float(np.abs(np.diff(angles_deg(head_pose), axis=0)).mean())


def jerk_deg(head_pose: np.ndarray) -> float:
    """Mean absolute third difference of the angles; NaN below four frames."""
    return float(np.abs(np.diff(angles_deg(head_pose), n=3, axis=0)).mean()) if len(head_pose) > 3 else float("nan")


def pairwise_distance_deg(takes: np.ndarray) -> float:
    """How far takes of one speech are apart.

    Args:
        takes (`np.ndarray` of shape `(takes, frames, 6)`): Head poses.

    Returns:
        `float`: Distance of (yaw, pitch, roll), mean over the frames and over all pairs of takes; NaN for one take.
    """
    turn = angles_deg(takes)
    pairs = [(i, j) for i in range(len(turn)) for j in range(i)]
    return float(np.mean([np.linalg.norm(turn[i] - turn[j], axis=-1).mean() for i, j in pairs] or [np.nan]))


def window_features(head_pose: np.ndarray) -> np.ndarray:
    """What the head does in every two seconds of a track: six harmonics of each angle.

    The discrete cosine transform does here what a principal component analysis of real windows would (its vectors are
    nearly cosines), but it is the same for every data set, so that distances of different reports compare. The mean
    angle of a window is left out: where a head points is a matter of the portrait.

    Args:
        head_pose (`np.ndarray` of shape `(frames, 6)`): A track.

    Returns:
        `np.ndarray` of shape `(windows, 18)`: Degrees (the squares of a row sum to the angles' variance within the
        window, as far as it lies in 0.25 to 1.5 Hz); windows begin every 12 frames; none in less than two seconds.
    """
    turn = angles_deg(head_pose)
    starts = np.arange(0, len(turn) - WINDOW + 1, HOP)
    windows = turn[starts[:, None] + np.arange(WINDOW)]  # (windows, 50, 3)
    harmonics = dct(windows, type=2, norm="ortho", axis=1)[:, 1 : HARMONICS + 1] / np.sqrt(WINDOW)
    return harmonics.reshape(len(windows), 3 * HARMONICS)


def halves(groups: Sequence[str], number: int) -> np.ndarray:
    """Part clips so that nobody is in both halves.

    Args:
        groups (`Sequence[str]`): Speaker of every clip.
        number (`int`): Which of many ways, from 0.

    Returns:
        `np.ndarray` of shape `(clips,)`: bool, true in the first half. With one speaker, clips are parted anyhow.
    """
    names = sorted(set(groups))
    if len(names) < 2:
        names = groups = [str(i) for i in range(len(groups))]
    order = np.random.default_rng(number).permutation(len(names))
    first = {names[i] for i in order[: len(names) // 2]}
    return np.array([group in first for group in groups])


def motion_frechet(real: Sequence[np.ndarray], fake: Sequence[np.ndarray], groups: Sequence[str]) -> float:
    """Fréchet distance of head motion in windows of two seconds.

    Always of half of the speakers to the other half: like that, `fake=real` gives what real people differ by, nobody's
    own motion is compared with itself, and few windows make all distances too large by about the same.

    Args:
        real (`Sequence[np.ndarray]`): `window_features` of every clip.
        fake (`Sequence[np.ndarray]`): The same of motion generated for every clip.
        groups (`Sequence[str]`): Speaker of every clip.

    Returns:
        `float`: Degrees²; generated motion of one half against real motion of the other, mean of 20 ways to halve
        the speakers, either way round, without those that leave a half fewer than 4 windows; NaN if all do.
    """
    distances = []
    for number in range(HALVINGS):
        first = halves(groups, number)
        for half in (first, ~first):
            ours = [windows for windows, inside in zip(fake, half, strict=True) if inside]
            others = [windows for windows, inside in zip(real, half, strict=True) if not inside]
            if min(sum(map(len, ours)), sum(map(len, others))) >= MIN_WINDOWS:
                distances.append(sample_frechet_distance(np.concatenate(others), np.concatenate(ours)))
    return float(np.mean(distances)) if distances else float("nan")


def largest_deg(head_pose: np.ndarray) -> np.ndarray:
    """Largest |yaw|, |pitch| and |roll| of poses `(..., frames, 6)` relative to the first frame: `(3,)` degrees."""
    turn = angles_deg(head_pose)
    return np.abs(turn - turn[..., :1, :]).reshape(-1, 3).max(0)


def reach_deg(tracks: Sequence[np.ndarray], percentile: float = 99.0) -> np.ndarray:
    """How far real heads turn from their first frame: that percentile of |yaw|, |pitch|, |roll|, `(3,)` degrees."""
    turns = [angles_deg(track) for track in tracks]
    return np.percentile(np.abs(np.concatenate([turn - turn[0] for turn in turns])), percentile, axis=0)


def last_minute_deg(head_pose: np.ndarray) -> np.ndarray:
    """Mean angles of the last minute relative to the first frame, of the take where each is largest: `(3,)` degrees.

    Args:
        head_pose (`np.ndarray` of shape `(takes, frames, 6)`): Poses of a long speech.
    """
    turn = angles_deg(head_pose)
    mean = (turn[:, -60 * FPS :] - turn[:, :1]).mean(1)
    return mean[np.abs(mean).argmax(0), np.arange(3)]
