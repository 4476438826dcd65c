"""The mesh warp: one picture of a head, seen in another pose and with another expression.

The picture is cut into triangles: the face, what the lids and lips uncover, and three rings around the face. `hair`
moves with the head (its lower part, the neck, only half as much), `halo` follows halfway, `border` is the edge of the
crop and stays, so that a crop can be pasted back without a seam. The triangles are drawn at their new places with a
z-buffer, and every pixel looks up where it came from.
"""

from collections.abc import Callable

import numba
import numpy as np

from osmnet.face.pose import Similarity
from osmnet.face.topology import (
    CHIN,
    FACE_TRIANGLES,
    INNER_LIPS,
    LEFT_EYE,
    LEFT_IRIS,
    NOSE,
    NUM_VERTICES,
    OVAL,
    RIGHT_EYE,
    RIGHT_IRIS,
    STABLE,
    opposite_lid,
)

NUM_RING = len(OVAL)
HAIR_SCALE = np.array([1.35, 1.5, 1.0])  # of the oval, about the middle of the face
NECK_FOLLOWS = 0.5  # how much of the head's movement the ring below the chin makes
HALO_FOLLOWS = 0.45
OUTLINE = (
    0.02  # of the crop's side: pixels that come from further apart than this lie on different sides of an outline
)
MARGIN = 0.06  # rings keep this part of the crop's side clear of its border


def _fan(loop: np.ndarray, centre: int) -> np.ndarray:
    return np.stack([loop, np.roll(loop, -1), np.full(len(loop), centre)], 1)


def _strip(inner: np.ndarray, outer: np.ndarray) -> np.ndarray:
    a, b = np.roll(inner, -1), np.roll(outer, -1)
    return np.concatenate([np.stack([inner, a, outer], 1), np.stack([a, b, outer], 1)])


# Behind the 478 vertices: copies of the lids and inner lips (an opening shows what lies behind it, not what is
# stretched across it), the middle of the mouth, then the rings.
_LOOPS = (RIGHT_EYE, LEFT_EYE, INNER_LIPS)
_STARTS = NUM_VERTICES + np.cumsum([0, *(len(loop) for loop in _LOOPS)])
_RIGHT, _LEFT, _MOUTH = (np.arange(start, start + len(loop)) for start, loop in zip(_STARTS, _LOOPS, strict=False))
_MOUTH_CENTRE = int(_STARTS[-1])
_HAIR, _HALO, _BORDER = (_MOUTH_CENTRE + 1 + k * NUM_RING + np.arange(NUM_RING) for k in range(3))
NUM_POINTS = int(_BORDER[-1]) + 1
TRIANGLES = np.concatenate(
    [
        FACE_TRIANGLES,
        _fan(_RIGHT, RIGHT_IRIS),
        _fan(_LEFT, LEFT_IRIS),
        _fan(_MOUTH, _MOUTH_CENTRE),
        _strip(OVAL, _HAIR),
        _strip(_HAIR, _HALO),
        _strip(_HALO, _BORDER),
    ]
).astype(np.int32)


def _compiled(function: Callable[..., None]) -> Callable[..., None]:
    """Compile a function at its first call, and keep the result on disk where there is a folder to write to."""
    try:
        return numba.njit(cache=True, nogil=True, fastmath=True)(function)
    except RuntimeError:  # a read-only installation and no home folder, as in some containers
        return numba.njit(nogil=True, fastmath=True)(function)


@_compiled
def _rasterise(
    points: np.ndarray, triangles: np.ndarray, origin: np.ndarray, grid: np.ndarray, depth: np.ndarray
) -> None:
    """Draw triangles at `points` (x, y, z px) into `grid`, which receives the interpolated `origin` of each pixel."""
    height, width = depth.shape
    for k in range(triangles.shape[0]):
        a, b, c = triangles[k, 0], triangles[k, 1], triangles[k, 2]
        ax, ay, bx, by, cx, cy = points[a, 0], points[a, 1], points[b, 0], points[b, 1], points[c, 0], points[c, 1]
        area = (by - cy) * (ax - cx) + (cx - bx) * (ay - cy)
        if abs(area) < 1e-6:
            continue
        inverse = 1.0 / area
        ux, uy = (by - cy) * inverse, (cx - bx) * inverse
        vx, vy = (cy - ay) * inverse, (ax - cx) * inverse
        # A pixel's centre is half a pixel into it.
        x_first = max(0, int(np.ceil(min(ax, bx, cx) - 0.5)))
        x_last = min(width - 1, int(np.floor(max(ax, bx, cx) - 0.5)))
        y_first = max(0, int(np.ceil(min(ay, by, cy) - 0.5)))
        y_last = min(height - 1, int(np.floor(max(ay, by, cy) - 0.5)))
        for y in range(y_first, y_last + 1):
            u = ux * (x_first + 0.5 - cx) + uy * (y + 0.5 - cy)
            v = vx * (x_first + 0.5 - cx) + vy * (y + 0.5 - cy)
            for x in range(x_first, x_last + 1):
                w = 1.0 - u - v
                if u >= -1e-6 and v >= -1e-6 and w >= -1e-6:
                    z = u * points[a, 2] + v * points[b, 2] + w * points[c, 2]
                    if z < depth[y, x]:
                        depth[y, x] = z
                        grid[y, x, 0] = u * origin[a, 0] + v * origin[b, 0] + w * origin[c, 0]
                        grid[y, x, 1] = u * origin[a, 1] + v * origin[b, 1] + w * origin[c, 1]
                u += ux
                v += vx


# Lanczos interpolation: weights of 8 taps at each 1/32 of a pixel, as in OpenCV, whose own takes twice the time.
_STEPS, _TAPS, _PAD = 32, 8, 8
_taps = np.arange(_STEPS)[:, None] / _STEPS - np.arange(1 - _TAPS // 2, 1 + _TAPS // 2)
_LANCZOS = np.sinc(_taps) * np.sinc(_taps / (_TAPS // 2))
_LANCZOS = (_LANCZOS / _LANCZOS.sum(1, keepdims=True)).astype(np.float32)
_LANCZOS_RGBX = np.repeat(_LANCZOS, 4, axis=1)


def _padded(image: np.ndarray) -> np.ndarray:
    """An image with its edge repeated and a fourth channel: `(size + 16, 4 * (size + 16))` float32."""
    wide = np.pad(image, ((_PAD, _PAD), (_PAD, _PAD), (0, 0)), mode="edge")
    return np.pad(wide, ((0, 0), (0, 0), (0, 1))).astype(np.float32).reshape(len(wide), -1)


@_compiled
def _sample(padded: np.ndarray, grid: np.ndarray, down: np.ndarray, across: np.ndarray, frame: np.ndarray) -> None:
    """Fill `frame` with the colours at `grid` (pixels of the image) by Lanczos interpolation."""
    height, width = frame.shape[:2]
    taps = np.empty(32, np.float32)  # 8 columns of 4 channels
    lowest, highest_x, highest_y = np.float32(-4), np.float32(width + 3), np.float32(height + 3)
    for y in range(height):
        for x in range(width):
            # Beyond this there is nothing but the repeated edge.
            at_x = min(max(grid[y, x, 0] - np.float32(0.5), lowest), highest_x)
            at_y = min(max(grid[y, x, 1] - np.float32(0.5), lowest), highest_y)
            step_x, step_y = int(np.floor(at_x * 32 + 0.5)), int(np.floor(at_y * 32 + 0.5))
            u, v = across[step_x & 31], down[step_y & 31]
            left, top = 4 * ((step_x >> 5) + 5), (step_y >> 5) + 5
            # Written out row by row: whole rows become vector instructions.
            a, b = padded[top, left : left + 32], padded[top + 1, left : left + 32]
            c, d = padded[top + 2, left : left + 32], padded[top + 3, left : left + 32]
            e, f = padded[top + 4, left : left + 32], padded[top + 5, left : left + 32]
            g, h = padded[top + 6, left : left + 32], padded[top + 7, left : left + 32]
            for k in range(32):
                upper = v[0] * a[k] + v[1] * b[k] + v[2] * c[k] + v[3] * d[k]
                lower = v[4] * e[k] + v[5] * f[k] + v[6] * g[k] + v[7] * h[k]
                taps[k] = u[k] * (upper + lower)
            for k in range(3):
                left_half = taps[k] + taps[k + 4] + taps[k + 8] + taps[k + 12]
                right_half = taps[k + 16] + taps[k + 20] + taps[k + 24] + taps[k + 28]
                colour = left_half + right_half + np.float32(0.5)
                frame[y, x, k] = np.uint8(min(max(colour, np.float32(0)), np.float32(255)))


@_compiled
def _soften_outlines(drawn: np.ndarray, grid: np.ndarray, far: float, frame: np.ndarray) -> None:
    """Smooth the stairs where one part of the picture covers another: there neighbours come from far apart."""
    for y in range(1, grid.shape[0] - 1):
        for x in range(1, grid.shape[1] - 1):
            u, v = grid[y, x]
            jump = 0.0
            for i, j in ((y, x - 1), (y, x + 1), (y - 1, x), (y + 1, x)):
                jump = max(jump, abs(grid[i, j, 0] - u), abs(grid[i, j, 1] - v))
            if jump > far:
                for c in range(3):
                    total = 4 * int(drawn[y, x, c])
                    total += 2 * (int(drawn[y, x - 1, c]) + int(drawn[y, x + 1, c]))
                    total += 2 * (int(drawn[y - 1, x, c]) + int(drawn[y + 1, x, c]))
                    total += int(drawn[y - 1, x - 1, c]) + int(drawn[y - 1, x + 1, c])
                    total += int(drawn[y + 1, x - 1, c]) + int(drawn[y + 1, x + 1, c])
                    frame[y, x, c] = (total + 8) // 16


class MeshWarp:
    """Moves the head of one picture.

    Args:
        image (`np.ndarray` of shape `(size, size, 3)`): The crop, uint8.
        shape (`np.ndarray` of shape `(478, 3)`): The head in it, pose removed, head units.
        similarity (`Similarity`): Its pose as a map to pixels of the crop.
    """

    def __init__(self, image: np.ndarray, shape: np.ndarray, similarity: Similarity):
        self.image = image
        self._padded = _padded(image)
        self.size = image.shape[0]
        self.shape = shape
        self.similarity = similarity
        self._place_rings()
        self.source_points = self.points(shape[None], Similarity(*(part[None] for part in similarity)))[0][0]

    def _place_rings(self) -> None:
        oval = self.shape[OVAL]
        middle = self.shape[STABLE].mean(0) + (0, 0.1, 0.3)
        self._hair_shape = middle + (oval - middle) * HAIR_SCALE
        centre = self.similarity.place(middle[None])[0, :2]
        rest = self.similarity.place(self._hair_shape)[:, :2]
        ray = rest - centre
        # How far along each ray the crop ends, but for its outermost pixels: those no triangle covers, so they stay.
        with np.errstate(divide="ignore"):
            reach = np.where(ray > 0, self.size - 1 - centre, 1 - centre) / ray
            reach = np.where(ray == 0, np.inf, reach).min(1)
        self._border = centre + ray * reach[:, None]
        room = np.maximum(reach - MARGIN * self.size / np.linalg.norm(ray, axis=1), 0.5 * reach)
        # In a tight crop the ring comes nearer, but never within the face: what is folded away under the chin would
        # come out below it as a second chin as soon as the head is raised.
        edge = ((self.similarity.place(oval)[:, :2] - centre) * ray).sum(1) / (ray**2).sum(1)
        outside = edge + 0.25 * np.maximum(reach - edge, 0)
        self._hair = centre + ray * np.maximum(np.minimum(1.0, 0.8 * room), np.minimum(1.0, outside))[:, None]
        self._halo = (self._hair + self._border) / 2
        self._hair_at_rest = rest
        # 1 above the chin's height, falling towards the neck.
        down = (oval[:, 1] - self.shape[NOSE[9], 1]) / (self.shape[CHIN, 1] - self.shape[NOSE[9], 1])
        self._follows = 1 - (1 - NECK_FOLLOWS) * np.clip(down, 0, 1)[:, None]

    def points(self, shape: np.ndarray, similarity: Similarity) -> tuple[np.ndarray, np.ndarray]:
        """Places of all mesh points for some frames.

        Args:
            shape (`np.ndarray` of shape `(frames, 478, 3)`): The head's shapes, head units.
            similarity (`Similarity`): Their poses.

        Returns:
            `tuple[np.ndarray, np.ndarray]`: Where each point goes, `(frames, points, 3)`, and where in the source its
            texture lies, `(frames, points, 2)`, both in pixels.
        """
        frames = len(shape)
        placed = similarity.place(shape)
        target = np.zeros((frames, NUM_POINTS, 3))
        origin = np.zeros((frames, NUM_POINTS, 2))
        target[:, :NUM_VERTICES] = placed
        origin[:, :NUM_VERTICES] = self.similarity.place(self.shape)[:, :2]
        jaw = shape[:, CHIN] - self.shape[CHIN]
        behind = 0.1 * similarity.scale[:, None]
        for inside, loop in ((_RIGHT, RIGHT_EYE), (_LEFT, LEFT_EYE), (_MOUTH, INNER_LIPS)):
            seen = self._behind_opening(shape, loop, jaw if loop is INNER_LIPS else None)
            target[:, inside] = placed[:, loop]
            target[:, inside, 2] += behind
            origin[:, inside] = self.similarity.place(seen)[..., :2]
        target[:, (RIGHT_IRIS, LEFT_IRIS), 2] += behind
        target[:, _MOUTH_CENTRE] = target[:, _MOUTH].mean(1)
        origin[:, _MOUTH_CENTRE] = origin[:, _MOUTH].mean(1)
        moved = self._follows * (similarity.place(self._hair_shape)[..., :2] - self._hair_at_rest)
        limits = MARGIN / 2 * self.size, (1 - MARGIN / 2) * self.size
        rings = (_HAIR, self._hair, 1.0), (_HALO, self._halo, HALO_FOLLOWS), (_BORDER, self._border, 0.0)
        for ring, rest, follows in rings:
            place = rest + follows * moved
            # What starts within the crop stays within it; the border's own points lie outside these limits.
            within = (rest > limits[0]) & (rest < limits[1])
            target[:, ring, :2] = np.where(within, np.clip(place, *limits), place)
            origin[:, ring] = rest
        # Rings lie behind the face, each behind the one before.
        for k, ring in enumerate((_HAIR, _HALO, _BORDER)):
            target[:, ring, 2] = (2 + k) * self.size
        return target, origin

    def _behind_opening(self, shape: np.ndarray, loop: np.ndarray, jaw: np.ndarray | None) -> np.ndarray:
        """Where on the source's eyeball, or teeth, the edge of an opening now lies: `(frames, n, 3)` head units.

        What the source does not show (it is shut further than wanted) is taken from the edge of what it shows.
        """
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
        beyond = np.maximum((wanted * direction).sum(-1, keepdims=True) - 0.9 * height, 0)
        return middle + wanted - beyond * direction

    def grid(self, target: np.ndarray, origin: np.ndarray) -> np.ndarray:
        """Where every pixel of one frame comes from: `(points, 3)` and `(points, 2)` to `(size, size, 2)` pixels."""
        grid = np.empty((self.size, self.size, 2), np.float32)
        # What no triangle covers (the corners) stays.
        grid[..., 0] = np.arange(self.size, dtype=np.float32) + 0.5
        grid[..., 1] = (np.arange(self.size, dtype=np.float32) + 0.5)[:, None]
        depth = np.full((self.size, self.size), np.finfo(np.float32).max, np.float32)  # fastmath knows no infinity
        _rasterise(target, TRIANGLES, origin, grid, depth)
        return grid

    def __call__(self, shape: np.ndarray, similarity: Similarity) -> np.ndarray:
        """Draw frames.

        Args:
            shape (`np.ndarray` of shape `(frames, 478, 3)`): Shapes, head units.
            similarity (`Similarity`): Poses.

        Returns:
            `np.ndarray` of shape `(frames, size, size, 3)`: uint8.
        """
        targets, origins = self.points(shape, similarity)
        frames = np.empty((len(shape), *self.image.shape), np.uint8)
        for frame, target, origin in zip(frames, targets, origins, strict=True):
            grid = self.grid(target, origin)
            # Lanczos keeps the picture's fine detail, which bilinear sampling would halve.
            _sample(self._padded, grid, _LANCZOS, _LANCZOS_RGBX, frame)
            _soften_outlines(frame.copy(), grid, OUTLINE * self.size, frame)
        return frames
