"""Detection of the face in a portrait, and refusal of unusable pictures."""

import math
import warnings

import cv2
import numpy as np
from PIL import Image

from osmnet.face.crop import CropBox, crop_box, extract, to_crop
from osmnet.face.landmarker import FaceLandmarker
from osmnet.face.morphable import FaceModel
from osmnet.face.topology import CHIN, FOREHEAD, OVAL
from osmnet.utils.checks import check_range

MAX_CROP = 768  # px; largest square rendered within a whole picture, larger pictures are scaled down
MAX_FRAME = 1280  # px; a whole picture has no more pixels than a square of this side
DETECTION_SIZE = 512  # px; side of the square for the second, finer detection
MIN_FACE_PX = 48  # px; smaller faces are too coarse to animate
MAX_OUTSIDE = 0.2  # fraction of the face's outline that may lie outside the picture
SURE_FIT = 0.04  # head units; most upright faces misfit the mean face by less, upside-down ones by 0.04 to 0.08
BORDERS = (0.25, 0.5)  # of the longer side; around a face that fills its picture the finder needs room
BORDERED_SIZE = 1024  # px; longest side of a picture that gets a border: a face that needs one is large in it
TILTS = (20, -20)  # degrees; landmarks of a face stay on it when its square is tilted
MAX_DRIFT = 0.05  # face heights; landmarks of faces move by at most 0.046, wrong ones mostly by more than 0.1
MAX_LEAN = 60  # degrees; a face on its side or its head is refused, however steady its landmarks are


def find_faces(landmarker: FaceLandmarker, picture: np.ndarray) -> list[np.ndarray]:
    """Find all faces of a picture, largest first, searching parts of it for small ones.

    Where that gives none, or one that is cut off, the picture is searched with a border.
    """
    faces = _search(landmarker, picture)
    if not faces or (len(faces) == 1 and _outside(faces[0], picture.shape[:2]) > MAX_OUTSIDE):
        return _search_with_border(landmarker, picture) or faces
    return faces


def _search(landmarker: FaceLandmarker, picture: np.ndarray) -> list[np.ndarray]:
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


def _search_with_border(landmarker: FaceLandmarker, picture: np.ndarray) -> list[np.ndarray]:
    """Find large faces in a picture whose edge is repeated around it; only those with steady landmarks."""
    height, width = picture.shape[:2]
    scale = min(1.0, BORDERED_SIZE / max(height, width))
    small = picture
    if scale < 1:
        size = (max(round(width * scale), 1), max(round(height * scale), 1))
        small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    for share in BORDERS:
        border = round(share * max(small.shape[:2]))
        bordered = cv2.copyMakeBorder(small, border, border, border, border, cv2.BORDER_REPLICATE)
        found = [(face - (border, border, 0)).astype(np.float32) / scale for face in landmarker.detect(bordered)]
        faces = [face for face in found if _is_face(landmarker, picture, face)]
        if faces:
            return faces
    return []


def _is_face(landmarker: FaceLandmarker, picture: np.ndarray, face: np.ndarray) -> bool:
    box = crop_box(face, *picture.shape[:2])
    square = extract(picture, box, DETECTION_SIZE)
    landmarks = refine_landmarks(landmarker, square, box, face)
    return _is_steady(landmarker, square, to_crop(landmarks, box, DETECTION_SIZE))


def _is_steady(landmarker: FaceLandmarker, square: np.ndarray, landmarks: np.ndarray) -> bool:
    """Whether landmarks `(478, 3)`, in pixels of a square, are those of a face that is not upside down.

    Landmarks of a face stay on it when the square is tilted. Those fitted the wrong way up, or where there is no face,
    slide; in the square turned by 180° they slide less.
    """
    across, down = (landmarks[CHIN] - landmarks[FOREHEAD])[:2]
    if math.degrees(math.atan2(abs(across), down)) > MAX_LEAN:
        return False
    drift = _drift(landmarker, square, landmarks)
    if drift > MAX_DRIFT:
        return False
    turned = np.ascontiguousarray(np.rot90(square, 2))
    return all(drift < _drift(landmarker, turned, face) for face in landmarker.detect(turned)[:1])


def _drift(landmarker: FaceLandmarker, square: np.ndarray, landmarks: np.ndarray) -> float:
    """Return how far landmarks move on the face when the square is tilted, in heights of the face."""
    size = square.shape[0]
    drifts = []
    for tilt in TILTS:
        turn = cv2.getRotationMatrix2D((size / 2, size / 2), tilt, 1.0)  # (2, 3)
        tilted = cv2.warpAffine(square, turn, (size, size), borderMode=cv2.BORDER_REPLICATE)
        expected = landmarks[:, :2] @ turn[:, :2].T + turn[:, 2]
        apart = [np.linalg.norm(face[:, :2] - expected, axis=1).mean() for face in landmarker.detect(tilted)]
        drifts.append(min(apart, default=math.inf))
    return float(max(drifts) / np.ptp(landmarks[:, 1]))


def _outside(face: np.ndarray, size: tuple[int, int]) -> float:
    """Return the fraction of a face's outline that lies outside a picture of height and width `size`."""
    oval, (height, width) = face[OVAL, :2], size
    return float(np.mean((oval < 0).any(1) | (oval[:, 0] > width) | (oval[:, 1] > height)))


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
            f"The face is only {int(height)} pixels high, and at least {MIN_FACE_PX} are needed; use a larger picture."
        )
    outside = _outside(landmarks, size)
    if outside > MAX_OUTSIDE:
        raise ValueError(
            f"{100 * outside:.0f} % of the face's outline lies outside the picture; use one that shows the whole face."
        )
    return landmarks


def check_upright(
    landmarker: FaceLandmarker, square: np.ndarray, box: CropBox, face_model: FaceModel, landmarks: np.ndarray
) -> None:
    """Refuse an upside-down face: the landmarker fits it the wrong way up, with the mouth on the eyes.

    Some upright faces misfit the mean face, too, but their landmarks are steady.
    """
    misfit = face_model.misfit(landmarks)
    if misfit < SURE_FIT:
        return
    turned = landmarker.detect(np.ascontiguousarray(np.rot90(square, 2)))
    if turned and face_model.misfit(turned[0]) < 0.75 * misfit:
        if _is_steady(landmarker, square, to_crop(landmarks, box, DETECTION_SIZE)):
            return
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
