"""The square around the head and the way back into the picture."""

import numpy as np
import pytest

from osmnet.face.crop import CropBox, crop_box, extract, paste, paste_all, to_crop
from osmnet.face.topology import NUM_VERTICES, OVAL


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def head(x, y, radius=40.0):
    """Vertices whose oval is a circle in pixels."""
    landmarks = np.full((NUM_VERTICES, 3), (x, y, 0.0))
    angle = np.linspace(0, 2 * np.pi, len(OVAL), endpoint=False)
    landmarks[OVAL, 0] += radius * np.cos(angle)
    landmarks[OVAL, 1] += radius * np.sin(angle)
    return landmarks


BOXES = [CropBox(10, 20, 60), CropBox(-15, -7, 50), CropBox(80, 60, 64), CropBox(-20, -30, 200)]


@pytest.mark.parametrize("box", BOXES)
def test_crop_and_paste_gives_the_picture_back(box):
    image = picture(100, 120)
    before = image.copy()
    crop = extract(image, box)
    assert crop.shape == (box.side, box.side, 3) and crop.flags.c_contiguous
    np.testing.assert_array_equal(paste(image, crop, box), before)
    # Only what the square covers changes, and the picture given never does.
    pasted = paste(image, 255 - crop, box)
    covered = np.zeros((100, 120), bool)
    covered[max(box.top, 0) : box.top + box.side, max(box.left, 0) : box.left + box.side] = True
    np.testing.assert_array_equal(pasted[~covered], before[~covered])
    np.testing.assert_array_equal(pasted[covered], 255 - before[covered])
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("box", BOXES)
def test_beyond_the_picture_its_edge_is_repeated(box):
    image = picture(100, 120)
    rows = np.clip(np.arange(box.top, box.top + box.side), 0, 99)
    columns = np.clip(np.arange(box.left, box.left + box.side), 0, 119)
    np.testing.assert_array_equal(extract(image, box), image[rows][:, columns])


def test_resized_crop_comes_back_in_place():
    y, x = np.mgrid[:150, :150]
    image = np.stack([x, y, 100 + 50 * np.sin(x / 20)], -1).astype(np.uint8)  # smooth: survives resizing
    box = CropBox(20, 30, 100)
    for size in (64, 256):
        again = paste(image, extract(image, box, size), box)
        assert np.abs(again.astype(int) - image)[35:125, 25:115].max() <= 2


def test_vertices_follow_the_pixels():
    image = np.zeros((200, 200, 3), np.uint8)
    image[80:84, 120:124] = 255  # its middle is at (122, 82)
    box = CropBox(50, 40, 100)
    seen = extract(image, box, 400)[..., 0].astype(float)
    centre = (
        np.array([(seen.sum(0) * (np.arange(400) + 0.5)).sum(), (seen.sum(1) * (np.arange(400) + 0.5)).sum()])
        / seen.sum()
    )
    moved = to_crop(np.array([[122.0, 82.0, 5.0]]), box, 400)
    np.testing.assert_allclose(moved[0, :2], centre, atol=0.05)
    assert moved[0, 2] == pytest.approx(20) and moved.dtype == np.float32


def test_box_holds_the_head_with_room_for_hair():
    box = crop_box(head(500, 400), 1000, 1000)
    assert box.side == pytest.approx(1.9 * 80, abs=1.5)
    assert box.left + box.side / 2 == pytest.approx(500, abs=1)
    assert 400 - box.top > 0.5 * box.side  # more above than below


@pytest.mark.parametrize("x, y", [(45, 200), (355, 200), (200, 45), (200, 355), (45, 45), (355, 355)])
def test_box_is_moved_into_the_picture(x, y):
    left, top, side = crop_box(head(x, y), 400, 400)
    assert left >= 0 and top >= 0 and left + side <= 400 and top + side <= 400
    assert left <= x - 40 and x + 40 <= left + side and top <= y - 40 and y + 40 <= top + side


def test_box_shrinks_a_little_before_it_reaches_over_the_edge():
    landmarks = head(100, 100, 50)  # wants 190
    assert crop_box(landmarks, 180, 400).side == 180
    left, top, side = crop_box(landmarks, 110, 400)  # as much as a fifth, then it reaches over, evenly
    assert side == pytest.approx(0.8 * 190, abs=1)
    assert top == pytest.approx((110 - side) / 2, abs=1) and left >= 0


def test_box_of_a_clip_holds_every_frame():
    frames = np.stack([head(x, 300) for x in np.linspace(250, 400, 9)])
    left, top, side = crop_box(frames, 700, 700)
    assert left <= 210 and left + side >= 440
    assert crop_box(frames[:1], 700, 700) == crop_box(frames[0], 700, 700)


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("size", [None, 48])
def test_several_squares_are_pasted_like_each(box, size):
    image = picture(100, 120)
    crops = np.stack([picture(size or box.side, size or box.side, seed) for seed in range(3)])
    for pasted, crop in zip(paste_all(image, crops, box), crops, strict=True):
        np.testing.assert_array_equal(pasted, paste(image, crop, box))
