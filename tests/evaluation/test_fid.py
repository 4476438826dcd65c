"""Fréchet distances against closed forms, and FID through a TorchScript file of the published kind."""

import numpy as np
import pytest
import torch
from scipy import linalg

from osmnet.evaluation.metrics.fid import fid, inception_features, load_inception
from osmnet.evaluation.metrics.frechet import few_samples, frechet_distance, sample_frechet_distance


class Features(torch.nn.Module):
    """Has the interface of the published Inception file: 2048 numbers of each uint8 image."""

    def forward(self, images: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        means = images.float().mean(dim=[2, 3])
        if not return_features:
            return means
        return torch.cat([means, means.std(1, keepdim=True)], 1).repeat(1, 512)


class Classifier(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images


def saved(module, path):
    torch.jit.script(module).save(str(path))
    return path


def covariance(dim, seed, rank=None):
    spread = np.random.default_rng(seed).normal(size=(dim, rank or 2 * dim))
    return spread @ spread.T / spread.shape[1]


def test_diagonal_covariances_have_a_closed_form():
    rng = np.random.default_rng(0)
    mean_a, mean_b = rng.normal(size=(2, 6))
    variance_a, variance_b = rng.uniform(0, 4, (2, 6))
    wanted = ((mean_a - mean_b) ** 2).sum() + ((np.sqrt(variance_a) - np.sqrt(variance_b)) ** 2).sum()
    assert frechet_distance(mean_a, np.diag(variance_a), mean_b, np.diag(variance_b)) == pytest.approx(wanted)


def test_full_covariances_agree_with_the_matrix_square_root():
    a, b = covariance(8, 1), covariance(8, 2)
    mean = np.zeros(8)
    by_root = np.trace(a + b - 2 * linalg.sqrtm(a @ b).real)
    by_eigenvalues = np.trace(a + b) - 2 * np.sqrt(np.linalg.eigvals(a @ b).real).sum()
    assert frechet_distance(mean, a, mean, b) == pytest.approx(by_root)
    assert frechet_distance(mean, a, mean, b) == pytest.approx(by_eigenvalues)
    assert frechet_distance(mean, a, mean, b) == pytest.approx(frechet_distance(mean, b, mean, a))


def test_covariances_without_full_rank_are_measured_exactly():
    # Two planes at right angles share one axis: the root of the product has that axis' variances alone.
    a, b = np.diag([4.0, 9.0, 0, 0, 0]), np.diag([0, 1.0, 25.0, 0, 0])
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(5, 5)))[0]
    mean = np.zeros(5)
    assert frechet_distance(mean, turn @ a @ turn.T, mean, turn @ b @ turn.T) == pytest.approx(13 + 26 - 2 * 3)
    low = covariance(200, 4, rank=7)
    assert frechet_distance(np.zeros(200), low, np.zeros(200), low) == pytest.approx(0, abs=1e-6 * np.trace(low))


def test_samples_of_two_gaussians():
    rng = np.random.default_rng(5)
    real, fake = rng.normal(0, 1, (20000, 3)), rng.normal((1, 0, 0), (1, 2, 1), (20000, 3))
    assert sample_frechet_distance(real, fake) == pytest.approx(1 + 1, rel=0.05)
    assert sample_frechet_distance(real, real) == pytest.approx(0, abs=1e-9)
    assert sample_frechet_distance(real[:, :1], fake[:, :1]) == pytest.approx(1, rel=0.05)


def test_few_samples_in_many_dimensions_give_what_their_covariances_give():
    rng = np.random.default_rng(6)
    real, fake = rng.normal(size=(12, 30)), rng.normal(0.3, 2, (9, 30))
    moments = [(x.mean(0), np.cov(x, rowvar=False)) for x in (real, fake)]
    assert sample_frechet_distance(real, fake) == pytest.approx(frechet_distance(*moments[0], *moments[1]))


def test_what_cannot_be_measured_is_refused():
    one = np.eye(2)
    with pytest.raises(ValueError, match="must fit"):
        frechet_distance(np.zeros(2), one, np.zeros(3), np.eye(3))
    with pytest.raises(ValueError, match="finite"):
        frechet_distance(np.zeros(2), one, np.array([0, np.nan]), one)
    with pytest.raises(ValueError, match="at least 2 samples"):
        sample_frechet_distance(np.zeros((1, 4)), np.zeros((5, 4)))
    with pytest.raises(ValueError, match="finite"):
        sample_frechet_distance(np.full((3, 4), np.inf), np.zeros((5, 4)))


def test_too_few_samples_are_said_to_be():
    assert few_samples(2049, 2048) is None
    assert "300 samples" in few_samples(300, 2048) and "2048" in few_samples(300, 2048)


def test_fid_of_frames_through_a_given_file(tmp_path):
    network = load_inception(saved(Features(), tmp_path / "inception.pt"))
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 200, (20, 8, 8, 3)).astype(np.uint8)
    features = inception_features(network, frames)  # two batches
    assert features.shape == (20, 2048)
    assert features[:, :3] == pytest.approx(frames.mean((1, 2)), rel=1e-5)  # RGB, as it came, in [0, 255]
    brighter = inception_features(network, frames + 50)
    assert fid(features, features) == pytest.approx(0, abs=1e-3)
    # The mean alone has moved: three of four numbers by 50.
    assert fid(features, brighter) == pytest.approx(1536 * 50**2, rel=1e-4)


def test_files_that_are_not_inception_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no Inception weights.*FID is left out"):
        load_inception(tmp_path / "missing.pt")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "state.pt")
    (tmp_path / "text.pt").write_text("not a module")
    for name in ("state.pt", "text.pt"):
        with pytest.raises(ValueError, match="no TorchScript module"):
            load_inception(tmp_path / name)
    with pytest.raises(ValueError, match="return_features"):
        load_inception(saved(Classifier(), tmp_path / "classifier.pt"))
    with pytest.raises(ValueError, match="uint8 RGB"):
        inception_features(load_inception(saved(Features(), tmp_path / "i.pt")), np.zeros((2, 8, 8, 3)))
