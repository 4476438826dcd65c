"""Lip metrics: distance, correlation over time, and motion in silence."""

import numpy as np

from osmnet.face.topology import INNER_LIPS, LEFT_OUTER_CORNER, OUTER_LIPS, RIGHT_OUTER_CORNER

MAX_LAG = 3  # frames; beyond it, lips and sound no longer belong together
SILENT = 0.05  # largest speech activity (0 to 1) of a silent frame
MIN_SILENT = 5  # changes between silent frames; fewer mean nothing
LIPS = np.concatenate([INNER_LIPS, OUTER_LIPS])
FACE = np.arange(468)  # all vertices but the irises


def landmark_distance(fake: np.ndarray, real: np.ndarray, vertices: np.ndarray = FACE) -> float:
    """Compute LMD: the mean distance of vertices in the picture's plane.

    Args:
        fake (`np.ndarray` of shape `(frames, 478, 2 or 3)`): Generated faces; only x and y count.
        real (`np.ndarray` of the same shape): The real faces of the same frames.
        vertices (`np.ndarray` of shape `(n,)`): Indices of vertices, `LIPS` or the whole `FACE`.

    Source:
        OSM-Net, Sec. IV-B.1. The paper does not name its landmarks; ours are MediaPipe's.
    """
    if fake.shape != real.shape or fake.ndim != 3:
        raise ValueError(f"Faces must have one shape (frames, 478, 3), not {fake.shape} and {real.shape}.")
    return float(np.linalg.norm((fake - real)[:, vertices, :2], axis=-1).mean())


def eye_distance(landmarks: np.ndarray) -> float:
    """Return the mean distance of outer eye corners of `(frames, 478, 3)` in the picture's plane."""
    across = landmarks[:, RIGHT_OUTER_CORNER, :2] - landmarks[:, LEFT_OUTER_CORNER, :2]
    return float(np.linalg.norm(across, axis=-1).mean())


def best_correlation(fake: np.ndarray, real: np.ndarray, max_lag: int = MAX_LAG) -> tuple[float, int]:
    """Find the largest Pearson correlation of two curves `(frames,)` over lags, and its lag.

    The lag is positive if the generated curve is late. The correlation is NaN for flat curves.

    Raises:
        ValueError: If the lengths differ or leave fewer than 3 frames to compare.
    """
    if fake.shape != real.shape or len(real) < max_lag + 3:
        raise ValueError(f"Curves must be of one length, at least {max_lag + 3}, not {len(fake)} and {len(real)}.")
    scores = {}
    for lag in sorted(range(-max_lag, max_lag + 1), key=abs):  # on ties the smallest lag wins
        x, y = fake[max(lag, 0) : len(fake) + min(lag, 0)], real[max(-lag, 0) : len(real) + min(-lag, 0)]
        if np.ptp(x) > 0 and np.ptp(y) > 0:
            scores[lag] = float(np.corrcoef(x, y)[0, 1])
    if not scores:
        return float("nan"), 0
    lag = max(scores, key=scores.__getitem__)
    return scores[lag], lag


def amplitude_ratio(fake: np.ndarray, real: np.ndarray) -> float:
    """Return the ratio of standard deviations; NaN if the real curve is flat."""
    spread = float(real.std())
    return float(fake.std()) / spread if spread > 0 else float("nan")


def change_in_silence(opening: np.ndarray, activity: np.ndarray) -> float:
    """Compute the mean absolute change of the opening `(frames,)` between silent frames.

    `activity` is the `speech_activity`. NaN for fewer than 5 changes.
    """
    if opening.shape != activity.shape:
        raise ValueError(f"opening and activity must be of one length, not {len(opening)} and {len(activity)}.")
    silent = activity <= SILENT
    both = silent[1:] & silent[:-1]
    return float(np.abs(np.diff(opening))[both].mean()) if both.sum() >= MIN_SILENT else float("nan")
