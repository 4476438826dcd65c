"""Options: one spelling, checked at once, the same in Python, on the command line and in the records."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from osmnet.cli.generate import build_parser, motion_options, picture_options
from osmnet.pipelines.options import MotionOptions, PictureOptions, as_settings, build_options, describe


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_videos": 0}, "num_videos must be a whole number from 1 to 100, not 0"),
        ({"num_videos": 2.5}, "num_videos must be a whole number"),
        ({"num_videos": True}, "num_videos must be a whole number"),
        ({"epsilon": -1}, "epsilon must be a finite number from 0 to 100, not -1"),
        ({"epsilon": float("nan")}, "epsilon must be a finite number"),
        ({"epsilon": "1"}, "epsilon must be a finite number"),
        ({"motion_scale": 10**400}, "motion_scale must be a finite number from 0 to 10, not 10{70}"),
        ({"motion_scale": 10**5000}, "not a number of thousands of digits"),
        ({"sampling": "grid"}, "sampling must be 'span' or 'ball', not 'grid'"),
        ({"still": 1}, "still must be True or False, not 1"),
        ({"still": True, "head_motion": "a.mp4"}, "still and head_motion exclude each other"),
        ({"still": True, "near": [1]}, "near is for sampled motion"),
        ({"near": [1, -1]}, "near must be a take's own near"),
        ({"near": "12"}, "near must be a take's own near"),
        ({"near": range(5000)}, "near has more than 64 seeds"),
        ({"near": itertools.count()}, "near has more than 64 seeds"),
        ({"near": [-1] * 5000}, "near must be a take's own near"),
        ({"near": np.array("1")}, "near must be a take's own near"),
        ({"num_videos": None}, "num_videos must be a whole number from 1 to 100, not None"),
        ({"epsilon": None}, "epsilon must be a finite number from 0 to 100, not None"),
        ({"sampling": np.array(["span", "ball"])}, "sampling must be 'span' or 'ball'"),
        ({"head_motion": 3}, "head_motion must be a path, not int"),
    ],
)
def test_wrong_motion_options_are_refused_in_one_sentence(options, message):
    with pytest.raises(ValueError, match=message) as refusal:
        MotionOptions(**options)
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 300


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 8}, "size must be a whole number from 64 to 2048, not 8"),
        ({"size": 96.5}, "size must be a whole number"),
        ({"size": 128, "full_frame": True}, "leave it out, or give full_frame=False"),
        ({"full_frame": "yes"}, "full_frame must be True, False or None"),
        ({"full_frame": np.ones(2)}, "full_frame must be True, False or None"),
        ({"face": -1}, "face must be a whole number from 0"),
    ],
)
def test_wrong_picture_options_are_refused_in_one_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        PictureOptions(**options)


def test_a_size_asks_for_the_square():
    assert PictureOptions().whole_picture and PictureOptions(full_frame=True).whole_picture
    assert not PictureOptions(size=128).whole_picture and not PictureOptions(full_frame=False).whole_picture


def test_turns_are_degrees():
    turns = MotionOptions(yaw=90 / 4, pitch=np.linspace(-10, 10, 5), roll=[0, 1, 2, 3, 4]).turns(5)
    np.testing.assert_allclose(np.degrees(turns[:, 0]), 22.5, atol=1e-5)
    np.testing.assert_allclose(np.degrees(turns[:, 1]), np.linspace(-10, 10, 5), atol=1e-5)
    np.testing.assert_allclose(np.degrees(turns[:, 2]), np.arange(5), atol=1e-5)
    for wrong in (61, -61, np.zeros(4), np.zeros((5, 2)), np.nan, "left", 10**400, [0, 0, 0, 0, 61]):
        with pytest.raises(ValueError, match="^yaw must"):
            MotionOptions(yaw=wrong).turns(5)


def test_numpy_numbers_are_numbers():
    options = MotionOptions(num_videos=np.int64(3), epsilon=np.float32(0.5), near=np.array([3, 4]))
    assert options.near == (3, 4) and options.num_videos == 3


@pytest.mark.parametrize("cls", [MotionOptions, PictureOptions])
def test_the_documentation_names_every_field_with_its_default(cls):
    for each in dataclasses.fields(cls):
        assert f"        {each.name} (`" in cls.__doc__ and describe(each) in cls.__doc__
    assert "radius ε" in MotionOptions.__doc__ and "0 to 100 (default: 1.0)" in MotionOptions.__doc__


def test_the_command_line_has_every_field():
    parser = build_parser()
    parsed = parser.parse_args(["face.png", "voice.wav"])
    assert motion_options(parsed) == MotionOptions(num_videos=4)
    assert picture_options(parsed) == PictureOptions()
    argv = "face.png voice.wav -n 2 -e 0.5 --sampling ball --motion-scale 2 --expression-scale 1.5 --no-blink --yaw 5"
    argv += " --pitch -5 --roll 3 --near 1 --near 2 --size 128 --face 3"
    parsed = parser.parse_args(argv.split())
    assert motion_options(parsed) == MotionOptions(
        num_videos=2, epsilon=0.5, sampling="ball", motion_scale=2.0, expression_scale=1.5, blink=False, yaw=5.0,
        pitch=-5.0, roll=3.0, near=(1, 2),
    )  # fmt: skip
    assert picture_options(parsed) == PictureOptions(size=128, face=2)
    text = parser.format_help()
    for each in [*dataclasses.fields(MotionOptions), *dataclasses.fields(PictureOptions)]:
        spelled = {"blink": "--no-blink", "full_frame": "--crop"}.get(each.name, f"--{each.name.replace('_', '-')}")
        assert spelled in text


def test_records_are_json(tmp_path):
    record = as_settings(MotionOptions(yaw=[1.0, 2.0], pitch=np.float32(3), head_motion=tmp_path / "a.mp4"))
    assert json.loads(json.dumps(record))["yaw"] == "one a frame"
    assert record["pitch"] == 3 and record["head_motion"] == str(tmp_path / "a.mp4")


def test_unknown_options_are_type_errors_with_a_suggestion():
    with pytest.raises(TypeError, match="f has no option 'yawn'; did you mean 'yaw'"):
        build_options("f", {"yawn": 1}, MotionOptions)
