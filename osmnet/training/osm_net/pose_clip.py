"""Head motion of a clip, in short stretches."""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import gaussian_filter1d

from osmnet.data.dataset import Clip
from osmnet.face.morphable import FaceModel
from osmnet.media.features import mel_spectrogram
from osmnet.training.osm_net.sound import SILENCE, STEPS_AFTER, STEPS_BEFORE
from osmnet.training.osm_net.speech_clip import windows_of

TRACK_SMOOTHING = 1.0  # frames; removes the landmarker's noise
CUT_DEG = 12.0  # °; a larger turn between two frames is a cut
MIRROR = np.array([-1, 1, -1, -1, 1, 1], np.float32)  # signs of yaw, pitch, roll, tx, ty, tz


def smooth_track(head_pose: np.ndarray) -> np.ndarray:
    """Smooth a pose track `(frames, 6)`."""
    return gaussian_filter1d(head_pose, TRACK_SMOOTHING, axis=0, mode="nearest").astype(np.float32)


def unbroken_starts(head_pose: np.ndarray, length: int) -> np.ndarray:
    """Find the starts of all stretches without a cut."""
    turn = np.abs(np.diff(head_pose[:, :3], axis=0)).max(1)
    breaks = np.flatnonzero(turn > np.deg2rad(CUT_DEG))
    starts = np.arange(len(head_pose) - length + 1)
    if len(breaks) == 0:
        return starts
    return starts[~((starts[:, None] <= breaks) & (breaks < starts[:, None] + length - 1)).any(1)]


class PoseClip:
    """Head motion of a clip, optionally with sound.

    Args:
        clip (`Clip`): A prepared clip, with speech if `sound`.
        face_model (`FaceModel`): The linear face model.
        length (`int`): Frames of a stretch.
        sound (`bool`): Whether to keep the spectrogram.
    """

    def __init__(self, clip: Clip, face_model: FaceModel, length: int, sound: bool = False):
        self.name, self.length = clip.name, length
        self.track = smooth_track(clip.fit(face_model).head_pose)
        self.starts = unbroken_starts(self.track, length)
        if sound:
            mel = mel_spectrogram(clip.speech())[: 4 * len(self.track)]
            missing = 4 * len(self.track) - len(mel)
            silence = ((STEPS_BEFORE, STEPS_AFTER + missing), (0, 0))
            self._mel = np.pad(mel, silence, constant_values=SILENCE)

    def poses(self, index: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Return stretches relative to their first frame `(clips, length, 6)`."""
        clips = self.track[self.starts[index][:, None] + np.arange(self.length)]
        return clips - clips[:, :1]

    def mel(self, index: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Return mel windows `(clips, length, 16, 16)` of stretches."""
        return windows_of(self._mel)[self.starts[index][:, None] + np.arange(self.length)]


def draw(clips: Sequence[PoseClip], count: int, rng: np.random.Generator) -> list[tuple[PoseClip, np.ndarray]]:
    """Draw stretches uniformly from all clips.

    Args:
        clips (sequence of `PoseClip`): Clips with at least one stretch each.
        count (`int`): Number of stretches.
        rng (`np.random.Generator`): Random numbers.

    Returns:
        `list[tuple[PoseClip, np.ndarray]]`: Clips, and indices of their starts.
    """
    ends = np.cumsum([len(clip.starts) for clip in clips])
    drawn = np.sort(rng.integers(ends[-1], size=count))  # sorted by clip, so that each is looked up once
    which = np.searchsorted(ends, drawn, side="right")
    starts = drawn - (ends - [len(clip.starts) for clip in clips])[which]
    return [(clips[i], starts[which == i]) for i in np.unique(which)]


def evenly(clips: Sequence[Clip], most: int) -> list[Clip]:
    """Choose at most `most` clips, evenly."""
    # Memory must not grow with the dataset.
    return list(clips[:: -(-len(clips) // most)])
