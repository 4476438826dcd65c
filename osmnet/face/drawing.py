"""Compiled loops of the mesh warp.

Maps are float32: `grid` `(2, height, width)`, x and y of each pixel's origin, and `depth` `(height, width)`.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from osmnet.utils.jit import compiled

# Lanczos interpolation, which keeps detail that bilinear sampling would halve: weights of 8 taps at each 1/32 of a
# pixel, as in OpenCV. Down the picture they are integers, because processors multiply pairs of 16 bits at once.
_STEPS, _TAPS, _PAD, _ONE = 32, 8, 8, 2**14
_taps = np.arange(_STEPS)[:, None] / _STEPS - np.arange(1 - _TAPS // 2, 1 + _TAPS // 2)
_lanczos = np.sinc(_taps) * np.sinc(_taps / (_TAPS // 2))
_lanczos /= _lanczos.sum(1, keepdims=True)
_whole = np.round(_ONE * _lanczos).astype(np.int16)
_whole[:, _TAPS // 2 - 1] += _ONE - _whole.sum(1, dtype=np.int16)  # an even colour stays as it is
_DOWN = _whole.ravel()
_ACROSS = np.repeat(_lanczos / _ONE, 4, axis=1).astype(np.float32).ravel()  # once for each of 4 channels
_HAIR = 1e-7  # px; exceeds the rounding of an edge
_FAR = np.finfo(np.float32).max  # a depth behind everything; fastmath excludes infinity


_compiled = compiled(fastmath=True, error_model="numpy")


def padded(image: np.ndarray) -> np.ndarray:
    """Prepare a uint8 picture `(height, width, 3)` for `sample`: int16 `(height + 16, 8 * (width + 16))`."""
    # Repeat the edge, then add a fourth channel and, beside each number, the one below it.
    wide = np.pad(image, ((_PAD, _PAD + 1), (_PAD, _PAD), (0, 0)), mode="edge")
    wide = np.pad(wide, ((0, 0), (0, 0), (0, 1))).astype(np.int16)
    return np.stack([wide[:-1], wide[1:]], -1).reshape(len(wide) - 1, -1)


@_compiled
def rasterise(
    points: np.ndarray, triangles: np.ndarray, origin: np.ndarray, grid: np.ndarray, depth: np.ndarray
) -> None:
    """Draw triangles into a map of origins, with a z-buffer.

    Args:
        points (`np.ndarray` of shape `(n, 3)`): Targets of the corners: x, y, z in pixels, float64.
        triangles (`np.ndarray` of shape `(triangles, 3)`): Their corners, int32.
        origin (`np.ndarray` of shape `(n, 2)`): Origins of the corners: x, y in pixels, float64.
        grid (`np.ndarray` of shape `(2, height, width)`): Changed.
        depth (`np.ndarray` of shape `(height, width)`): Changed.
    """
    height, width = depth.shape
    for k in range(triangles.shape[0]):
        # Sort the corners from top to bottom. Triangles with a common edge both follow it from its upper end, so they
        # split the pixels between them exactly.
        a, b, c = triangles[k, 0], triangles[k, 1], triangles[k, 2]
        if points[b, 1] < points[a, 1]:
            a, b = b, a
        if points[c, 1] < points[b, 1]:
            b, c = c, b
            if points[b, 1] < points[a, 1]:
                a, b = b, a
        ax, ay, bx, by, cx, cy = points[a, 0], points[a, 1], points[b, 0], points[b, 1], points[c, 0], points[c, 1]
        area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
        if area * area < 1e-12:
            continue
        # Rows whose pixel centres lie within, plus a hair, so that no pixel falls between two triangles.
        top, bottom = ay - 0.5 - _HAIR, cy - 0.5 + _HAIR
        if bottom < 0:
            continue
        first = int(top) + 1 if top >= 0 else 0
        last = int(bottom) if bottom < height else height - 1
        # Steps of z and of the origin from pixel to pixel.
        vx, vy, wx, wy = (cy - ay) / area, (ax - cx) / area, (ay - by) / area, (bx - ax) / area
        az, bz, cz = points[a, 2], points[b, 2] - points[a, 2], points[c, 2] - points[a, 2]
        au, bu, cu = origin[a, 0], origin[b, 0] - origin[a, 0], origin[c, 0] - origin[a, 0]
        av, bv, cv = origin[a, 1], origin[b, 1] - origin[a, 1], origin[c, 1] - origin[a, 1]
        z_right, u_right = np.float32(bz * vx + cz * wx), np.float32(bu * vx + cu * wx)
        v_right = np.float32(bv * vx + cv * wx)
        long = (cx - ax) / (cy - ay)
        upper = (bx - ax) / (by - ay) if by > ay else 0.0
        lower = (cx - bx) / (cy - by) if cy > by else 0.0
        for y in range(first, last + 1):
            down = y + 0.5 - ay
            one = ax + down * long
            other = ax + down * upper if y + 0.5 < by else bx + (y + 0.5 - by) * lower
            if other < one:
                one, other = other, one
            left, right = one - 0.5 - _HAIR, other - 0.5 + _HAIR
            if right < 0:
                continue
            x_first = int(left) + 1 if left >= 0 else 0
            x_last = int(right) if right < width else width - 1
            along = x_first + 0.5 - ax
            v, w = along * vx + down * vy, along * wx + down * wy
            z_left, u_left = np.float32(az + v * bz + w * cz), np.float32(au + v * bu + w * cu)
            v_left = np.float32(av + v * bv + w * cv)
            for i in range(x_last + 1 - x_first):
                x, step = x_first + i, np.float32(i)
                z = z_left + step * z_right
                if z < depth[y, x]:
                    depth[y, x] = z
                    grid[0, y, x] = u_left + step * u_right
                    grid[1, y, x] = v_left + step * v_right


@_compiled
def stay(grid: np.ndarray, depth: np.ndarray) -> None:
    """Reset a map so that each pixel is its own origin."""
    height, width = depth.shape
    for y in range(height):
        for x in range(width):
            depth[y, x] = _FAR
            grid[0, y, x] = np.float32(x) + np.float32(0.5)
            grid[1, y, x] = np.float32(y) + np.float32(0.5)


@intrinsic
def _weighted_sum(typing_context, picture, start, stride, down, v, across, u, row, place):
    """Store one pixel, a weighted sum of 8 × 8 pixels, as four bytes at `row[place]`."""
    # The pixels start at `picture[start]`, the next row `stride` further; the weights at `down[v]` and `across[u]`.
    # LLVM's vector instructions take half the time of a compiled loop.
    index, lane, real = types.int64, ir.IntType(32), ir.FloatType()
    signature = types.void(picture, index, index, down, index, across, index, row, index)

    def generate(context, builder, signature, arguments):
        count = 4 * _TAPS

        def load(argument, offset, kind, size, spread=1):
            array = context.make_array(signature.args[argument])(context, builder, arguments[argument])
            vector = ir.VectorType(kind, size)
            value = builder.load(builder.bitcast(builder.gep(array.data, [offset]), vector.as_pointer()))
            value.align = kind.width // 8 if isinstance(kind, ir.IntType) else 4
            return pick(value, list(range(size)) * spread)

        def pick(vector, lanes):
            which = ir.Constant(ir.VectorType(lane, len(lanes)), list(lanes))
            return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), which)

        def constant(value, kind):
            return ir.Constant(ir.VectorType(kind, 4), [value] * 4)

        # Two rows at a time: multiplying and adding neighbours is a single instruction.
        total, offset, weight = None, arguments[1], arguments[4]
        for _ in range(_TAPS // 2):
            wide = ir.VectorType(lane, 2 * count)
            rows = builder.sext(load(0, offset, ir.IntType(16), 2 * count), wide)
            weights = builder.sext(load(3, weight, ir.IntType(16), 2, spread=count), wide)
            product = builder.mul(rows, weights, flags=("nsw",))
            pairs = builder.add(pick(product, range(0, 2 * count, 2)), pick(product, range(1, 2 * count, 2)))
            total = pairs if total is None else builder.add(total, pairs)
            offset = builder.add(offset, builder.shl(arguments[2], arguments[2].type(1)))
            weight = builder.add(weight, weight.type(2))
        total = builder.sitofp(total, ir.VectorType(real, count))
        total = builder.fmul(total, load(5, arguments[6], real, count), flags=("fast",))
        while count > 4:
            count //= 2
            total = builder.fadd(pick(total, range(count)), pick(total, range(count, 2 * count)), flags=("fast",))
        # Round to the nearest of 0 to 255.
        total = builder.fadd(total, constant(0.5, real), flags=("fast",))
        for limit, comparison in ((0.0, ">"), (255.0, "<")):
            inside = builder.fcmp_ordered(comparison, total, constant(limit, real), flags=("fast",))
            total = builder.select(inside, total, constant(limit, real))
        colour = builder.trunc(builder.fptosi(total, ir.VectorType(lane, 4)), ir.VectorType(ir.IntType(8), 4))
        array = context.make_array(signature.args[7])(context, builder, arguments[7])
        stored = builder.store(
            colour, builder.bitcast(builder.gep(array.data, [arguments[8]]), colour.type.as_pointer())
        )
        stored.align = 1
        return context.get_dummy_value()

    return signature, generate


@_compiled
def sample(picture: np.ndarray, grid: np.ndarray, frame: np.ndarray) -> None:
    """Fill a uint8 frame `(height, width, 3)` from a `padded` picture by Lanczos interpolation."""
    height, width = frame.shape[:2]
    stride = picture.shape[1]
    # Beyond these limits there is only the repeated edge.
    lowest, highest_x, highest_y = np.float32(-3.5), np.float32(stride // 8 - 13), np.float32(len(picture) - 13)
    # Steps are counted from 8 pixels before the picture, where truncation is rounding.
    steps, zero = np.float32(_STEPS), np.float32((_PAD - 0.5) * _STEPS + 0.5)
    picture, rows = picture.ravel(), frame.reshape(height, 3 * width)
    start, phase = np.empty(width, np.int32), np.empty(width, np.int32)
    row = np.empty(3 * width + 1, np.uint8)  # the fourth channel goes where the next pixel begins
    for y in range(height):
        # 1. Limit each origin and round it to 1/32 of a pixel. Short loops over few arrays become vector instructions.
        for x in range(width):
            at_x, at_y = grid[0, y, x], grid[1, y, x]
            at_x = lowest if at_x < lowest else highest_x if at_x > highest_x else at_x
            at_y = lowest if at_y < lowest else highest_y if at_y > highest_y else at_y
            step_x, step_y = np.int32(at_x * steps + zero), np.int32(at_y * steps + zero)
            start[x] = ((step_y >> 5) - 3) * stride + 8 * ((step_x >> 5) - 3)
            phase[x] = (step_y & 31) << 5 | (step_x & 31)
        # 2. Weight the 8 × 8 pixels around it.
        for x in range(width):
            if phase[x]:
                v, u = (phase[x] >> 5) * _TAPS, (phase[x] & 31) * 4 * _TAPS
                _weighted_sum(picture, start[x], stride, _DOWN, v, _ACROSS, u, row, 3 * x)  # type: ignore[call-arg]
            else:  # a pixel's centre
                whole = start[x] + 3 * stride + 24
                for c in range(3):
                    row[3 * x + c] = np.uint8(picture[whole + 2 * c])
        for k in range(3 * width):
            rows[y, k] = row[k]


@_compiled
def soften(grid: np.ndarray, far: float, frame: np.ndarray) -> None:
    """Smooth a uint8 frame where neighbours' origins are more than `far` px apart."""
    height, width = frame.shape[:2]
    limit = np.float32(far)
    # 1. Find the pixels.
    jumps, found, count = np.empty(width, np.uint8), np.empty(height * width, np.int32), 0
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            jump = False
            for k in range(2):
                here = grid[k, y, x]
                left, right = grid[k, y, x - 1] - here, grid[k, y, x + 1] - here
                above, below = grid[k, y - 1, x] - here, grid[k, y + 1, x] - here
                jump |= (left > limit) | (right > limit) | (above > limit) | (below > limit)
                jump |= (left < -limit) | (right < -limit) | (above < -limit) | (below < -limit)
            jumps[x] = jump
        for x in range(1, width - 1):
            found[count] = y * width + x
            count += jumps[x]
    # 2. Smooth them by a 3 × 3 binomial filter.
    smooth = np.empty((count, 3), np.uint8)  # all pixels are read before any is changed
    for i in range(count):
        y, x = found[i] // width, found[i] % width
        for c in range(3):
            total = 4 * frame[y, x, c] + 8
            total += 2 * (frame[y, x - 1, c] + frame[y, x + 1, c] + frame[y - 1, x, c] + frame[y + 1, x, c])
            total += frame[y - 1, x - 1, c] + frame[y - 1, x + 1, c]
            total += frame[y + 1, x - 1, c] + frame[y + 1, x + 1, c]
            smooth[i, c] = total // 16
    for i in range(count):
        for c in range(3):
            frame[found[i] // width, found[i] % width, c] = smooth[i, c]


@_compiled
def draw(
    picture: np.ndarray,
    points: np.ndarray,
    triangles: np.ndarray,
    origins: np.ndarray,
    far: float,
    frames: np.ndarray,
) -> None:
    """Draw uint8 frames `(frames, height, width, 3)`.

    See `rasterise`, `sample` and `soften`; `points` are `(frames, n, 3)`, `origins` `(frames, n, 2)`.
    """
    height, width = frames.shape[1:3]
    grid, depth = np.empty((2, height, width), np.float32), np.empty((height, width), np.float32)
    for i in range(len(frames)):
        stay(grid, depth)
        rasterise(points[i], triangles, origins[i], grid, depth)
        sample(picture, grid, frames[i])
        soften(grid, far, frames[i])
