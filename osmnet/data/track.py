"""Track the faces of a video, and split tracks at cuts."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d

from osmnet.face.landmarker import FaceLandmarker
from osmnet.face.topology import STABLE
from osmnet.media.video_reader import read_frames

NUM_FACES = 4
TRACKING_SIDE = 1280  # px; larger pictures are downscaled, as the landmarker takes 256 x 256 of a face anyway
# Frames. MediaPipe smooths single faces only, with lag. On rendered faces of known vertices this symmetric filter has
# three quarters of its error, and no lag.
SMOOTHING = 0.5
FACE_JUMP = 0.3  # face sizes; a larger move or growth between two frames is another face
# The detector finds faces from an eighth of the longer side on. Without any, parts of the picture are searched every
# fifth frame; a face once found is tracked at any size.
SEARCH_EVERY, SEARCH_PART = 5, 0.55  # frames; of the picture's height and width
SAME_FACE = 0.3  # face sizes; nearer faces are duplicates
FACE_PER_SPREAD = 2.5  # face height in standard deviations of the stable vertices
# Cuts. Not by PySceneDetect: its opencv-python overwrites MediaPipe's OpenCV, and it ignores faces. Of 750 jump cuts
# (0.4 to 6 s left out of talking heads before a steady background) these limits find 60 %, with a false cut a minute,
# mostly where frames are missing. Changes of scene always stand out.
GLANCE = (48, 27)  # px, size at which pictures are compared
REACH = 3  # frames on either side that a cut must exceed
CUT_PICTURE, PICTURE_CONTRAST = 1.5, 2.0  # grey levels of 255; times the largest change of two frames around it
CUT_FACE, FACE_CONTRAST = 0.05, 2.5  # sizes of the face; times as above


@dataclass(frozen=True)
class FaceRun:
    """One face in consecutive frames without a cut.

    Attributes:
        first (`int`): Its first frame, at 25 fps.
        landmarks_px (`np.ndarray` of shape `(frames, 478, 3)`): Vertices in pixels of the video's upright picture.
    """

    first: int
    landmarks_px: np.ndarray

    def __len__(self) -> int:
        return len(self.landmarks_px)

    @property
    def face_px(self) -> float:
        """Face height in pixels, forehead to chin."""
        return float(np.median(np.ptp(self.landmarks_px[..., 1], axis=1)))


@dataclass(frozen=True)
class Tracking:
    """All faces of a video.

    Attributes:
        runs (`list[FaceRun]`): In order of their first frames.
        frames (`int`): Length of the video at 25 fps.
        height (`int`): Of the picture, pixels.
        width (`int`): Of the picture, pixels.
        breaks_off (`bool`): Whether the file is damaged or truncated.
    """

    runs: list[FaceRun]
    frames: int
    height: int
    width: int
    breaks_off: bool = False


def track_faces(video: Path, bundle: Path) -> Tracking:
    """Track every face of a video.

    A run ends at a cut, and where its face is lost or jumps.

    Args:
        video (`Path`): The video; large frames are scaled down.
        bundle (`Path`): The face landmarker.

    Returns:
        `Tracking`: All runs, also very short ones.

    Raises:
        ValueError: If the file is missing, empty or not a video.
    """
    height, width = next(read_frames(video)).shape[:2]
    shape, glances = None, []
    breaks: list[Exception] = []
    done: list[FaceRun] = []
    open_runs: list[tuple[int, list[np.ndarray]]] = []
    with FaceLandmarker(bundle, mode="video", num_faces=NUM_FACES) as landmarker, FaceLandmarker(bundle) as closer:
        for index, frame in enumerate(read_frames(video, max_side=TRACKING_SIDE, on_break=breaks.append)):
            # 1. Detect.
            shape = shape or frame.shape
            if frame.shape != shape:
                break  # the size changes: landmarks would not be comparable
            glances.append(cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), GLANCE, interpolation=cv2.INTER_AREA))
            scale = np.array([width / shape[1], height / shape[0], width / shape[1]], np.float32)
            faces = landmarker.detect(frame)
            if not faces and not open_runs and index % SEARCH_EVERY == 0:
                faces = _search(frame, closer)
            found = _distinct([face * scale for face in faces])
            # 2. Extend the open runs, looking closer for lost faces; the other faces begin new runs.
            still_open: list[tuple[int, list[np.ndarray]]] = []
            for run, face in _matched(open_runs, found):
                if face is None:
                    face = _look_closer(frame, run[1][-1] / scale, closer)
                    taken = found + [past[-1] for _, past in still_open]
                    face = None if face is None else face * scale
                    if face is not None and (face_jump(run[1][-1], face) >= FACE_JUMP or not _is_new(face, taken)):
                        face = None
                if face is None:
                    done.append(FaceRun(run[0], np.stack(run[1])))
                else:
                    run[1].append(face)
                    still_open.append(run)
            open_runs = still_open + [(index, [face]) for face in found]
    done += [FaceRun(first, np.stack(faces)) for first, faces in open_runs]
    # 3. Split at cuts.
    cuts = find_cuts(np.stack(glances))
    parts = [part for run in done for part in _split(run, cuts)]
    return Tracking(sorted(parts, key=lambda run: run.first), len(glances), height, width, bool(breaks))


def _centre_and_size(face: np.ndarray) -> tuple[np.ndarray, float]:
    points = face[STABLE, :2]
    return points.mean(0), float(np.sqrt(points.var(0).sum()) * FACE_PER_SPREAD)


def _search(frame: np.ndarray, landmarker: FaceLandmarker) -> list[np.ndarray]:
    """Search the corners and the middle for small faces."""
    height, width = frame.shape[:2]
    h, w = round(SEARCH_PART * height), round(SEARCH_PART * width)
    corners = [(y, x) for y in (0, height - h) for x in (0, width - w)] + [((height - h) // 2, (width - w) // 2)]
    faces = [
        face + np.array([x, y, 0], np.float32)
        for y, x in corners
        for face in landmarker.detect(frame[y : y + h, x : x + w])
    ]
    return sorted(faces, key=lambda face: -np.prod(np.ptp(face[:, :2], axis=0)))


def _look_closer(frame: np.ndarray, last: np.ndarray, landmarker: FaceLandmarker) -> np.ndarray | None:
    """Search near the last position: at full view the detector often has too few pixels."""
    centre, size = _centre_and_size(last)
    half = 1.25 * size
    x0, y0 = np.maximum(np.floor(centre - half), 0).astype(int)
    x1, y1 = np.minimum(np.ceil(centre + half).astype(int), frame.shape[1::-1])
    if min(x1 - x0, y1 - y0) < 16:
        return None
    faces = landmarker.detect(frame[y0:y1, x0:x1])
    return faces[0] + np.array([x0, y0, 0], np.float32) if faces else None


def _distinct(faces: list[np.ndarray]) -> list[np.ndarray]:
    """Drop duplicates; the larger face comes first and stays."""
    kept: list[np.ndarray] = []
    for face in faces:
        if _is_new(face, kept):
            kept.append(face)
    return kept


def _is_new(face: np.ndarray, others: list[np.ndarray]) -> bool:
    centre, size = _centre_and_size(face)
    return all(np.linalg.norm(centre - _centre_and_size(other)[0]) > SAME_FACE * size for other in others)


def face_jump(last: np.ndarray, face: np.ndarray) -> float:
    """Measure the change of position or log size between two frames, in face sizes."""
    (centre, size), (other, other_size) = _centre_and_size(last), _centre_and_size(face)
    return max(float(np.linalg.norm(other - centre)) / size, abs(float(np.log(other_size / size))))


def _matched(
    runs: list[tuple[int, list[np.ndarray]]], faces: list[np.ndarray]
) -> list[tuple[tuple[int, list[np.ndarray]], np.ndarray | None]]:
    """Match runs to faces, nearest first; removes matched faces from `faces`."""
    near = []
    for i, (_, past) in enumerate(runs):
        near += [(d, i, j) for j, face in enumerate(faces) if (d := face_jump(past[-1], face)) < FACE_JUMP]
    of_run: dict[int, int] = {}
    for _, i, j in sorted(near):
        if i not in of_run and j not in of_run.values():
            of_run[i] = j
    matched = [(run, faces[of_run[i]] if i in of_run else None) for i, run in enumerate(runs)]
    for j in sorted(of_run.values(), reverse=True):
        del faces[j]
    return matched


def _picture_change(glances: np.ndarray, step: int) -> np.ndarray:
    """Mean grey-level change over `step` frames: `(frames, h, w)` to `(frames,)`."""
    grey = glances.astype(np.float32)
    return np.pad(np.abs(grey[step:] - grey[:-step]).mean((1, 2)), (min(step, len(grey)), 0))[: len(grey)]


def _face_change(landmarks_px: np.ndarray, step: int) -> np.ndarray:
    """Face motion over `step` frames in face sizes: `(frames, 478, 3)` to `(frames,)`."""
    points = landmarks_px[:, STABLE, :2]
    size = np.sqrt(points.var(1).sum(-1)) * FACE_PER_SPREAD
    moved = np.sqrt(((points[step:] - points[:-step]) ** 2).sum(-1).mean(-1)) / size[step:]
    return np.pad(moved, (min(step, len(points)), 0))[: len(points)]


def _cuts(change: np.ndarray, change_of_two: np.ndarray, least: float, contrast: float) -> np.ndarray:
    """Find changes that stand out from their neighbours: motion lasts, a cut takes one frame."""
    # Two frames, because videos converted from another frame rate repeat some pictures and lack others.
    padded = np.pad(change_of_two, REACH + 1)
    at = np.arange(len(change)) + REACH + 1
    around = np.max([padded[at + k] for k in range(-REACH, REACH + 2) if k not in (0, 1)], axis=0)
    return (change > least) & (change > contrast * around)


def find_cuts(glances: np.ndarray) -> np.ndarray:
    """Find the first frame of each new scene or moment.

    Args:
        glances (`np.ndarray` of shape `(frames, h, w)`): Small grey pictures.

    Returns:
        `np.ndarray` of shape `(frames,)`: True at the first frame after a cut.
    """
    return _cuts(_picture_change(glances, 1), _picture_change(glances, 2), CUT_PICTURE, PICTURE_CONTRAST)


def _split(run: FaceRun, cuts: np.ndarray) -> list[FaceRun]:
    """Split a run at cuts and jumps; smooth each piece."""
    jumps = _cuts(_face_change(run.landmarks_px, 1), _face_change(run.landmarks_px, 2), CUT_FACE, FACE_CONTRAST)
    starts = np.flatnonzero(cuts[run.first : run.first + len(run)] | jumps)
    starts = starts[starts > 0]
    parts = []
    for first, part in zip([0, *starts], np.split(run.landmarks_px, starts), strict=True):
        smooth = gaussian_filter1d(part, SMOOTHING, axis=0, mode="nearest").astype(np.float32)
        parts.append(FaceRun(run.first + int(first), smooth))
    return parts
