"""Head motion: paths whose figures can be worked out, and takes of the tiny pipeline."""

import math

import numpy as np
import pytest
from scipy.fft import dct

from osmnet.data.dataset import Dataset
from osmnet.evaluation.metrics import motion_statistics as motion
from osmnet.evaluation.sampled_motion import EPSILONS, measure_takes, motion_clips
from tests.support.clips import dataset_of, talking_video

FPS = 25


def path(frames: int = 100, **degrees) -> np.ndarray:
    """A path from curves of its angles in degrees."""
    result = np.zeros((frames, 6), np.float32)
    for column, name in enumerate(("yaw", "pitch", "roll")):
        result[:, column] = np.deg2rad(degrees.get(name, 0.0))
    return result


def wave(frames: int, hertz: float, amplitude: float = 1.0) -> np.ndarray:
    return amplitude * np.cos(2 * np.pi * hertz * (np.arange(frames) + 0.5) / FPS)


def test_figures_are_degrees_and_the_mean_of_three_angles():
    nod = path(100, pitch=wave(100, 1.0, 6.0))
    assert motion.diversity_deg(nod) == pytest.approx(6 / math.sqrt(2) / 3, rel=1e-4)
    ramp = path(100, yaw=0.6 * np.arange(100))
    assert motion.speed_deg(ramp) == pytest.approx(0.2, rel=1e-4)
    assert motion.jerk_deg(ramp) == pytest.approx(0, abs=1e-4)
    cubic = path(40, roll=1e-3 * np.arange(40.0) ** 3)
    assert motion.jerk_deg(cubic) == pytest.approx(6e-3 / 3, rel=0.05)


def test_translation_is_no_turn():
    moved = np.zeros((100, 6))
    moved[:, 3:] = np.random.default_rng(0).standard_normal((100, 3))
    assert motion.diversity_deg(moved) == motion.speed_deg(moved) == motion.spread_deg(moved) == 0


def test_spread_is_within_four_seconds():
    steps = path(200, yaw=np.repeat([0.0, 30.0], 100))  # between the stretches it turns, within them it rests
    assert motion.spread_deg(steps) == pytest.approx(0, abs=1e-5)
    assert motion.diversity_deg(steps) == pytest.approx(5, rel=1e-4)
    assert math.isnan(motion.spread_deg(steps[:99]))


def test_smoothing_takes_noise_and_keeps_motion():
    slow = path(100, yaw=wave(100, 0.5, 5.0))
    noisy = slow + np.random.default_rng(0).normal(0, 0.003, slow.shape)
    assert motion.jerk_deg(motion.smoothed(noisy)) < 0.2 * motion.jerk_deg(noisy)
    assert motion.diversity_deg(motion.smoothed(slow)) == pytest.approx(motion.diversity_deg(slow), rel=0.03)


def test_distance_between_takes():
    takes = np.stack([path(10), path(10, yaw=3.0, roll=4.0), path(10, yaw=6.0, roll=8.0)])
    assert motion.pairwise_distance_deg(takes) == pytest.approx((5 + 5 + 10) / 3, rel=1e-4)
    assert math.isnan(motion.pairwise_distance_deg(takes[:1]))


def test_window_features_hold_the_variance_of_the_window_and_not_where_the_head_points():
    curves = {"yaw": wave(50, 0.5, 8.0), "pitch": 15 + wave(50, 1.0, 2.0)}
    (row,) = motion.window_features(path(50, **curves))
    assert (row**2).sum() == pytest.approx((8**2 + 2**2) / 2, rel=1e-4)
    assert np.flatnonzero(np.abs(row) > 1e-3).tolist() == [3, 10]  # second harmonic of yaw, fourth of pitch
    expected = dct(curves["yaw"], type=2, norm="ortho")[2] / math.sqrt(50)
    assert row[3] == pytest.approx(expected, rel=1e-4)
    assert motion.window_features(path(49)).shape == (0, 18)
    assert len(motion.window_features(path(50 + 3 * 12))) == 4


def test_nobody_is_in_both_halves():
    groups = ["a", "b", "a", "c", "c", "d"]
    seen = set()
    for number in range(20):
        first = motion.halves(groups, number)
        inside = {group for group, flag in zip(groups, first, strict=True) if flag}
        outside = {group for group, flag in zip(groups, first, strict=True) if not flag}
        assert not inside & outside and len(inside) == len(outside) == 2
        seen.add(frozenset(inside))
    assert len(seen) > 2
    assert motion.halves(["a"] * 4, 0).sum() == 2  # of one speaker, clips


def random_heads(count: int, amplitude: float, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    heads = []
    for _ in range(count):
        angles = np.cumsum(rng.standard_normal((250, 3)), 0)
        heads.append(np.pad(np.deg2rad(amplitude * motion.smoothed(angles)), ((0, 0), (0, 3))))
    return heads


def test_frechet_distance_of_motion():
    real = [motion.window_features(head) for head in random_heads(8, 1.0, 0)]
    alike = [motion.window_features(head) for head in random_heads(8, 1.0, 1)]
    wild = [motion.window_features(head) for head in random_heads(8, 3.0, 2)]
    still = [np.zeros_like(each) for each in real]
    groups = list("aabbccdd")
    baseline = motion.motion_frechet(real, real, groups)
    assert baseline > 0  # of one half to the other: nobody is compared with himself
    assert motion.motion_frechet(real, alike, groups) == pytest.approx(baseline, rel=0.6)
    assert motion.motion_frechet(real, still, groups) > 2 * baseline
    assert motion.motion_frechet(real, wild, groups) > 2 * motion.motion_frechet(real, still, groups)
    # Against heads that do not move, what is left is the mean square of the real windows' features.
    two = motion.motion_frechet(real[:2], still[:2], ["a", "b"])
    moments = [(each.mean(0) ** 2).sum() + each.var(0, ddof=1).sum() for each in real[:2]]
    assert two == pytest.approx(np.mean(moments))
    assert math.isnan(motion.motion_frechet(real[:1], real[:1], ["a"]))


def test_drift_counts_from_the_first_frame():
    turn = path(200, yaw=10 + np.linspace(0, 20, 200), roll=-np.linspace(0, 5, 200))
    assert motion.largest_deg(np.stack([turn, path(200)])) == pytest.approx([20, 0, 5], abs=1e-3)
    assert motion.reach_deg([turn, turn], 50) == pytest.approx([10, 0, 2.5], abs=0.1)
    long = path(2 * 60 * FPS, pitch=np.repeat([0.0, -4.0], 60 * FPS))
    assert motion.last_minute_deg(np.stack([long, -0.5 * long])) == pytest.approx([0, -4, 0], abs=1e-3)


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list:
    folder = tmp_path_factory.mktemp("motion")
    video = talking_video(folder / "talking.mp4", frames=104)
    return Dataset.open(dataset_of(video, folder / "set", ("ann-voice", "bob-voice"))).clips()


@pytest.mark.integration
def test_takes_of_a_pipeline(tiny, clips):
    done = []
    result = measure_takes(tiny, motion_clips(clips), takes=3, minutes=0.2, progress=done.append)
    assert done == ["ann-voice", "bob-voice"] and result["clips"] == 2 and not result["skipped"]
    track = motion.smoothed(clips[0].fit(tiny.face_model).head_pose)
    assert result["real"]["speed"] == pytest.approx(motion.speed_deg(track))
    rows = result["by_epsilon"]
    assert [row["epsilon"] for row in rows] == list(EPSILONS)
    assert rows[0]["pairwise"] == pytest.approx(0, abs=1e-4)
    pairwise = [row["pairwise"] for row in rows]
    assert pairwise == sorted(pairwise) and pairwise[3] > 1
    one = rows[3]
    assert one["spread_ratio"] == pytest.approx(one["spread"] / result["real"]["spread"])
    assert result["static_frechet"] > 0
    assert np.shape(result["curves"]["takes"]) == (3, 104, 3)
    assert np.shape(result["curves"]["long"]) == (12, 3)
    assert max(result["drift"]["largest"]) >= max(map(abs, result["drift"]["last_minute"]))


@pytest.mark.integration
def test_takes_are_the_same_again_and_other_with_another_seed(tiny, clips):
    first, again, other = (measure_takes(tiny, clips[:1], takes=2, minutes=0.1, seed=seed) for seed in (0, 0, 1))
    assert math.isnan(first["real"]["frechet"])  # of one speaker there are no two halves with windows enough
    assert first["curves"] == again["curves"] and first["drift"] == again["drift"]
    assert first["curves"]["takes"] != other["curves"]["takes"]


@pytest.mark.integration
def test_clips_for_motion_are_long_and_speak(clips, dataset_folder):
    assert motion_clips(Dataset.open(dataset_folder).clips()) == []  # two seconds each
    assert motion_clips(clips, 1) == clips[:1]
