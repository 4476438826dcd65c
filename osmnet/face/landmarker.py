"""MediaPipe's face landmarker: vertices in pixels from pictures."""

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np

from osmnet.utils.checks import reason

MAX_SIDE = 2**15 - 2  # px; MediaPipe ends the process at larger pictures
# Frames. The window of the first frame comes from the detector. After so many copies of that frame the window has
# settled around the landmarks, to a fifth of a pixel of 256.
SETTLING = 10

_stderr_lock = threading.Lock()
if hasattr(os, "register_at_fork"):  # a process forked meanwhile would write to the null device for ever
    os.register_at_fork(
        before=_stderr_lock.acquire, after_in_parent=_stderr_lock.release, after_in_child=_stderr_lock.release
    )


@contextmanager
def _native_notices_hidden() -> Iterator[None]:
    """Redirect file descriptor 2 to the null device for a moment.

    MediaPipe and TensorFlow Lite write start-up notices to it, which no setting prevents and which would tear our
    progress bar. Errors still arrive as exceptions.
    """
    with _stderr_lock:  # a second thread would take the first one's null device for the real one
        try:
            kept = os.dup(2)
        except OSError:  # a process without stderr
            yield
            return
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 2)
            os.close(null)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _release(task: Any, process: int) -> None:
    if os.getpid() != process:
        task._handle = None  # its threads are those of the parent of this forked process: nothing would close it
        return
    try:
        task.close()
    except RuntimeError:
        # At exit the thread that closes it is already gone, and the process frees everything anyway. Without this the
        # task's own `__del__` would try again and complain.
        task._handle = None


class FaceLandmarker:
    """Detect faces and their 478 vertices with a MediaPipe Tasks bundle.

    Convention:
        Vertices are (x, y, z) in pixels of the picture: x right, y down, z away from the camera, relative to the
        head's centre. The first pixel covers [0, 1), so its centre is at 0.5.

    A forked child must build its own: MediaPipe's threads do not survive a fork.

    Args:
        bundle (`str | os.PathLike`): A `.task` file: the one in the weights folder, or Google's own.
        mode (`"image" | "video"`): `"video"` tracks from frame to frame, faster and steadier.
        num_faces (`int`): The most faces to return.

    Raises:
        ValueError: If the bundle is missing or invalid, or if MediaPipe cannot start.
    """

    def __init__(self, bundle: str | os.PathLike, mode: Literal["image", "video"] = "image", num_faces: int = 1):
        try:
            import mediapipe
            from mediapipe.tasks.python import BaseOptions, vision
        except (ImportError, OSError) as error:
            raise ValueError(
                f"MediaPipe cannot be loaded ({reason(error)}); `osmnet doctor` says what is missing."
            ) from error
        if not Path(bundle).is_file():
            raise ValueError(f"No face landmarker at '{bundle}'; build it with scripts/build_landmarker.py.")
        self._image = lambda array: mediapipe.Image(
            image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(array)
        )
        self._video = mode == "video"
        self._time_ms = 0
        options = vision.FaceLandmarkerOptions(
            base_options=BaseOptions(model_asset_path=str(bundle)),
            running_mode=vision.RunningMode.VIDEO if self._video else vision.RunningMode.IMAGE,
            num_faces=num_faces,
        )
        try:
            with _native_notices_hidden():
                self._task = vision.FaceLandmarker.create_from_options(options)
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"'{bundle}' is not a MediaPipe face landmarker bundle ({reason(error)}).") from error
        self._process = os.getpid()
        self._release = weakref.finalize(self, _release, self._task, self._process)
        self._started = False

    def detect(self, image: np.ndarray) -> list[np.ndarray]:
        """Detect the faces of a picture, in video mode of the next frame.

        Args:
            image (`np.ndarray` of shape `(height, width, 3)`): RGB, uint8.

        Returns:
            `list[np.ndarray]`: For each face `(478, 3)`, float32, in pixels; largest face first.

        Raises:
            ValueError: If a side is longer than `MAX_SIDE`.
            RuntimeError: In a forked child, if its parent built this landmarker.
        """
        if max(image.shape[:2]) > MAX_SIDE:
            height, width = image.shape[:2]
            raise ValueError(f"A picture of {width} x {height} pixels is too large to find faces in; scale it down.")
        if os.getpid() != self._process:
            raise RuntimeError("This face landmarker was built before the process was forked. Build one here.")
        with nullcontext() if self._started else _native_notices_hidden():
            if self._video:
                self._time_ms += 40  # 25 fps
                result = self._task.detect_for_video(self._image(image), self._time_ms)
            else:
                result = self._task.detect(self._image(image))
        self._started = True
        height, width = image.shape[:2]
        faces = [
            np.array([(p.x * width, p.y * height, p.z * width) for p in face], np.float32)
            for face in result.face_landmarks
        ]
        return sorted(faces, key=lambda face: -np.prod(np.ptp(face[:, :2], axis=0)))

    def detect_twice(self, image: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Detect the faces in two copies of a picture, side by side.

        In video mode with `num_faces=2` this is the steadiest way to track one face: two faces are found, so the
        detector rests and each window follows the last landmarks; and MediaPipe filters single faces only, with lag.
        Show the first frame `SETTLING` times before it counts.

        Returns:
            `tuple[list[np.ndarray], list[np.ndarray]]`: The faces of the left and of the right copy, as by `detect`,
            both in pixels of the picture.
        """
        width = image.shape[1]
        faces = self.detect(np.concatenate([image, image], axis=1))
        is_left = [face[:, 0].mean() < width for face in faces]
        left = [face for face, here in zip(faces, is_left, strict=True) if here]
        right = [face - np.float32([width, 0, 0]) for face, here in zip(faces, is_left, strict=True) if not here]
        return left, right

    def close(self) -> None:
        """Free the native task; may be called twice."""
        self._release()

    def __enter__(self) -> "FaceLandmarker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
