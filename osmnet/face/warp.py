"""The mesh warp: draws a head in another pose and expression.

Around the face, `hair` moves with the head, `halo` follows a little, and `border` stays, so pasting leaves no seam.
"""

from functools import cached_property

import numpy as np

from osmnet.face.drawing import draw, padded, rasterise, stay
from osmnet.face.pose import Similarity
from osmnet.face.topology import (
    CHIN,
    FACE_TRIANGLES,
    INNER_LIPS,
    LEFT_EYE,
    LEFT_IRIS,
    LID_CREASE,
    NOSE,
    NUM_VERTICES,
    OVAL,
    RIGHT_EYE,
    RIGHT_IRIS,
    STABLE,
    opposite_lid,
)

NUM_RING = len(OVAL)
HAIR_SCALE = np.array([1.35, 1.5, 0.6])  # x, y, z, times the oval, about the middle of the head
HAIR_DEPTH = 0.1  # head units; a head's outline runs around its middle and hardly moves when the face turns
NECK_FOLLOWS = 0.5  # fraction of the head's movement that the hair ring makes below the chin
HALO_FOLLOWS = 0.2  # fraction of the head's movement
# Fraction of the crop's side. Neighbours with origins further apart lie on different sides of an outline. Nearly
# closed lids are this near to each other; unsoftened, the white between them shows as single bright pixels.
OUTLINE = 0.008
LASHES_WIDTH = 0.05  # head units; strip along an upper lid's edge that keeps its shape
MARGIN = 0.06  # fraction of the crop's side that rings keep clear of its border


def _fan(loop: np.ndarray, centre: int) -> np.ndarray:
    return np.stack([loop, np.roll(loop, -1), np.full(len(loop), centre)], 1)


def _strip(inner: np.ndarray, outer: np.ndarray) -> np.ndarray:
    a, b = np.roll(inner, -1), np.roll(outer, -1)
    return np.concatenate([np.stack([inner, a, outer], 1), np.stack([a, b, outer], 1)])


def _with_lashes(triangles: np.ndarray) -> np.ndarray:
    """Insert a strip along the edges of the upper lids."""
    moved = np.arange(NUM_VERTICES)
    moved[_LID_EDGE] = _LASHES
    parts = [moved[triangles]]
    for loop in (RIGHT_EYE, LEFT_EYE):
        edge = np.append(loop[len(loop) // 2 :], loop[0])  # from corner to corner; there its width is 0
        here, there = edge[:-1], edge[1:]
        parts += [np.stack([here, there, moved[here]], 1)[1:], np.stack([there, moved[there], moved[here]], 1)[:-1]]
    return np.concatenate(parts)


# After the 478 vertices: copies of the lids' and inner lips' edges (an opening shows what lies behind it instead of
# stretching across it), the middle of the mouth, the inner side of the lashes' strip, then the rings.
_LOOPS = (RIGHT_EYE, LEFT_EYE, INNER_LIPS)
_STARTS = NUM_VERTICES + np.cumsum([0, *(len(loop) for loop in _LOOPS)])
_RIGHT, _LEFT, _MOUTH = (np.arange(start, start + len(loop)) for start, loop in zip(_STARTS, _LOOPS, strict=False))
_MOUTH_CENTRE = int(_STARTS[-1])
_LID_EDGE = np.concatenate([loop[len(loop) // 2 + 1 :] for loop in (RIGHT_EYE, LEFT_EYE)])
_LASHES = _MOUTH_CENTRE + 1 + np.arange(len(_LID_EDGE))
_HAIR, _HALO, _BORDER = (int(_LASHES[-1]) + 1 + k * NUM_RING + np.arange(NUM_RING) for k in range(3))
NUM_POINTS = int(_BORDER[-1]) + 1
TRIANGLES = np.concatenate(
    [
        _with_lashes(FACE_TRIANGLES),
        _fan(_RIGHT, RIGHT_IRIS),
        _fan(_LEFT, LEFT_IRIS),
        _fan(_MOUTH, _MOUTH_CENTRE),
        _strip(OVAL, _HAIR),
        _strip(_HAIR, _HALO),
        _strip(_HALO, _BORDER),
    ]
).astype(np.int32)


class MeshWarp:
    """Warp one picture to other poses and expressions; thread-safe.

    Args:
        image (`np.ndarray` of shape `(size, size, 3)`): The crop, uint8.
        shape (`np.ndarray` of shape `(478, 3)`): The head in it, pose removed, head units.
        similarity (`Similarity`): Its pose as a map to pixels of the crop.
    """

    def __init__(self, image: np.ndarray, shape: np.ndarray, similarity: Similarity):
        self.image = image
        self.size = image.shape[0]
        self.shape = shape
        self.similarity = similarity
        self._place_rings()
        self.source_points = self.points(shape[None], Similarity(*(part[None] for part in similarity)))[0][0]

    def _place_rings(self) -> None:
        # 1. The hair ring at rest, and the rays to it from the middle of the head.
        oval = self.shape[OVAL]
        middle = self.shape[STABLE].mean(0) + (0, 0.1, 0.3)
        self._hair_shape = middle + (oval - middle) * HAIR_SCALE
        self._hair_shape[:, 2] += HAIR_DEPTH - self._hair_shape[:, 2].max()
        centre = self.similarity.place(middle[None])[0, :2]
        rest = self.similarity.place(self._hair_shape)[:, :2]
        ray = rest - centre
        # 2. The border: where each ray leaves the crop, less its outermost pixels, which no triangle covers, so that
        # they stay.
        with np.errstate(divide="ignore"):
            reach = np.where(ray > 0, self.size - 1 - centre, 1 - centre) / ray
            reach = np.where(ray == 0, np.inf, reach).min(1)
        self._border = centre + ray * reach[:, None]
        room = np.maximum(reach - MARGIN * self.size / np.linalg.norm(ray, axis=1), 0.5 * reach)
        # 3. Hair and halo. In a tight crop the hair ring comes nearer, but never within the face: skin folded away
        # under the chin would come out as a second chin when the head is raised.
        edge = ((self.similarity.place(oval)[:, :2] - centre) * ray).sum(1) / (ray**2).sum(1)
        outside = edge + 0.25 * np.maximum(reach - edge, 0)
        self._hair = centre + ray * np.maximum(np.minimum(1.0, 0.8 * room), np.minimum(1.0, outside))[:, None]
        self._halo = (self._hair + self._border) / 2
        self._hair_at_rest = rest
        # 4. How far the hair ring follows the head: 1 above the chin's height, falling towards the neck.
        down = (oval[:, 1] - self.shape[NOSE[9], 1]) / (self.shape[CHIN, 1] - self.shape[NOSE[9], 1])
        self._follows = 1 - (1 - NECK_FOLLOWS) * np.clip(down, 0, 1)[:, None]

    def points(self, shape: np.ndarray, similarity: Similarity) -> tuple[np.ndarray, np.ndarray]:
        """Place the mesh points for shapes `(frames, 478, 3)` in head units and poses.

        Returns:
            `tuple[np.ndarray, np.ndarray]`: Targets `(frames, points, 3)` and origins of the texture in the source
            `(frames, points, 2)`, in pixels.
        """
        # 1. The face's own vertices.
        frames = len(shape)
        placed = similarity.place(shape)  # (frames, 478, 3)
        target = np.zeros((frames, NUM_POINTS, 3))
        origin = np.zeros((frames, NUM_POINTS, 2))
        target[:, :NUM_VERTICES] = placed
        origin[:, :NUM_VERTICES] = self.similarity.place(self.shape)[:, :2]
        # 2. Behind the openings: eyeballs and the inside of the mouth.
        jaw = shape[:, CHIN] - self.shape[CHIN]
        behind = 0.1 * similarity.scale[:, None]
        for inside, loop in ((_RIGHT, RIGHT_EYE), (_LEFT, LEFT_EYE), (_MOUTH, INNER_LIPS)):
            shown = self._behind_opening(shape, loop, jaw if loop is INNER_LIPS else None)
            target[:, inside] = placed[:, loop]
            target[:, inside, 2] += behind
            origin[:, inside] = self.similarity.place(shown)[..., :2]
        target[:, (RIGHT_IRIS, LEFT_IRIS), 2] += behind
        target[:, _MOUTH_CENTRE] = target[:, _MOUTH].mean(1)
        origin[:, _MOUTH_CENTRE] = origin[:, _MOUTH].mean(1)
        # 3. The lashes' strips.
        target[:, _LASHES] = similarity.place(self._lashes(shape))
        origin[:, _LASHES] = self.similarity.place(self._lashes(self.shape[None]))[..., :2]
        # 4. The rings.
        moved = self._follows * (similarity.place(self._hair_shape)[..., :2] - self._hair_at_rest)
        limits = MARGIN / 2 * self.size, (1 - MARGIN / 2) * self.size
        rings = (_HAIR, self._hair, 1.0), (_HALO, self._halo, HALO_FOLLOWS), (_BORDER, self._border, 0.0)
        for ring, rest, follows in rings:
            place = rest + follows * moved
            # Points that start within the crop stay within it; the border's own lie outside these limits.
            within = (rest > limits[0]) & (rest < limits[1])
            target[:, ring, :2] = np.where(within, np.clip(place, *limits), place)
            origin[:, ring] = rest
        # Rings lie behind the face, each behind the one inside it.
        for k, ring in enumerate((_HAIR, _HALO, _BORDER)):
            target[:, ring, 2] = (2 + k) * self.size
        return target, origin

    def _lashes(self, shape: np.ndarray) -> np.ndarray:
        """Place the strips' inner side: `(frames, n, 3)` head units."""
        # The strip keeps the source's width: when an eye closes, the lid behind the lashes unfolds.
        edge, crease = self.shape[_LID_EDGE], self.shape[LID_CREASE]
        width = np.minimum(LASHES_WIDTH, 0.75 * np.linalg.norm(crease - edge, axis=1))
        way = shape[:, LID_CREASE] - shape[:, _LID_EDGE]
        length = np.linalg.norm(way, axis=-1)
        share = np.minimum(width / np.maximum(length, 1e-6), 0.8)
        return shape[:, _LID_EDGE] + share[..., None] * way

    def _behind_opening(self, shape: np.ndarray, loop: np.ndarray, jaw: np.ndarray | None) -> np.ndarray:
        """Place the texture shown by an opening: `(frames, n, 3)` head units."""
        own = self.shape[loop]
        other = own[opposite_lid(loop)]
        middle = (own + other) / 2
        half = own - middle
        height = np.linalg.norm(half, axis=1, keepdims=True)
        down = np.where(np.arange(len(loop)) < len(loop) // 2, 1.0, -1.0)[:, None] * np.array([0, 1.0, 0])
        direction = np.where(height > 1e-4, half / np.maximum(height, 1e-4), down)
        wanted = shape[:, loop] - middle
        if jaw is not None:  # lower teeth go with the jaw, upper ones with the skull
            wanted = wanted - jaw[:, None] * (np.arange(len(loop)) < len(loop) // 2)[:, None]
        # Where the source's own opening is smaller than wanted, take its edge.
        beyond = np.maximum((wanted * direction).sum(-1, keepdims=True) - 0.9 * height, 0)
        return middle + wanted - beyond * direction

    def grid(self, target: np.ndarray, origin: np.ndarray) -> np.ndarray:
        """Return each pixel's origin: `(points, 3)` and `(points, 2)` to `(size, size, 2)` px."""
        grid, depth = np.empty((2, self.size, self.size), np.float32), np.empty((self.size, self.size), np.float32)
        stay(grid, depth)  # the corners, which no triangle covers
        rasterise(target, TRIANGLES, origin, grid, depth)
        return np.moveaxis(grid, 0, -1)

    @cached_property
    def _padded(self) -> np.ndarray:
        return padded(self.image)  # only drawing needs it

    def __call__(self, shape: np.ndarray, similarity: Similarity) -> np.ndarray:
        """Draw uint8 frames `(frames, size, size, 3)`, see `points`."""
        targets, origins = self.points(shape, similarity)
        frames = np.empty((len(shape), *self.image.shape), np.uint8)
        draw(self._padded, targets, TRIANGLES, origins, OUTLINE * self.size, frames)
        return frames
