"""Similarity fits, rotations and the six numbers of a pose."""

import numpy as np
import pytest

from osmnet.face.pose import (
    CAMERA_DISTANCE,
    HEAD_UNITS_PER_CROP,
    Similarity,
    euler_from_rotation,
    fit_similarity,
    pose_from_similarity,
    rotation_from_euler,
    similarity_from_pose,
)


def random_similarity(rng, count):
    angles = rng.uniform(-1.2, 1.2, (count, 3))
    return Similarity(rng.uniform(20, 90, count), rotation_from_euler(angles), rng.uniform(-50, 200, (count, 3)))


def axis_rotation(axis, angle):
    """Rodrigues' formula: an independent way to a rotation matrix."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def test_rotation_is_roll_after_yaw_after_pitch_about_the_camera_axes():
    yaw, pitch, roll = 0.5, -0.3, 0.2
    expected = axis_rotation((0, 0, 1), roll) @ axis_rotation((0, 1, 0), -yaw) @ axis_rotation((1, 0, 0), -pitch)
    np.testing.assert_allclose(rotation_from_euler(np.array([yaw, pitch, roll])), expected, atol=1e-12)


def test_rotations_are_proper():
    rotation = rotation_from_euler(np.random.default_rng(0).uniform(-3, 3, (50, 3)))
    np.testing.assert_allclose(
        rotation @ np.swapaxes(rotation, -1, -2), np.broadcast_to(np.eye(3), (50, 3, 3)), atol=1e-12
    )
    np.testing.assert_allclose(np.linalg.det(rotation), 1)


def test_what_positive_angles_look_like():
    nose, crown = np.array([0, 0, -1.0]), np.array([0, -1.0, 0])  # z away from the camera, y down
    yaw, pitch, roll = (rotation_from_euler(angles) for angles in 0.3 * np.eye(3))
    assert (yaw @ nose)[0] > 0.2 and abs((yaw @ nose)[1]) < 1e-12  # the nose goes to the right of the picture
    assert (pitch @ nose)[1] < -0.2 and abs((pitch @ nose)[0]) < 1e-12  # the nose goes up
    assert (roll @ crown)[0] > 0.2 and abs((roll @ nose)[:2]).max() < 1e-12  # clockwise as seen


def test_euler_round_trip():
    angles = np.random.default_rng(1).uniform((-1.5, -3.1, -3.1), (1.5, 3.1, 3.1), (200, 3))
    np.testing.assert_allclose(euler_from_rotation(rotation_from_euler(angles)), angles, atol=1e-9)


def test_euler_angles_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="3 numbers"):
        rotation_from_euler(np.zeros((4, 2)))


def test_place_and_unplace_are_inverse():
    rng = np.random.default_rng(2)
    similarity, shape = random_similarity(rng, 7), rng.normal(size=(7, 30, 3))
    np.testing.assert_allclose(similarity.unplace(similarity.place(shape)), shape, atol=1e-12)
    by_hand = similarity.scale[3] * similarity.rotation[3] @ shape[3, 5] + similarity.translation[3]
    np.testing.assert_allclose(similarity.place(shape)[3, 5], by_hand)


def test_fit_similarity_finds_the_similarity_that_was_applied():
    rng = np.random.default_rng(3)
    shape, true = rng.normal(size=(20, 3)), random_similarity(rng, 9)
    for found, expected in zip(fit_similarity(shape, true.place(shape)), true, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-9)


def test_fit_similarity_is_the_least_squares_one():
    rng = np.random.default_rng(4)
    shape, true = rng.normal(size=(12, 3)), random_similarity(rng, 1)
    seen = true.place(shape[None])[0] + rng.normal(size=(12, 3)) * 3
    best = fit_similarity(shape, seen)

    def error(scale, rotation, translation):
        return ((scale * shape @ rotation.T + translation - seen) ** 2).sum()

    least = error(*best)
    for _ in range(50):
        small = 1e-3 * rng.normal(size=7)
        moved = (
            best.scale * (1 + small[0]),
            rotation_from_euler(small[1:4]) @ best.rotation,
            best.translation + small[4:],
        )
        assert error(*moved) > least


def test_fit_similarity_never_mirrors():
    shape = np.random.default_rng(5).normal(size=(15, 3))
    assert np.linalg.det(fit_similarity(shape, shape * (-1, 1, 1)).rotation) == pytest.approx(1)


def test_pose_round_trip_at_any_size():
    rng = np.random.default_rng(6)
    pose = np.concatenate([rng.uniform(-1, 1, (40, 5)), rng.uniform(-4, 12, (40, 1))], 1)
    for size in (64, 256, 777):
        again = pose_from_similarity(similarity_from_pose(pose, size), size)
        assert again.dtype == np.float32
        np.testing.assert_allclose(again, pose, atol=1e-5)


def test_the_pose_of_a_picture_does_not_depend_on_its_size():
    similarity = similarity_from_pose(np.array([0.2, -0.1, 0.05, 0.1, -0.2, 1.5]), 256)
    twice = Similarity(2 * similarity.scale, similarity.rotation, 2 * similarity.translation)
    np.testing.assert_allclose(pose_from_similarity(twice, 512), pose_from_similarity(similarity, 256), atol=1e-6)


def test_position_and_distance_by_hand():
    # The origin is 18 pixels right of the centre and 9 above it, 36 pixels to the unit: half a unit, a quarter.
    similarity = Similarity(np.float64(36.0), np.eye(3), np.array([64 + 18.0, 64 - 9.0, 5.0]))
    nominal = 128 / HEAD_UNITS_PER_CROP
    expected = [0, 0, 0, 0.5, -0.25, CAMERA_DISTANCE * (nominal / 36 - 1)]
    np.testing.assert_allclose(pose_from_similarity(similarity, 128), expected, atol=1e-6)
    far = similarity_from_pose(np.array([0, 0, 0, 0, 0, CAMERA_DISTANCE]), 128)
    assert far.scale == pytest.approx(nominal / 2)  # twice the distance, half the size


def test_a_head_does_not_come_nearer_than_half_the_distance():
    nearest = similarity_from_pose(np.array([[0, 0, 0, 0, 0, -5.0], [0, 0, 0, 0, 0, -50.0]]), 128)
    assert nearest.scale[0] == nearest.scale[1] == pytest.approx(2 * 128 / HEAD_UNITS_PER_CROP)
