"""The mouth window: where it lies, how it is cut out and painted back."""

import numpy as np
import pytest

from osmnet.face.morphable import FaceModel
from osmnet.face.mouth import (
    DROP,
    GUIDE_CHANNELS,
    WINDOW_WIDTH,
    apply_affine,
    cut_window,
    guide,
    guides,
    paint_window,
    window_affine,
)
from osmnet.face.pose import similarity_from_pose
from osmnet.face.topology import INNER_LIPS, NUM_VERTICES, OUTER_LIPS, UPPER_LIP

ANCHOR = np.array([0.0, 0.55, -0.9])
SIZE, WINDOW = 192, 64
POSES = np.array([[0, 0, 0, 0, 0, 0], [0.3, -0.2, 0.4, 0.2, -0.1, 1.0], [-0.4, 0.1, -0.6, 0, 0.2, -2]], float)


def similarity():
    return similarity_from_pose(POSES, SIZE)


def smooth_picture(size=SIZE):
    y, x = np.mgrid[:size, :size] / size
    return np.stack([255 * x, 255 * y, 128 + 90 * np.sin(9 * x) * np.cos(7 * y)], -1).astype(np.uint8)


def lips(opening, centre=(32.0, 32.0)):
    """Vertices with elliptic lips, `opening` pixels between the inner ones."""
    points = np.zeros((NUM_VERTICES, 2))
    for loop, wide, high in ((INNER_LIPS, 14, opening / 2), (OUTER_LIPS, 18, opening / 2 + 5)):
        angle = np.pi - 2 * np.pi * np.arange(len(loop)) / len(loop)  # right corner, lower lip, left corner, upper lip
        points[loop] = np.array(centre) + np.stack([wide * np.cos(angle), high * np.sin(angle)], -1)
    return points


def test_affine_by_hand_for_a_head_that_looks_straight_ahead():
    affine = window_affine(ANCHOR, similarity(), WINDOW)[0]
    scale = similarity().scale[0]
    zoom = WINDOW / (WINDOW_WIDTH * scale)
    x, y = SIZE / 2, SIZE / 2 + scale * (ANCHOR[1] + DROP)
    np.testing.assert_allclose(affine, [[zoom, 0, WINDOW / 2 - zoom * x], [0, zoom, WINDOW / 2 - zoom * y]], atol=1e-9)


def test_window_is_centred_below_the_lips_and_as_wide_as_said_whatever_the_pose():
    affine, placed = window_affine(ANCHOR, similarity(), WINDOW), similarity()
    centre = placed.place(np.broadcast_to(ANCHOR + (0, DROP, 0), (3, 1, 3)))[..., :2]
    np.testing.assert_allclose(apply_affine(affine, centre), np.full((3, 1, 2), WINDOW / 2), atol=1e-9)
    unit = np.linalg.norm(affine[:, 0, :2], axis=1) * placed.scale  # a head unit in pixels of the window
    np.testing.assert_allclose(unit, WINDOW / WINDOW_WIDTH)
    # A similarity: no shear, no mirror.
    product = affine[:, :, :2] @ np.swapaxes(affine[:, :, :2], -1, -2)
    np.testing.assert_allclose(product, np.linalg.det(affine[:, :, :2])[:, None, None] * np.eye(2), atol=1e-9)


def test_window_is_upright_in_the_heads_own_roll():
    pose = np.zeros((5, 6))
    pose[:, 2] = np.linspace(-1, 1, 5)
    placed = similarity_from_pose(pose, SIZE)
    ends = np.array([[-0.4, 0.5, -0.9], [0.4, 0.5, -0.9]])
    seen = apply_affine(window_affine(ANCHOR, placed, WINDOW), placed.place(np.broadcast_to(ends, (5, 2, 3)))[..., :2])
    np.testing.assert_allclose(seen, np.broadcast_to(seen[2], seen.shape), atol=1e-9)  # the same at every roll
    assert seen[0, 0, 1] == pytest.approx(seen[0, 1, 1]) and seen[0, 0, 0] < seen[0, 1, 0]


def test_a_point_of_the_head_stays_in_the_window_while_the_head_moves_in_the_picture():
    pose = np.random.default_rng(0).uniform(-0.5, 0.5, (20, 6)) * (0, 0, 1, 1, 1, 5)
    placed = similarity_from_pose(pose, SIZE)
    teeth = placed.place(np.broadcast_to(ANCHOR + (0.1, -0.05, 0), (20, 1, 3)))[..., :2]
    seen = apply_affine(window_affine(ANCHOR, placed, WINDOW), teeth)
    np.testing.assert_allclose(seen, np.broadcast_to(seen[0], seen.shape), atol=1e-9)


def test_window_is_fixed_to_the_skull_under_jaw_motion(repository):
    model = FaceModel.from_pretrained(repository / "weights_card" / "face_model")
    shape = model.array("mean_shape").astype(float)
    opened = shape.copy()
    opened[shape[:, 1] > shape[UPPER_LIP, 1] + 0.01, 1] += 0.2  # the jaw drops
    size, placed = 256, similarity_from_pose(np.array([0.1, 0.05, 0.1, 0.05, 0.1, 0.5]), 256)
    affines = []
    for seen in (shape, opened):
        fit = model.fit(placed.place(seen), size)
        np.testing.assert_allclose(fit.head_pose, [0.1, 0.05, 0.1, 0.05, 0.1, 0.5], atol=1e-3)
        affines.append(
            window_affine(model.mouth_anchor(np.zeros(40)), type(placed)(*(p[None] for p in fit.similarity)), 96)
        )
    np.testing.assert_allclose(affines[0], affines[1], atol=0.05)


def test_affine_round_trip_of_points():
    affine = window_affine(ANCHOR, similarity(), WINDOW)
    points = np.random.default_rng(1).uniform(0, SIZE, (3, 10, 2))
    inverse = np.linalg.inv(np.concatenate([affine, np.broadcast_to([[[0, 0, 1.0]]], (3, 1, 3))], 1))[:, :2]
    np.testing.assert_allclose(apply_affine(inverse, apply_affine(affine, points)), points, atol=1e-9)


@pytest.mark.parametrize("frame", range(3))
@pytest.mark.parametrize("window", [40, 150])
def test_window_that_is_cut_out_and_painted_back_is_the_picture_again(frame, window):
    image = smooth_picture()
    affine = window_affine(ANCHOR, similarity(), window)[frame]
    cut = cut_window(image, affine, window)
    assert cut.shape == (window, window, 3) and cut.dtype == np.uint8
    again = image.copy()
    mask = np.ones((window, window), np.float32)
    paint_window(again, cut.astype(np.float32), mask, affine)
    difference = np.abs(again.astype(int) - image).max(-1)
    # The window's outline is half covered by nothing: away from it the picture must come back.
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    inside = apply_affine(affine[None], np.stack([x, y], -1).reshape(1, -1, 2))[0].reshape(SIZE, SIZE, 2)
    margin = 2 * max(1, window / SIZE * 3.6 / WINDOW_WIDTH)
    inner = (inside > margin).all(-1) & (inside < window - margin).all(-1)
    outer = (inside < -margin).any(-1) | (inside > window + margin).any(-1)
    assert inner.sum() > 500
    assert difference[inner].max() <= 4
    assert difference[outer].max() == 0


def test_cut_window_samples_where_the_map_says():
    image = smooth_picture()
    affine = window_affine(ANCHOR, similarity(), WINDOW)[1]
    centres = np.stack(np.meshgrid(np.arange(WINDOW) + 0.5, np.arange(WINDOW) + 0.5), -1).reshape(-1, 2)
    origin = (centres - affine[:, 2]) @ np.linalg.inv(affine[:, :2]).T  # in pixels of the picture
    inside = ((origin > 1) & (origin < SIZE - 1)).all(1)
    expected = 255 * (origin - 0.5) / SIZE  # red is x, green is y
    seen = cut_window(image, affine, WINDOW).reshape(-1, 3)[:, :2]
    assert np.abs(seen - expected)[inside].max() < 2


def test_mask_of_zero_leaves_the_picture_as_it_is():
    image = np.random.default_rng(2).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    for affine in window_affine(ANCHOR, similarity(), WINDOW):
        changed = image.copy()
        paint_window(
            changed, np.zeros((WINDOW, WINDOW, 3), np.float32), np.zeros((WINDOW, WINDOW), np.float32), affine
        )
        np.testing.assert_array_equal(changed, image)


def test_blending_is_exact_where_pixels_coincide():
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (50, 60, 3), np.uint8)
    colour = rng.uniform(0, 255, (20, 20, 3)).astype(np.float32)
    mask = rng.uniform(0, 1, (20, 20)).astype(np.float32)
    affine = np.array([[1.0, 0, -31], [0, 1.0, -12]])  # the window's first pixel is (31, 12)
    expected = image.astype(float)
    expected[12:32, 31:51] = expected[12:32, 31:51] * (1 - mask[..., None]) + colour * mask[..., None]
    painted = image.copy()
    paint_window(painted, colour * mask[..., None], mask, affine)
    assert np.abs(painted - expected).max() <= 0.5 + 1e-3  # nothing but rounding
    outside = np.ones((50, 60), bool)
    outside[12:32, 31:51] = False
    np.testing.assert_array_equal(painted[outside], image[outside])


@pytest.mark.parametrize("shift", [(-35, 10), (10, -45), (45, 40), (-200, 0), (0, 300)])
def test_window_may_reach_over_the_edge_of_the_picture(shift):
    image = np.zeros((50, 60, 3), np.uint8)
    affine = np.array([[1.0, 0, -shift[0]], [0, 1.0, -shift[1]]])
    paint_window(image, np.full((40, 40, 3), 200, np.float32), np.ones((40, 40), np.float32), affine)
    expected = np.zeros((50, 60), bool)
    x, y = shift
    expected[max(y, 0) : max(y + 40, 0), max(x, 0) : max(x + 40, 0)] = True
    np.testing.assert_array_equal(image[..., 0], np.where(expected, 200, 0))


def test_guide_shows_mouth_and_lips():
    channels = guide(lips(12), lips(4), 64)
    assert channels.shape == (GUIDE_CHANNELS, 64, 64) and channels.dtype == np.float32
    assert channels.min() >= 0 and channels.max() <= 1
    paint, inside, whole, source = channels
    for channel, high in ((inside, 6), (source, 2)):  # the ellipse's area; OpenCV draws its outline, too
        assert np.pi * 14 * high * 0.97 < channel.sum() < np.pi * 14.9 * (high + 0.9)
    assert (whole >= inside).all() and whole.sum() > 1.5 * inside.sum()
    # The centre of what is drawn is where the lips are: pixel centres at one half.
    for channel in (inside, whole):
        weights = channel / channel.sum()
        assert (weights.sum(0) * (np.arange(64) + 0.5)).sum() == pytest.approx(32, abs=0.15)
        assert (weights.sum(1) * (np.arange(64) + 0.5)).sum() == pytest.approx(32, abs=0.15)


def test_the_network_may_paint_the_inside_of_the_mouth_and_no_more_than_a_rim():
    paint, inside = guide(lips(12), lips(4), 128)[:2]
    assert paint[inside == 1].min() > 0.5
    y, x = np.mgrid[:128, :128]
    far = ((x + 0.5 - 32) / 26) ** 2 + ((y + 0.5 - 32) / 18) ** 2 > 1
    assert paint[far].max() < 0.02


def test_guide_is_gone_at_the_windows_edge():
    paint = guide(lips(30, centre=(4.0, 60.0)), lips(4), 64)[0]
    assert max(paint[:, 0].max(), paint[-1].max(), paint[0].max(), paint[:, -1].max()) < 0.11
    assert paint.max() > 0.5


def test_guides_of_frames_are_those_of_each():
    targets = np.stack([lips(12), lips(3, centre=(30.0, 40.0)), lips(20)])
    together = guides(targets, lips(4), 64)
    for channels, points in zip(together, targets, strict=True):
        np.testing.assert_array_equal(channels, guide(points, lips(4), 64))


def test_only_what_the_mask_covers_is_painted_and_as_if_all_were():
    rng = np.random.default_rng(4)
    image = rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    mask = np.zeros((WINDOW, WINDOW), np.float32)
    mask[20:33, 14:50] = rng.uniform(0, 1, (13, 36))
    painted = rng.uniform(0, 255, (WINDOW, WINDOW, 3)).astype(np.float32) * mask[..., None]
    everywhere = mask.copy()
    everywhere[[0, 0, -1, -1], [0, -1, 0, -1]] = 1e-9  # covers nothing, but the whole window has to be placed
    for affine in window_affine(ANCHOR, similarity(), WINDOW):
        part, whole = image.copy(), image.copy()
        paint_window(part, painted, mask, affine)
        paint_window(whole, painted, everywhere, affine)
        difference = np.abs(part.astype(int) - whole)
        assert difference.max() <= 1 and (difference > 0).mean() < 1e-3 < (part != image).mean()
