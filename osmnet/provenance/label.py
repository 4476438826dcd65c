"""The "AI-generated" label in a corner of every frame, clear of the face."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from osmnet.face.pose import similarity_from_pose
from osmnet.face.topology import NOSE, OVAL

if TYPE_CHECKING:
    from osmnet.structures import Source

TEXT, SHORT_TEXT = "AI-generated", "AI"
FONT_SHARE = 0.05  # of the frame's shorter side
MIN_FONT_PX = 10  # px; smaller letters are illegible after H.264
MAX_WIDTH_SHARE = 0.5  # of the frame's width; beyond it the short text is used
CLEARANCE = 0.01  # of the shorter side, between label and face
MAX_POSES = 200  # poses tested, evenly over a take
GRID = 128  # cells along the longer side for the search of a free corner
DARKNESS = 0.62  # opacity of the field behind the letters: white on it is legible on any picture


class Label:
    """The label for frames of one size.

    Takes the first corner free of the face, from the lower left; else the short text, else the least overlap.

    Args:
        frame_size (`tuple[int, int]`): Height and width of the frames in pixels.
        faces (`Sequence[np.ndarray]`): Outlines to avoid, each `(n, 2)`: x and y in pixels.

    Attributes:
        box (`tuple[int, int, int, int]`): Left, top, right, bottom in pixels; the last two are exclusive.
    """

    def __init__(self, frame_size: tuple[int, int], faces: Sequence[np.ndarray] = ()):
        # 1. Choose a text and a corner.
        height, width = frame_size
        away = _distance_to(faces, frame_size)
        font = max(MIN_FONT_PX, round(FONT_SHARE * min(frame_size)))
        texts = [_field(TEXT, font), _field(SHORT_TEXT, font)]
        if texts[0].shape[1] > MAX_WIDTH_SHARE * width:
            del texts[0]
        margin = round(0.02 * min(frame_size))
        free, best = CLEARANCE * min(frame_size), None
        for field in texts:
            field = field[: height - margin, : width - margin]
            rows, columns = field.shape[:2]
            for top in (height - margin - rows, margin):
                for left in (margin, width - margin - columns):
                    box = (left, top, left + columns, top + rows)
                    clearance = _clearance(away, box, frame_size)
                    if best is None or (clearance > best[0] and best[0] < free):
                        best = (clearance, box, field)
        assert best is not None
        _, self.box, field = best
        # 2. Prepare blending in 256ths, (rows, columns, 3): a shift is much faster than a division.
        light, covered = (np.repeat(part[..., None], 3, -1).astype(np.uint16) for part in np.moveaxis(field, -1, 0))
        self._kept = 256 - covered - (covered > 127)
        self._added = light * 256 + 128 - light // 128 * 128

    def draw(self, frames: np.ndarray) -> None:
        """Draw the label in place.

        Args:
            frames (`np.ndarray` of shape `(..., height, width, 3)`): uint8, of the label's frame size.
        """
        left, top, right, bottom = self.box
        place = frames[..., top:bottom, left:right, :]
        for index in np.ndindex(place.shape[:-3]):  # one frame at a time fits into the CPU's cache
            mixed = place[index] * self._kept
            mixed += self._added
            mixed >>= 8
            place[index] = mixed


def label_for(source: Source, head_pose: np.ndarray | None = None) -> Label:
    """Make the label for frames of a portrait.

    Args:
        source (`Source`): The portrait.
        head_pose (`np.ndarray` of shape `(..., 6)`, *optional*): Absolute poses of the head in all takes that share
            the label; the portrait's own pose by default.

    Returns:
        `Label`: The label.
    """
    poses = np.reshape(source.fit.head_pose if head_pose is None else head_pose, (-1, 6))
    poses = poses[:: -(-len(poses) // MAX_POSES)]
    outline = source.fit.shape[np.concatenate([OVAL, NOSE])]
    points = similarity_from_pose(poses, source.size).place(outline)[..., :2]  # (poses, n, 2) pixels of the square
    if source.full_frame:
        points = points * (source.box.side / source.size) + (source.box.left, source.box.top)
    return Label(source.frame_size, list(points))


def _distance_to(faces: Sequence[np.ndarray], frame_size: tuple[int, int]) -> np.ndarray:
    """Map distances to the faces in pixels, on a coarse grid; negative inside."""
    scale = GRID / max(frame_size)
    rows, columns = (max(round(length * scale), 1) for length in frame_size)
    covered = np.zeros((rows, columns), np.uint8)
    for outline in faces:
        hull = cv2.convexHull(np.round(outline * scale - 0.5).astype(np.int32))
        cv2.fillConvexPoly(covered, hull, 1)
    if not covered.any():
        return np.full((rows, columns), np.inf, np.float32)
    outside = cv2.distanceTransform(1 - covered, cv2.DIST_L2, 5)
    inside = cv2.distanceTransform(np.pad(covered, 1, mode="edge"), cv2.DIST_L2, 5)[1:-1, 1:-1]
    return (outside - inside) / scale


def _clearance(away: np.ndarray, box: tuple[int, int, int, int], frame_size: tuple[int, int]) -> float:
    """Return a box's distance to the faces in pixels, or minus the covered share of it."""
    scale = GRID / max(frame_size)
    left, top, right, bottom = box
    rows = slice(int(top * scale), max(int(np.ceil(bottom * scale)), int(top * scale) + 1))
    columns = slice(int(left * scale), max(int(np.ceil(right * scale)), int(left * scale) + 1))
    cells = away[rows, columns]
    return float(cells.min()) if cells.min() > 0 else -float((cells <= 0).mean())


@lru_cache(maxsize=16)
def _field(text: str, font_px: int) -> np.ndarray:
    """Draw text on its field, `(rows, columns, 2)` uint8: added light and opacity."""
    font = ImageFont.load_default(font_px)
    left, top, right, bottom = font.getbbox(text)
    pad_x, pad_y = round(0.45 * font_px), round(0.3 * font_px)
    columns, rows = int(right - left) + 2 * pad_x, int(bottom - top) + 2 * pad_y
    letters = Image.new("L", (columns, rows))
    ImageDraw.Draw(letters).text((pad_x - left, pad_y - top), text, fill=255, font=font)
    # Draw round corners, four times as large for smooth edges.
    field = Image.new("L", (4 * columns, 4 * rows))
    ImageDraw.Draw(field).rounded_rectangle((0, 0, 4 * columns - 1, 4 * rows - 1), 1.2 * font_px, fill=255)
    light = np.asarray(letters, np.float32)
    dark = np.asarray(field.resize((columns, rows), Image.Resampling.BOX), np.float32) * DARKNESS
    covered = 255 - (255 - light) * (255 - dark) / 255
    return np.stack([light, covered], -1).round().astype(np.uint8)
