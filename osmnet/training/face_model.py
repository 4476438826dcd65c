"""Stage `face-model`: mean face, identity and expression bases from the tracks of prepared clips."""

from pathlib import Path

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from osmnet.data.dataset import load_clips
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

FRAMES_PER_CLIP = 250  # so that long clips do not own the basis
# The joint on which the head turns, from the middle of the stable vertices, head units: lower and further back.
NECK_JOINT = np.array([0.0, 0.35, 0.8])


def mirror_vertices(mean: np.ndarray) -> np.ndarray:
    """The vertex on the other side of the face for each vertex of a nearly symmetric shape `(478, 3)`."""
    flipped = mean * (-1, 1, 1)
    cost = np.linalg.norm(mean[:, None] - flipped[None], axis=-1)
    return linear_sum_assignment(cost)[1]


def _upright(mean: np.ndarray) -> np.ndarray:
    """Put a mean shape into the head's axes: outer eye corners one unit apart on x, forehead above the chin."""
    across = mean[LEFT_OUTER_CORNER] - mean[RIGHT_OUTER_CORNER]
    x = across / np.linalg.norm(across)
    down = mean[CHIN] - mean[FOREHEAD]
    y = down - (down @ x) * x
    y /= np.linalg.norm(y)
    rotation = np.stack([x, y, np.cross(x, y)])
    mean = mean @ rotation.T / np.linalg.norm(across)
    return mean - mean[STABLE].mean(0) - NECK_JOINT


def fit_mean(neutrals: np.ndarray, rounds: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Generalised Procrustes mean of neutral faces, made symmetric.

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


def _principal(samples: np.ndarray, weights: np.ndarray, count: int) -> tuple[np.ndarray, float]:
    """Weighted principal components times their standard deviation `(count, features)`, and the share they hold."""
    scaled = samples * np.sqrt(weights / weights.sum())[:, None]
    if len(scaled) < scaled.shape[1]:
        u, singular, vt = np.linalg.svd(scaled, full_matrices=False)
        variance, axes = singular**2, vt
    else:
        variance, axes = np.linalg.eigh(scaled.T @ scaled)
        variance, axes = variance[::-1], axes.T[::-1]
    count = min(count, len(axes))
    return axes[:count] * np.sqrt(np.maximum(variance[:count], 1e-12))[:, None], variance[
        :count
    ].sum() / variance.sum()


def fit_face_model(
    tracks: list[np.ndarray], identity_dim: int = 40, expression_dim: int = 64
) -> tuple[FaceModel, dict]:
    """Fit S̄, B_id and B_exp (OSM-Net, Eq. 6) to tracked clips.

    Args:
        tracks (`list[np.ndarray]`): Landmarks `(frames, 478, 3)` in pixels, one person each.
        identity_dim (`int`): Components of identity; fewer clips than that leave the last ones empty.
        expression_dim (`int`): Components of expression.

    Returns:
        `tuple[FaceModel, dict]`: The model and the shares of variance that the bases hold.
    """
    first = [neutral_frames(track / np.ptp(track[:, :, 1], axis=1).mean()) for track in tracks]
    mean, mirror = fit_mean(np.stack([track[rest].mean(0) for track, rest in zip(tracks, first, strict=True)]))

    neutrals, changes, weights, lids = [], [], [], []
    for track in tracks:
        shape = fit_similarity(mean[STABLE], track[:, STABLE]).unplace(track)
        neutral = shape[neutral_frames(shape)].mean(0)
        neutrals.append(neutral - mean)
        chosen = np.unique(np.linspace(0, len(shape) - 1, FRAMES_PER_CLIP).astype(int))
        changes.append(shape[chosen] - neutral)
        weights.append(np.full(len(chosen), min(1.0, len(shape) / FRAMES_PER_CLIP) / len(chosen)))
        opening = eye_opening(shape)
        lids.append((opening - np.median(opening))[chosen])
    # A mirrored person is a person, a mirrored expression an expression.
    identity = np.stack(neutrals)
    identity = np.concatenate([identity, identity[:, mirror] * (-1, 1, 1)]).reshape(-1, 3 * NUM_VERTICES)
    change, weight = np.concatenate(changes), np.concatenate(weights)
    change = np.concatenate([change, change[:, mirror] * (-1, 1, 1)]).reshape(-1, 3 * NUM_VERTICES)
    identity_basis, identity_share = _principal(identity, np.ones(len(identity)), identity_dim)
    expression_basis, expression_share = _principal(change, np.tile(weight, 2), expression_dim)

    model = FaceModel(identity_dim, expression_dim)
    geometry = {
        "mean_shape": mean,
        "identity_basis": identity_basis.reshape(-1, NUM_VERTICES, 3),
        "expression_basis": expression_basis.reshape(-1, NUM_VERTICES, 3),
        "blink": _blink(change, np.tile(np.concatenate(lids), 2), np.tile(weight, 2), expression_basis, mean),
        "mirror": mirror,
    }
    for name, value in geometry.items():
        parameter = model.geometry[name].data
        parameter[tuple(slice(n) for n in np.shape(value))] = torch.as_tensor(np.asarray(value), dtype=torch.float32)
    return model, {"identity_variance": float(identity_share), "expression_variance": float(expression_share)}


def _blink(
    change: np.ndarray, opening: np.ndarray, weight: np.ndarray, basis: np.ndarray, mean: np.ndarray
) -> np.ndarray:
    """β of lids that close by one head unit: the regression of the eyes' surroundings on how far lids are closed."""
    closed = np.minimum(opening, 0)  # blinks, not eyes wide open
    per_unit = (change * (weight * closed)[:, None]).sum(0) / (weight * closed**2).sum()
    direction = -per_unit.reshape(NUM_VERTICES, 3)
    # Only lids and the skin near them belong to a blink, whatever else people do while they blink.
    lid = mean[np.concatenate([RIGHT_EYE, LEFT_EYE])]
    near = np.linalg.norm(mean[:, None] - lid, axis=-1).min(1)
    direction *= np.clip(1.5 - near / 0.12, 0, 1)[:, None]
    iris = np.concatenate([np.arange(RIGHT_IRIS, RIGHT_IRIS + 5), np.arange(LEFT_IRIS, LEFT_IRIS + 5)])
    direction[iris] = 0  # eyeballs stay when lids close
    # Ridge: components that hardly move must not be driven far to mend a small remainder.
    return np.linalg.solve(basis @ basis.T + 1e-5 * np.eye(len(basis)), basis @ direction.ravel())


def train(data: Path, out: Path) -> dict:
    """Fit a face model to a prepared folder and save it.

    Args:
        data (`Path`): Made by `osmnet prepare`.
        out (`Path`): Model folder; the component goes to `out/face_model`.

    Returns:
        `dict`: Shares of variance that the bases hold.
    """
    model, report = fit_face_model([clip.landmarks_px() for clip in load_clips(data)])
    model.save_pretrained(out / "face_model")
    return report
