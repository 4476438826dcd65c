"""Track a clip again on its crop, steadier than in the whole picture.

In the whole picture the detector places the landmarker's window anew on every frame; on a small face that window
jitters, and lips seem to shake. Here it follows the last landmarks.
"""

from pathlib import Path
from types import TracebackType

import numpy as np
from scipy.ndimage import gaussian_filter1d

from osmnet.data.track import FACE_JUMP, SMOOTHING, face_jump
from osmnet.face.landmarker import SETTLING, FaceLandmarker

LEAST_SEEN = 0.5  # of the frames; a face seen in fewer keeps its first track


class SecondLook:
    """Tracks one face of a clip, crop by crop.

    Args:
        bundle (`Path`): The face landmarker.
        first_look (`np.ndarray` of shape `(frames, 478, 3)`): Vertices from the whole picture, in pixels of the crop,
            which tell the face from others.
    """

    def __init__(self, bundle: Path, first_look: np.ndarray):
        self.bundle, self.first_look = bundle, first_look
        self._seen: list[np.ndarray | None] = []

    def __enter__(self) -> "SecondLook":
        self._landmarker = FaceLandmarker(self.bundle, mode="video", num_faces=2)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._landmarker.close()

    def add(self, crop: np.ndarray) -> None:
        """Track the next frame, `(size, size, 3)`."""
        if not self._seen:
            for _ in range(SETTLING):
                self._landmarker.detect_twice(crop)
        before = self.first_look[len(self._seen)]
        copies = []
        for faces in self._landmarker.detect_twice(crop):
            nearest = min(faces, key=lambda face: face_jump(before, face), default=None)
            if nearest is not None and face_jump(before, nearest) < FACE_JUMP:
                copies.append(nearest)
        self._seen.append(np.mean(copies, axis=0) if copies else None)

    def landmarks_px(self) -> np.ndarray | None:
        """Return the vertices `(frames, 478, 3)` in pixels of the crop; `None` if the face was lost too often.

        Where it was lost for some frames the first look is used, moved by as much as both differ around it. Smoothed
        like the first look.
        """
        seen = np.array([k for k, face in enumerate(self._seen) if face is not None])
        if len(seen) < max(LEAST_SEEN * len(self._seen), 1):
            return None
        difference = np.stack([self._seen[k] - self.first_look[k] for k in seen])
        frames = np.arange(len(self._seen))
        before = np.maximum(np.searchsorted(seen, frames, side="right") - 1, 0)
        after = np.minimum(np.searchsorted(seen, frames), len(seen) - 1)
        share = np.clip((frames - seen[before]) / np.maximum(seen[after] - seen[before], 1), 0, 1)[:, None, None]
        landmarks = self.first_look + (1 - share) * difference[before] + share * difference[after]
        return gaussian_filter1d(landmarks, SMOOTHING, axis=0, mode="nearest").astype(np.float32)
