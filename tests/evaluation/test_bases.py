"""What the motion bases do: names of made-up motions, bases whose strokes are known, and faces turned by them."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from osmnet.cli import main
from osmnet.evaluation.figures.basis_motion import Basis, decode_bases, name_motion, rotate, varied
from osmnet.media.video_reader import read_frames
from tests.support.dummies import PORTRAIT, portrait, speech, tiny_pipeline, write_wav

FRAMES = 60
TIME = np.linspace(0, 1, FRAMES)
NAMES = ["turn right", "turn left", "up", "down", "tilt right", "tilt left"]


def motion(**degrees) -> np.ndarray:
    path = np.zeros((FRAMES, 6))
    for column, name in enumerate(("yaw", "pitch", "roll")):
        path[:, column] = np.deg2rad(degrees.get(name, 0) * np.ones(FRAMES))
    return path


def wave(amplitude: float, times: float = 3) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * times * TIME)


@pytest.mark.parametrize(
    ("degrees", "name"),
    [
        ({}, "still"),
        ({"yaw": wave(0.8), "pitch": wave(0.9)}, "still"),  # breathing
        ({"pitch": wave(4)}, "nod"),
        ({"pitch": -6 * np.sin(np.pi * TIME)}, "nod"),  # once down and up again
        ({"yaw": wave(5)}, "shake"),
        ({"roll": wave(5)}, "sway"),
        ({"yaw": wave(8), "pitch": wave(5)}, "shake, nod"),
        ({"yaw": wave(8), "pitch": wave(3)}, "shake"),  # less than half of it
        ({"yaw": 20 * TIME}, "turn right"),
        ({"yaw": -20 * TIME}, "turn left"),
        ({"pitch": 12 * TIME}, "up"),
        ({"pitch": -12 * TIME}, "down"),
        ({"roll": 12 * TIME}, "tilt right"),
        ({"roll": -12 * TIME}, "tilt left"),
        ({"yaw": -20 * TIME, "pitch": 12 * TIME}, "turn left, up"),
        ({"roll": -8}, "tilted left still"),
        ({"roll": -8 * np.minimum(4 * TIME, 1)}, "tilted left still"),  # tilts quickly and stays
        ({"yaw": 8}, "turned right still"),
        ({"pitch": -8}, "lowered still"),
        ({"roll": 8, "yaw": wave(5)}, "tilted right shake"),
        ({"roll": 2, "yaw": wave(5)}, "shake"),
        ({"yaw": 20 * TIME, "pitch": wave(6)}, "turned right nod"),
        ({"yaw": 3 * TIME}, "still"),  # it moves, but less than anyone would notice
    ],
)
def test_motions_are_named_by_what_the_head_does(degrees, name):
    assert name_motion(motion(**degrees)) == name


def test_names_do_not_depend_on_noise_length_or_translation():
    rng = np.random.default_rng(0)
    path = motion(pitch=wave(5))
    noisy = path + np.deg2rad(rng.normal(0, 0.3, path.shape))
    noisy[:, 3:] = rng.normal(size=(FRAMES, 3))
    assert name_motion(noisy) == name_motion(np.repeat(path, 3, 0)) == name_motion(path[:, :3]) == "nod"
    assert name_motion(np.zeros((1, 6))) == "still"


@pytest.mark.parametrize("path", [np.zeros((0, 6)), np.zeros((5, 2)), np.zeros(6), np.full((5, 6), np.nan)])
def test_what_is_no_motion_is_refused(path):
    with pytest.raises(ValueError, match="head_pose"):
        name_motion(path)


@pytest.fixture(scope="module")
def known():
    """A pipeline whose six bases turn, nod and tilt the head, two each; radius 1 moves it by 1.5 degrees a clip."""
    pipe = tiny_pipeline()
    with torch.no_grad():
        pipe.motion_space.motion_bases.copy_(10 * torch.eye(6, 16))
        decoder = pipe.motion_decoder
        decoder.pose_scale.fill_(1)
        for parameter in decoder.blocks.parameters():
            parameter.zero_()
        for linear in (decoder.linear_in, decoder.linear_out):
            linear.weight.zero_()
            linear.bias.zero_()
        decoder.linear_in.weight.copy_(torch.eye(16))
        stroke = math.radians(1.5) * torch.linspace(0, 1, 5)
        out = decoder.linear_out.weight.view(5, 6, 16)
        for basis in range(6):
            out[:, basis // 2, basis] = (1 - 2 * (basis % 2)) * stroke
    return pipe


def test_each_basis_is_named_after_its_stroke(known):
    bases = decode_bases(known)
    assert [basis.name for basis in bases] == NAMES
    assert [basis.swing for basis in bases] == ["shake", "shake", "nod", "nod", "sway", "sway"]
    assert [basis.index for basis in bases] == list(range(6))
    # The basis itself, ten times as far out, is in `clip`.
    np.testing.assert_allclose(np.rad2deg(bases[2].clip[-1, :3]), [0, 15, 0], atol=1e-3)


def test_a_held_basis_comes_to_rest_and_a_swung_one_stays_around_the_middle(known):
    basis = decode_bases(known)[0]
    held, swung = np.rad2deg(basis.held[:, 0]), np.rad2deg(basis.swung[:, 0])
    assert held[0] == swung[0] == 0
    assert len(held) == len(swung) == 61
    steps = np.diff(held[4:-4])
    assert (steps > 0).all() and steps[-1] < 0.5 * steps[0]
    assert swung.max() > 1 and swung.min() < -1
    assert abs(swung.mean()) < 0.3 * np.ptp(swung)


def test_further_from_the_centre_is_more_motion_and_opposite_bases_oppose(known):
    near, far = decode_bases(known, 0.5), decode_bases(known, 2.0)
    for a, b in zip(near, far, strict=True):
        assert np.abs(b.held).max() > 1.5 * np.abs(a.held).max()
        assert np.rad2deg(np.abs(b.held[:, :3])).max() < 30  # never beyond what people do
    np.testing.assert_allclose(far[0].held[:, 0], -far[1].held[:, 0], atol=1e-6)
    with pytest.raises(ValueError, match="epsilon"):
        decode_bases(known, 0.0)


def test_rotation_takes_the_basis_that_turns_and_frontal_undoes_the_portraits_pose(known):
    source = known.encode_source(portrait(), full_frame=False)
    own = np.array(source.fit.head_pose)
    own[:3] = np.deg2rad([17, -9, 6])
    source.fit.head_pose[:] = own
    turned = rotate(known, source)
    assert set(turned["right"].bases) == {0} and set(turned["left"].bases) == {1}
    assert turned["right"].head_pose[0] > own[0] > turned["left"].head_pose[0]
    assert np.rad2deg(np.abs(turned["frontal"].head_pose[:3])).max() < 0.1
    assert set(turned["frontal"].bases) == {1, 2, 5}  # left, up, tilt left


def test_a_frontal_portrait_stays_as_it_is(known):
    source = known.encode_source(portrait(), full_frame=False)
    source.fit.head_pose[:3] = 0
    frontal = rotate(known, source)["frontal"]
    assert frontal.bases == {}
    np.testing.assert_allclose(frontal.head_pose, source.fit.head_pose, atol=1e-5)


@pytest.mark.integration
def test_command_draws_both_figures_and_says_what_each_basis_does(known, tmp_path, capsys):
    known.save_pretrained(tmp_path / "model")
    out = tmp_path / "figures"
    voice = write_wav(tmp_path / "voice.wav", speech(0.6))
    arguments = ["--model", str(tmp_path / "model"), "--portrait", str(PORTRAIT), "--portraits", str(PORTRAIT)]
    options = ["--bases", "3,0", "--speech", str(voice), "--video", "--out", str(out)]
    assert main(["bases", *arguments, *options]) == 0
    made = capsys.readouterr().out.split()
    names = ["bases.png", "bases.json", "basis-03.mp4", "basis-00.mp4", "rotation.png", "rotation.json"]
    assert made == [str(out / name) for name in names]
    assert sorted(path.name for path in out.iterdir()) == sorted(names)  # and nothing half-written
    rows = json.loads((out / "bases.json").read_text())["bases"]
    assert [(row["basis"], row["name"]) for row in rows] == [(3, "down"), (0, "turn right")]
    assert rows[0]["end_deg"][1] < -8 and rows[0]["amplitude_deg"]["swung"][1] > 2
    record = json.loads((out / "rotation.json").read_text())["portraits"][0]
    assert record["right"]["head_pose_deg"][0] > record["source_deg"][0] + 8
    for name in ("bases.png", "rotation.png"):
        with Image.open(out / name) as figure:
            assert np.asarray(figure.convert("L")).std() > 20
    frames = np.stack(list(read_frames(out / "basis-00.mp4")))
    held, swung = np.split(frames.astype(int), 2, axis=2)
    assert np.abs(held[-1] - held[0]).mean() > 2 * np.abs(swung[-1] - swung[0]).mean()


def test_varied_bases_differ_and_are_the_strongest_of_their_name():
    def basis(index: int, name: str, swing: str, strength: float) -> Basis:
        return Basis(index, name, swing, np.zeros((5, 6)), np.full((9, 6), strength), np.zeros((9, 6)))

    bases = [
        basis(0, "up", "nod", 0.1), basis(1, "up", "nod", 0.3), basis(2, "turn left, up", "shake", 0.5),
        basis(3, "turn right", "shake", 0.1), basis(4, "down", "nod", 0.2), basis(5, "tilt left", "sway", 0.1),
    ]  # fmt: skip
    assert [each.index for each in varied(bases, 3)] == [1, 3, 5]  # one a swing, simple ones first
    assert [each.index for each in varied(bases, 9)] == [1, 2, 3, 4, 5]  # never two of a name


@pytest.mark.integration
def test_small_pictures_of_varied_bases(known, tmp_path, capsys):
    known.save_pretrained(tmp_path / "model")
    arguments = ["--model", str(tmp_path / "model"), "--portraits", str(PORTRAIT), "--out", str(tmp_path / "out")]
    assert main(["bases", *arguments, "--bases", "varied", "--jpeg"]) == 0
    assert len(json.loads((tmp_path / "out" / "bases.json").read_text())["bases"]) == 6
    made = capsys.readouterr().out
    for name in ("bases.jpg", "rotation.jpg"):
        assert str(tmp_path / "out" / name) in made
        with Image.open(tmp_path / "out" / name) as figure:
            assert figure.format == "JPEG"
