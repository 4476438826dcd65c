"""Stage `face-model`: mean face, identity and expression bases."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from tqdm import tqdm

from osmnet.data.dataset import Clip, Dataset
from osmnet.face.morphable import FaceModel, neutral_frames
from osmnet.face.pose import fit_similarity
from osmnet.face.topology import (
    CHIN,
    FOREHEAD,
    LEFT_EYE,
    LEFT_IRIS,
    LEFT_OUTER_CORNER,
    NUM_VERTICES,
    RIGHT_EYE,
    RIGHT_IRIS,
    RIGHT_OUTER_CORNER,
    STABLE,
    eye_opening,
)

FRAMES_PER_CLIP = 250  # long clips must not dominate the basis
MAX_CLIPS = 4000  # a million frames; more do not change a hundred components
# The joint on which the head turns, from the middle of the stable vertices, head units: lower and further back.
NECK_JOINT = np.array([0.0, 0.35, 0.8])


def mirror_vertices(mean: np.ndarray) -> np.ndarray:
    """Find the opposite of each vertex of a nearly symmetric shape `(478, 3)`."""
    flipped = mean * (-1, 1, 1)
    cost = np.linalg.norm(mean[:, None] - flipped[None], axis=-1)
    return linear_sum_assignment(cost)[1]


def _upright(mean: np.ndarray) -> np.ndarray:
    """Move a shape to the head's axes and units."""
    across = mean[LEFT_OUTER_CORNER] - mean[RIGHT_OUTER_CORNER]
    x = across / np.linalg.norm(across)
    down = mean[CHIN] - mean[FOREHEAD]
    y = down - (down @ x) * x
    y /= np.linalg.norm(y)
    rotation = np.stack([x, y, np.cross(x, y)])
    mean = mean @ rotation.T / np.linalg.norm(across)
    return mean - mean[STABLE].mean(0) - NECK_JOINT


def fit_mean(neutrals: np.ndarray, rounds: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Compute the symmetric generalised Procrustes mean of neutral faces.

    Args:
        neutrals (`np.ndarray` of shape `(clips, 478, 3)`): In any unit and pose.
        rounds (`int`): Alternations of aligning and averaging.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: Mean `(478, 3)` in head units and the mirror `(478,)`.
    """
    mean = _upright(neutrals[0])
    for _ in range(rounds):
        aligned = fit_similarity(mean[STABLE], neutrals[:, STABLE]).unplace(neutrals)
        mean = _upright(np.median(aligned, 0))
        mirror = mirror_vertices(mean)
        mean = _upright((mean + mean[mirror] * (-1, 1, 1)) / 2)
    return mean, mirror


class _Moments:
    def __init__(self, mirror: np.ndarray):
        self.mirror = mirror
        self.sum = np.zeros((3 * NUM_VERTICES, 3 * NUM_VERTICES))
        self.weight, self.count = 0.0, 0

    def add(self, shapes: np.ndarray, weights: np.ndarray) -> None:
        both = np.concatenate([shapes, shapes[:, self.mirror] * (-1, 1, 1)]).reshape(2 * len(shapes), -1)
        scaled = both * np.sqrt(np.tile(weights, 2))[:, None]
        self.sum += scaled.T @ scaled
        self.weight, self.count = self.weight + 2 * weights.sum(), self.count + len(both)

    def components(self, most: int) -> tuple[np.ndarray, float]:
        """Principal components times standard deviation `(count, 1434)`, and their share."""
        variance, axes = np.linalg.eigh(self.sum / self.weight)
        variance, axes = variance[::-1], axes.T[::-1]
        largest = np.abs(axes).argmax(1)
        axes = axes * np.sign(axes[np.arange(len(axes)), largest])[:, None]  # the sign from LAPACK is arbitrary
        count = min(most, self.count, len(axes))
        basis = axes[:count] * np.sqrt(np.maximum(variance[:count], 1e-12))[:, None]
        return basis, float(variance[:count].sum() / variance.sum())


def fit_face_model(
    tracks: Sequence[np.ndarray], identity_dim: int = 40, expression_dim: int = 64
) -> tuple[FaceModel, dict[str, float]]:
    """Fit S̄, B_id and B_exp (OSM-Net, Eq. 6) to clips.

    Args:
        tracks (sequence of `np.ndarray`): Landmarks `(frames, 478, 3)` in pixels, one person each; iterated twice, one
            track in memory at a time.
        identity_dim (`int`): Components of identity; with fewer clips the last ones are empty.
        expression_dim (`int`): Components of expression.

    Returns:
        `tuple[FaceModel, dict[str, float]]`: The model, and the bases' shares of the variance.
    """
    # 1. Mean face.
    resting = []
    for track in tqdm(tracks, desc="mean face", unit="clip", mininterval=5):
        rest = neutral_frames(track / np.ptp(track[:, :, 1], axis=1).mean())
        resting.append(track[rest].mean(0))
    mean, mirror = fit_mean(np.stack(resting))

    # 2. Moments of identities and expressions.
    identities, changes, blinks = _Moments(mirror), _Moments(mirror), _Blinks()
    for track in tqdm(tracks, desc="bases", unit="clip", mininterval=5):
        shape = fit_similarity(mean[STABLE], track[:, STABLE]).unplace(track)
        neutral = shape[neutral_frames(shape)].mean(0)
        identities.add((neutral - mean)[None], np.ones(1))
        chosen = np.unique(np.linspace(0, len(shape) - 1, FRAMES_PER_CLIP).astype(int))
        weight = np.full(len(chosen), min(1.0, len(shape) / FRAMES_PER_CLIP) / len(chosen))
        changes.add(shape[chosen] - neutral, weight)
        opening = eye_opening(shape)
        blinks.add(shape[chosen] - neutral, (opening - np.median(opening))[chosen], weight)
    # 3. Bases.
    identity_basis, identity_share = identities.components(identity_dim)
    expression_basis, expression_share = changes.components(expression_dim)

    # 4. Component.
    model = FaceModel(identity_dim, expression_dim)
    geometry = {
        "mean_shape": mean,
        "identity_basis": identity_basis.reshape(-1, NUM_VERTICES, 3),
        "expression_basis": expression_basis.reshape(-1, NUM_VERTICES, 3),
        "blink": blinks.coefficients(expression_basis, mean, mirror),
        "mirror": mirror,
    }
    for name, value in geometry.items():
        parameter = model.geometry[name].data
        parameter[tuple(slice(n) for n in np.shape(value))] = torch.as_tensor(np.asarray(value), dtype=torch.float32)
    return model, {"identity_variance": identity_share, "expression_variance": expression_share}


class _Blinks:
    """Regression of the eye regions on lid closing."""

    def __init__(self) -> None:
        self.moved = np.zeros((NUM_VERTICES, 3))
        self.closed = 0.0

    def add(self, change: np.ndarray, opening: np.ndarray, weight: np.ndarray) -> None:
        """Add changes `(frames, 478, 3)` and relative openings `(frames,)`, head units."""
        closed = np.minimum(opening, 0)  # blinks, not eyes wide open
        self.moved += np.tensordot(weight * closed, change, 1)
        self.closed += (weight * closed**2).sum()

    def coefficients(self, basis: np.ndarray, mean: np.ndarray, mirror: np.ndarray) -> np.ndarray:
        """β of lids that close by one head unit."""
        direction = -(self.moved + self.moved[mirror] * (-1, 1, 1)) / (2 * self.closed)
        # Only lids and the skin near them belong to a blink.
        lid = mean[np.concatenate([RIGHT_EYE, LEFT_EYE])]
        near = np.linalg.norm(mean[:, None] - lid, axis=-1).min(1)
        direction *= np.clip(1.5 - near / 0.12, 0, 1)[:, None]
        iris = np.concatenate([np.arange(RIGHT_IRIS, RIGHT_IRIS + 5), np.arange(LEFT_IRIS, LEFT_IRIS + 5)])
        direction[iris] = 0  # eyeballs do not move with the lids
        # Ridge: components of little variance must not be driven far for a small residual.
        return np.linalg.solve(basis @ basis.T + 1e-5 * np.eye(len(basis)), basis @ direction.ravel())


class _Tracks(Sequence):
    def __init__(self, clips: Sequence[Clip]):
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index):
        return self.clips[index].landmarks_px()


def train(dataset: Dataset, out: Path) -> dict[str, float]:
    """Fit and save a face model.

    Args:
        dataset (`Dataset`): At most `MAX_CLIPS` clips of it are used, evenly by name.
        out (`Path`): Model folder; the component goes to `out/face_model`.

    Returns:
        `dict[str, float]`: Number of clips, and the bases' shares of the variance.
    """
    clips = dataset.clips()
    chosen = np.unique(np.linspace(0, len(clips) - 1, MAX_CLIPS).astype(int))
    model, report = fit_face_model(_Tracks([clips[index] for index in chosen]))
    model.save_pretrained(out / "face_model")
    return {"clips": len(chosen), **report}
