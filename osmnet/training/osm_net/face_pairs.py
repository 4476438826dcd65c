"""Pairs of whole faces, for `geometry="none"` (the paper's)."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from osmnet.data.dataset import Clip
from osmnet.face.morphable import FaceModel
from osmnet.face.mouth import apply_affine
from osmnet.face.topology import INNER_LIPS, LEFT_EYE, OUTER_LIPS, RIGHT_EYE
from osmnet.training.osm_net.driving import Driving, window
from osmnet.training.osm_net.pairs import AS_IT_IS, Pair, Pairs, frames_on_disk, view

OUTLINES = (INNER_LIPS, OUTER_LIPS, RIGHT_EYE, LEFT_EYE)
AROUND = 0.03  # of the side; margin around the outlines of mouth and eyes


class FaceClip:
    """Memory-mapped pictures of a clip and their driving numbers."""

    def __init__(self, clip: Clip, face_model: FaceModel, driving: Driving, size: int, folder: Path):
        fit = clip.fit(face_model)
        self.size = size
        self.expression, self.tracks = fit.expression, driving.tracks(clip, fit.head_pose)
        landmarks = clip.landmarks_px()[..., :2] * (size / clip.size)
        self.outlines = [landmarks[:, loop].astype(np.float32) for loop in OUTLINES]
        made = zlib.crc32(f"{clip.info['shard']} {clip.info['files']}".encode())
        shrinks = cv2.INTER_AREA if size < clip.size else cv2.INTER_CUBIC
        self.frames = frames_on_disk(
            self, folder, f"{clip.name}-face-{size}-{made:08x}",
            (cv2.resize(frame, (size, size), interpolation=shrinks) for frame in clip.read_frames()),
            len(self), size,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.expression)

    def pair(self, source: int, target: int, context: int, affine: np.ndarray = AS_IT_IS) -> Pair:
        """Make network inputs and truth from two frames, see `Pairs.make`.

        Returns:
            `dict[str, np.ndarray]`: Pictures `source` and `target`, uint8; `driving`; `guide` `(2, size, size)` in [0,
            1]: the inside of the mouth, and the surroundings of mouth and eyes.
        """
        inner, *around = (apply_affine(affine[None], loop[target][None])[0] for loop in self.outlines)
        return {
            "source": view(self.frames[source], affine, self.size),
            "target": view(self.frames[target], affine, self.size),
            "guide": np.stack([_filled([inner], self.size, 0), _filled(around, self.size, AROUND * self.size)]),
            "driving": window(self.tracks, self.expression, source, target, context),
        }


def _filled(outlines: Sequence[np.ndarray], size: int, margin: float) -> np.ndarray:
    """Fill polygons `(n, 2)`, dilated by `margin`, px: float32 in [0, 1]."""
    canvas: np.ndarray = np.zeros((size, size), np.uint8)
    for outline in outlines:
        fixed = np.round((outline - 0.5) * 16).astype(np.int32)  # OpenCV's sub-pixel coordinates: 4 fractional bits
        cv2.fillPoly(canvas, [fixed], 255, cv2.LINE_AA, shift=4)
    if round(margin):
        canvas = cv2.dilate(canvas, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * round(margin) + 1,) * 2))
    return canvas.astype(np.float32) / 255


class FacePairs(Pairs):
    """Sampler of whole faces; `guide` has 2 channels."""

    zoom_out = False  # beyond the square there is nothing

    def make(self, clip: Clip) -> FaceClip:
        """Prepare a clip."""
        return FaceClip(clip, self.face_model, self.driving, self.size, self.folder)

    def share(self, clip: FaceClip) -> float:
        """Weight a clip by the square root of its length."""
        return np.sqrt(len(clip))

    def draw(self, clip: FaceClip, rng: np.random.Generator) -> tuple[int, int]:
        """Draw any two frames."""
        source, target = rng.integers(len(clip), size=2)
        return int(source), int(target)
