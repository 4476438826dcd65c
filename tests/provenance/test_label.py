"""The label that is seen on generated frames."""

import numpy as np
import pytest
import torch

from osmnet.face.pose import similarity_from_pose
from osmnet.media.video_reader import read_frames
from osmnet.pipelines.osm_net.head_motion import absolute_pose
from osmnet.provenance.label import Label, label_for
from tests.support.dummies import SAMPLING_RATE, speech


@pytest.mark.parametrize("size", [(256, 256), (64, 64), (720, 1280), (1280, 720), (97, 131)])
def test_the_label_is_seen_on_any_picture_and_changes_nothing_else(size):
    label = Label(size)
    left, top, right, bottom = label.box
    assert 0 <= left < right <= size[1] and 0 <= top < bottom <= size[0]
    assert right - left <= size[1] / 2 and bottom - top >= 10
    for shade in (0, 127, 255):
        frames = np.full((2, 3, *size, 3), shade, np.uint8)
        label.draw(frames)
        marked = frames[:, :, top:bottom, left:right]
        assert np.ptp(marked.astype(int)) > 140, "white letters on a dark field, whatever the picture"
        marked[:] = shade
        assert (frames == shade).all()


@pytest.mark.integration
def test_the_label_survives_the_video(saved, lazy):
    marked, bare = (
        np.stack(list(read_frames(saved / name / "take-1.mp4"))).astype(int) for name in ("plain", "consent")
    )
    output = lazy()
    left, top, right, bottom = label_for(output.source, output.head_pose).box
    difference = np.abs(marked - bare).mean((0, 3))
    assert difference[top:bottom, left:right].mean() > 40
    difference[max(top - 8, 0) : bottom + 8, max(left - 8, 0) : right + 8] = 0
    assert difference.mean() < 1
    letters = marked[:, top:bottom, left:right].mean((0, 3))
    assert letters.max() > 200 and letters.min() < 130


@pytest.mark.integration
def test_the_label_stays_clear_of_the_face(tiny, lazy):
    source = lazy().source
    for seed in range(4):
        motion = tiny.sample_motion(
            tiny.encode_speech(speech(4), SAMPLING_RATE),
            epsilon=2,
            motion_scale=2,
            generator=torch.Generator().manual_seed(seed),
        )
        poses = absolute_pose(source, motion)
        left, top, right, bottom = label_for(source, poses).box
        face = similarity_from_pose(poses[0], source.size).place(source.fit.shape)[..., :2]  # (frames, 478, 2)
        inside = ((face > (left, top)) & (face < (right, bottom))).all(-1)
        assert not inside.any()


def test_the_label_goes_where_the_face_is_not():
    def face(x0, y0, x1, y1):
        return [np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], float)]

    lower_left = Label((256, 256)).box
    upper_left = Label((256, 256), face(0, 100, 256, 256)).box
    lower_right = Label((256, 256), face(0, 0, 120, 256)).box
    assert lower_left[:1] == upper_left[:1] and upper_left[3] < 100 < lower_left[1]
    assert lower_right[0] > 120 and lower_right[1] == lower_left[1]
    short = Label((256, 256), face(40, 0, 256, 256)).box  # only a narrow strip is free
    assert short[2] < 40 and short[2] - short[0] < (lower_left[2] - lower_left[0]) / 2


@pytest.mark.integration
def test_streams_and_live_sessions_are_labelled_unless_it_is_switched_off(tiny, lazy):
    output = lazy()
    box = label_for(output.source, output.head_pose).box
    marked, bare = (
        np.concatenate([chunk.frames for chunk in lazy().stream(**option)], 1) for option in ({}, {"label": False})
    )
    changed = np.argwhere((marked != bare).any((0, 1, 4)))
    assert changed.min(0).tolist() == [box[1], box[0]] and changed.max(0).tolist() == [box[3] - 1, box[2] - 1]
    bare, marked = (
        tiny.live(output.source, seed=1, sampling_rate=SAMPLING_RATE, still=True, label=label).feed(speech(0.6))
        for label in (False, True)
    )
    share = (bare != marked).any((0, 3)).mean()
    assert 0.01 < share < 0.1
