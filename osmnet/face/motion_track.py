"""Head motion of a video."""

import os
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter1d

from osmnet.face.crop import crop_box, to_crop
from osmnet.face.landmarker import FaceLandmarker
from osmnet.face.morphable import FaceModel
from osmnet.face.pose import fit_similarity, pose_from_similarity
from osmnet.face.topology import STABLE
from osmnet.media.video_reader import read_frames

REFERENCE_SIZE = 256  # px; side of the crop to which poses refer
SMOOTHING = 1.0  # frames; standard deviation, against the landmarker's noise


def head_motion_of(video: str | os.PathLike[str], bundle: Path, face_model: FaceModel, frames: int) -> np.ndarray:
    """Track the poses of a video's largest face.

    Args:
        video (`str` or `os.PathLike`): Any video with a face.
        bundle (`Path`): The face landmarker.
        face_model (`FaceModel`): The linear face model.
        frames (`int`): Number of frames at 25 fps; a shorter video is played back and forth.

    Returns:
        `np.ndarray` of shape `(frames, 6)`: Yaw, pitch, roll [rad], tx, ty, tz [head units]; the first is 0.

    Raises:
        ValueError: If the file is not a video or shows no face.
    """
    # 1. Landmarks of every frame.
    found, height, width = [], 0, 0
    with FaceLandmarker(bundle, mode="video") as landmarker:
        for frame in read_frames(video):
            height, width = frame.shape[:2]
            faces = landmarker.detect(frame)
            if faces:
                found.append(faces[0])
            elif found:
                found.append(found[-1])  # while a face is hidden it stays where it was
            if len(found) >= frames:
                break
    if not found:
        raise ValueError(f"No face was found in the video '{video}'; use one in which a face is clearly seen.")
    # 2. Poses, smoothed.
    landmarks = np.stack(found)  # (found, 478, 3)
    box = crop_box(landmarks, height, width)
    stable_px = to_crop(landmarks[:, STABLE], box, REFERENCE_SIZE)
    pose = pose_from_similarity(fit_similarity(face_model.array("mean_shape")[STABLE], stable_px), REFERENCE_SIZE)
    pose = gaussian_filter1d(pose, SMOOTHING, axis=0, mode="nearest")
    # 3. The length wanted.
    back_and_forth = np.abs((np.arange(frames) + len(pose) - 1) % max(2 * len(pose) - 2, 1) - (len(pose) - 1))
    return (pose - pose[0])[back_and_forth].astype(np.float32)
