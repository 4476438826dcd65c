"""Names for vertices of the MediaPipe face mesh.

Right and left are the person's own. Loops are ordered around their opening.
"""

import json
from pathlib import Path

import numpy as np

NUM_VERTICES = 478  # 468 of the face, then 5 of each iris (centre first)

# 852 triangles of the skin; eye openings and the inside of the mouth have none.
FACE_TRIANGLES = np.array(
    json.loads(Path(__file__).with_name("topology.json").read_text(encoding="utf-8"))["face_triangles"], np.int32
)

OVAL = np.array([10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148,
                 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109])  # fmt: skip

# Vertices that move with the skull and not with speech: forehead, temples, bridge of the nose, eye corners.
STABLE = np.array([10, 338, 297, 332, 284, 251, 389, 356, 454, 109, 67, 103, 54, 21, 162, 127, 234, 168, 6, 197, 195,
                   5, 4, 8, 9, 151, 33, 133, 362, 263, 193, 417, 122, 351, 188, 412, 93, 323])  # fmt: skip

# The lids' edges: lower lid from the outer to the inner corner, then the upper lid back to the outer corner.
RIGHT_EYE = np.array([33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246])
LEFT_EYE = np.array([263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466])
# The vertex above each one of the upper lids' edges (without the corners), on the skin that unfolds when eyes close.
LID_CREASE = np.array([190, 56, 28, 27, 29, 30, 247, 414, 286, 258, 257, 259, 260, 467])
RIGHT_IRIS, LEFT_IRIS = 468, 473
RIGHT_OUTER_CORNER, LEFT_OUTER_CORNER = 33, 263

# The lips' edges: lower lip from the right to the left corner, then the upper lip back.
INNER_LIPS = np.array([78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191])
OUTER_LIPS = np.array([61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185])
UPPER_LIP, LOWER_LIP = 13, 14
RIGHT_MOUTH_CORNER, LEFT_MOUTH_CORNER = 61, 291

NOSE = np.array([168, 6, 197, 195, 5, 4, 1, 19, 94, 2, 98, 97,
                 326, 327, 294, 278, 344, 440, 275, 45, 220, 115, 48, 64])  # fmt: skip
FOREHEAD, CHIN = 10, 152


def opposite_lid(loop: np.ndarray) -> np.ndarray:
    """Return each loop entry's counterpart on the other lid or lip."""
    return -np.arange(len(loop)) % len(loop)


def _aperture(shape: np.ndarray, upper: int, lower: int) -> np.ndarray:
    return np.linalg.norm(shape[..., upper, :] - shape[..., lower, :], axis=-1)


def mouth_opening(shape: np.ndarray) -> np.ndarray:
    """Return the distance of the inner lips, in the unit of `shape` `(..., 478, 2 or 3)`."""
    return _aperture(shape, UPPER_LIP, LOWER_LIP)


def mouth_width(shape: np.ndarray) -> np.ndarray:
    """Return the distance of the mouth corners, see `mouth_opening`."""
    return _aperture(shape, RIGHT_MOUTH_CORNER, LEFT_MOUTH_CORNER)


def eye_opening(shape: np.ndarray) -> np.ndarray:
    """Return the mean distance of the lids, see `mouth_opening`."""
    pairs = ((159, 145), (158, 153), (160, 144), (386, 374), (385, 380), (387, 373))
    return np.mean([_aperture(shape, upper, lower) for upper, lower in pairs], axis=0)
