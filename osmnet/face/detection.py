"""Detection of the face in a portrait, and refusal of unusable pictures."""

import math
import warnings

import numpy as np
from PIL import Image

from osmnet.face.crop import CropBox
from osmnet.face.landmarker import FaceLandmarker
from osmnet.face.morphable import FaceModel
from osmnet.face.topology import OVAL
from osmnet.utils.checks import check_range

MAX_CROP = 768  # px; largest square rendered within a whole picture, larger pictures are scaled down
MAX_FRAME = 1280  # px; a whole picture has no more pixels than a square of this side
DETECTION_SIZE = 512  # px; side of the square for the second, finer detection
MIN_FACE_PX = 48  # px; smaller faces are too coarse to animate
MAX_OUTSIDE = 0.2  # fraction of the face's outline that may lie outside the picture
SURE_FIT = 0.04  # head units; upright faces misfit the mean face by 0.01 to 0.04, upside-down ones by 0.04 to 0.08


def find_faces(landmarker: FaceLandmarker, picture: np.ndarray) -> list[np.ndarray]:
    """Find all faces of a picture, largest first; for small ones, overlapping parts of it are searched."""
    faces = landmarker.detect(picture)
    smallest = MIN_FACE_PX if faces else 0  # beside another face, only one that could be chosen counts
    height, width = picture.shape[:2]
    side = min(height, width, max(height, width) // 2 + 1)
    for part in (side, side // 2):
        # Larger parts are always searched: in the whole picture a large face hides small ones.
        if part < 2 * MIN_FACE_PX or (faces and part < side):
            break
        found = []
        tops, lefts = ({*range(0, length - part, part // 2), length - part} for length in (height, width))
        for top in sorted(tops):
            for left in sorted(lefts):
                inside = landmarker.detect(picture[top : top + part, left : left + part])
                found += [face + np.array([left, top, 0], np.float32) for face in inside]
        for face in sorted(found, key=_face_area, reverse=True):  # parts overlap and cut faces: only new ones count
            new = all(_face_distance(face, other) > 0.5 for other in faces)
            if new and np.ptp(face[:, 1]) >= smallest:
                faces.append(face)
    return sorted(faces, key=_face_area, reverse=True)


def _face_area(face: np.ndarray) -> float:
    return float(np.prod(np.ptp(face[:, :2], axis=0)))


def _face_distance(face: np.ndarray, other: np.ndarray) -> float:
    """Return the distance of two faces' centres, in heights of the larger one."""
    apart = np.linalg.norm((face - other)[:, :2].mean(0))
    return float(apart / max(np.ptp(face[:, 1]), np.ptp(other[:, 1])))


def choose_face(faces: list[np.ndarray], face: int | None, size: tuple[int, int]) -> np.ndarray:
    """Choose a face `(478, 3)`, refusing one that is too small or cut off.

    Args:
        faces (`list[np.ndarray]`): Vertices `(478, 3)` in pixels, largest face first.
        face (`int`, *optional*): Index; the largest, with a warning about others, if not given.
        size (`tuple[int, int]`): Height and width of the picture.

    Raises:
        ValueError: If there is no such face or it cannot be used.
    """
    if not faces:
        raise ValueError("No face was found in the portrait; use a picture in which a face is clearly seen.")
    if face is not None:
        check_range("face", face, 0, 100, whole=True)
    if face is not None and face >= len(faces):
        raise ValueError(f"The portrait shows {len(faces)} face{'s' * (len(faces) > 1)}; choose one of them.")
    if face is None and len(faces) > 1:
        message = f"The portrait shows {len(faces)} faces; the largest is taken (choose with face=)."
        warnings.warn(message, stacklevel=3)
    landmarks = faces[face or 0]
    height = np.ptp(landmarks[:, 1])
    if height < MIN_FACE_PX:
        raise ValueError(
            f"The face is only {height:.0f} pixels high, and at least {MIN_FACE_PX} are needed; use a larger picture."
        )
    oval, (height, width) = landmarks[OVAL, :2], size
    outside = np.mean((oval < 0).any(1) | (oval[:, 0] > width) | (oval[:, 1] > height))
    if outside > MAX_OUTSIDE:
        raise ValueError(
            f"{100 * outside:.0f} % of the face's outline lies outside the picture; use one that shows the whole face."
        )
    return landmarks


def check_upright(
    landmarker: FaceLandmarker, square: np.ndarray, face_model: FaceModel, landmarks: np.ndarray
) -> None:
    """Refuse an upside-down face: the landmarker fits it the wrong way up, with the mouth on the eyes."""
    misfit = face_model.misfit(landmarks)
    if misfit < SURE_FIT:
        return
    turned = landmarker.detect(np.ascontiguousarray(np.rot90(square, 2)))
    if turned and face_model.misfit(turned[0]) < 0.75 * misfit:
        raise ValueError("The face is upside down; turn the picture round.")


def refine_landmarks(
    landmarker: FaceLandmarker, square: np.ndarray, box: CropBox, landmarks: np.ndarray
) -> np.ndarray:
    """Detect the chosen face in the square alone, which is more exact: vertices in pixels of the picture."""
    scale = box.side / DETECTION_SIZE
    found = [face * scale + (box.left, box.top, 0) for face in landmarker.detect(square)]

    def distance(face: np.ndarray) -> float:
        return float(np.linalg.norm((face - landmarks)[:, :2].mean(0)))

    nearest = min(found, key=distance, default=landmarks)
    # The square may show a neighbour, too.
    return nearest if distance(nearest) < 0.3 * np.ptp(landmarks[:, 1]) else landmarks


def fit_frame(picture: np.ndarray, box: CropBox) -> tuple[np.ndarray, CropBox]:
    """Scale a whole picture so that neither it nor its square is too large to render."""
    factor = min(1.0, MAX_CROP / box.side, MAX_FRAME / math.sqrt(picture.shape[0] * picture.shape[1]))
    if factor < 1:
        height, width = (max(round(length * factor), 2) for length in picture.shape[:2])
        picture = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))
        box = CropBox(round(box.left * factor), round(box.top * factor), round(box.side * factor))
    return picture, box
