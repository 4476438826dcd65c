"""Coordinates of the upper face, and the β that move them."""

import numpy as np
import pytest

from osmnet.face.morphable import FaceModel
from osmnet.face.upper_face import COORDINATES, LIDS, MIRROR, awake, measure, openness, upper_face_directions
from tests.support.dummies import FACE_MODEL


@pytest.fixture(scope="module")
def face_model():
    return FaceModel.from_pretrained(FACE_MODEL)


def test_each_direction_moves_its_own_coordinate_and_little_else(face_model):
    mean = face_model.array("mean_shape")
    directions = upper_face_directions(face_model)
    assert directions.shape == (len(COORDINATES), 64) and not directions[LIDS].any()
    mouth = mean[:, 1] > mean[2, 1]  # below the nose
    for index, beta in enumerate(directions):
        if index == LIDS:
            continue
        moved = face_model.move(mean, 0.02 * beta[None])[0]
        change = np.diff([measure(each[None])[0] for each in (mean, moved)], axis=0)[0]
        expected = 0.02 * (np.arange(len(COORDINATES)) == index)
        np.testing.assert_allclose(np.delete(change, LIDS), np.delete(expected, LIDS), atol=1e-4)
        assert np.linalg.norm(moved - mean, axis=1)[mouth].max() < 0.2 * 0.02


def test_a_mirrored_face_has_mirrored_coordinates(face_model):
    rng = np.random.default_rng(0)
    shapes = face_model.array("mean_shape") + 0.03 * rng.standard_normal((5, 478, 3))
    mirrored = shapes[:, face_model.array("mirror").astype(int)] * np.array([-1, 1, 1])
    change, other = (np.diff(measure(each), axis=0) for each in (shapes, mirrored))
    np.testing.assert_allclose(np.delete(other, LIDS, 1), np.delete(MIRROR * change, LIDS, 1), atol=1e-5)


def test_blinks_are_told_from_narrow_eyes(face_model):
    mean, blink = face_model.array("mean_shape"), face_model.array("blink")
    closed = np.zeros(60)
    closed[30:33] = 0.08  # head units of 0.1
    share = openness(face_model.move(mean, closed[:, None] * blink))
    assert share[31] < 0.4 and share[:27].min() > 0.95
    assert (~awake(share) == (np.abs(np.arange(60) - 31) <= 4)).all()
