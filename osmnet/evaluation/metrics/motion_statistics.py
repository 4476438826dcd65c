"""Head motion against real heads: amplitude, speed, jerk, differences between takes, and drift.

Convention:
    Poses are `(frames, 6)` (docs/conventions.md). All results are in degrees of yaw, pitch and roll; translation does
    not count. Speed and jerk are per frame (25 a second).
"""

from collections.abc import Sequence

import numpy as np
from scipy.fft import dct
from scipy.ndimage import gaussian_filter1d

from osmnet.evaluation.metrics.frechet import sample_frechet_distance
from osmnet.face.motion_track import SMOOTHING
from osmnet.media.audio import FPS

STRETCH = 4 * FPS  # frames; the spread grows with time, so it is taken over a fixed length
WINDOW, HOP = 2 * FPS, FPS // 2  # frames; windows of the Fréchet distance
HARMONICS = 6  # of a window: 0.25 to 1.5 Hz, nearly all of a head's motion
MIN_WINDOWS = 4  # in a half of the speakers
HALVINGS = 20


def angles_deg(head_pose: np.ndarray) -> np.ndarray:
    """Return yaw, pitch and roll in degrees: `(..., 6)` to `(..., 3)`."""
    return np.rad2deg(np.asarray(head_pose, np.float64)[..., :3])


def smoothed(head_pose: np.ndarray) -> np.ndarray:
    """Remove the landmarker's noise, which would be most of the jerk, from a track `(frames, 6)`."""
    return gaussian_filter1d(np.asarray(head_pose, np.float64), SMOOTHING, axis=0, mode="nearest")


def diversity_deg(head_pose: np.ndarray) -> float:
    """Compute diversity: the standard deviation of the head pose over a video, mean of yaw, pitch and roll.

    Source:
        OSM-Net, Sec. IV-B.1. The paper uses features of a network (Hopenet), which have another scale.
    """
    return float(angles_deg(head_pose).std(0).mean())


def spread_deg(head_pose: np.ndarray) -> float:
    """Compute diversity within stretches of four seconds, mean over them; NaN for a shorter track."""
    turn = angles_deg(head_pose)
    starts = range(0, len(turn) - STRETCH + 1, STRETCH)
    return float(np.mean([turn[i : i + STRETCH].std(0).mean() for i in starts])) if starts else float("nan")


def speed_deg(head_pose: np.ndarray) -> float:
    """Compute the mean absolute change of the angles from frame to frame."""
    return float(np.abs(np.diff(angles_deg(head_pose), axis=0)).mean())


def jerk_deg(head_pose: np.ndarray) -> float:
    """Compute the mean absolute third difference of the angles; NaN below four frames."""
    return float(np.abs(np.diff(angles_deg(head_pose), n=3, axis=0)).mean()) if len(head_pose) > 3 else float("nan")


def pairwise_distance_deg(takes: np.ndarray) -> float:
    """Compute the distance of (yaw, pitch, roll) between takes `(takes, frames, 6)`, mean over frames and pairs.

    NaN for one take.
    """
    turn = angles_deg(takes)
    pairs = [(i, j) for i in range(len(turn)) for j in range(i)]
    return float(np.mean([np.linalg.norm(turn[i] - turn[j], axis=-1).mean() for i, j in pairs] or [np.nan]))


def window_features(head_pose: np.ndarray) -> np.ndarray:
    """Compute six harmonics of each angle in windows of two seconds.

    The discrete cosine transform resembles a principal component analysis of real windows, whose vectors are nearly
    cosines, but is the same for every dataset, so distances of different reports compare. The mean angle of a window
    is left out, since it depends on the portrait.

    Returns:
        `np.ndarray` of shape `(windows, 18)`: Degrees. The squares of a row sum to the angles' variance within the
        window between 0.25 and 1.5 Hz. Windows start every 12 frames; a track below two seconds has none.
    """
    turn = angles_deg(head_pose)
    starts = np.arange(0, len(turn) - WINDOW + 1, HOP)
    windows = turn[starts[:, None] + np.arange(WINDOW)]  # (windows, 50, 3)
    harmonics = dct(windows, type=2, norm="ortho", axis=1)[:, 1 : HARMONICS + 1] / np.sqrt(WINDOW)
    return harmonics.reshape(len(windows), 3 * HARMONICS)


def halves(groups: Sequence[str], number: int) -> np.ndarray:
    """Choose the clips `(clips,)` of a random half of the speakers, or half of the clips of a single speaker.

    Args:
        groups (`Sequence[str]`): Speaker of every clip.
        number (`int`): Seed.
    """
    names = sorted(set(groups))
    if len(names) < 2:
        names = groups = [str(i) for i in range(len(groups))]
    order = np.random.default_rng(number).permutation(len(names))
    first = {names[i] for i in order[: len(names) // 2]}
    return np.array([group in first for group in groups])


def motion_frechet(real: Sequence[np.ndarray], fake: Sequence[np.ndarray], groups: Sequence[str]) -> float:
    """Compute the Fréchet distance of head motion in windows of two seconds.

    Generated motion of one half of the speakers is compared with real motion of the other half. So nobody's motion is
    compared with itself, `fake=real` gives the distance between real people, and too few windows bias all distances
    about equally.

    Args:
        real (`Sequence[np.ndarray]`): `window_features` of every clip.
        fake (`Sequence[np.ndarray]`): The same of motion generated for every clip.
        groups (`Sequence[str]`): Speaker of every clip.

    Returns:
        `float`: Degrees², mean over 20 random halvings in both directions. Halves with fewer than 4 windows are left
        out; NaN if none remains.
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
    """Return the largest |yaw|, |pitch|, |roll| of poses `(..., frames, 6)` from the first frame, `(3,)` degrees."""
    turn = angles_deg(head_pose)
    return np.abs(turn - turn[..., :1, :]).reshape(-1, 3).max(0)


def reach_deg(tracks: Sequence[np.ndarray], percentile: float = 99.0) -> np.ndarray:
    """Return a percentile of |yaw|, |pitch|, |roll| of real heads from their first frame, `(3,)` degrees."""
    turns = [angles_deg(track) for track in tracks]
    return np.percentile(np.abs(np.concatenate([turn - turn[0] for turn in turns])), percentile, axis=0)


def last_minute_deg(head_pose: np.ndarray) -> np.ndarray:
    """Return the mean angles `(3,)` of the last minute from the first frame, each of the take where it is largest."""
    turn = angles_deg(head_pose)
    mean = (turn[:, -60 * FPS :] - turn[:, :1]).mean(1)
    return mean[np.abs(mean).argmax(0), np.arange(3)]
