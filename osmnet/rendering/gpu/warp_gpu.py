"""The mesh warp in batched tensor operations: what `warp.py` draws frame by frame, for many frames at once on a GPU.

Every triangle's bounding box is cut into rows and those into pixels, and the nearest triangle of each pixel is found
by a scatter that takes the smallest of keys made of depth and number: no order of execution changes it. How many rows
and pixels there are is known from the geometry before anything is drawn, so the device is never waited for.
"""

import numpy as np
import torch
from torch.nn import functional as F

from osmnet.face.pose import Similarity
from osmnet.face.warp import OUTLINE, TRIANGLES, MeshWarp

# A key is the depth, then the number of the triangle: 31 bits together.
_NUMBER_BITS = (len(TRIANGLES) - 1).bit_length()
_NUMBERS = (1 << _NUMBER_BITS) - 1
_DEPTHS = (1 << (31 - _NUMBER_BITS)) - 1
_NOTHING = (1 << 31) - 1
_NEAREST, _FARTHEST = -2.0, 6.0  # depths that are told apart, sides of the crop; the rings lie at 2 to 4
_EDGE = 1e-4  # barycentric: two triangles both reach their common edge in spite of rounding
_PLACES = 32  # colours are looked up at this many places of a pixel, the same as on the CPU
_FINER, _FINEST = 8, 4096  # the picture is made this many times finer, and no larger than this


def lanczos_matrix(size: int, factor: int) -> np.ndarray:
    """Lanczos interpolation of a row of pixels at `factor` places a pixel, its ends repeated.

    Args:
        size (`int`): Number of pixels.
        factor (`int`): Places a pixel.

    Returns:
        `np.ndarray` of shape `(size · factor + 1, size)`: float32; row k gives the value at `k / factor` pixels from
        the row's beginning (the first pixel's centre is 0.5).
    """
    places = np.arange(size * factor + 1) / factor - 0.5
    taps = np.floor(places).astype(int)[:, None] + np.arange(-3, 5)
    away = places[:, None] - taps
    weights = np.sinc(away) * np.sinc(away / 4)
    weights /= weights.sum(1, keepdims=True)
    matrix = np.zeros((len(places), size), np.float32)
    np.add.at(matrix, (np.arange(len(places))[:, None], np.clip(taps, 0, size - 1)), weights)
    return matrix


class BatchedWarp:
    """Moves the head of one picture, many frames at a time.

    The picture is interpolated once, at eight times its resolution: looking up between those places is as sharp as
    interpolating every pixel of every frame anew.

    Args:
        warp (`MeshWarp`): The warp of the picture; its geometry is used as it is.
        device (`torch.device`): Where to draw.
    """

    def __init__(self, warp: MeshWarp, device: torch.device):
        self.warp = warp
        self.size = warp.size
        self.device = device
        image = to_device(warp.image, device).float().permute(2, 0, 1)
        factor = max(2, min(_FINER, _FINEST // self.size // 2 * 2))  # even: then a pixel's centre is one of the places
        finer = to_device(lanczos_matrix(self.size, factor), device)
        self._picture = (finer @ image @ finer.T)[None]
        self._triangles = to_device(TRIANGLES.astype(np.int64), device)

    def __call__(self, shape: np.ndarray, similarity: Similarity) -> torch.Tensor:
        """Draw frames.

        Args:
            shape (`np.ndarray` of shape `(frames, 478, 3)`): Shapes, head units.
            similarity (`Similarity`): Poses.

        Returns:
            `torch.Tensor` of shape `(frames, 3, size, size)`: float32, whole numbers in [0, 255].
        """
        grid = self.grid(*self.warp.points(shape, similarity))
        return self._soften_outlines(self._sample(grid), grid)

    def grid(self, target: np.ndarray, origin: np.ndarray) -> torch.Tensor:
        """Where every pixel comes from: `(n, points, 3)` and `(n, points, 2)` to `(n, size, size, 2)` pixels."""
        target = target.astype(np.float32)
        boxes = self._boxes(target)
        num_rows, num_pixels = int(boxes[1, ..., 1].sum()), int(boxes[1].prod(-1).sum())
        first, extent = to_device(boxes, self.device).unbind()
        corners = to_device(target, self.device)[:, self._triangles]  # (n, triangles, 3, 3)
        origins = to_device(origin.astype(np.float32), self.device)[:, self._triangles]
        # From the centre of the box's first pixel: small numbers lose least by rounding.
        corners = torch.cat([corners[..., :2] - (first[:, :, None] + 0.5), corners[..., 2:]], -1)
        planes = _planes(corners, origins)
        nearest = self._nearest(planes, first, extent.long(), num_rows, num_pixels)
        return self._origins(nearest, planes, first)

    def _boxes(self, target: np.ndarray) -> np.ndarray:
        """First pixel, and width and height, of each triangle's bounding box: `(2, n, triangles, 2)` int32."""
        boxes = np.empty((2, len(target), len(TRIANGLES), 2), np.int32)
        for axis in range(2):
            places = np.ascontiguousarray(target[..., axis])
            a, b, c = (places[:, corner] for corner in TRIANGLES.T)
            # A pixel's centre is half a pixel into it.
            low = np.ceil(np.minimum(np.minimum(a, b), c) - np.float32(0.5))
            high = np.floor(np.maximum(np.maximum(a, b), c) - np.float32(0.5))
            boxes[0, ..., axis] = np.clip(low, 0, self.size)
            boxes[1, ..., axis] = np.clip(high, -1, self.size - 1)
        boxes[1] = np.maximum(boxes[1] - boxes[0] + 1, 0)
        return boxes

    def _nearest(
        self, planes: torch.Tensor, first: torch.Tensor, extent: torch.Tensor, num_rows: int, num_pixels: int
    ) -> torch.Tensor:
        """The key of what is seen in each pixel, `(n, size²)` int32."""
        frames, count = extent.shape[:2]
        width, height = extent[..., 0].flatten(), extent[..., 1].flatten()
        row = torch.arange(num_rows, device=self.device)
        box = torch.repeat_interleave(height, output_size=num_rows)  # of each row
        down = row - (height.cumsum(0) - height)[box]
        at, across, downwards = (part.flatten(0, 1)[box] for part in planes[..., :3].unbind(2))
        # u, v, z of each row's first pixel, and their steps.
        left = torch.cat([at + down[:, None] * downwards, across], 1)
        width = width[box]
        start = width.cumsum(0) - width
        number = torch.div(box, count, rounding_mode="floor")
        corner = first.flatten(0, 1)[box]
        shift = (number * self.size + corner[:, 1] + down) * self.size + corner[:, 0] - start
        number = (box - number * count).int()

        row = torch.repeat_interleave(width, output_size=num_pixels)  # of each pixel
        pixel = torch.arange(num_pixels, device=self.device)
        along = (pixel - start[row]).float()
        u, v, z, u_step, v_step, z_step = left[row].unbind(1)
        u, v = u + u_step * along, v + v_step * along
        depth = ((z + z_step * along) / self.size - _NEAREST) * (_DEPTHS / (_FARTHEST - _NEAREST))
        key = depth.clamp(0, _DEPTHS - 1).int() * (_NUMBERS + 1) + number[row]
        inside = (u >= -_EDGE) & (v >= -_EDGE) & (u + v <= 1 + _EDGE)
        key = torch.where(inside, key, _NOTHING)
        seen = torch.full((frames * self.size**2,), _NOTHING, dtype=torch.int32, device=self.device)
        return seen.scatter_reduce_(0, pixel + shift[row], key, "amin").reshape(frames, -1)

    def _origins(self, nearest: torch.Tensor, planes: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        frames, count = planes.shape[:2]
        drawn = nearest != _NOTHING
        triangle = torch.where(drawn, nearest & _NUMBERS, 0).long()
        triangle = (triangle + count * torch.arange(frames, device=self.device)[:, None]).flatten()
        side = torch.arange(self.size, device=self.device, dtype=torch.float32)
        pixel = torch.stack([side.expand(self.size, -1), side[:, None].expand(-1, self.size)], -1).reshape(1, -1, 2)
        plane = planes[..., 3:].flatten(0, 1)[triangle].unflatten(0, (frames, -1))  # (n, pixels, 3, 2)
        from_corner = pixel - first.flatten(0, 1)[triangle].unflatten(0, (frames, -1))
        origin = plane[:, :, 0] + from_corner[..., :1] * plane[:, :, 1] + from_corner[..., 1:] * plane[:, :, 2]
        # What no triangle covers (the corners) stays.
        return torch.where(drawn[..., None], origin, pixel + 0.5).unflatten(1, (self.size, self.size))

    def _sample(self, grid: torch.Tensor) -> torch.Tensor:
        frames = grid.shape[0]
        places = (((grid - 0.5) * _PLACES + 0.5).floor_() / _PLACES + 0.5) * (2 / self.size) - 1
        places = places.reshape(1, frames * self.size, self.size, 2)
        colours = F.grid_sample(self._picture, places, "bilinear", "border", align_corners=True)
        colours = colours[0].unflatten(1, (frames, self.size)).transpose(0, 1)
        return colours.add_(0.5).floor_().clamp_(0, 255)

    def _soften_outlines(self, drawn: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        inner = grid[:, 1:-1, 1:-1]
        jump = torch.zeros_like(inner[..., 0])
        for other in (grid[:, 1:-1, :-2], grid[:, 1:-1, 2:], grid[:, :-2, 1:-1], grid[:, 2:, 1:-1]):
            jump = torch.maximum(jump, (other - inner).abs().amax(-1))
        rows = drawn[:, :, :-2] + 2 * drawn[:, :, 1:-1] + drawn[:, :, 2:]
        smooth = ((rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:] + 8) / 16).floor()
        softened = drawn.clone()
        softened[:, :, 1:-1, 1:-1] = torch.where(
            (jump > OUTLINE * self.size)[:, None], smooth, drawn[:, :, 1:-1, 1:-1]
        )
        return softened


def _planes(corners: torch.Tensor, origins: torch.Tensor) -> torch.Tensor:
    """What is linear over each triangle.

    Args:
        corners (`torch.Tensor` of shape `(..., 3, 3)`): x, y, z of the three corners.
        origins (`torch.Tensor` of shape `(..., 3, 2)`): Where they come from.

    Returns:
        `torch.Tensor` of shape `(..., 3, 5)`: Values at x = y = 0 and their steps along x and y of: u, v (the first
        two barycentric coordinates), z, and the origin's x and y.
    """
    a, b, c = corners.unbind(-2)
    along_a, along_b = a - c, b - c
    area = along_b[..., 1] * along_a[..., 0] - along_b[..., 0] * along_a[..., 1]
    # A triangle without an area has no inside: u is -1 throughout.
    flat = area.abs() < 1e-6
    inverse = torch.where(flat, 0.0, 1 / area)
    u_step = torch.stack([along_b[..., 1], -along_b[..., 0]], -1) * inverse[..., None]
    v_step = torch.stack([-along_a[..., 1], along_a[..., 0]], -1) * inverse[..., None]
    u = torch.where(flat, -1.0, -(u_step * c[..., :2]).sum(-1))
    v = -(v_step * c[..., :2]).sum(-1)
    u, v = torch.cat([u[..., None], u_step], -1)[..., None], torch.cat([v[..., None], v_step], -1)[..., None]
    values = torch.cat([corners[..., 2:], origins], -1)  # (..., 3, 3)
    third = values[..., 2:, :]
    # Written out: a product of matrices may be rounded to fewer digits on a GPU.
    planes = u * (values[..., 0:1, :] - third) + v * (values[..., 1:2, :] - third)
    planes[..., 0, :] += third[..., 0, :]
    return torch.cat([u, v, planes], -1)


def to_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """Copy an array to a device, without waiting for it where that can be."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type == "cuda":  # from memory that is not pinned, the copy would be waited for
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
