"""Identity of a face: distance between neutral face shapes."""

import numpy as np

from osmnet.face.morphable import FaceModel
from osmnet.face.pose import fit_similarity
from osmnet.face.topology import STABLE


def neutral_shape(landmarks_px: np.ndarray, face_model: FaceModel) -> np.ndarray:
    """Return a video's mean face without pose and expression, `(478, 3)` head units.

    Args:
        landmarks_px (`np.ndarray` of shape `(frames, 478, 3)`): Vertices in pixels.
        face_model (`FaceModel`): The linear face model.
    """
    # 1. Remove the pose.
    mean = face_model.array("mean_shape")
    shape = fit_similarity(mean[STABLE], landmarks_px[:, STABLE]).unplace(landmarks_px)
    # 2. Fit α and β to every frame, under unit normal priors as for a portrait.
    expression_basis = face_model.array("expression_basis").reshape(-1, mean.size)
    bases = np.concatenate([face_model.array("identity_basis").reshape(-1, mean.size), expression_basis])
    seen = (shape - mean).reshape(len(shape), -1)
    noise = face_model.config.landmark_noise**2 * np.eye(len(bases))
    both = np.linalg.solve(bases @ bases.T + noise, bases @ seen.T).T
    # 3. Subtract βB_exp; residuals of the face model stay in the shape.
    expression = both[:, -len(expression_basis) :]
    return (shape - (expression @ expression_basis).reshape(shape.shape)).mean(0)


def identity_distance(shape: np.ndarray, other: np.ndarray) -> float:
    """Return the mean vertex distance of two neutral faces `(478, 3)`."""
    return float(np.linalg.norm(shape - other, axis=-1).mean())
