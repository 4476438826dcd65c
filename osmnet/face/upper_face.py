"""Coordinates of the upper face: brows, lids and gaze, measured from vertices."""

import numpy as np
from scipy.ndimage import percentile_filter

from osmnet.face.morphable import FaceModel
from osmnet.face.topology import LEFT_EYE, LEFT_IRIS, RIGHT_EYE, RIGHT_IRIS, eye_opening

# In head units, but the lids in shares of the open eye. Positive: brows raised (differences: the right one more),
# brows apart, lids closer, gaze to the right of the picture and down.
EXPRESSION = ("inner brows", "outer brows", "inner difference", "outer difference", "brows apart", "lids")
GAZE = ("gaze right", "gaze down")
COORDINATES = (*EXPRESSION, *GAZE)
LIDS = EXPRESSION.index("lids")
BROWS, EYES = slice(0, LIDS), slice(len(EXPRESSION), len(COORDINATES))
MIRROR = np.array([1, 1, -1, -1, 1, 1, -1, 1], np.float32)  # signs of the coordinates of a mirrored face

INNER_BROWS = np.array([107, 66, 55, 65]), np.array([336, 296, 285, 295])  # right, left
OUTER_BROWS = np.array([70, 63, 46, 53]), np.array([300, 293, 276, 283])
BROW_ENDS = np.array([107, 55]), np.array([336, 285])
RIGHT_CORNERS, LEFT_CORNERS = np.array([33, 133]), np.array([263, 362])

# How much each vertex of the right brow goes with its inner end.
INNER_SHARE = {107: 1.0, 66: 1.0, 55: 1.0, 65: 1.0, 105: 0.5, 52: 0.5, 70: 0.0, 63: 0.0, 46: 0.0, 53: 0.0}
# Of vertices in the fit of directions: others of the face have 1, and the forehead yields to the brows.
BROW_WEIGHT, IRIS_WEIGHT, CORNER_WEIGHT, LID_WEIGHT, FOREHEAD_WEIGHT, RIDGE = 6.0, 4.0, 4.0, 2.5, 0.05, 1e-4

OPEN_PERCENTILE, OPEN_WINDOW = 80, 75  # of the lids' distance; frames
SHUT, OPEN = 0.6, 0.75  # shares of the open eye: below the first it blinks, having been above the second
ONSET, LONGEST_BLINK = 5, 12  # frames in which an eye shuts, and of a blink in all


def measure(shape: np.ndarray) -> np.ndarray:
    """Measure the upper face of shapes `(frames, 478, 3)` in head units.

    Returns:
        `np.ndarray` of shape `(frames, 8)`: `COORDINATES`, of which only differences count; the lids from 0, open, to
        1, shut. float32.
    """
    corners = np.concatenate([RIGHT_CORNERS, LEFT_CORNERS])
    level = shape[:, corners, 1].mean(1)  # y is down
    inner, outer = ([level - shape[:, side, 1].mean(1) for side in brows] for brows in (INNER_BROWS, OUTER_BROWS))
    apart = shape[:, BROW_ENDS[1], 0].mean(1) - shape[:, BROW_ENDS[0], 0].mean(1)
    lids = 1 - openness(shape)
    irises = [shape[:, iris, :2] for iris in (RIGHT_IRIS, LEFT_IRIS)]
    middles = [shape[:, each, :2].mean(1) for each in (RIGHT_CORNERS, LEFT_CORNERS)]
    gaze = (irises[0] - middles[0] + irises[1] - middles[1]) / 2  # (frames, 2)
    columns = (sum(inner) / 2, sum(outer) / 2, inner[0] - inner[1], outer[0] - outer[1], apart, lids, *gaze.T)
    return np.stack(columns, 1).astype(np.float32)


def openness(shape: np.ndarray) -> np.ndarray:
    """Return the lids' distance in shares of the open eye around each frame, `(frames,)`."""
    opening = eye_opening(shape)
    usual = percentile_filter(opening, OPEN_PERCENTILE, size=min(OPEN_WINDOW, 2 * len(opening) - 1), mode="nearest")
    share: np.ndarray = opening / np.maximum(usual, 1e-6)
    return share


def eye_width(shape: np.ndarray) -> float:
    """Return the mean width of an eye in shapes `(..., 478, 3)`, head units."""
    widths = [np.linalg.norm(shape[..., a, :] - shape[..., b, :], axis=-1) for a, b in (RIGHT_CORNERS, LEFT_CORNERS)]
    return float(np.mean(widths))


def brow_gap(shape: np.ndarray) -> float:
    """Return the height of the skin between brows and upper lids of a shape `(478, 3)`, head units."""
    pairs = ((52, 159), (65, 158), (53, 160), (282, 386), (295, 385), (283, 387))
    return max(float(np.mean([shape[lid, 1] - shape[brow, 1] for brow, lid in pairs])), 0.02)


def awake(share: np.ndarray, margin: int = 3) -> np.ndarray:
    """Return frames `(frames,)` that are at least `margin` frames from a blink, for `openness`."""
    near = np.convolve(share < SHUT, np.ones(2 * margin + 1), mode="same")[: len(share)]
    quiet: np.ndarray = near == 0
    return quiet


def find_blinks(lids: np.ndarray) -> np.ndarray:
    """Return the frames in which blinks are deepest, for the openness `(frames,)` of the eyes."""
    low = np.concatenate([[0], lids < SHUT, [0]]).astype(int)
    found = []
    for start, stop in zip(np.flatnonzero(np.diff(low) == 1), np.flatnonzero(np.diff(low) == -1), strict=True):
        deepest = start + int(lids[start:stop].argmin())
        before = lids[max(deepest - ONSET, 0) : deepest - 1]
        if stop - start <= LONGEST_BLINK and len(before) and before.max() > OPEN:
            found.append(deepest)
    return np.array(found, int)


def upper_face_directions(face_model: FaceModel) -> np.ndarray:
    """Return β `(8, 64)` of one unit of each coordinate; the lids' row is 0, since `FaceModel` has its own direction.

    Each moves its own vertices and, as far as the face model can, no others.
    """
    mean, basis = (face_model.array(name).astype(np.float64) for name in ("mean_shape", "expression_basis"))
    mirror = face_model.array("mirror").astype(int)
    right = np.array(list(INNER_SHARE))
    left, inner = mirror[right], np.array(list(INNER_SHARE.values()))
    # 1. How vertices are to move, and how much that counts.
    wanted = np.zeros((len(COORDINATES), len(mean), 3))
    for row, share in zip(wanted[:2], (inner, 1 - inner), strict=True):
        row[right, 1] = row[left, 1] = -share  # y is down
    for row, share in zip(wanted[2:4], (inner, 1 - inner), strict=True):
        row[right, 1], row[left, 1] = -share / 2, share / 2
    wanted[4, right, 0], wanted[4, left, 0] = -inner / 2, inner / 2
    wanted[EYES.start, RIGHT_IRIS:, 0] = wanted[EYES.start + 1, RIGHT_IRIS:, 1] = 1
    weight = np.ones(len(mean))
    weight[mean[:, 1] < mean[right, 1].mean() - 0.02] = FOREHEAD_WEIGHT
    weight[np.concatenate([RIGHT_EYE, LEFT_EYE])] = LID_WEIGHT
    weight[np.concatenate([RIGHT_CORNERS, LEFT_CORNERS])] = CORNER_WEIGHT
    weight[RIGHT_IRIS:], weight[right], weight[left] = IRIS_WEIGHT, BROW_WEIGHT, BROW_WEIGHT
    # 2. The β that come nearest.
    flat = (basis * weight[:, None]).reshape(len(basis), -1)
    target = (wanted * weight[:, None]).reshape(len(wanted), -1)
    beta = np.linalg.solve(flat @ flat.T + RIDGE * np.eye(len(flat)), flat @ target.T).T
    # 3. One unit each, and no effect on the others.
    beta[LIDS] = float(eye_opening(mean)) * face_model.array("blink")
    beta = np.linalg.solve(np.stack([_effect(mean, np.tensordot(row, basis, 1)) for row in beta]), beta)
    beta[LIDS] = 0
    return beta.astype(np.float32)


def _effect(mean: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Return the change `(8,)` of coordinates by a movement `(478, 3)` of the mean face, for small ones."""
    step = 1e-2
    shapes = np.stack([mean, mean + step * moved])
    change = np.diff([measure(each[None])[0].astype(np.float64) for each in shapes], axis=0)[0]
    opening = eye_opening(shapes)
    change[LIDS] = 1 - opening[1] / opening[0]
    effect: np.ndarray = change / step
    return effect
