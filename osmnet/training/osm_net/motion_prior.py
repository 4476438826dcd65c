"""Prior of takes: transitions between clips of head motion."""

from collections.abc import Sequence

import numpy as np
import torch

from osmnet.models.osm_net.motion_space import MotionSpace

RIDGE = 1e-3
MAX_MEMORY = 0.97  # largest eigenvalue; below 1, so that a walk forgets
SAMPLES_PER_NUMBER = 4  # of the regression; with fewer it overfits


@torch.no_grad()
def fit_prior(space: MotionSpace, sequences: Sequence[np.ndarray]) -> bool:
    """Fit the prior of a `MotionSpace` by vector autoregression.

    Args:
        space (`MotionSpace`): Its bases are unchanged.
        sequences (`Sequence[np.ndarray]`, each `(clips, motion_dim)`): F̃_m − F_c of consecutive clips.

    Returns:
        `bool`: False if there is too little data; the prior is unchanged then.
    """
    order, width, _ = space.prior_transitions.shape
    long = [each for each in sequences if len(each) > order]
    if sum(len(each) - order for each in long) < SAMPLES_PER_NUMBER * order * width:
        return False

    # 1. Axes: the principal components of real clips, as mixtures of the bases.
    offsets = np.concatenate(long).astype(np.float64)
    mean = offsets.mean(0)
    _, spread, axes = np.linalg.svd(offsets - mean, full_matrices=False)
    spread = np.maximum(spread[:width] / np.sqrt(len(offsets)), 1e-6 * spread[0])
    bases = space.motion_bases.double().cpu().numpy()
    mixtures = spread[:, None] * axes[:width] @ np.linalg.pinv(bases - bases.mean(0), rcond=1e-6)  # (D, S)

    # 2. Transitions: each clip from those before it.
    walks = [(each - mean) @ axes[:width].T / spread for each in long]
    past = np.concatenate(
        [np.concatenate([w[order - lag : len(w) - lag] for lag in range(1, order + 1)], 1) for w in walks]
    )
    now = np.concatenate([walk[order:] for walk in walks])
    square = past.T @ past / len(past)
    weights = np.linalg.solve(square + RIDGE * np.eye(len(square)), past.T @ now / len(past))  # (P·D, D)
    innovation = np.cov((now - past @ weights).T, bias=True).reshape(width, width)
    transitions = weights.reshape(order, width, width).transpose(0, 2, 1)

    space.prior_axes.copy_(torch.from_numpy(mixtures))
    space.prior_transitions.copy_(torch.from_numpy(_forgetting(transitions)))
    root = np.linalg.cholesky(innovation + 1e-9 * np.eye(width))
    space.prior_innovation.copy_(torch.from_numpy(root))
    return True


def _forgetting(transitions: np.ndarray) -> np.ndarray:
    """Shrink transitions `(P, D, D)`, if necessary, so that motion decays."""
    order, width, _ = transitions.shape
    companion = np.eye(order * width, k=-width)
    companion[:width] = np.concatenate(transitions, 1)
    memory = np.abs(np.linalg.eigvals(companion)).max()
    shrink = min(1.0, MAX_MEMORY / max(memory, 1e-9))
    return transitions * shrink ** np.arange(1, order + 1)[:, None, None]
