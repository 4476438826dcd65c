"""MediaPipe's face landmarker: pictures in, vertices in pixels out."""

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np

_stderr_lock = threading.Lock()


@contextmanager
def _native_notices_hidden() -> Iterator[None]:
    """Send file descriptor 2 to nowhere for a moment.

    MediaPipe and TensorFlow Lite write start-up notices straight to it, which no setting of theirs prevents and which
    would tear our progress bar. What goes wrong comes as an exception all the same.
    """
    with _stderr_lock:  # two at once would each keep the other's nowhere as the real one
        try:
            kept = os.dup(2)
        except OSError:  # a process without stderr
            yield
            return
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 2)
            os.close(nowhere)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _release(task: Any) -> None:
    try:
        task.close()
    except RuntimeError:
        # At exit the thread that closes it is gone already. The process gives everything back anyway; without this the
        # task's own `__del__` would try once more and complain.
        task._handle = None


class FaceLandmarker:
    """Finds faces and their 478 vertices with a MediaPipe Tasks bundle.

    Convention:
        Vertices are (x, y, z) in pixels of the picture given: x right, y down, z away from the camera, all three in
        the same unit; the first pixel covers [0, 1), so its centre is at 0.5. z is relative to the head's centre
        (the landmarker knows no absolute depth).

    Args:
        bundle (`str | os.PathLike`): A `.task` file: the one in the weights folder, or Google's own.
        mode (`"image" | "video"`): `"video"` tracks from frame to frame (faster, steadier, in order of time).
        num_faces (`int`): The most faces to return for one picture.

    Raises:
        ValueError: If the bundle is missing or is not one, or if MediaPipe cannot start.
    """

    def __init__(self, bundle: str | os.PathLike, mode: Literal["image", "video"] = "image", num_faces: int = 1):
        try:
            import mediapipe
            from mediapipe.tasks.python import BaseOptions, vision
        except (ImportError, OSError) as error:
            raise ValueError(f"MediaPipe cannot be loaded ({error}); `osmnet doctor` says what is missing.") from error
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
            raise ValueError(f"'{bundle}' is not a MediaPipe face landmarker bundle ({error}).") from error
        self._release = weakref.finalize(self, _release, self._task)
        self._started = False

    def detect(self, image: np.ndarray) -> list[np.ndarray]:
        """Find the faces of one picture (in video mode: of the next frame).

        Args:
            image (`np.ndarray` of shape `(height, width, 3)`): RGB, uint8.

        Returns:
            `list[np.ndarray]`: One `(478, 3)` float32 array in pixels for each face, largest face first.
        """
        with nullcontext() if self._started else _native_notices_hidden():
            if self._video:
                self._time_ms += 40
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

    def close(self) -> None:
        """Free the native task; closing twice does no harm."""
        self._release()

    def __enter__(self) -> "FaceLandmarker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
