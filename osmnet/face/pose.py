"""Head pose: similarity fits, rotation matrices and the six pose numbers.

Camera axes: x right, y down, z away. A point `v` in head units lies at pixel `scale * R @ v + translation` (weak
perspective). `R = Rz(roll) Ry(-yaw) Rx(-pitch)`: positive yaw turns the face to the picture's right, positive pitch
lifts it, positive roll tilts it clockwise. The origin is near the joint on which the head turns.
"""

from typing import NamedTuple

import numpy as np

HEAD_UNITS_PER_CROP = 3.6  # head units; side of the crop at tz = 0
CAMERA_DISTANCE = 10.0  # head units (about 0.9 m); converts a change of scale into a distance


class Similarity(NamedTuple):
    """Map from head units to pixels; shapes `(...)`, `(..., 3, 3)` and `(..., 3)`."""

    scale: np.ndarray
    rotation: np.ndarray
    translation: np.ndarray

    def place(self, shape: np.ndarray) -> np.ndarray:
        """Map head units to pixels: `(..., n, 3)` to `(..., n, 3)`."""
        turned = shape @ np.swapaxes(self.rotation, -1, -2)
        return self.scale[..., None, None] * turned + self.translation[..., None, :]

    def unplace(self, points_px: np.ndarray) -> np.ndarray:
        """Map pixels to head units, the inverse of `place`."""
        return (points_px - self.translation[..., None, :]) @ self.rotation / self.scale[..., None, None]


def rotation_from_euler(angles: np.ndarray) -> np.ndarray:
    """Return rotations `(..., 3, 3)` from yaw, pitch, roll `(..., 3)` in **radians**.

    Raises:
        ValueError: If the last dimension is not 3.
    """
    angles = np.asarray(angles, float)
    if angles.shape[-1:] != (3,):
        raise ValueError(f"Euler angles must have 3 numbers in their last dimension, not shape {angles.shape}.")
    yaw, pitch, roll = -angles[..., 0], -angles[..., 1], angles[..., 2]
    (cy, sy), (cp, sp), (cr, sr) = ((np.cos(a), np.sin(a)) for a in (yaw, pitch, roll))
    rows = [
        [cr * cy, cr * sy * sp - sr * cp, cr * sy * cp + sr * sp],
        [sr * cy, sr * sy * sp + cr * cp, sr * sy * cp - cr * sp],
        [-sy, cy * sp, cy * cp],
    ]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def euler_from_rotation(rotation: np.ndarray) -> np.ndarray:
    """Invert `rotation_from_euler` for yaw within ±90°: `(..., 3, 3)` to `(..., 3)` radians."""
    yaw = np.arcsin(np.clip(-rotation[..., 2, 0], -1, 1))
    pitch = np.arctan2(rotation[..., 2, 1], rotation[..., 2, 2])
    roll = np.arctan2(rotation[..., 1, 0], rotation[..., 0, 0])
    return np.stack([-yaw, -pitch, roll], -1)


def fit_similarity(shape: np.ndarray, points_px: np.ndarray) -> Similarity:
    """Fit least-squares similarities from a shape `(n, 3)` to points `(..., n, 3)` px.

    Source:
        S. Umeyama, "Least-squares estimation of transformation parameters between two point patterns", 1991,
        Eq. 40-42.
    """
    shape = np.asarray(shape, float)
    points = np.asarray(points_px, float)
    shape_mean, points_mean = shape.mean(0), points.mean(-2)
    x, y = shape - shape_mean, points - points_mean[..., None, :]
    u, singular, vt = np.linalg.svd(np.swapaxes(y, -1, -2) @ x / len(shape))
    sign = np.ones(singular.shape)
    sign[..., 2] = np.sign(np.linalg.det(u @ vt))
    rotation = (u * sign[..., None, :]) @ vt
    scale = (singular * sign).sum(-1) / (x * x).sum(-1).mean()
    translation = points_mean - scale[..., None] * (rotation @ shape_mean)
    return Similarity(scale, rotation, translation)


def pose_from_similarity(similarity: Similarity, size: int) -> np.ndarray:
    """Return the pose numbers of a head in a crop of `size` px.

    Returns:
        `np.ndarray` of shape `(..., 6)`: yaw, pitch, roll [rad], tx, ty, tz [head units]; tx and ty from the centre of
        the crop, tz from the distance at which the head is `1 / 3.6` of the crop.
    """
    nominal = size / HEAD_UNITS_PER_CROP
    position = (similarity.translation[..., :2] - size / 2) / similarity.scale[..., None]
    depth = CAMERA_DISTANCE * (nominal / similarity.scale - 1)
    angles = euler_from_rotation(similarity.rotation)
    return np.concatenate([angles, position, depth[..., None]], -1).astype(np.float32)


def similarity_from_pose(head_pose: np.ndarray, size: int) -> Similarity:
    """Invert `pose_from_similarity`; the translation's z is 0."""
    pose = np.asarray(head_pose, float)
    # A head comes no nearer than half the nominal distance, where its scale would diverge.
    scale = size / HEAD_UNITS_PER_CROP * CAMERA_DISTANCE / (CAMERA_DISTANCE + np.maximum(pose[..., 5], -5.0))
    translation = np.concatenate([size / 2 + scale[..., None] * pose[..., 3:5], np.zeros((*pose.shape[:-1], 1))], -1)
    return Similarity(scale, rotation_from_euler(pose[..., :3]), translation)
