"""Contact sheet: the takes are on it, the page is whole, and shapes that do not fit are refused."""

import numpy as np
import pytest
from PIL import Image

from osmnet.takes.sheet import MAX_TAKES, contact_sheet


def inputs(num_videos=2, columns=4, frames=50, height=32, width=32):
    # every take has a colour of its own, which nothing else on the page has
    takes = [np.full((columns, height, width, 3), (255, 10 * i, 200), np.uint8) for i in range(num_videos)]
    head_pose = np.random.default_rng(0).normal(scale=0.1, size=(num_videos, frames, 6))
    return takes, np.linspace(0, (frames - 1) / 25, columns), head_pose


def test_every_take_has_its_row_in_order(tmp_path):
    takes, times_s, head_pose = inputs(num_videos=3)
    sheet = contact_sheet(takes, times_s, head_pose, tmp_path / "new" / "sheet.png", title="Three takes")
    assert sheet.mode == "RGB"
    pixels = np.asarray(sheet)
    tops = []
    for take in takes:
        found = (pixels == take[0, 0, 0]).all(axis=2)
        # four cells of about 224 px a side, less the labels
        assert found.sum() > 0.85 * 4 * 224 * 224
        tops.append(np.argmax(found.any(axis=1)))
    assert tops == sorted(tops)
    with Image.open(tmp_path / "new" / "sheet.png") as written:
        np.testing.assert_array_equal(np.asarray(written), pixels)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["sheet.png"]


def test_curves_follow_the_pose_on_one_scale():
    takes, times_s, head_pose = inputs()
    blue = np.array([0, 0x72, 0xB2])  # yaw

    def height_of_yaw(pose):
        pixels = np.asarray(contact_sheet(takes, times_s, pose)).astype(int)
        rows = np.nonzero((np.abs(pixels - blue).sum(axis=2) < 30)[100:].any(axis=1))[0]
        return rows.max() - rows.min()

    one_up = np.zeros_like(head_pose)
    one_up[0, :, 0] = 0.3
    one_up[1, :, 0] = 0.3
    same = height_of_yaw(one_up)  # both takes at the same height of their own rows
    one_up[1, :, 0] = -0.3
    assert height_of_yaw(one_up) > same + 40


def test_takes_differ_only_where_they_should():
    takes, times_s, head_pose = inputs()
    before = [take.copy() for take in takes]
    first = np.asarray(contact_sheet(takes, times_s, head_pose))
    np.testing.assert_array_equal(np.asarray(contact_sheet(takes, times_s, head_pose)), first)
    for take, copy in zip(takes, before, strict=True):
        np.testing.assert_array_equal(take, copy)


@pytest.mark.parametrize(
    ("num_videos", "columns", "frames", "height", "width"),
    [(1, 1, 1, 16, 16), (1, 20, 10, 30, 20), pytest.param(MAX_TAKES + 2, 2, 5, 16, 48, marks=pytest.mark.integration)],
)
def test_unusual_counts_and_formats_are_drawn(num_videos, columns, frames, height, width):
    sheet = contact_sheet(*inputs(num_videos, columns, frames, height, width), title="A $title$ with ε = 1 " * 5)
    assert 300 < sheet.width < 3_000 and sheet.height < 20_000


def test_pictures_of_the_first_takes_are_enough():
    takes, times_s, head_pose = inputs(MAX_TAKES + 2, 2, 5, 16, 48)
    few = contact_sheet(takes[:MAX_TAKES], times_s, head_pose)
    np.testing.assert_array_equal(np.asarray(few), np.asarray(contact_sheet(takes, times_s, head_pose)))


def test_shapes_that_do_not_fit_are_refused():
    takes, times_s, head_pose = inputs()
    for bad, reason in (
        (([], times_s, head_pose[:0]), "at least one"),
        ((takes, times_s[:-1], head_pose), "times_s"),
        ((takes, times_s, head_pose[:1]), "head_pose"),
        ((takes, times_s, head_pose[..., :3]), "head_pose"),
        (([takes[0], takes[1][:, :8]], times_s, head_pose), "Take 2"),
        (([take / 255 for take in takes], times_s, head_pose), "Take 1"),
    ):
        with pytest.raises(ValueError, match=reason):
            contact_sheet(*bad)


def test_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for path in (tmp_path / "file" / "sheet.png", tmp_path):
        with pytest.raises(ValueError, match="cannot be written|is a folder"):
            contact_sheet(*inputs(), path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
