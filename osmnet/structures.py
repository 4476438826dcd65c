"""Speech, encoded once for any number of takes."""

from dataclasses import dataclass

import numpy as np
import torch

from osmnet.media.features import cut_windows
from osmnet.media.recording import Recording
from osmnet.utils.lazy_rows import LazyRows

PAUSE = 9  # frames; shorter silences do not close the mouth


@dataclass(frozen=True, eq=False)
class Speech:
    """Speech, encoded once: 0.6 MB a minute, for what is large is made when it is asked for.

    It can be pickled, for another process to render: sound and what is said go along, 6 MB a minute. (A
    spawned one: PyTorch's threads do not outlive a fork.)

    Attributes:
        recording (`Recording`): The sound, mono, 16 kHz.
        mel (`np.ndarray` of shape `(4 * frames, 16)`): Log-mel spectrogram, 4 steps a video frame.
        activity (`np.ndarray` of shape `(frames,)`): 0 in silence, 1 in speech.
        weights (`torch.Tensor` of shape `(clips, num_bases)`): w_a of every clip, of which the centre F_c is mixed.
        said (`LazyRows` of shape `(frames, 288)`, *optional*): What is said at every frame, as the speech encoder
            hears it; worked out when it is looked at, 1.7 MB a minute.
    """

    recording: Recording
    mel: np.ndarray
    activity: np.ndarray
    weights: torch.Tensor
    said: LazyRows | None = None

    @property
    def num_frames(self) -> int:
        """Frames of video at 25 fps."""
        return len(self.activity)

    @property
    def waveform(self) -> np.ndarray:
        """All of the sound, `(samples,)`: 4 MB a minute."""
        return self.recording.waveform

    @property
    def mel_windows(self) -> np.ndarray:
        """Log-mel window of each video frame, `(frames, 16, 16)`, not for writing: a view of one copy of `mel`."""
        return cut_windows(self.mel)
