"""Cropping the head and pasting it back into the picture."""

from typing import NamedTuple

import cv2
import numpy as np

from osmnet.face.topology import OVAL

CROP_SCALE = 1.9  # side in heights of the face oval (forehead to chin); room for hair, ears, neck and movement
CROP_RISE = 0.06  # of the side; centre above the middle of the oval, because hair needs more room than the neck


class CropBox(NamedTuple):
    """Square in whole pixels of a picture, may extend beyond it.

    `(left, top)` is its first pixel; x right, y down.
    """

    left: int
    top: int
    side: int


def crop_box(landmarks_px: np.ndarray, height: int, width: int, scale: float = CROP_SCALE) -> CropBox:
    """Choose the square around a head, inside the picture if possible.

    Args:
        landmarks_px (`np.ndarray` of shape `(frames, 478, 3)` or `(478, 3)`): Vertices in pixels of the picture; the
            square holds the head in all frames.
        height (`int`): Picture height in pixels.
        width (`int`): Picture width in pixels.
        scale (`float`): Side in heights of the face.
    """
    oval = np.atleast_3d(landmarks_px.reshape(-1, *landmarks_px.shape[-2:]))[:, OVAL, :2]
    extent = np.median(np.ptp(oval, axis=1).max(axis=1))
    low, high = oval.min(axis=(0, 1)), oval.max(axis=(0, 1))
    side = max(scale * extent, 1.25 * (high - low).max())
    # Shrink by at most a fifth to stay inside the picture, because padding shows.
    side = int(round(max(min(side, height, width), 0.8 * side)))
    centre = (low + high) / 2 - (0, CROP_RISE * side)
    corner = np.round(centre - side / 2)
    limit = np.array([width, height]) - side
    corner = np.where(limit >= 0, np.clip(corner, 0, np.maximum(limit, 0)), np.round(limit / 2))
    return CropBox(int(corner[0]), int(corner[1]), side)


def extract(image: np.ndarray, box: CropBox, size: int | None = None) -> np.ndarray:
    """Cut the square out of `(height, width, 3)` and resize it: `(size, size, 3)`, uint8.

    Outside the picture its edge is repeated.
    """
    height, width = image.shape[:2]
    left, top, side = box
    before = max(-left, 0), max(-top, 0)
    after = max(left + side - width, 0), max(top + side - height, 0)
    if any(before) or any(after):
        image = cv2.copyMakeBorder(image, before[1], after[1], before[0], after[0], cv2.BORDER_REPLICATE)
    crop = image[top + before[1] : top + before[1] + side, left + before[0] : left + before[0] + side]
    if size is None or size == side:
        return np.ascontiguousarray(crop)
    return cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA if size < side else cv2.INTER_CUBIC)


def to_crop(points_px: np.ndarray, box: CropBox, size: int) -> np.ndarray:
    """Convert vertices `(..., 3)` from picture to crop pixels, z included."""
    return ((points_px - np.array([box.left, box.top, 0])) * (size / box.side)).astype(np.float32)


def from_crop(points_px: np.ndarray, box: CropBox, size: int) -> np.ndarray:
    """Convert vertices `(..., 3)` from crop to picture pixels, the inverse of `to_crop`."""
    return (points_px * (box.side / size) + np.array([box.left, box.top, 0])).astype(np.float32)


def paste(picture: np.ndarray, crop: np.ndarray, box: CropBox) -> np.ndarray:
    """Paste one square `(n, n, 3)`, see `paste_all`."""
    return paste_all(picture, crop[None], box)[0]


def paste_all(picture: np.ndarray, crops: np.ndarray, box: CropBox) -> np.ndarray:
    """Paste squares `(frames, n, n, 3)` into copies of the picture: `(frames, height, width, 3)`, uint8."""
    height, width = picture.shape[:2]
    left, top, side = box
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + side, width), min(top + side, height)
    pasted = np.empty((len(crops), *picture.shape), np.uint8)
    for frame, crop in zip(pasted, crops, strict=True):
        # Every pixel is written once, because copying is the whole cost.
        for part in (np.s_[:y0], np.s_[y1:], np.s_[y0:y1, :x0], np.s_[y0:y1, x1:]):
            frame[part] = picture[part]
        if crop.shape[0] != side:
            shrinks = crop.shape[0] > side
            crop = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
        frame[y0:y1, x0:x1] = crop[y0 - top : y1 - top, x0 - left : x1 - left]
    return pasted
