"""The mesh warp in batched tensor operations, see `face/warp.py`.

A scatter takes the smallest key of depth and triangle number, so the order of execution does not matter.
"""

import numpy as np
import torch
from torch.nn import functional as F

from osmnet.face.pose import Similarity
from osmnet.face.warp import OUTLINE, TRIANGLES, MeshWarp

# A key is the depth, then the triangle's number, 31 bits together.
_NUMBER_BITS = (len(TRIANGLES) - 1).bit_length()
_NUMBERS = (1 << _NUMBER_BITS) - 1
_DEPTHS = (1 << (31 - _NUMBER_BITS)) - 1
_NOTHING = (1 << 31) - 1
_NEAREST, _FARTHEST = -2.0, 6.0  # sides of the crop; range of distinct depths, rings lie at 2 to 4
_EDGE = 1e-4  # barycentric; both triangles reach their common edge in spite of rounding
_PLACES = 32  # sampling places a pixel, as on the CPU
_FINER, _FINEST = 8, 4096  # factor of the picture's resolution; px, its largest side


def lanczos_matrix(size: int, factor: int) -> np.ndarray:
    """Return Lanczos interpolation as a matrix `(size · factor + 1, size)`, float32.

    Row k gives the value at `k / factor` px; the first pixel's centre is 0.5.
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
    """Warp one picture, many frames at a time.

    Args:
        warp (`MeshWarp`): The warp of the picture, for its geometry.
        device (`torch.device`): Device of the frames.
    """

    def __init__(self, warp: MeshWarp, device: torch.device):
        self.warp = warp
        self.size = warp.size
        self.device = device
        image = to_device(warp.image, device).float().permute(2, 0, 1)
        factor = max(2, min(_FINER, _FINEST // self.size // 2 * 2))  # even, so that a pixel's centre is a place
        finer = to_device(lanczos_matrix(self.size, factor), device)
        # Interpolated once at a higher resolution, which is as sharp as interpolating every frame anew.
        self._picture = (finer @ image @ finer.T)[None]
        self._triangles = to_device(TRIANGLES.astype(np.int64), device)

    def __call__(self, shape: np.ndarray, similarity: Similarity) -> torch.Tensor:
        """Draw frames `(n, 3, size, size)`, float32, whole numbers in [0, 255]."""
        grid = self.grid(*self.warp.points(shape, similarity))
        return self._soften_outlines(self._sample(grid), grid)

    def grid(self, target: np.ndarray, origin: np.ndarray) -> torch.Tensor:
        """Return each pixel's origin: `(n, points, 3)` and `(n, points, 2)` to `(n, size, size, 2)` px."""
        # 1. Bounding boxes, on the CPU, so that all sizes are known.
        target = target.astype(np.float32)
        boxes = self._boxes(target)
        num_rows, num_pixels = int(boxes[1, ..., 1].sum()), int(boxes[1].prod(-1).sum())
        first, extent = to_device(boxes, self.device).unbind()
        # 2. Linear functions over the triangles.
        corners = to_device(target, self.device)[:, self._triangles]  # (n, triangles, 3, 3)
        origins = to_device(origin.astype(np.float32), self.device)[:, self._triangles]
        # Relative to the centre of the box's first pixel: small numbers lose least by rounding.
        corners = torch.cat([corners[..., :2] - (first[:, :, None] + 0.5), corners[..., 2:]], -1)
        planes = _planes(corners, origins)
        # 3. The nearest triangle of each pixel, and the origin in it.
        nearest = self._nearest(planes, first, extent.long(), num_rows, num_pixels)
        return self._origins(nearest, planes, first)

    def _boxes(self, target: np.ndarray) -> np.ndarray:
        """Return each triangle's first pixel and extent: `(2, n, triangles, 2)` int32."""
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
        """Return each pixel's smallest key: `(n, size²)` int32."""
        frames, count = extent.shape[:2]
        width, height = extent[..., 0].flatten(), extent[..., 1].flatten()
        # 1. Rows: box of each, its first pixel's u, v, z and their steps, and the offset to the pixel's place.
        row = torch.arange(num_rows, device=self.device)
        box = torch.repeat_interleave(height, output_size=num_rows)
        down = row - (height.cumsum(0) - height)[box]
        at, across, downwards = (part.flatten(0, 1)[box] for part in planes[..., :3].unbind(2))
        left = torch.cat([at + down[:, None] * downwards, across], 1)
        width = width[box]
        start = width.cumsum(0) - width
        number = torch.div(box, count, rounding_mode="floor")
        corner = first.flatten(0, 1)[box]
        shift = (number * self.size + corner[:, 1] + down) * self.size + corner[:, 0] - start
        number = (box - number * count).int()

        # 2. Pixels: row of each, depth and number as a key, if it lies inside.
        row = torch.repeat_interleave(width, output_size=num_pixels)
        pixel = torch.arange(num_pixels, device=self.device)
        along = (pixel - start[row]).float()
        u, v, z, u_step, v_step, z_step = left[row].unbind(1)
        u, v = u + u_step * along, v + v_step * along
        depth = ((z + z_step * along) / self.size - _NEAREST) * (_DEPTHS / (_FARTHEST - _NEAREST))
        key = depth.clamp(0, _DEPTHS - 1).int() * (_NUMBERS + 1) + number[row]
        inside = (u >= -_EDGE) & (v >= -_EDGE) & (u + v <= 1 + _EDGE)
        key = torch.where(inside, key, _NOTHING)
        # 3. The smallest key of each place.
        smallest = torch.full((frames * self.size**2,), _NOTHING, dtype=torch.int32, device=self.device)
        return smallest.scatter_reduce_(0, pixel + shift[row], key, "amin").reshape(frames, -1)

    def _origins(self, nearest: torch.Tensor, planes: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        # 1. The triangle of each pixel.
        frames, count = planes.shape[:2]
        drawn = nearest != _NOTHING
        triangle = torch.where(drawn, nearest & _NUMBERS, 0).long()
        triangle = (triangle + count * torch.arange(frames, device=self.device)[:, None]).flatten()
        # 2. The origin: the triangle's linear function at the pixel.
        side = torch.arange(self.size, device=self.device, dtype=torch.float32)
        pixel = torch.stack([side.expand(self.size, -1), side[:, None].expand(-1, self.size)], -1).reshape(1, -1, 2)
        plane = planes[..., 3:].flatten(0, 1)[triangle].unflatten(0, (frames, -1))  # (n, pixels, 3, 2)
        from_corner = pixel - first.flatten(0, 1)[triangle].unflatten(0, (frames, -1))
        origin = plane[:, :, 0] + from_corner[..., :1] * plane[:, :, 1] + from_corner[..., 1:] * plane[:, :, 2]
        # 3. The corners of the crop, which no triangle covers, stay.
        return torch.where(drawn[..., None], origin, pixel + 0.5).unflatten(1, (self.size, self.size))

    def _sample(self, grid: torch.Tensor) -> torch.Tensor:
        frames = grid.shape[0]
        places = (((grid - 0.5) * _PLACES + 0.5).floor_() / _PLACES + 0.5) * (2 / self.size) - 1
        places = places.reshape(1, frames * self.size, self.size, 2)
        # One tall grid for all frames: (1, 3, n · size, size).
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
    """Return linear functions over triangles of `corners` `(..., 3, 3)`.

    Returns:
        `torch.Tensor` of shape `(..., 3, 5)`: Values at x = y = 0 and steps along x and y of u, v (the first two
        barycentric coordinates), z, and the origin's x and y.
    """
    a, b, c = corners.unbind(-2)
    along_a, along_b = a - c, b - c
    area = along_b[..., 1] * along_a[..., 0] - along_b[..., 0] * along_a[..., 1]
    # A triangle without area has no inside: u is -1 throughout.
    flat = area.abs() < 1e-6
    inverse = torch.where(flat, 0.0, 1 / area)
    u_step = torch.stack([along_b[..., 1], -along_b[..., 0]], -1) * inverse[..., None]
    v_step = torch.stack([-along_a[..., 1], along_a[..., 0]], -1) * inverse[..., None]
    u = torch.where(flat, -1.0, -(u_step * c[..., :2]).sum(-1))
    v = -(v_step * c[..., :2]).sum(-1)
    u, v = torch.cat([u[..., None], u_step], -1)[..., None], torch.cat([v[..., None], v_step], -1)[..., None]
    values = torch.cat([corners[..., 2:], origins], -1)  # (..., 3, 3)
    third = values[..., 2:, :]
    # Written out, because a GPU may round products of matrices to fewer digits.
    planes = u * (values[..., 0:1, :] - third) + v * (values[..., 1:2, :] - third)
    planes[..., 0, :] += third[..., 0, :]
    return torch.cat([u, v, planes], -1)


def to_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """Copy an array to a device, without waiting if possible."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type == "cuda":  # a copy from unpinned memory would wait
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
