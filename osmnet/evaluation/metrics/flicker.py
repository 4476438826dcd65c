"""Flicker: changes of a picture outside the head."""

import cv2
import numpy as np

from osmnet.face.topology import OVAL

HEAD_MARGIN = 1.7  # scale of the face oval about its middle, so that it holds hair and ears
MIN_OUTSIDE = 0.02  # share of the picture; too few pixels below it


def outside_head(landmarks_px: np.ndarray, height: int, width: int) -> np.ndarray:
    """Find the pixels that no frame's head covers.

    Args:
        landmarks_px (`np.ndarray` of shape `(frames, 478, 3)`): Vertices in pixels, of one or several videos.
        height (`int`): Height of the picture in pixels.
        width (`int`): Width of the picture in pixels.

    Returns:
        `np.ndarray` of shape `(height, width)`: bool. Neck and shoulders are outside.
    """
    covered = np.zeros((height, width), np.uint8)
    oval = landmarks_px[:, OVAL, :2]
    centre = (oval.min(1, keepdims=True) + oval.max(1, keepdims=True)) / 2
    for points in np.unique(np.round(centre + HEAD_MARGIN * (oval - centre) - 0.5).astype(np.int32), axis=0):
        cv2.fillConvexPoly(covered, cv2.convexHull(points), 1)
    return covered == 0


def flicker(frames: np.ndarray, outside: np.ndarray) -> float:
    """Compute the mean temporal standard deviation of the luma (0 to 255) outside the head.

    Args:
        frames (`np.ndarray` of shape `(frames, height, width, 3)`): uint8 RGB.
        outside (`np.ndarray` of shape `(height, width)`): bool, from `outside_head`.

    Returns:
        `float`: Grey levels; NaN if less than 2 % of the picture is outside.
    """
    if frames.shape[1:3] != outside.shape or frames.shape[-1] != 3:
        raise ValueError(f"frames {frames.shape} and outside {outside.shape} must be of one height and width.")
    if outside.mean() < MIN_OUTSIDE:
        return float("nan")
    grey = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)[outside] for frame in frames])
    return float(grey.std(0, dtype=np.float64).mean())
