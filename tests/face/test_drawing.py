"""Drawing: which triangle a pixel belongs to, what colour it gets and which outlines are smoothed."""

import cv2
import numpy as np
import pytest

from osmnet.face.drawing import draw, padded, rasterise, sample, soften, stay

SIZE = 96
# Pixel centres, (x, y).
IDENTITY = np.stack(np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5), -1)


@pytest.fixture(scope="module")
def image():
    noise = np.random.default_rng(0).uniform(-1, 1, (SIZE, SIZE, 3)).astype(np.float32)
    return np.clip(128 + 700 * cv2.GaussianBlur(noise, (0, 0), 3), 0, 255).astype(np.uint8)


def planes(grid):
    """`(height, width, 2)` to `(2, height, width)` float32."""
    return np.ascontiguousarray(np.moveaxis(grid, -1, 0), np.float32)


def test_the_nearer_triangle_wins_in_whatever_order_they_come():
    points = np.array([[0, 0, 5], [20, 0, 5], [0, 20, 5], [0, 0, 1], [12, 0, 1], [0, 12, 1]], float)
    origin = np.repeat([[100.0, 100], [200, 200]], 3, axis=0)
    for order in ([[0, 1, 2], [3, 4, 5]], [[3, 4, 5], [0, 1, 2]]):
        grid, depth = np.zeros((2, 24, 24), np.float32), np.full((24, 24), 1e9, np.float32)
        rasterise(points, np.array(order, np.int32), origin, grid, depth)
        assert grid[0, 3, 3] == pytest.approx(200) and depth[3, 3] == pytest.approx(1)
        assert grid[0, 12, 5] == pytest.approx(100) and grid[0, 20, 20] == 0
        # Pixels belong to the triangle that holds their centre: 11.5 + 0.5 still, 11.5 + 1.5 no more.
        assert grid[0, 11, 0] == pytest.approx(200) and grid[0, 11, 1] == pytest.approx(100)


def test_coordinates_are_interpolated_linearly():
    points = np.array([[2, 1, 0], [30, 4, 3], [7, 28, 9]], float)
    linear, offset = np.array([[1.3, -0.2], [0.4, 0.7]]), np.array([5.0, -3])
    grid, depth = np.full((2, 32, 32), np.nan, np.float32), np.full((32, 32), 1e9, np.float32)
    rasterise(points, np.array([[0, 1, 2]], np.int32), points[:, :2] @ linear.T + offset, grid, depth)
    y, x = np.nonzero(~np.isnan(grid[0]))
    assert len(x) > 200
    centres = np.stack([x + 0.5, y + 0.5], -1)
    np.testing.assert_allclose(grid[:, y, x].T, centres @ linear.T + offset, atol=1e-4)


def test_colours_are_those_of_lanczos_interpolation(image):
    rng = np.random.default_rng(1)
    grid = (IDENTITY + rng.uniform(-9, 9, IDENTITY.shape)).astype(np.float32)
    grid[:3, :3] = [[-500, 90], [90, 1e6], [SIZE, 0]]  # beyond the edge, which is repeated
    frame = np.empty_like(image)
    sample(padded(image), planes(grid), frame)
    maps = grid - np.float32(0.5)
    expected = cv2.remap(image, maps[..., 0], maps[..., 1], cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REPLICATE)
    difference = np.abs(frame.astype(int) - expected)
    assert difference.max() <= 2 and (difference > 0).mean() < 0.02
    sample(padded(image), planes(IDENTITY), frame)
    np.testing.assert_array_equal(frame, image)


@pytest.mark.parametrize("size", [32, 40])
@pytest.mark.parametrize("shift", [0.0, 0.5, 0.31])
def test_triangles_with_common_edges_leave_no_pixel_between_them(size, shift):
    # A crumpled sheet that reaches over the edges; with shifts of 0 and 0.5 corners meet pixels' edges and centres.
    rng = np.random.default_rng(size)
    count = 9
    places = np.stack(np.meshgrid(np.linspace(-8, 40, count), np.linspace(-8, 40, count)), -1)
    if shift == 0.31:
        places[1:-1, 1:-1] += rng.uniform(-2.9, 2.9, (count - 2, count - 2, 2))
    points = np.concatenate([places.reshape(-1, 2) + shift, np.zeros((count**2, 1))], 1)
    first = (np.arange(count - 1)[:, None] * count + np.arange(count - 1)).ravel()
    triangles = np.concatenate(
        [first[:, None] + (0, 1, count), first[:, None] + (count + 1, count, 1)], dtype=np.int32, casting="unsafe"
    )
    rng.shuffle(triangles)
    origin = points[:, :2] * 1.0
    grid, depth = np.full((2, 32, size), np.nan, np.float32), np.full((32, size), 1e9, np.float32)
    rasterise(points, triangles, origin, grid, depth)
    assert (depth[:, :31] == 0).all()
    x, y = np.arange(31) + 0.5, np.arange(32)[:, None] + 0.5
    assert np.abs(grid[0, :, :31] - x).max() < 1e-4 and np.abs(grid[1, :, :31] - y).max() < 1e-4


def test_what_lies_outside_is_not_drawn():
    triangle = np.array([[0, 1, 2]], np.int32)
    for shift in ((-40, 0), (40, 0), (0, -40), (0, 40), (-1e6, 3), (5, 1e6)):
        points = np.array([[2, 2, 0], [20, 4, 0], [7, 20, 0]], float) + (*shift, 0)
        grid, depth = np.full((2, 24, 24), np.nan, np.float32), np.full((24, 24), 1e9, np.float32)
        rasterise(points, triangle, points[:, :2].copy(), grid, depth)
        assert np.isnan(grid).all() and (depth == np.float32(1e9)).all()
    # Nor what has no area: a line, a point.
    for points in (np.array([[2, 2, 0], [9, 9, 0], [20, 20, 0.0]]), np.full((3, 3), 7.5)):
        rasterise(points, triangle, points[:, :2].copy(), grid, depth)
        assert np.isnan(grid).all()


def test_outlines_are_softened_and_nothing_else():
    drawn = np.zeros((16, 16, 3), np.uint8)
    drawn[:, 8:] = 160
    grid = np.stack(np.meshgrid(np.arange(16.0), np.arange(16.0)), -1).astype(np.float32)
    frame = drawn.copy()
    soften(planes(grid), 2.0, frame)
    assert np.array_equal(frame, drawn)  # neighbours come from neighbours: no outline, whatever the colours
    grid[:, 8:, 0] += 50
    soften(planes(grid), 2.0, frame)
    assert (frame[1:-1, 7] == 40).all() and (frame[1:-1, 8] == 120).all()  # weights 1 : 2 : 1 across the edge
    frame[1:-1, 7:9] = drawn[1:-1, 7:9]
    assert np.array_equal(frame, drawn)


def test_frames_are_drawn_by_the_three_steps(image):
    corners = np.array([[0, 0], [SIZE, 0], [0, SIZE], [SIZE, SIZE], [20, 30], [70, 25], [40, 80]], float)
    triangles = np.array([[0, 1, 2], [3, 2, 1], [4, 5, 6]], np.int32)
    height = np.array([9.0, 9, 9, 9, 0, 0, 0])[:, None]
    points = np.stack([np.concatenate([corners + shift, height], 1) for shift in (0.0, 3.3)])
    origins = np.stack([corners, corners[:, ::-1]])
    drawn = np.empty((2, *image.shape), np.uint8)
    draw(padded(image), points, triangles, origins, 2.0, drawn)
    for i, frame in enumerate(drawn):
        grid, depth = np.empty((2, SIZE, SIZE), np.float32), np.empty((SIZE, SIZE), np.float32)
        stay(grid, depth)
        rasterise(points[i], triangles, origins[i], grid, depth)
        expected = np.empty_like(image)
        sample(padded(image), grid, expected)
        soften(grid, 2.0, expected)
        np.testing.assert_array_equal(frame, expected)
    assert (drawn[0] != image).any(-1).mean() < 0.1 < (drawn[1] != image).any(-1).mean()
