"""Figures of brows, gaze and lids, on faces whose movement is known."""

import numpy as np
import pytest

from osmnet.evaluation.metrics.upper_face import dynamics, upper_face_figures
from osmnet.face.morphable import FaceModel
from osmnet.face.upper_face import COORDINATES, EYES, eye_width, upper_face_directions
from tests.support.dummies import FACE_MODEL

FRAMES = 500


@pytest.fixture(scope="module")
def face_model():
    return FaceModel.from_pretrained(FACE_MODEL)


def moved(face_model, coordinates, closure=None):
    mean = face_model.array("mean_shape")
    change = coordinates @ upper_face_directions(face_model)
    if closure is not None:
        change = change + 0.1 * closure[:, None] * face_model.array("blink")
    return face_model.move(mean, change.astype(np.float32))


def test_brows_gaze_and_saccades_are_measured_as_made(face_model):
    seconds = np.arange(FRAMES) / 25
    coordinates = np.zeros((FRAMES, len(COORDINATES)))
    coordinates[:, :2] = 0.02 * np.sin(seconds)[:, None]
    coordinates[:, EYES.start] = np.where(seconds % 2 < 0.5, 0.03, 0.0)  # a look to the side every two seconds
    shape = moved(face_model, coordinates)
    still = np.zeros((FRAMES, 6))
    found = upper_face_figures(shape, still)
    assert found["brows"] == pytest.approx(1000 * coordinates[:, 0].std(), rel=0.05)
    assert found["gaze"] == pytest.approx(1000 * coordinates[:, 6].std() / eye_width(shape), rel=0.05)
    assert found["away"] == pytest.approx(25, abs=1) and found["saccades"] == pytest.approx(1, abs=0.06)
    assert found["blink_rate"] == 0 and np.isnan(found["blink_bottom"])
    # Irises that turn against the head look at the same place.
    turning = still.copy()
    turning[:, 0] = 0.2 * np.sin(seconds)
    coordinates[:, EYES.start] = -0.105 * np.sin(turning[:, 0])
    found = upper_face_figures(moved(face_model, coordinates), turning)
    assert found["away"] == 0 and found["gaze"] > 30


def test_blinks_are_counted_and_their_course_is_measured(face_model):
    closure = np.zeros(FRAMES)
    for start in range(50, FRAMES - 50, 100):
        closure[start : start + 6] = 0.5, 1, 1, 0.7, 0.5, 0.2
    found = upper_face_figures(moved(face_model, np.zeros((FRAMES, len(COORDINATES))), closure), np.zeros((FRAMES, 6)))
    assert found["blink_rate"] == pytest.approx(60 * 4 / 20) and found["blink_bottom"] < 0.25
    assert found["blink_seconds"] == pytest.approx(5 / 25, abs=0.05)


def test_dynamics_are_those_of_the_upper_face(face_model):
    coordinates = np.zeros((FRAMES, len(COORDINATES)))
    assert dynamics(moved(face_model, coordinates)).max() < 1e-9
    coordinates[:, 0] = 0.02 * np.sin(np.arange(FRAMES) / 25)
    shape = moved(face_model, coordinates)
    brows = dynamics(shape)
    shape[:, 152] += np.sin(np.arange(FRAMES))[:, None]  # the chin
    assert brows.max() > 0.004 and np.array_equal(dynamics(shape), brows)


def test_too_short_videos_have_no_figures(face_model):
    shape = moved(face_model, np.zeros((10, len(COORDINATES))))
    assert all(np.isnan(value) for value in upper_face_figures(shape, np.zeros((10, 6))).values())
