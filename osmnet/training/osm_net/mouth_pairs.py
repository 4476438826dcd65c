"""Pairs of warped mouth windows, for `geometry="mesh"`."""

from __future__ import annotations

import zlib
from pathlib import Path

import cv2
import numpy as np

from osmnet.data.dataset import Clip
from osmnet.face.morphable import FaceModel
from osmnet.face.mouth import WINDOW_WIDTH, apply_affine, cut_window, guide, window_affine
from osmnet.face.pose import Similarity
from osmnet.face.topology import mouth_opening
from osmnet.face.warp import MeshWarp
from osmnet.training.osm_net.driving import Driving, window
from osmnet.training.osm_net.pairs import AS_IT_IS, Pair, Pairs, frames_on_disk, joined, view

WIDE, WIDE_OPEN = 2.0, 0.3  # extra weight of a mouth opened this far, head units
CONTEXT = 1.5  # width of the windows on disk relative to the network's; warping samples outside of the window


class MouthClip:
    """Memory-mapped mouth windows of a clip and their geometry."""

    def __init__(self, clip: Clip, face_model: FaceModel, driving: Driving, window_size: int, folder: Path):
        fit = clip.fit(face_model)
        self.size, self.window_size = clip.size, window_size
        self.wide_size = round(window_size * CONTEXT)
        self.shape, self.similarity = fit.shape.astype(np.float32), fit.similarity
        self.expression, self.tracks = fit.expression, driving.tracks(clip, fit.head_pose)
        anchor = face_model.mouth_anchor(fit.identity)
        self.affine = window_affine(anchor, fit.similarity, window_size)
        self.wide_affine = window_affine(anchor, fit.similarity, self.wide_size, WINDOW_WIDTH * CONTEXT)
        # The name depends on the face model, which places the windows, and on the preparation.
        places = zlib.crc32(f"{clip.info['shard']} {clip.info['files']}".encode())
        places = zlib.crc32(self.wide_affine.round(2).tobytes(), places)
        frames = zip(clip.read_frames(), self.wide_affine, strict=False)
        self.windows = frames_on_disk(
            self, folder, f"{clip.name}-mouth-{self.wide_size}-{places:08x}",
            (cut_window(frame, affine, self.wide_size) for frame, affine in frames), len(self), self.wide_size,
        )  # fmt: skip
        opening = mouth_opening(self.shape)
        rank = opening.argsort().argsort() / max(len(opening) - 1, 1)
        # Prefer the open half of a clip, and wide open mouths, which few clips have.
        weight = 0.4 + rank + WIDE * np.minimum(opening / WIDE_OPEN, 1)
        self.open_weight = weight / weight.sum()
        self.widest = min(float(np.quantile(opening, 0.95)) / WIDE_OPEN, 1.0)
        self.shut = np.flatnonzero(rank < 0.25)

    def __len__(self) -> int:
        return len(self.expression)

    def pair(self, source: int, target: int, context: int, affine: np.ndarray = AS_IT_IS) -> Pair:
        """Warp one frame to another, see `Pairs.make`.

        Returns:
            `dict[str, np.ndarray]`: Pictures `source`, `target`, `warped`, uint8; `guide`; `driving`.
        """
        # 1. Warp of the source to the target.
        at = lambda i: Similarity(*(part[i] for part in self.similarity))  # noqa: E731
        warp = MeshWarp(np.empty((self.size, self.size, 3), np.uint8), self.shape[source], at(source))
        target_px, origin = warp.points(self.shape[target][None], at(slice(target, target + 1)))
        # 2. The same with the view applied.
        to_target, to_source = joined(affine, self.affine[target]), joined(affine, self.affine[source])
        placed = target_px[0].copy()
        placed[:, :2] = apply_affine(to_target[None], target_px[..., :2])[0]
        placed[:, 2] *= np.sqrt(np.linalg.det(to_target[:, :2]))
        origin = apply_affine(self.wide_affine[source][None], origin)[0]
        # 3. Warped picture.
        warp.size = self.window_size
        grid = warp.grid(placed, origin).astype(np.float32) - np.float32(0.5)
        wide = np.ascontiguousarray(self.windows[source])
        warped = cv2.remap(wide, grid[..., 0], grid[..., 1], cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REPLICATE)
        # 4. Guide, and views of source and target.
        source_px = apply_affine(to_source[None], warp.source_points[None, :478, :2])[0]
        edge = (self.wide_size - self.window_size) // 2
        inner = joined(affine, np.array([[1.0, 0, -edge], [0, 1, -edge]]))
        return {
            "source": view(wide, inner, self.window_size),
            "target": view(np.ascontiguousarray(self.windows[target]), inner, self.window_size),
            "warped": warped,
            "guide": guide(placed[:478, :2], source_px, self.window_size),
            "driving": window(self.tracks, self.expression, source, target, context),
        }


class MouthPairs(Pairs):
    """Sampler of mouth windows; `guide` has 4 channels."""

    def make(self, clip: Clip) -> MouthClip:
        """Prepare a clip."""
        return MouthClip(clip, self.face_model, self.driving, self.size, self.folder)

    def share(self, clip: MouthClip) -> float:
        """Weight a clip by length and, much more, by sharpness."""
        # Soft teeth are easily learnt.
        return np.sqrt(len(clip)) * clip.size**2 * (0.4 + clip.widest)

    def draw(self, clip: MouthClip, rng: np.random.Generator) -> tuple[int, int]:
        """Draw a source, shut half the time, and a target, preferably open."""
        source = rng.choice(clip.shut) if rng.random() < 0.5 else rng.integers(len(clip))
        return int(source), int(rng.choice(len(clip), p=clip.open_weight))
