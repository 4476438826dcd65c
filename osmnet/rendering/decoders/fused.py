"""Fused execution on a CPU: PyTorch's convolutions, compiled loops between."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from osmnet.models.layers import ConvBlock
from osmnet.models.osm_net.video_generator import VideoGenerator
from osmnet.rendering.decoders import fused_loops

AT_ONCE = 8  # frames; with more, maps leave the core's own cache, with fewer, weights are read too often
BOX = 8  # places; sides of the painted box are multiples of it, because PyTorch prepares for every new size


def can_fuse(network: VideoGenerator) -> bool:
    """Whether `FusedDecoder` can execute a network."""
    return network.device.type == "cpu" and network.config.geometry == "mesh"


class FusedDecoder:
    """Execute a copy of a `VideoGenerator` of `geometry="mesh"` on a CPU; thread-safe.

    Args:
        network (`VideoGenerator`): On the CPU.
        source_image (`torch.Tensor` of shape `(1, 3, H, W)`): The source, in [-1, 1].
        dtype (`torch.dtype`): float32 or bfloat16, of convolutions and maps; everything else is float32.

    Raises:
        ValueError: If the network has another geometry.
    """

    @torch.no_grad()
    def __init__(self, network: VideoGenerator, source_image: torch.Tensor, dtype: torch.dtype = torch.float32):
        if network.stem is None:
            raise ValueError('Only a VideoGenerator with geometry="mesh" has a fused form.')
        self.stride, self.dtype, self.vector_dim = network.config.stem_stride, dtype, network.config.vector_dim
        self.guide_channels = network.config.guide_channels
        blocks = [block for block in network.modules() if isinstance(block, ConvBlock)]  # in order of use
        self._modulation = _joint_modulation(blocks)
        starts = np.cumsum([0] + [2 * block.conv.out_channels for block in blocks]).tolist()
        steps = iter([_Block(block.conv, dtype, start) for block, start in zip(blocks, starts, strict=False)])
        self._stem = next(steps)
        self._down = [next(steps) for _ in network.down_blocks]
        self._middle = [(next(steps), next(steps)) for _ in network.mid_blocks]
        links = [_Conv(cast(nn.Conv2d, block.link), dtype) for block in network.up_blocks]
        self._up = [(link, next(steps), next(steps)) for link in links]
        self._last = _Conv(network.conv_out, torch.float32)
        self._last.padding = (0, 0)  # its input has the border already
        for parameter in (self._last.weight, self._last.bias):
            cast(torch.Tensor, parameter)[3 * self.stride**2 :] *= 0.5  # sigmoid(mask) = (1 + tanh(mask / 2)) / 2
        self._split_stem(cast(nn.Conv2d, network.stem.conv), source_image.float())

    def _split_stem(self, conv: nn.Conv2d, source: torch.Tensor) -> None:
        """Precompute the source's share of the first convolution."""
        own = 3 * self.stride**2
        weight, bias = conv.weight.float(), cast(torch.Tensor, conv.bias).float()
        share = F.conv2d(F.pixel_unshuffle(source, self.stride), weight[:, :own], bias, padding=1)
        self._from_source = share[0].permute(1, 2, 0).contiguous().numpy()
        self._stem.weight = _channels_last(weight[:, own:].to(self.dtype))
        self._stem.bias = None

    @torch.inference_mode()
    def __call__(
        self, vectors: torch.Tensor, warped: torch.Tensor | None, guide: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute frames, see `Decoder`.

        Raises:
            ValueError: If the shapes do not fit.
        """
        # 1. Check the inputs.
        size = tuple(side * self.stride for side in self._from_source.shape[:2])
        if warped is None:
            raise ValueError(f"warped is missing; it must have the shape (n, 3, {size[0]}, {size[1]}).")
        if guide is None:
            guide = warped.new_empty((len(warped), 0, *size))
        shapes = tuple(vectors.shape), tuple(warped.shape), tuple(guide.shape)
        n = len(vectors)
        wanted = (n, self.vector_dim), (n, 3, *size), (n, self.guide_channels, *size)
        if shapes != wanted:
            raise ValueError(f"vectors, warped and guide must have the shapes {wanted}, not {shapes}.")
        # 2. Compute the modulation of all normalisations: (n, 2 · channels of all blocks).
        weight, bias = self._modulation
        modulation = F.linear(F.leaky_relu(vectors.float(), fused_loops.LEAK), weight, bias).numpy()
        # 3. Execute the network, a few frames at a time.
        pictures, guides = warped.float().contiguous().numpy(), guide.float().contiguous().numpy()
        residual, mask = torch.zeros(n, 3, *size), torch.zeros(n, 1, *size)
        for start in range(0, n, AT_ONCE):
            part = slice(start, start + AT_ONCE)
            made = residual[part].numpy(), mask[part].numpy()
            self._draw(modulation[part], pictures[part], guides[part], *made)
        return residual, mask

    def _draw(
        self, modulation: np.ndarray, warped: np.ndarray, guide: np.ndarray, residual: np.ndarray, mask: np.ndarray
    ) -> None:
        """Fill residual and mask where painted."""
        box = self._box(guide)
        if not box:
            return
        # 1. Stem and encoder.
        x, skips = self._begin(modulation, warped, guide), []
        for block in self._down:
            skips.append(x)
            y = block(x)
            x = self._map(y, y.shape[2] // 2, y.shape[3] // 2)
            fused_loops.activate_pooled(_array(y), modulation, block.start, _array(x))
        # 2. Residual blocks.
        for first, second in self._middle:
            y = first(x)
            fused_loops.activate(_array(y), modulation, first.start, _array(y))
            y = second(y)
            fused_loops.activate_onto(_array(y), modulation, second.start, _array(x))
        # 3. Decoder with skips; the last activation waits for the box.
        for link, up, join in self._up:
            y, skip = up(x), skips.pop()
            z = self._map(y, y.shape[2], y.shape[3], y.shape[1] + skip.shape[1])
            fused_loops.activate_joined(_array(y), modulation, up.start, _array(link(x)), _array(skip), _array(z))
            x = join(z)
            if skips:
                fused_loops.activate(_array(x), modulation, join.start, _array(x))
        # 4. The last convolution, within the box that is painted.
        top, bottom, left, right = box
        framed = self._map(x, bottom - top + 2, right - left + 2, dtype=torch.float32)
        fused_loops.activate_framed(_array(x), modulation, join.start, top, left, _array(framed))
        painted = torch.tanh(self._last(framed).permute(0, 2, 3, 1)).numpy()
        fused_loops.blend(painted, warped, guide, self.stride, top, left, residual, mask)

    def _begin(self, modulation: np.ndarray, warped: np.ndarray, guide: np.ndarray) -> torch.Tensor:
        height, width = self._from_source.shape[:2]
        channels = (3 + self.guide_channels) * self.stride**2
        x = torch.empty((len(warped), height, width, channels), dtype=self.dtype).permute(0, 3, 1, 2)
        fused_loops.pack(warped, self.stride, 0, _array(x))
        fused_loops.pack(guide, self.stride, 3 * self.stride**2, _array(x))
        x = self._stem(x)
        fused_loops.add(self._from_source, _array(x))
        fused_loops.activate(_array(x), modulation, self._stem.start, _array(x))
        return x

    def _box(self, guide: np.ndarray) -> tuple[int, int, int, int] | None:
        """Return rows and columns of the painted box, start and stop."""
        height, width = self._from_source.shape[:2]
        if not self.guide_channels:
            return 0, height, 0, width
        top, bottom, left, right = fused_loops.painted_box(guide)
        if top == bottom:
            return None
        return *_rounded_up(top, bottom, self.stride, height), *_rounded_up(left, right, self.stride, width)

    def _map(
        self, like: torch.Tensor, height: int, width: int, channels: int = 0, dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        """Allocate a channels-last map."""
        shape = len(like), height, width, channels or like.shape[1]
        return torch.empty(shape, dtype=dtype or self.dtype).permute(0, 3, 1, 2)


class _Conv:
    """Convolution with its weights in another dtype."""

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d, dtype: torch.dtype):
        self.weight = _channels_last(conv.weight.detach().to(dtype, copy=True))
        self.bias = None if conv.bias is None else conv.bias.detach().to(dtype, copy=True)
        self.stride, self.padding = conv.stride, conv.padding
        self.convolve: Callable = F.conv_transpose2d if isinstance(conv, nn.ConvTranspose2d) else F.conv2d

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        y = self.convolve(x, self.weight, self.bias, self.stride, self.padding)
        return _channels_last(y)  # as it already is where oneDNN computes PyTorch's convolutions


class _Block(_Conv):
    """Convolution, and the first index of its modulation."""

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d, dtype: torch.dtype, start: int):
        super().__init__(conv, dtype)
        self.start = start


def _joint_modulation(blocks: list[ConvBlock]) -> tuple[torch.Tensor, torch.Tensor]:
    """Join all modulation layers, gains first, with affine maps folded in."""
    weights, biases = [], []
    for block in blocks:
        gain, shift = block.adain.norm.weight.float(), block.adain.norm.bias.float()
        scale_weight, shift_weight = block.adain.linear.weight.float().chunk(2)
        scale_bias, shift_bias = block.adain.linear.bias.float().chunk(2)
        weights += [gain[:, None] * scale_weight, shift[:, None] * scale_weight + shift_weight]
        biases += [gain * (1 + scale_bias), shift * (1 + scale_bias) + shift_bias]
    return torch.cat(weights), torch.cat(biases)


def _rounded_up(first: int, stop: int, stride: int, size: int) -> tuple[int, int]:
    """Convert pixels to places, rounded up to `BOX`."""
    first, stop = first // stride, -(-stop // stride)
    length = min(-(-(stop - first) // BOX) * BOX, size)
    first = min(first, size - length)
    return first, first + length


def _channels_last(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _array(x: torch.Tensor) -> np.ndarray:
    """View a map as `(n, h, w, c)`, bfloat16 as int16."""
    x = x.permute(0, 2, 3, 1)
    return (x.view(torch.int16) if x.dtype == torch.bfloat16 else x).numpy()
