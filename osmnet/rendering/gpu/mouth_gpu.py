"""The mouth window in batched tensor operations, see `face/mouth.py`."""

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from osmnet.face.mouth import PAINT_MARGIN, WINDOW_WIDTH, apply_affine, fade, guide
from osmnet.face.topology import INNER_LIPS, OUTER_LIPS
from osmnet.rendering.gpu.warp_gpu import to_device

_INK = 1 << 16  # units of a logarithm; lines add up in whole numbers, whose sum does not depend on the order


class BatchedMouth:
    """Cut, guide and paint the mouth windows of one source.

    Args:
        source_px (`np.ndarray` of shape `(478, 2)`): The source's vertices in pixels of its own window.
        window_size (`int`): Side of the windows in pixels.
        device (`torch.device`): Device of the frames.
    """

    def __init__(self, source_px: np.ndarray, window_size: int, device: torch.device):
        self.window_size = window_size
        self.device = device
        margin = PAINT_MARGIN / WINDOW_WIDTH * window_size
        element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * round(margin) + 1,) * 2)
        self._reach = [int(row.sum()) // 2 for row in element]  # px to either side of a dilated pixel, row by row
        # OpenCV's blur as a matrix: each column is the blur of one pixel.
        single = np.eye(window_size, dtype=np.float32)
        self._blur = to_device(cv2.GaussianBlur(single, (1, 0), sigmaX=1, sigmaY=margin / 2), device)
        self._fade = to_device(fade(window_size), device)
        self._in_source = to_device(guide(source_px, source_px, window_size)[3], device)
        self._profile = to_device(_line_profile(), device)

    def cut(self, frames: torch.Tensor, affine: np.ndarray) -> torch.Tensor:
        """Cut windows `(n, 3, window_size, window_size)` out of frames `(n, 3, size, size)`.

        float32, whole numbers in [0, 255].
        """
        linear = np.linalg.inv(affine[:, :, :2])
        backward = np.concatenate([linear, -linear @ affine[:, :, 2:]], -1)
        cubic = np.linalg.det(affine[:, :, :2]) > 1
        windows = self._sample(frames, backward, (self.window_size,) * 2, cubic, "border")
        return windows.round_().clamp_(0, 255)

    def guides(self, target_px: np.ndarray) -> torch.Tensor:
        """Draw the guides `(n, 4, window_size, window_size)` of vertices `(n, 478, 2)`."""
        # 1. Draw the inside of the mouth and the lips.
        frames, size = len(target_px), self.window_size
        inner, lips = self._polygons(target_px[:, INNER_LIPS]), self._polygons(target_px[:, OUTER_LIPS])
        # 2. Dilate the inside, row by row of the structuring element, blur it and fade it out.
        radius = len(self._reach) // 2
        around = F.pad(inner, (radius,) * 4)
        dilated = torch.zeros_like(inner)
        for row, reach in enumerate(self._reach):
            strip = around[:, row : row + size, radius - reach : radius + size + reach]
            dilated = torch.maximum(dilated, F.max_pool1d(strip, 2 * reach + 1, 1))
        paint = (self._blur @ dilated @ self._blur.T) * self._fade
        return torch.stack([paint, inner, lips, self._in_source.expand(frames, -1, -1)], 1)

    def paint(self, frames: torch.Tensor, painted: torch.Tensor, mask: torch.Tensor, affine: np.ndarray) -> None:
        """Blend windows into frames `(n, 3, size, size)`, in place.

        `painted` is `(n, 3, window_size, window_size)`, `mask` has one channel; `affine` is `(n, 2, 3)`.
        """
        linear, window = affine[:, :, :2], self.window_size
        corners = np.array([[0, 0], [window, 0], [window, window], [0, window]], float) - affine[:, None, :, 2]
        corners = corners @ np.swapaxes(np.linalg.inv(linear), -1, -2)
        # 1. The region of the frames that some window reaches.
        x0, y0 = (int(low) for low in np.maximum(np.floor(corners.min((0, 1))), 0))
        x1, y1 = (int(high) for high in np.minimum(np.ceil(corners.max((0, 1))), frames.shape[-1]))
        if x1 <= x0 or y1 <= y0:
            return
        # 2. Sample colours and masks there.
        layers = torch.cat([painted, mask], 1)
        to_window = np.concatenate([linear, apply_affine(affine, np.array([[x0, y0]], float)).swapaxes(1, 2)], -1)
        placed = self._sample(layers, to_window, (y1 - y0, x1 - x0), np.linalg.det(linear) < 1, "zeros")
        # 3. Blend.
        region = frames[:, :, y0:y1, x0:x1]
        weight = placed[:, 3:].clamp(0, 1)
        region.copy_((region * (1 - weight) + placed[:, :3] + 0.5).clamp_(0, 255).floor_())

    def _sample(
        self, images: torch.Tensor, affine: np.ndarray, size: tuple[int, int], cubic: np.ndarray, beyond: str
    ) -> torch.Tensor:
        """Sample `(n, channels, s, s)` at each result pixel's place under `affine`."""
        scale = 2 / images.shape[-1]
        a = to_device((affine * scale).astype(np.float32), self.device)[:, :, :, None, None]  # (n, 2, 3, 1, 1)
        y = torch.arange(size[0], device=self.device, dtype=torch.float32)[:, None] + 0.5
        x = torch.arange(size[1], device=self.device, dtype=torch.float32) + 0.5
        places = (a[:, :, 0] * x + a[:, :, 1] * y + a[:, :, 2] - 1).permute(0, 2, 3, 1)
        modes = [name for name, used in (("bicubic", cubic.any()), ("bilinear", not cubic.all())) if used]
        found = [F.grid_sample(images, places, mode, beyond, align_corners=False) for mode in modes]
        if len(found) == 1:
            return found[0]
        return torch.where(to_device(cubic, self.device)[:, None, None, None], found[0], found[1])

    def _polygons(self, points: np.ndarray) -> torch.Tensor:
        """Draw polygons `(n, corners, 2)` px as OpenCV does: `(n, size, size)` in [0, 1]."""
        # OpenCV rounds corners to sixteenths of a pixel across and to whole pixels down; pixel centres are integers.
        size, frames = self.window_size, len(points)
        fixed = np.round((points - 0.5) * 16) / 16
        fixed[..., 1] = np.floor(fixed[..., 1] + 0.5)
        start = to_device(fixed.astype(np.float32), self.device)
        end = start.roll(1, 1)
        along = torch.arange(size, device=self.device, dtype=torch.float32)  # every row, or column

        # 1. The outline: a line covers three pixels of each row, or column if it is flatter than 45°.
        steep = ((end - start)[..., 1].abs() >= (end - start)[..., 0].abs())[..., None]
        (t0, u0), (t1, u1) = (torch.where(steep, p.flip(-1), p)[..., None].unbind(2) for p in (start, end))
        step = torch.where(t0 == t1, 0.0, (u1 - u0) / (t1 - t0))
        place = u0 + (along - t0) * step + 0.5
        # A line starts and ends in the middle of a pixel.
        begun = ((along - torch.minimum(t0, t1) + 1) / 2).clamp(0, 1)
        left = ((torch.maximum(t0, t1) - along + 1) / 2).clamp(0, 1)
        strength = (begun + left - 1).clamp(min=0) * ((1 + step**2) / 2).sqrt()
        across = place.floor()[..., None] + torch.arange(-1, 2, device=self.device)
        cover = strength[..., None] * self._profile[(32 * (place[..., None] - across)).floor().long() + 32]
        ink = (-2 * _INK * torch.log2(1 - cover)).round().int()  # each line is drawn twice
        ink = torch.where((across >= 0) & (across < size), ink, 0)
        across = across.clamp(0, size - 1)
        along_it = along[:, None]
        pixel = torch.where(steep[..., None], along_it * size + across, across * size + along_it).long()
        drawn = torch.zeros(frames, size * size, dtype=torch.int32, device=self.device)
        drawn.scatter_add_(1, pixel.flatten(1), ink.flatten(1))
        outline = 1 - torch.exp2(drawn.float() / -_INK)

        # 2. The inside: pixels with an odd number of sides to their left.
        (x0, y0), (x1, y1) = start[..., None].unbind(2), end[..., None].unbind(2)
        crosses = (along >= torch.minimum(y0, y1)) & (along < torch.maximum(y0, y1))
        crossing = x0 + (along - y0) * torch.where(y0 == y1, 0.0, (x1 - x0) / (y1 - y0))
        inside = torch.zeros(frames, size, size, dtype=torch.bool, device=self.device)
        for beyond in (crossing.ceil(), crossing.floor() + 1):  # a pixel on any side is inside
            pixel = (along * (size + 2) + beyond.clamp(0, size + 1)).long()
            sides = torch.zeros(frames, size * (size + 2), dtype=torch.int32, device=self.device)
            sides.scatter_add_(1, pixel.flatten(1), crosses.int().flatten(1))
            inside |= sides.unflatten(1, (size, size + 2)).cumsum(2)[..., :size] % 2 == 1
        return torch.where(inside, 1.0, outline.unflatten(1, (size, size)))


def _line_profile() -> np.ndarray:
    """Measure OpenCV's line coverage by distance, -1 to 2 px in steps of 1/32: `(96,)`."""
    profile = np.empty(96, np.float32)
    for fraction in range(32):
        canvas = np.zeros((9, 9), np.uint8)
        x = 4 * 32 + fraction
        cv2.line(canvas, (x, 0), (x, 8 * 32), 255, 1, cv2.LINE_AA, 5)
        for column in range(9):
            distance = x + 16 - 32 * column  # from half a pixel before the line to the pixel
            if -32 <= distance < 64:
                profile[distance + 32] = canvas[4, column] / 255
    # Upright lines are drawn twice, at 1/√2 of the strength of diagonal ones.
    return np.sqrt(2) * (1 - np.sqrt(1 - profile))
