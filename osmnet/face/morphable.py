"""The linear face model S = S̄ + αB_id + βB_exp (OSM-Net, Eq. 6)."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from diffusers.configuration_utils import register_to_config
from torch import nn

from osmnet.face.pose import Similarity, fit_similarity, pose_from_similarity
from osmnet.face.topology import INNER_LIPS, NUM_VERTICES, STABLE, eye_opening, mouth_opening, opposite_lid
from osmnet.loading.model import OSMNetModel
from osmnet.utils.checks import check_range

MIN_NOISE, MAX_NOISE = 1e-6, 1.0  # head units; without noise, a fit may be singular
LIP_REACH = 0.05  # head units; distance from its edge within which a lip follows it


@dataclass(frozen=True)
class FaceFit:
    """Shape, coefficients and pose fitted to a picture or clip.

    Attributes:
        shape (`np.ndarray` of shape `(..., 478, 3)`): The vertices seen, pose removed, head units.
        identity (`np.ndarray` of shape `(40,)`): α in standard deviations.
        expression (`np.ndarray` of shape `(..., 64)`): β in standard deviations.
        head_pose (`np.ndarray` of shape `(..., 6)`): yaw, pitch, roll [rad], tx, ty, tz [head units].
        similarity (`Similarity`): Head units to pixels.
    """

    shape: np.ndarray
    identity: np.ndarray
    expression: np.ndarray
    head_pose: np.ndarray
    similarity: Similarity


class FaceModel(OSMNetModel):
    """Mean face with identity and expression bases.

    Fitted by `osmnet train face-model`; the paper uses the Basel Face Model (`docs/paper_map.md`). Coefficients are in
    standard deviations of the training clips.

    Args:
        identity_dim (`int`): Number of identity components.
        expression_dim (`int`): Number of expression components.
        landmark_noise (`float`): Standard deviation of a vertex coordinate around the model, head units.
    """

    # Half precision would move the vertices by a tenth of a pixel from frame to frame.
    _keep_in_fp32_modules = ["geometry"]

    @register_to_config
    def __init__(self, identity_dim: int = 40, expression_dim: int = 64, landmark_noise: float = 0.02):
        super().__init__()
        check_range("landmark_noise", landmark_noise, MIN_NOISE, MAX_NOISE)
        fixed = {
            "mean_shape": torch.zeros(NUM_VERTICES, 3),
            "identity_basis": torch.zeros(identity_dim, NUM_VERTICES, 3),
            "expression_basis": torch.zeros(expression_dim, NUM_VERTICES, 3),
            # β of lids that close by one head unit.
            "blink": torch.zeros(expression_dim),
            # Index of each vertex's mirror image.
            "mirror": torch.arange(NUM_VERTICES, dtype=torch.float32),
        }
        self.geometry = nn.ParameterDict({k: nn.Parameter(v, requires_grad=False) for k, v in fixed.items()})

    def array(self, name: str) -> np.ndarray:
        """Return a fixed tensor as a NumPy array."""
        return self.geometry[name].detach().cpu().float().numpy()

    def forward(self, identity: torch.Tensor, expression: torch.Tensor) -> torch.Tensor:
        """Compute shapes `(..., 478, 3)` from α `(..., identity_dim)` and β `(..., expression_dim)`; Eq. 6."""
        by_identity = torch.einsum("...k,kvc->...vc", identity, self.geometry["identity_basis"])  # (..., 478, 3)
        return self.geometry["mean_shape"] + by_identity + self.expression_offset(expression)

    def expression_offset(self, expression: torch.Tensor) -> torch.Tensor:
        """Compute βB_exp: `(..., expression_dim)` to `(..., 478, 3)` head units."""
        return torch.einsum("...k,kvc->...vc", expression, self.geometry["expression_basis"])

    def move(self, shape: np.ndarray, change: np.ndarray) -> np.ndarray:
        """Apply changes of β `(frames, expression_dim)` to a shape `(478, 3)`: `(frames, 478, 3)`.

        Lips touch where the linear model would cross them.
        """
        basis = self.array("expression_basis").reshape(change.shape[-1], -1)
        # Not by a BLAS, whose waiting threads would take processors from other renderings.
        moved = np.einsum("ik,kj->ij", change, basis, optimize=False)
        return self._uncross_lips(shape + moved.reshape(-1, NUM_VERTICES, 3))

    def _uncross_lips(self, shapes: np.ndarray) -> np.ndarray:
        upper, lower = _inner_lips()
        crossing = np.maximum(shapes[:, upper, 1] - shapes[:, lower, 1], 0)  # y is down
        if not crossing.any():
            return shapes
        moved = shapes.copy()
        shares = _lip_shares(self.array("mean_shape").tobytes())
        for (side, share), half in zip(shares, (-0.5, 0.5), strict=True):
            moved[:, side, 1] += half * crossing @ share
        return moved

    def fit(self, landmarks_px: np.ndarray, size: int) -> FaceFit:
        """Fit pose, α and β to a picture, under unit normal priors.

        Args:
            landmarks_px (`np.ndarray` of shape `(478, 3)`): Vertices in pixels of the crop.
            size (`int`): Side of the crop in pixels.
        """
        # 1. Pose, from vertices that move with the skull.
        similarity = fit_similarity(self.array("mean_shape")[STABLE], landmarks_px[STABLE])
        shape = similarity.unplace(landmarks_px)  # (478, 3)
        # 2. Identity and expression together, by ridge regression.
        bases = np.concatenate([self.array("identity_basis"), self.array("expression_basis")]).reshape(-1, shape.size)
        seen = (shape - self.array("mean_shape")).ravel()  # (1434,)
        noise = self.config.landmark_noise
        both = np.linalg.solve(
            _products(bases, bases) + noise**2 * np.eye(len(bases)), _products(bases, seen[None])[:, 0]
        )
        identity, expression = np.split(both.astype(np.float32), [self.config.identity_dim])
        return FaceFit(shape, identity, expression, pose_from_similarity(similarity, size), similarity)

    def fit_track(self, landmarks_px: np.ndarray, size: int) -> FaceFit:
        """Fit one identity to a clip, expression and pose to each frame.

        Expressions are relative to the neutral face, see `neutral_frames`.

        Args:
            landmarks_px (`np.ndarray` of shape `(frames, 478, 3)`): Vertices in pixels of the crop.
            size (`int`): Side of the crop in pixels.
        """
        # 1. Poses, and the neutral face.
        similarity = fit_similarity(self.array("mean_shape")[STABLE], landmarks_px[:, STABLE])
        shape = similarity.unplace(landmarks_px)  # (frames, 478, 3)
        neutral = shape[neutral_frames(shape)].mean(0)  # (478, 3)
        # 2. Expressions, as differences from it.
        basis = self.array("expression_basis").reshape(self.config.expression_dim, -1)
        change = (shape - neutral).reshape(len(shape), -1)
        expression = np.linalg.solve(basis @ basis.T + 1e-6 * np.eye(len(basis)), basis @ change.T).T
        # 3. Identity, from the neutral face by ridge regression.
        identity_basis = self.array("identity_basis").reshape(self.config.identity_dim, -1)
        noise = self.config.landmark_noise**2 * np.eye(len(identity_basis))
        seen = (neutral - self.array("mean_shape")).ravel()
        identity = np.linalg.solve(identity_basis @ identity_basis.T + noise, identity_basis @ seen)
        pose = pose_from_similarity(similarity, size)
        return FaceFit(shape, identity.astype(np.float32), expression.astype(np.float32), pose, similarity)

    def misfit(self, landmarks_px: np.ndarray) -> float:
        """Return the RMS distance of stable vertices from the mean face, head units."""
        mean = self.array("mean_shape")[STABLE]
        shape = fit_similarity(mean, landmarks_px[STABLE]).unplace(landmarks_px[STABLE])
        return float(np.sqrt(((shape - mean) ** 2).sum(-1).mean()))

    def mouth_anchor(self, identity: np.ndarray) -> np.ndarray:
        """Return the rest position `(3,)` of the lips for α `(40,)`, head units."""
        offset = np.tensordot(identity, self.array("identity_basis")[:, INNER_LIPS], 1)
        return (self.array("mean_shape")[INNER_LIPS] + offset).mean(0)

    def mirror_expression(self) -> np.ndarray:
        """Return the matrix `(64, 64)` that mirrors β: `mirrored = beta @ matrix`."""
        basis = self.array("expression_basis")
        mirrored = basis[:, self.array("mirror").astype(int)] * np.array([-1, 1, 1])
        flat, mirrored = basis.reshape(len(basis), -1), mirrored.reshape(len(basis), -1)
        return np.linalg.solve(flat @ flat.T + 1e-6 * np.eye(len(flat)), flat @ mirrored.T).T

    def close_lips(self, shape: np.ndarray) -> np.ndarray:
        """Return the smallest change of β `(64,)` that closes the lips of a shape `(478, 3)`."""
        count = len(INNER_LIPS) // 2
        lower, upper = INNER_LIPS[1:count], INNER_LIPS[opposite_lid(INNER_LIPS)][1:count]
        gap = (shape[upper] - shape[lower]).ravel()
        basis = self.array("expression_basis")
        across = (basis[:, upper] - basis[:, lower]).reshape(len(basis), -1)  # (64, gaps)
        # Ridge regression on the gaps: the smallest change keeps a smile.
        inverse = np.linalg.solve(_products(across.T, across.T) + 1e-4 * np.eye(len(gap)), gap)
        return -_products(across, inverse[None])[:, 0]

    def upper_face(self, expression: np.ndarray) -> np.ndarray:
        """Return the part of β in eyes, brows and forehead."""
        # Speech does not determine this part, so a portrait keeps its own.
        y = self.array("mean_shape")[:, 1]
        bridge, nostrils = y[6], y[2]
        keep = np.clip((nostrils - y) / (nostrils - bridge), 0, 1)[:, None]  # 1 above the bridge, 0 below the nose
        basis = self.array("expression_basis")
        flat = basis.reshape(len(basis), -1)
        kept = (basis * keep).reshape(len(flat), -1)
        project = np.linalg.solve(_products(flat, flat) + 1e-6 * np.eye(len(flat)), _products(flat, kept))
        return _products(np.atleast_2d(expression), project).reshape(expression.shape).astype(np.float32)


def neutral_frames(shape: np.ndarray) -> np.ndarray:
    """Return indices of frames with closed mouth and open eyes, from `(frames, 478, 3)`."""
    mouth, eyes = mouth_opening(shape), eye_opening(shape)
    awake = eyes >= np.median(eyes) * 0.8
    order = np.argsort(np.where(awake, mouth, np.inf), kind="stable")
    return order[: max(3, len(shape) // 6)]


def _inner_lips() -> tuple[np.ndarray, np.ndarray]:
    """Return the edges of upper and lower lip, facing each other by index."""
    count = len(INNER_LIPS) // 2
    return INNER_LIPS[opposite_lid(INNER_LIPS)][1:count], INNER_LIPS[1:count]


@lru_cache(maxsize=4)
def _lip_shares(mean_shape: bytes) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return each lip's vertices `(478,)` and shares `(9, vertices)` of its edge's movement."""
    mean = np.frombuffer(mean_shape, np.float32).reshape(NUM_VERTICES, 3)
    is_lower = mean[:, 1] > mean[INNER_LIPS, 1].mean()
    shares = []
    for own, side in zip(_inner_lips(), (~is_lower, is_lower), strict=True):
        # The whole lip follows its edge, less with distance.
        distance = np.linalg.norm(mean[side][:, None, :2] - mean[own][:, :2], axis=-1)
        near = np.exp(-0.5 * (distance / LIP_REACH) ** 2)
        shares.append((side, (near / np.maximum(near.sum(1, keepdims=True), 1e-9) * near.max(1, keepdims=True)).T))
    return shares


def _products(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    # Not by a BLAS, which splits sums among its threads: their order would vary.
    return np.einsum("ik,jk->ij", rows, columns, optimize=False)
