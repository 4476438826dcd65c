"""Compiled loops between the convolutions of the video generator.

Maps are C-contiguous `(n, h, w, c)`, float32 or int16 with the bits of bfloat16. `modulation` `(n, numbers)`, float32,
holds c factors from `first` on, then c offsets.
"""

from __future__ import annotations

import numba
import numpy as np
from numba.extending import overload

from osmnet.utils.jit import compiled

# A loop reads a map twice, for its moments and for all else, and writes it once; PyTorch takes about eight passes and
# allocates a map in nearly each. Sums are taken in float32 or better.

LEAK = 0.2
EPSILON = 1e-5  # as `torch.nn.GroupNorm` has it


_compiled = compiled(fastmath=True)


def _number(value):
    """Read a map's entry as float32."""
    raise NotImplementedError


def _entry(out, number):
    """Convert float32 to an entry of `out`, bfloat16 to nearest even."""
    raise NotImplementedError


@overload(_number, inline="always")
def _overload_number(value):
    if value == numba.int16:
        return lambda value: np.uint32(np.uint32(np.uint16(value)) << np.uint32(16)).view(np.float32)
    return lambda value: value


@overload(_entry, inline="always")
def _overload_entry(out, number):
    if out.dtype == numba.int16:

        def entry(out, number):
            bits = np.float32(number).view(np.uint32)
            odd = np.uint32(np.uint32(bits >> np.uint32(16)) & np.uint32(1))
            return np.int16(np.uint32(np.uint32(np.uint32(bits + np.uint32(0x7FFF)) + odd) >> np.uint32(16)))

        return entry
    return lambda out, number: np.float32(number)


@_compiled
def _leaky(number):
    return max(number, np.float32(LEAK) * number)


@_compiled
def _affine(x, modulation, first):
    """Return factor and offset `(c,)` of normalisation and modulation, for a sample `(h, w, c)`."""
    height, width, channels = x.shape
    total, squares = 0.0, 0.0
    for row in range(height):
        a, b = np.float32(0), np.float32(0)
        for column in range(width):
            for k in range(channels):
                number = _number(x[row, column, k])
                a += number
                b += number * number
        total += a
        squares += b
    mean = total / x.size
    scale = 1 / np.sqrt(max(squares / x.size - mean * mean, 0.0) + EPSILON)
    factor, offset = np.empty(channels, np.float32), np.empty(channels, np.float32)
    for k in range(channels):
        factor[k] = scale * modulation[first + k]
        offset[k] = modulation[first + channels + k] - mean * factor[k]
    return factor, offset


@_compiled
def activate(x, modulation, first, out):
    """Normalise and modulate `x` `(n, h, w, c)`, apply leaky ReLU; `out` may be `x`."""
    batch, height, width, channels = x.shape
    for i in range(batch):
        factor, offset = _affine(x[i], modulation[i], first)
        for row in range(height):
            for column in range(width):
                for k in range(channels):
                    number = _leaky(_number(x[i, row, column, k]) * factor[k] + offset[k])
                    out[i, row, column, k] = _entry(out, number)


@_compiled
def activate_onto(x, modulation, first, out):
    """Add `activate` to `out` `(n, h, w, c)`."""
    batch, height, width, channels = x.shape
    for i in range(batch):
        factor, offset = _affine(x[i], modulation[i], first)
        for row in range(height):
            for column in range(width):
                for k in range(channels):
                    number = _leaky(_number(x[i, row, column, k]) * factor[k] + offset[k])
                    out[i, row, column, k] = _entry(out, number + _number(out[i, row, column, k]))


@_compiled
def activate_pooled(x, modulation, first, out):
    """Average `activate` over 2×2 places: `(n, h / 2, w / 2, c)`."""
    batch, height, width, channels = out.shape
    for i in range(batch):
        factor, offset = _affine(x[i], modulation[i], first)
        for row in range(height):
            for column in range(width):
                for k in range(channels):
                    total = np.float32(0)
                    for y in range(2):
                        for z in range(2):
                            number = _number(x[i, 2 * row + y, 2 * column + z, k])
                            total += _leaky(number * factor[k] + offset[k])
                    out[i, row, column, k] = _entry(out, total * np.float32(0.25))


@_compiled
def activate_joined(x, modulation, first, link, skip, out):
    """Add `link` `(n, h / 2, w / 2, c)` to `activate`, append the channels of `skip`."""
    batch, height, width, channels = x.shape
    for i in range(batch):
        factor, offset = _affine(x[i], modulation[i], first)
        for row in range(height):
            for column in range(width):
                for k in range(channels):
                    number = _leaky(_number(x[i, row, column, k]) * factor[k] + offset[k])
                    out[i, row, column, k] = _entry(out, number + _number(link[i, row // 2, column // 2, k]))
                for k in range(skip.shape[3]):
                    out[i, row, column, channels + k] = skip[i, row, column, k]


@_compiled
def activate_framed(x, modulation, first, top, left, out):
    """Compute `activate` in a box from `top`, `left` on, with one place around it.

    All of `x` `(n, h, w, c)` is normalised together; `out` `(n, rows + 2, columns + 2, c)` is 0 outside `x`.
    """
    batch, height, width, channels = x.shape
    for i in range(batch):
        factor, offset = _affine(x[i], modulation[i], first)
        for row in range(out.shape[1]):
            for column in range(out.shape[2]):
                y, z = top + row - 1, left + column - 1
                if 0 <= y < height and 0 <= z < width:
                    for k in range(channels):
                        number = _leaky(_number(x[i, y, z, k]) * factor[k] + offset[k])
                        out[i, row, column, k] = _entry(out, number)
                else:
                    out[i, row, column] = 0


@_compiled
def add(constant, out):
    """Add a float32 map `(h, w, c)` to each of `(n, h, w, c)`."""
    batch, height, width, channels = out.shape
    for i in range(batch):
        for row in range(height):
            for column in range(width):
                for k in range(channels):
                    number = _number(out[i, row, column, k]) + constant[row, column, k]
                    out[i, row, column, k] = _entry(out, number)


@_compiled
def pack(pictures, stride, first, out):
    """Apply `torch.nn.functional.pixel_unshuffle`, into channels of `out` from `first` on.

    From float32 `(n, c, H, W)` to `c * stride**2` channels of `(n, H / stride, W / stride, …)`.
    """
    batch, channels, height, width = pictures.shape
    for i in range(batch):
        for row in range(height // stride):
            for channel in range(channels):
                for y in range(stride):
                    line = pictures[i, channel, row * stride + y]
                    k = first + (channel * stride + y) * stride
                    for column in range(width // stride):
                        for x in range(stride):
                            out[i, row, column, k + x] = _entry(out, line[column * stride + x])


@_compiled
def painted_box(guide):
    """Return rows and columns, start and stop, where channel 0 of `guide` is not 0."""
    batch, _, height, width = guide.shape
    top, bottom, left, right = height, 0, width, 0
    for i in range(batch):
        for row in range(height):
            line = guide[i, 0, row]
            largest = np.float32(0)
            for column in range(width):
                largest = max(largest, line[column])
            if largest > 0:
                top, bottom = min(top, row), max(bottom, row + 1)
                column = 0
                while line[column] == 0:
                    column += 1
                left = min(left, column)
                column = width
                while line[column - 1] == 0:
                    column -= 1
                right = max(right, column)
    return (top, bottom, left, right) if bottom else (0, 0, 0, 0)


@_compiled
def blend(painted, warped, guide, stride, top, left, residual, mask):
    """Compute `residual` and `mask`, see `VideoGeneratorOutput`, in a box from place `top`, `left` on.

    `painted` `(n, rows, columns, 4 * stride**2)` holds tanh of colours and of half the mask's logit. Channel 0 of
    `guide` `(n, d, H, W)`, if any, confines the mask.
    """
    batch, rows, columns, _ = painted.shape
    area, half = stride * stride, np.float32(0.5)
    for i in range(batch):
        for row in range(rows):
            for y in range(stride):
                v = (top + row) * stride + y
                for column in range(columns):
                    for x in range(stride):
                        u, k = (left + column) * stride + x, y * stride + x
                        share = half + half * painted[i, row, column, 3 * area + k]
                        if guide.shape[1]:
                            share *= guide[i, 0, v, u]
                        mask[i, 0, v, u] = share
                        for channel in range(3):
                            colour = painted[i, row, column, channel * area + k]
                            residual[i, channel, v, u] = share * (colour - warped[i, channel, v, u])
