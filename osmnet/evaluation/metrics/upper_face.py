"""Movement of brows, gaze and lids."""

import numpy as np
from scipy.ndimage import gaussian_filter1d, median_filter

from osmnet.face.upper_face import EYES, LIDS, RIGHT_CORNERS, SHUT, awake, eye_width, find_blinks, measure
from osmnet.media.audio import FPS

MILLI = 1000
SMOOTHING = 1.0  # frames; against the tracker's noise
AWAY = 0.05  # eye widths from the usual gaze; farther is a look away
JUMP = 0.03  # eye widths within two frames: a saccade
EYE_RADIUS = 0.105  # head units; turns of the head that the eyes make good are not looks away
# What people share, so that reports compare: figures in the order of the tables, with unit and decimals.
FIGURES = {
    "brows": ("brows, standard deviation", "head units / 1000", 1),
    "gaze": ("gaze within the eye, standard deviation", "eye widths / 1000", 1),
    "lids": ("lids without blinks, standard deviation", "% of the open eye", 1),
    "dynamics": ("upper face, dynamics", "head units / 1000", 1),
    "blink_rate": ("blinks", "a minute", 1),
    "blink_seconds": ("a blink below 60 % open, median", "s", 2),
    "blink_bottom": ("eye at the bottom of a blink, median", "of the open eye", 2),
    "away": ("looks away", "% of the time", 1),
    "saccades": ("saccades", "a second", 2),
}


def upper_face_figures(shape: np.ndarray, head_pose: np.ndarray) -> dict[str, float]:
    """Measure the upper face in a video.

    Args:
        shape (`np.ndarray` of shape `(frames, 478, 3)`): Vertices, pose removed, head units.
        head_pose (`np.ndarray` of shape `(frames, 6)`): Poses, radians and head units.

    Returns:
        `dict[str, float]`: `FIGURES`; NaN where there is too little to measure.
    """
    coordinates = measure(shape)
    share = 1 - coordinates[:, LIDS]
    open_ = awake(share)
    if open_.sum() < FPS:
        return dict.fromkeys(FIGURES, float("nan"))
    width, steady = eye_width(shape), _steady(coordinates, open_)
    gaze = median_filter(steady[:, EYES], (3, 1)) / width
    brows = gaussian_filter1d(steady[:, :2].mean(1), SMOOTHING)[open_]
    # Looks away: what is left of the gaze when the turn of the head is made good.
    turned = EYE_RADIUS / width * np.stack([np.sin(head_pose[:, 0]), -np.sin(head_pose[:, 1])], 1)
    place = gaze + turned - np.median((gaze + turned)[open_], 0)
    jumps = np.linalg.norm(place[2:] - place[:-2], axis=1) > JUMP
    blinks = find_blinks(share)
    return {
        "brows": MILLI * float(brows.std()),
        "gaze": MILLI * float(np.hypot(*gaze[open_].std(0))),
        "lids": 100 * float(gaussian_filter1d(steady[:, LIDS], SMOOTHING)[open_].std()),
        "dynamics": MILLI * float(dynamics(shape).mean()),
        "blink_rate": 60 * FPS * len(blinks) / len(shape),
        "blink_seconds": float(np.median([_below(share, at) for at in blinks])) / FPS if len(blinks) else np.nan,
        "blink_bottom": float(np.median(share[blinks])) if len(blinks) else np.nan,
        "away": 100 * float((np.linalg.norm(place, axis=1) > AWAY)[open_].mean()),
        "saccades": FPS * int((np.diff(jumps.astype(int)) == 1).sum()) / len(shape),
    }


def dynamics(shape: np.ndarray) -> np.ndarray:
    """Return how much each vertex of brows, lids and forehead moves `(vertices,)`, head units.

    The standard deviation over time of its distance from its mean place. The mean difference of a real video to
    another one is the upper-face dynamics deviation.

    Source:
        FDD: CodeTalker (arXiv 2301.02379), Section 4.2, from each subject's neutral face there.
    """
    corners = shape[:, RIGHT_CORNERS, 1].mean()
    upper = shape[..., :468, 1].mean(0) < corners
    moved = shape[:, :468][:, upper]
    course: np.ndarray = np.linalg.norm(moved - moved.mean(0), axis=-1).std(0)
    return course


def _steady(coordinates: np.ndarray, open_: np.ndarray) -> np.ndarray:
    """Interpolate over blinks."""
    frames = np.arange(len(coordinates))
    return np.stack([np.interp(frames, frames[open_], column[open_]) for column in coordinates.T], 1)


def _below(share: np.ndarray, at: int) -> int:
    """Return the frames around `at` in which the eye is nearly shut."""
    before = share[at::-1] >= SHUT
    after = share[at:] >= SHUT
    ends = [int(side.argmax()) if side.any() else len(side) for side in (before, after)]
    return sum(ends) - 1
