"""Lips, identity and flicker on made-up faces and curves whose figures are known."""

import math

import cv2
import numpy as np
import pytest

from osmnet.evaluation.metrics.flicker import flicker, outside_head
from osmnet.evaluation.metrics.identity import identity_distance, neutral_shape
from osmnet.evaluation.metrics.lips import (
    FACE,
    LIPS,
    amplitude_ratio,
    best_correlation,
    change_in_silence,
    eye_distance,
    landmark_distance,
)
from osmnet.face.morphable import FaceModel
from osmnet.face.pose import similarity_from_pose
from osmnet.face.topology import CHIN, LEFT_OUTER_CORNER, OVAL, RIGHT_OUTER_CORNER
from tests.support.dummies import FACE_MODEL

SIZE = 256


@pytest.fixture(scope="module")
def face_model() -> FaceModel:
    return FaceModel.from_pretrained(FACE_MODEL)


def faces(face_model: FaceModel, identity: np.ndarray, expression: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Vertices in pixels of a head of the face model, one a frame."""
    basis = face_model.array("identity_basis"), face_model.array("expression_basis")
    shape = (
        face_model.array("mean_shape") + np.tensordot(identity, basis[0], 1) + np.tensordot(expression, basis[1], 1)
    )
    return similarity_from_pose(pose, SIZE).place(shape)


@pytest.fixture(scope="module")
def head(face_model) -> np.ndarray:
    return faces(face_model, np.zeros(40), np.zeros((3, 64)), np.zeros((3, 6)))


def test_landmark_distance_of_a_known_shift(head):
    assert landmark_distance(head + (3, 4, 0), head) == pytest.approx(5)
    assert landmark_distance(head + (0, 0, 9), head) == 0  # depth is not seen
    lips_moved = head.copy()
    lips_moved[1, LIPS, 0] += 6  # one frame of three
    assert landmark_distance(lips_moved, head, LIPS) == pytest.approx(2)
    assert landmark_distance(lips_moved, head) == pytest.approx(2 * len(LIPS) / len(FACE))


def test_landmark_distance_refuses_faces_of_other_lengths(head):
    with pytest.raises(ValueError, match="one shape"):
        landmark_distance(head[:2], head)


def test_eye_distance_is_that_of_the_outer_corners(head):
    head = head.copy()
    head[:, RIGHT_OUTER_CORNER] = (100, 80, 7)
    head[:, LEFT_OUTER_CORNER] = (130, 120, -5)
    assert eye_distance(head) == pytest.approx(50)


@pytest.mark.parametrize("lag", [-3, -1, 0, 2])
def test_correlation_finds_a_known_lag_and_its_sign(lag):
    curve = np.random.default_rng(0).standard_normal(208)
    real, late = curve[4:204], curve[4 - lag : 204 - lag]  # late[i] = real[i - lag]
    correlation, found = best_correlation(3 * late + 1, real)
    assert (found, round(correlation, 6)) == (lag, 1)


def test_correlation_agrees_with_numpy_and_does_not_look_too_far():
    rng = np.random.default_rng(1)
    real = rng.standard_normal(300)
    fake = real + rng.standard_normal(300)
    assert best_correlation(fake, real) == (pytest.approx(np.corrcoef(fake, real)[0, 1]), 0)
    assert best_correlation(real[:-5], real[5:])[0] < 0.3  # five frames apart, and only three are tried
    assert best_correlation(-real, real)[0] < 0.3


def test_correlation_of_a_mouth_that_never_moves_is_none():
    real = np.random.default_rng(2).standard_normal(50)
    assert math.isnan(best_correlation(np.full(50, 0.1), real)[0])
    with pytest.raises(ValueError, match="one length"):
        best_correlation(real[:-1], real)


def test_amplitude_is_relative_to_the_real_one():
    real = np.sin(np.linspace(0, 20, 200))
    assert amplitude_ratio(0.4 * real + 7, real) == pytest.approx(0.4)
    assert math.isnan(amplitude_ratio(real, np.ones(200)))


def test_motion_in_silence_counts_only_from_silent_frame_to_silent_frame():
    opening = np.concatenate([np.tile([0.0, 1.0], 10), 0.1 * np.tile([0.0, 1.0], 10)])
    activity = np.repeat([1.0, 0.0], 20)
    assert change_in_silence(opening, activity) == pytest.approx(0.1)
    assert change_in_silence(opening, 1 - activity) == pytest.approx(1.0)
    assert math.isnan(change_in_silence(opening, np.ones(40)))


def test_identity_is_the_same_in_any_pose_and_nearly_in_any_expression(face_model):
    rng = np.random.default_rng(3)
    person, other = 1.5 * rng.standard_normal((2, 40))
    pose = 0.3 * rng.standard_normal((4, 6))
    still = np.zeros((4, 64))
    talking = rng.standard_normal((4, 64))
    shape = neutral_shape(faces(face_model, person, still, np.zeros((4, 6))), face_model)
    turned = neutral_shape(faces(face_model, person, still, pose), face_model)
    moved_px = faces(face_model, person, talking, pose)
    moved = neutral_shape(moved_px, face_model)
    stranger = neutral_shape(faces(face_model, other, talking, pose), face_model)
    assert identity_distance(shape, turned) < 1e-6
    assert identity_distance(shape, stranger) > 4 * identity_distance(shape, moved)
    assert identity_distance(shape, shape + (0.03, 0.04, 0)) == pytest.approx(0.05)
    # The same prior as where a portrait is fitted.
    fit = face_model.fit(moved_px[0], SIZE)
    one = fit.shape - np.tensordot(fit.expression, face_model.array("expression_basis"), 1)
    np.testing.assert_allclose(neutral_shape(moved_px[:1], face_model), one, atol=1e-4)


def test_outside_is_what_no_head_covers(head):
    outside = outside_head(np.concatenate([head, head + (60, 0, 0)]), SIZE, SIZE)
    left, right = head[0, OVAL, 0].min(), head[0, OVAL, 0].max()
    middle = int(head[0, OVAL, 1].mean())
    assert not outside[middle, int(left) : int(right) + 60].any()
    assert outside[middle, 2] and outside_head(head, SIZE, SIZE)[middle, 250]
    assert not outside[int(head[0, CHIN, 1]), SIZE // 2]


def test_flicker_of_a_frozen_background_is_zero_whatever_the_head_does(head):
    rng = np.random.default_rng(4)
    picture = rng.integers(0, 200, (SIZE, SIZE, 3), np.uint8)
    outside = outside_head(head, SIZE, SIZE)
    frames = np.repeat(picture[None], 6, 0)
    frames[:, ~outside] = rng.integers(0, 255, (6, (~outside).sum(), 3), np.uint8)
    assert flicker(frames, outside) == 0
    frames[1::2, outside] += 10  # every second frame is brighter by 10: a standard deviation of 5
    assert flicker(frames, outside) == pytest.approx(5)
    grey = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]).astype(float)
    assert flicker(frames, np.ones_like(outside)) == pytest.approx(grey.std(0).mean())


def test_flicker_needs_an_outside(head):
    frames = np.zeros((2, SIZE, SIZE, 3), np.uint8)
    assert math.isnan(flicker(frames, np.zeros((SIZE, SIZE), bool)))
    with pytest.raises(ValueError, match="one height and width"):
        flicker(frames, np.ones((8, 8), bool))
