"""The linear face model S = S̄ + αB_id + βB_exp (Eq. 6): using it and fitting it."""

import numpy as np
import pytest
import torch

from osmnet.face.morphable import FaceModel, neutral_frames
from osmnet.face.pose import fit_similarity, similarity_from_pose
from osmnet.face.topology import (
    CHIN,
    FOREHEAD,
    INNER_LIPS,
    LEFT_EYE,
    LEFT_IRIS,
    LEFT_MOUTH_CORNER,
    LEFT_OUTER_CORNER,
    NUM_VERTICES,
    RIGHT_EYE,
    RIGHT_IRIS,
    RIGHT_OUTER_CORNER,
    STABLE,
    eye_opening,
    mouth_opening,
    opposite_lid,
)
from osmnet.training.osm_net.face_model_stage import fit_face_model, mirror_vertices

SIZE = 256
FREE = np.setdiff1d(np.arange(NUM_VERTICES), STABLE)
FLIP = np.array([-1.0, 1, 1])
BROWS = [70, 63, 105, 66, 107, 336, 296, 334, 293, 300]


@pytest.fixture(scope="module")
def shipped(repository):
    return FaceModel.from_pretrained(repository / "weights_card" / "face_model")


@pytest.fixture(scope="module")
def face(shipped):
    """Any face: the tests' own shape."""
    return shipped.array("mean_shape").astype(float)


@pytest.fixture(scope="module")
def gestures(face):
    """Jaw down, lids shut, left corner of the mouth sideways, brows up: none moves the stable vertices."""
    lower, upper = face[INNER_LIPS[:11]], face[INNER_LIPS[opposite_lid(INNER_LIPS)][:11]]
    between = np.interp(face[:, 0], lower[:, 0], (lower[:, 1] + upper[:, 1]) / 2)
    sideways = np.clip(1 - (face[:, 0] / face[LEFT_MOUTH_CORNER, 0]) ** 2, 0, 1)
    jaw, lids, corner, brows = np.zeros((4, NUM_VERTICES, 3))
    jaw[:, 1] = 0.3 * sideways * (face[:, 1] > between + 1e-3)
    for loop in (RIGHT_EYE, LEFT_EYE):
        lids[loop[9:]] = face[loop[opposite_lid(loop)][9:]] - face[loop[9:]]
    corner[:, 0] = 0.1 * np.exp(-((face - face[LEFT_MOUTH_CORNER]) ** 2).sum(1) / 0.02)
    brows[BROWS, 1] = -0.08
    corner[STABLE] = 0
    modes = np.stack([jaw, lids, corner, brows])
    assert np.abs(modes[:, STABLE]).max() == 0
    return modes


def model_of(mean, identity, expression, noise=1e-4):
    model = FaceModel(len(identity), len(expression), landmark_noise=noise)
    for name, value in (("mean_shape", mean), ("identity_basis", identity), ("expression_basis", expression)):
        model.geometry[name].data.copy_(torch.from_numpy(np.asarray(value, np.float32)))
    return model


def random_basis(rng, count, norm=1.0):
    """Orthogonal components of a given norm that leave the stable vertices where they are."""
    flat = np.linalg.qr(rng.normal(size=(len(FREE) * 3, count)))[0].T * norm
    basis = np.zeros((count, NUM_VERTICES, 3))
    basis[:, FREE] = flat.reshape(count, -1, 3)
    return basis


@pytest.fixture(scope="module")
def simple(face):
    both = random_basis(np.random.default_rng(0), 9)
    return model_of(face, both[:4], both[4:])


def test_equation_6_by_hand():
    model = model_of(np.ones((NUM_VERTICES, 3)), np.zeros((2, NUM_VERTICES, 3)), np.zeros((3, NUM_VERTICES, 3)))
    model.geometry["identity_basis"].data[1, 7, 0] = 2.0
    model.geometry["expression_basis"].data[0, 7, 0] = 10.0
    model.geometry["expression_basis"].data[2, 8, 1] = -1.0
    shape = model(torch.tensor([5.0, 3.0]), torch.tensor([[0.5, 9.0, 4.0], [0.0, 0.0, 0.0]]))
    assert shape.shape == (2, NUM_VERTICES, 3)
    assert shape[0, 7, 0] == 1 + 3 * 2 + 0.5 * 10 and shape[0, 8, 1] == 1 - 4 and shape[1, 7, 0] == 1 + 6
    shape[0, 7, 0] = shape[0, 8, 1] = shape[1, 7, 0] = 1
    assert (shape == 1).all()
    offset = model.expression_offset(torch.tensor([0.5, 9.0, 4.0]))
    assert offset[7, 0] == 5 and offset[8, 1] == -4 and offset.abs().sum() == 9


def test_sizes_are_those_of_the_paper(shipped):
    assert shipped.config.identity_dim == 40 and shipped.config.expression_dim == 64
    assert shipped.array("mean_shape").shape == (NUM_VERTICES, 3)


def test_geometry_stays_in_single_precision(repository):
    model = FaceModel.from_pretrained(repository / "weights_card" / "face_model", dtype=torch.float16)
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}
    assert {tensor.dtype for tensor in model.to(torch.bfloat16).parameters()} == {torch.float32}


@pytest.mark.parametrize("pose", [[0, 0, 0, 0, 0, 0], [0.4, -0.2, 0.3, 0.3, -0.2, 2.0], [-0.6, 0.3, -0.8, 0, 0.1, -3]])
def test_fit_recovers_identity_expression_and_pose(simple, pose):
    rng = np.random.default_rng(1)
    alpha, beta = rng.normal(size=4), rng.normal(size=5)
    shape = simple(torch.tensor(alpha).float(), torch.tensor(beta).float()).numpy()
    placed = similarity_from_pose(np.array(pose, float), SIZE).place(shape.astype(float))
    fit = simple.fit(placed, SIZE)
    np.testing.assert_allclose(fit.identity, alpha, atol=1e-3)
    np.testing.assert_allclose(fit.expression, beta, atol=1e-3)
    np.testing.assert_allclose(fit.head_pose, pose, atol=1e-4)
    np.testing.assert_allclose(fit.shape, shape, atol=1e-5)
    np.testing.assert_allclose(fit.similarity.place(fit.shape), placed, atol=1e-6)
    assert fit.identity.dtype == fit.expression.dtype == fit.head_pose.dtype == np.float32


def test_fit_weighs_what_is_seen_against_what_is_usual(face):
    both = random_basis(np.random.default_rng(2), 6, norm=0.5)
    model = model_of(face, both[:3], both[3:], noise=0.25)
    beta = np.array([1.0, -2.0, 0.5])
    fit = model.fit(similarity_from_pose(np.zeros(6), SIZE).place(face + np.tensordot(beta, both[3:], 1)), SIZE)
    # Maximum a posteriori with unit priors and orthogonal components: |b|² / (|b|² + σ²) of the truth.
    np.testing.assert_allclose(fit.expression, beta * 0.25 / (0.25 + 0.0625), atol=1e-4)
    np.testing.assert_allclose(fit.identity, 0, atol=1e-4)


def test_fit_does_not_depend_on_the_size_of_the_picture(shipped):
    rng = np.random.default_rng(3)
    noisy = shipped.array("mean_shape") + rng.normal(size=(NUM_VERTICES, 3)) * 0.01
    small, large = (shipped.fit(similarity_from_pose(np.full(6, 0.1), size).place(noisy), size) for size in (128, 512))
    np.testing.assert_allclose(small.expression, large.expression, atol=1e-3)
    np.testing.assert_allclose(small.head_pose, large.head_pose, atol=1e-4)


def test_move_is_linear_and_starts_from_the_heads_own_shape(simple, face):
    own = face + np.random.default_rng(4).normal(size=face.shape) * 1e-3
    change = np.array([[0, 0, 0, 0, 0], [0.001, 0, 0, 0, 0], [0, 0, 0, 0.002, 0]], np.float32)
    moved = simple.move(own, change)
    np.testing.assert_allclose(moved[0], own, atol=1e-7)
    expected = own + 0.002 * simple.array("expression_basis")[3]
    np.testing.assert_allclose(moved[2], expected, atol=1e-6)


def test_neutral_frames_have_shut_lips_and_open_eyes(face, gestures):
    jaw, lids = gestures[:2]
    drop = np.array([1, 0, 1, 0, 0.5, 0, 1, 0.6, 0, 1, 0.9, 0.8] * 2)
    shut = np.zeros(24)
    shut[[1, 3]] = 1  # shut lips, but blinking
    shape = face + drop[:, None, None] * jaw + shut[:, None, None] * lids
    assert sorted(neutral_frames(shape)) == [5, 8, 13, 15]
    assert len(neutral_frames(shape[:4])) == 3


def synthetic_track(rng, person, gestures, frames=60, lids=True):
    """A clip: rest in its first third, then gestures, all in a moving pose; landmarks in pixels and the truth."""
    beta = rng.normal(size=(frames, len(gestures)))
    beta[:, :2] = np.abs(beta[:, :2]) * 0.5 + 0.15  # jaws only drop, lids only shut
    beta[:, 1] = np.where(np.arange(frames) % 6 == 5, np.minimum(beta[:, 1], 1) * lids, 0)
    beta[: frames // 3] = 0
    pose = rng.uniform(-0.3, 0.3, (frames, 6)) * (1, 1, 1, 1, 1, 5)
    shape = person + np.tensordot(beta, gestures, 1)
    return similarity_from_pose(pose, SIZE).place(shape), beta, pose


def test_fit_track_takes_the_face_at_rest_as_zero(face, gestures):
    rng = np.random.default_rng(5)
    identity = random_basis(rng, 3, norm=0.5)
    model = model_of(face, identity, gestures, noise=1e-4)
    alpha = np.array([0.5, -0.3, 0.2])
    landmarks, beta, pose = synthetic_track(rng, face + np.tensordot(alpha, identity, 1), gestures)
    fit = model.fit_track(landmarks, SIZE)
    assert fit.expression.shape == (60, 4) and fit.head_pose.shape == (60, 6) and fit.identity.shape == (3,)
    np.testing.assert_allclose(fit.expression, beta, atol=2e-3)
    np.testing.assert_allclose(fit.head_pose, pose, atol=1e-3)
    np.testing.assert_allclose(fit.identity, alpha, atol=2e-3)


def test_mouth_anchor_is_where_the_lips_of_the_person_are(simple):
    alpha = np.array([1.0, -0.5, 0.2, 2.0], np.float32)
    expected = simple(torch.from_numpy(alpha), torch.zeros(5)).numpy()[INNER_LIPS].mean(0)
    np.testing.assert_allclose(simple.mouth_anchor(alpha), expected, atol=1e-6)


@pytest.fixture(scope="module")
def fitted(face, gestures):
    """A model fitted to six synthetic people, and the tracks."""
    rng = np.random.default_rng(6)
    identity = np.zeros((3, NUM_VERTICES, 3))
    identity[0, :, 1] = 0.1 * face[:, 1]  # longer faces
    identity[1, :, 0] = 0.1 * face[:, 0]  # broader ones
    identity[2, NOSE_TIP := 4, 2] = -0.1
    assert NOSE_TIP in STABLE
    tracks = [
        synthetic_track(rng, face + np.tensordot(rng.normal(size=3), identity, 1), gestures)[0] for _ in range(6)
    ]
    model, report = fit_face_model(tracks, identity_dim=5, expression_dim=8)
    return model, report, tracks


def test_mean_face_is_upright_symmetric_and_one_unit_wide(fitted):
    mean, mirror = fitted[0].array("mean_shape"), fitted[0].array("mirror").astype(int)
    np.testing.assert_allclose(mean[LEFT_OUTER_CORNER] - mean[RIGHT_OUTER_CORNER], [1, 0, 0], atol=1e-4)
    assert mean[FOREHEAD, 1] < mean[CHIN, 1] and mean[4, 2] < mean[STABLE, 2].mean()  # y down, nose towards the camera
    np.testing.assert_allclose((mean[FOREHEAD] - mean[CHIN])[0], 0, atol=1e-3)
    np.testing.assert_allclose(mean[mirror] * FLIP, mean, atol=1e-3)
    assert mirror[LEFT_OUTER_CORNER] == RIGHT_OUTER_CORNER and mirror[FOREHEAD] == FOREHEAD
    np.testing.assert_array_equal(mirror[mirror], np.arange(NUM_VERTICES))


def test_mirror_vertices_of_a_shape_that_was_shuffled(face):
    half = face[face[:, 0] > 0.02]
    shape = np.concatenate([half, half * FLIP])
    order = np.random.default_rng(7).permutation(len(shape))
    mirror = mirror_vertices(shape[order])
    np.testing.assert_allclose(shape[order][mirror], shape[order] * FLIP)


def test_few_components_hold_what_few_gestures_made(fitted):
    model, report, tracks = fitted
    assert report["expression_variance"] > 0.99 and report["identity_variance"] > 0.99
    # Four gestures, of which one is one-sided: five components with the mirror image, nothing beyond.
    norms = np.linalg.norm(model.array("expression_basis").reshape(8, -1), axis=1)
    assert (np.diff(norms) <= 1e-6).all() and norms[5] < 0.2 * norms[0]
    fit = model.fit_track(tracks[0], SIZE)
    rebuilt = fit.shape[:20].mean(0) + np.tensordot(fit.expression, model.array("expression_basis"), 1)
    assert np.abs(rebuilt - fit.shape).max() < 0.02


def test_coefficients_are_in_standard_deviations(fitted):
    model, _, tracks = fitted
    beta = np.concatenate([model.fit_track(track, SIZE).expression for track in tracks])
    mirrored = beta @ model.mirror_expression()
    second_moment = np.concatenate([beta, mirrored]).T @ np.concatenate([beta, mirrored]) / (2 * len(beta))
    np.testing.assert_allclose(second_moment[:4, :4], np.eye(4), atol=0.1)


def test_components_are_orthogonal(fitted):
    for name in ("identity_basis", "expression_basis"):
        flat = fitted[0].array(name).astype(float)
        flat = flat.reshape(len(flat), -1)[:4]
        gram = flat @ flat.T
        assert np.abs(gram - np.diag(np.diag(gram))).max() < 1e-4 * gram.max()


@pytest.mark.integration
def test_a_fit_with_fewer_clips_than_components_leaves_the_last_empty(fitted):
    model, _ = fit_face_model(fitted[2][:2], identity_dim=7, expression_dim=4)
    basis = model.array("identity_basis")
    assert basis.shape == (7, NUM_VERTICES, 3) and np.isfinite(basis).all()
    assert np.abs(basis[4:]).max() < 1e-3


@pytest.mark.parametrize("which", ["fitted", "shipped"])
def test_mirrored_expression_is_the_expression_of_the_mirrored_face(which, request):
    model = request.getfixturevalue(which)
    model = model[0] if isinstance(model, tuple) else model
    matrix, mirror = model.mirror_expression(), model.array("mirror").astype(int)
    beta = np.zeros((4, model.config.expression_dim), np.float32)
    beta[:, :4] = np.eye(4)
    offset = model.expression_offset(torch.from_numpy(beta)).numpy()
    seen = model.expression_offset(torch.from_numpy((beta @ matrix).astype(np.float32))).numpy()
    expected = offset[:, mirror] * FLIP
    assert np.linalg.norm(seen - expected) < 0.1 * np.linalg.norm(expected)
    np.testing.assert_allclose(beta @ matrix @ matrix, beta, atol=0.1)


def test_upper_face_keeps_brows_and_lids_and_drops_the_jaw(face, gestures):
    model = model_of(face, np.zeros((1, NUM_VERTICES, 3)), gestures)
    upper = model.upper_face(np.diag([1.0, 1, 1, 1]))
    np.testing.assert_allclose(np.diag(upper), [0, 1, 0, 1], atol=0.15)
    assert upper.dtype == np.float32
    np.testing.assert_allclose(upper - np.diag(np.diag(upper)), 0, atol=0.05)


def test_upper_face_of_the_shipped_model_moves_eyes_and_not_lips(shipped):
    beta = np.random.default_rng(8).normal(size=(20, 64)).astype(np.float32)
    upper = shipped.upper_face(beta)
    basis = shipped.array("expression_basis")
    part, rest = (np.linalg.norm(np.tensordot(b, basis, 1), axis=-1).mean(0) for b in (upper, beta - upper))
    assert part[INNER_LIPS].mean() < 0.35 * rest[INNER_LIPS].mean()
    assert rest[BROWS].mean() < 0.35 * part[BROWS].mean()


def lid_gap(shape):
    """How much lower the lower lids are, negative if they cross; `(..., 478, 3)`."""
    gaps = [
        shape[..., loop[opposite_lid(loop)][10:15], 1] - shape[..., loop[10:15], 1] for loop in (RIGHT_EYE, LEFT_EYE)
    ]
    return np.mean(gaps, axis=(0, -1))


def test_blink_closes_the_lids_and_leaves_mouth_and_eyeballs(shipped):
    shape = shipped.array("mean_shape").astype(float)
    open_eyes = eye_opening(shape)
    curve = np.linspace(0, 1, 5)
    moved = shipped.move(shape, (curve * open_eyes)[:, None] * shipped.array("blink"))
    gap = lid_gap(moved)
    assert (np.diff(gap) < 0).all() and abs(gap[-1]) < 0.45 * gap[0]
    away = np.linalg.norm(moved[-1] - shape, axis=1)
    lids = away[np.concatenate([RIGHT_EYE[10:15], LEFT_EYE[10:15]])].mean()
    assert lids > 0.5 * open_eyes
    assert away[INNER_LIPS].max() < 0.3 * lids and away[[CHIN, FOREHEAD]].max() < 0.2 * lids
    assert away[[RIGHT_IRIS, LEFT_IRIS]].max() < 0.5 * lids
    assert mouth_opening(moved[-1]) == pytest.approx(mouth_opening(shape), abs=0.02)


def test_blink_of_a_fitted_model_is_the_movement_of_the_lids(fitted, gestures):
    model = fitted[0]
    mean = model.array("mean_shape").astype(float)
    closing = eye_opening(mean) * model.array("blink")
    offset = np.tensordot(closing, model.array("expression_basis"), 1)
    upper = np.concatenate([RIGHT_EYE[10:15], LEFT_EYE[10:15]])
    aligned = fit_similarity(mean[STABLE], mean[STABLE]).rotation @ gestures[1][upper].T
    np.testing.assert_allclose(offset[upper, 1], aligned[1], atol=0.35 * np.abs(aligned[1]).max())
    assert np.abs(offset[INNER_LIPS]).max() < 0.2 * np.abs(aligned[1]).max()
    assert eye_opening(mean + offset) < 0.4 * eye_opening(mean)


def test_lips_are_closed_by_the_smallest_change(shipped):
    shape = shipped.array("mean_shape").astype(float)
    jaw = np.linalg.lstsq(
        shipped.array("expression_basis")[:, INNER_LIPS, 1].T.astype(float),
        0.1 * np.where(np.arange(20) % 10 > 0, np.where(np.arange(20) < 10, 1.0, -1.0), 0.0),
        rcond=1e-3,
    )[0]
    apart = shipped.move(shape, 0.3 * jaw[None])[0]
    closed = shipped.move(apart, shipped.close_lips(apart)[None])[0]
    assert mouth_opening(apart) > 2 * mouth_opening(shape) - 0.02
    assert mouth_opening(closed) < 0.35 * mouth_opening(apart)
    assert np.linalg.norm(closed - apart, axis=1)[[FOREHEAD, *BROWS]].max() < 0.03


@pytest.mark.parametrize("noise", [0.0, -0.02, 2.0, float("nan"), float("inf"), "0.02", None])
def test_senseless_noise_is_refused(noise):
    with pytest.raises(ValueError, match="landmark_noise must be a finite number from 1e-06 to 1"):
        FaceModel(landmark_noise=noise)
