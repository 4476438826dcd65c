"""Fréchet distance between the Gaussians of two sets of features."""

import numpy as np
from scipy import linalg


def frechet_distance(
    mean_a: np.ndarray, covariance_a: np.ndarray, mean_b: np.ndarray, covariance_b: np.ndarray
) -> float:
    """Compute the squared Fréchet (2-Wasserstein) distance of two Gaussians.

    `‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½)`; covariances may be singular.

    Raises:
        ValueError: If means `(dim,)` and covariances `(dim, dim)` do not fit or a number is not finite.

    Source:
        Dowson, Landau, "The Fréchet distance between multivariate normal distributions", 1982, Eq. 4; Heusel et al.
        2017 (FID), Eq. 6.
    """
    mean_a, mean_b, covariance_a, covariance_b = (
        np.asarray(array, np.float64) for array in (mean_a, mean_b, covariance_a, covariance_b)
    )
    dim = mean_a.size
    shapes = [mean_a.shape, mean_b.shape, covariance_a.shape, covariance_b.shape]
    if shapes != [(dim,), (dim,), (dim, dim), (dim, dim)]:
        raise ValueError(f"Means (dim,) and covariances (dim, dim) must fit, not {', '.join(map(str, shapes))}.")
    if not all(np.isfinite(array).all() for array in (mean_a, mean_b, covariance_a, covariance_b)):
        raise ValueError("Means and covariances must be finite; look for NaN in the features.")
    # tr (Σ_a Σ_b)^½ is the sum of the roots of the eigenvalues of the symmetric Σ_a^½ Σ_b Σ_a^½: nothing gets complex.
    values, vectors = linalg.eigh(covariance_a)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    product = root @ covariance_b @ root
    # Rounding leaves tiny eigenvalues, which may be negative and which the root would make large.
    eigenvalues = linalg.eigvalsh((product + product.T) / 2)
    eigenvalues = np.where(eigenvalues > eigenvalues.max(initial=0) * dim * np.finfo(float).eps, eigenvalues, 0)
    spread = np.trace(covariance_a) + np.trace(covariance_b) - 2 * np.sqrt(eigenvalues).sum()
    return float(((mean_a - mean_b) ** 2).sum() + max(spread, 0.0))


def sample_frechet_distance(real: np.ndarray, fake: np.ndarray) -> float:
    """Compute the Fréchet distance of two sets of samples `(samples, dim)`.

    Few samples bias it upwards, see `few_samples`.

    Raises:
        ValueError: If a set has fewer than 2 samples, the dimensions differ, or a number is not finite.
    """
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1] or min(len(real), len(fake)) < 2:
        raise ValueError(
            f"Samples must be two arrays (at least 2 samples, dim), not of shapes {real.shape} and {fake.shape}."
        )
    if not (np.isfinite(real).all() and np.isfinite(fake).all()):
        raise ValueError("Samples must be finite; look for NaN in the features.")
    means = [x.mean(0, dtype=np.float64) for x in (real, fake)]
    a, b = ((x - mean) / np.sqrt(len(x) - 1) for x, mean in zip((real, fake), means, strict=True))
    if max(len(a), len(b)) >= a.shape[1]:
        return frechet_distance(means[0], a.T @ a, means[1], b.T @ b)
    # The trace of the root is the nuclear norm of a bᵀ, a small matrix for few samples.
    spread = (a * a).sum() + (b * b).sum() - 2 * linalg.svdvals(a @ b.T).sum()
    return float(((means[0] - means[1]) ** 2).sum() + max(spread, 0.0))


def few_samples(count: int, dim: int) -> str | None:
    """Return a warning if `count` samples are too few in `dim` dimensions, else `None`."""
    if count > dim:
        return None
    return (
        f"{count} samples do not determine a covariance in {dim} dimensions (it takes more than {dim}): the Fréchet "
        "distance is too large, and only comparable at this number of samples."
    )
