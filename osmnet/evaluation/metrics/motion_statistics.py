"""Statistics of head motion: amplitude, speed, jerk, diversity and drift.

Convention:
    Poses are `(frames, 6)` (docs/conventions.md). Results are degrees of yaw, pitch and roll, rates per frame.
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
    """Remove the landmarker's noise from a track `(frames, 6)`."""
    # Unsmoothed, the noise would be most of the jerk.
    return gaussian_filter1d(np.asarray(head_pose, np.float64), SMOOTHING, axis=0, mode="nearest")


def diversity_deg(head_pose: np.ndarray) -> float:
    """Compute the standard deviation over a video, mean of the angles.

    Source:
        OSM-Net, Sec. IV-B.1. The paper uses features of a network (Hopenet), which have another scale.
    """
    return float(angles_deg(head_pose).std(0).mean())


def spread_deg(head_pose: np.ndarray) -> float:
    """Compute the mean diversity of four-second stretches; NaN for a shorter track."""
    turn = angles_deg(head_pose)
    starts = range(0, len(turn) - STRETCH + 1, STRETCH)
    return float(np.mean([turn[i : i + STRETCH].std(0).mean() for i in starts])) if starts else float("nan")


def speed_deg(head_pose: np.ndarray) -> float:
    """Compute the mean absolute change between frames."""
    return float(np.abs(np.diff(angles_deg(head_pose), axis=0)).mean())


def jerk_deg(head_pose: np.ndarray) -> float:
    """Compute the mean absolute third difference; NaN below four frames."""
    return float(np.abs(np.diff(angles_deg(head_pose), n=3, axis=0)).mean()) if len(head_pose) > 3 else float("nan")


def pairwise_distance_deg(takes: np.ndarray) -> float:
    """Compute the mean distance between takes `(takes, frames, 6)`; NaN for one take."""
    turn = angles_deg(takes)
    pairs = [(i, j) for i in range(len(turn)) for j in range(i)]
    return float(np.mean([np.linalg.norm(turn[i] - turn[j], axis=-1).mean() for i, j in pairs] or [np.nan]))


def window_features(head_pose: np.ndarray) -> np.ndarray:
    """Compute six harmonics of each angle in windows of two seconds.

    Returns:
        `np.ndarray` of shape `(windows, 18)`: Degrees. The squares of a row sum to the angles' variance within the
        window between 0.25 and 1.5 Hz. Windows start every 12 frames; a track below two seconds has none.
    """
    turn = angles_deg(head_pose)
    starts = np.arange(0, len(turn) - WINDOW + 1, HOP)
    windows = turn[starts[:, None] + np.arange(WINDOW)]  # (windows, 50, 3)
    # Close to a PCA of real windows, but the same for every dataset, so that reports compare. The mean angle, which
    # depends on the portrait, is left out.
    harmonics = dct(windows, type=2, norm="ortho", axis=1)[:, 1 : HARMONICS + 1] / np.sqrt(WINDOW)
    return harmonics.reshape(len(windows), 3 * HARMONICS)


def halves(groups: Sequence[str], number: int) -> np.ndarray:
    """Choose the clips `(clips,)` of a random half of the speakers, or of a single speaker's clips.

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

    Compares generated motion of half of the speakers with real motion of the other half; `fake=real` is the distance
    between real people.

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
        for half in (first, ~first):  # disjoint, so that nobody is compared with themselves
            ours = [windows for windows, inside in zip(fake, half, strict=True) if inside]
            others = [windows for windows, inside in zip(real, half, strict=True) if not inside]
            if min(sum(map(len, ours)), sum(map(len, others))) >= MIN_WINDOWS:
                distances.append(sample_frechet_distance(np.concatenate(others), np.concatenate(ours)))
    return float(np.mean(distances)) if distances else float("nan")


def largest_deg(head_pose: np.ndarray) -> np.ndarray:
    """Return the largest |yaw|, |pitch|, |roll| of `(..., frames, 6)` from the first frame, `(3,)`."""
    turn = angles_deg(head_pose)
    return np.abs(turn - turn[..., :1, :]).reshape(-1, 3).max(0)


def reach_deg(tracks: Sequence[np.ndarray], percentile: float = 99.0) -> np.ndarray:
    """Return a percentile of |yaw|, |pitch|, |roll| from the first frame, `(3,)`."""
    turns = [angles_deg(track) for track in tracks]
    return np.percentile(np.abs(np.concatenate([turn - turn[0] for turn in turns])), percentile, axis=0)


def last_minute_deg(head_pose: np.ndarray) -> np.ndarray:
    """Return the mean angles `(3,)` of the last minute from the first frame, largest over takes."""
    turn = angles_deg(head_pose)
    mean = (turn[:, -60 * FPS :] - turn[:, :1]).mean(1)
    return mean[np.abs(mean).argmax(0), np.arange(3)]
