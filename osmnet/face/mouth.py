"""The mouth window: the square that the video generator paints.

It is 1.2 head units wide, rolls with the head and is fixed to the skull, so the upper teeth stay in place.
"""

from functools import lru_cache

import cv2
import numpy as np

from osmnet.face.pose import Similarity, euler_from_rotation
from osmnet.face.topology import INNER_LIPS, OUTER_LIPS

WINDOW_WIDTH = 1.2  # head units
DROP = 0.1  # head units; the window's centre lies below the resting lips, because the jaw drops
# Head units around the inside of the mouth that the network may also paint. The rest of the lips is the warp's: a
# network that may paint lips learns to blur them.
PAINT_MARGIN = 0.035
GUIDE_CHANNELS = 4  # where to paint, inside of the mouth, lips, inside of the mouth in the source


def window_affine(
    anchor: np.ndarray, similarity: Similarity, window_size: int, width: float = WINDOW_WIDTH
) -> np.ndarray:
    """Return affine maps `(frames, 2, 3)` from crop to window pixels.

    Args:
        anchor (`np.ndarray` of shape `(3,)`): Resting place of the lips, head units (`FaceModel.mouth_anchor`).
        similarity (`Similarity`): Poses of the frames.
        window_size (`int`): Side of the window in pixels; the first pixel's centre is 0.5.
        width (`float`): Side of the window in head units.
    """
    centre = similarity.place(np.broadcast_to(anchor + (0, DROP, 0), (len(similarity.scale), 1, 3)))[:, 0, :2]
    roll = euler_from_rotation(similarity.rotation)[:, 2]
    scale = window_size / (width * similarity.scale)
    cos, sin = scale * np.cos(roll), scale * np.sin(roll)
    linear = np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], -2)
    offset = window_size / 2 - (linear @ centre[..., None])[..., 0]
    return np.concatenate([linear, offset[..., None]], -1)


def apply_affine(affine: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Map points `(frames, n, 2)` by maps `(frames, 2, 3)`."""
    return points @ np.swapaxes(affine[:, :, :2], -1, -2) + affine[:, None, :, 2]


def _to_opencv(affine: np.ndarray) -> np.ndarray:
    """Shift a map to OpenCV's integer pixel centres."""
    moved = affine.astype(float).copy()
    moved[:, 2] += 0.5 * moved[:, :2].sum(1) - 0.5
    return moved


def cut_window(image: np.ndarray, affine: np.ndarray, window_size: int) -> np.ndarray:
    """Cut a window out of a picture `(size, size, channels)`."""
    return cv2.warpAffine(
        image,
        _to_opencv(affine),
        (window_size, window_size),
        flags=cv2.INTER_CUBIC if np.linalg.det(affine[:, :2]) > 1 else cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )


def paint_window(image: np.ndarray, painted: np.ndarray, mask: np.ndarray, affine: np.ndarray) -> None:
    """Blend a window into a uint8 picture in place.

    Args:
        image (`np.ndarray` of shape `(size, size, 3)`): Changed.
        painted (`np.ndarray` of shape `(window_size, window_size, 3)`): float32, colours in [0, 255] times `mask`.
        mask (`np.ndarray` of shape `(window_size, window_size)`): float32 in [0, 1]; coverage.
        affine (`np.ndarray` of shape `(2, 3)`): From the picture to the window.
    """
    # 1. Restrict the work to the painted part of the window, and to the region of the picture that it reaches.
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    if not len(columns):
        return
    left, top, right, bottom = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    backward = cv2.invertAffineTransform(affine)
    enlarges = np.linalg.det(backward[:, :2]) > 1
    reach, side = 2 if enlarges else 1, len(mask)  # px of the window; interpolation spreads colours
    whole = np.array([[0, 0], [side, 0], [side, side], [0, side]], float)
    part = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    part = part + reach * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    whole, part = apply_affine(backward[None], np.stack([whole, part]))
    first = np.floor(np.maximum(whole.min(0), part.min(0))).astype(int)
    last = np.ceil(np.minimum(whole.max(0), part.max(0))).astype(int)
    (x0, y0), (x1, y1) = np.maximum(first, 0), np.minimum(last, image.shape[1::-1])
    if x1 <= x0 or y1 <= y0:
        return
    # 2. Warp colours and mask into that region.
    layers = np.empty((bottom - top, right - left, 4), np.float32)
    layers[..., :3], layers[..., 3] = painted[top:bottom, left:right], mask[top:bottom, left:right]
    shift = backward.copy()
    shift[:, 2] += backward[:, :2] @ (left, top) - (x0, y0)
    placed = cv2.warpAffine(
        layers,
        _to_opencv(shift),
        (int(x1 - x0), int(y1 - y0)),
        flags=cv2.INTER_CUBIC if enlarges else cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
    )
    # 3. Blend.
    weight = np.clip(placed[..., 3:], 0, 1)
    region = image[y0:y1, x0:x1]
    blended: np.ndarray = region * (1 - weight)
    blended += placed[..., :3]
    blended += 0.5
    region[:] = np.clip(blended, 0, 255, out=blended)


def _polygon(points: np.ndarray, size: int) -> np.ndarray:
    """Draw a filled, anti-aliased polygon `(n, 2)` px: `(size, size)` uint8."""
    canvas = np.zeros((size, size), np.uint8)
    fixed = np.round((points - 0.5) * 16).astype(np.int32)  # OpenCV's sub-pixel coordinates: 4 fractional bits
    cv2.fillPoly(canvas, [fixed], 255, cv2.LINE_AA, shift=4)
    return canvas


def guides(target_px: np.ndarray, source_px: np.ndarray, window_size: int) -> np.ndarray:
    """Draw the video generator's guides.

    Args:
        target_px (`np.ndarray` of shape `(frames, 478, 2)`): Wanted vertices in pixels of the window.
        source_px (`np.ndarray` of shape `(478, 2)`): The source's vertices in pixels of its own window.
        window_size (`int`): Side of the windows.

    Returns:
        `np.ndarray` of shape `(frames, 4, window_size, window_size)`: float32 in [0, 1]: where to paint, inside of the
        mouth, lips and inside, inside of the mouth in the source.
    """
    # 1. Draw the polygons, and dilate the inside of the mouth.
    drawn = np.empty((len(target_px), GUIDE_CHANNELS, window_size, window_size), np.uint8)
    drawn[:, 3] = _polygon(source_px[INNER_LIPS], window_size)
    margin = PAINT_MARGIN / WINDOW_WIDTH * window_size
    element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * round(margin) + 1,) * 2)
    for (paint, inner, lips, _), points in zip(drawn, target_px, strict=True):
        inner[:] = _polygon(points[INNER_LIPS], window_size)
        lips[:] = _polygon(points[OUTER_LIPS], window_size)
        cv2.dilate(inner, element, dst=paint)
    # 2. Scale to [0, 1]; blur and fade the place to paint.
    channels = drawn / np.float32(255)  # (frames, 4, window, window)
    for paint in channels[:, 0]:
        cv2.GaussianBlur(paint, (0, 0), margin / 2, dst=paint)
    channels[:, 0] *= fade(window_size)
    return channels


def guide(target_px: np.ndarray, source_px: np.ndarray, window_size: int) -> np.ndarray:
    """Draw the guides of one frame, see `guides`."""
    return guides(target_px[None], source_px, window_size)[0]


@lru_cache
def fade(size: int) -> np.ndarray:
    """Return weights `(size, size)` that fall to 0 at the window's edge."""
    edge = np.clip(np.minimum(np.arange(size) + 0.5, size - np.arange(size) - 0.5) / (0.08 * size), 0, 1)
    return (edge[:, None] * edge).astype(np.float32)
