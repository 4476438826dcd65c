"""Sound and expression of a clip, and the disturbances that make little speech go a long way."""

import numpy as np
import torch

from osmnet.data.dataset import Clip
from osmnet.face.morphable import FaceModel
from osmnet.media.audio import MEL_WINDOW, STEPS_PER_FRAME, mel_spectrogram
from osmnet.models.expression import ExpressionExtractor

# Mel steps that the windows of the first and the last frame reach beyond the clip (osmnet.media.audio).
STEPS_BEFORE, STEPS_AFTER = 6, 10
SILENCE = -1.0  # of every band
NUM_IDENTITIES = 8  # frames of a clip that are fitted singly


class SpeechClip:
    """Spectrogram and expression of one clip.

    Args:
        clip (`Clip`): A prepared clip with speech.
        face_model (`FaceModel`): The linear face model.
    """

    def __init__(self, clip: Clip, face_model: FaceModel):
        fit = clip.fit(face_model)
        steps = len(fit.expression) * STEPS_PER_FRAME
        spectrogram = mel_spectrogram(clip.speech())[:steps]
        self.spectrogram = np.pad(spectrogram, ((0, steps - len(spectrogram)), (0, 0)), constant_values=SILENCE)
        self.expression = fit.expression
        # At run time α comes from a single picture, so it must in training.
        landmarks = clip.landmarks_px()
        chosen = np.linspace(0, len(landmarks) - 1, NUM_IDENTITIES).astype(int)
        self.identities = np.stack([face_model.fit(landmarks[i], clip.size).identity for i in chosen])
        self.identity = self.identities[0]
        self.speaker = clip.speaker
        self.name = clip.name

    def __len__(self) -> int:
        return len(self.expression)

    def shift(self, frames: int) -> None:
        """Move the sound against the picture: frame i gets the sound of frame i - `frames`."""
        steps = frames * STEPS_PER_FRAME
        silence = np.full((abs(steps), self.spectrogram.shape[1]), SILENCE, np.float32)
        if steps > 0:
            self.spectrogram = np.concatenate([silence, self.spectrogram[:-steps]])
        elif steps < 0:
            self.spectrogram = np.concatenate([self.spectrogram[-steps:], silence])

    @torch.no_grad()
    def predict(self, network: ExpressionExtractor) -> torch.Tensor:
        """β `(frames, 64)` that the network hears."""
        mel = np.pad(self.spectrogram, ((STEPS_BEFORE, STEPS_AFTER), (0, 0)), constant_values=SILENCE)
        return network(torch.from_numpy(windows_of(mel))[None], torch.from_numpy(self.identity)[None])[0]

    def cut(self, frames: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A random stretch at a random speed: mel windows `(frames, 16, 16)` and β `(frames, 64)`."""
        speed = rng.uniform(0.88, 1.14)
        length = min(frames * speed, len(self) - 1)
        start = rng.uniform(0, len(self) - 1 - length)
        at = start + np.arange(frames) * length / frames
        steps = np.arange(-STEPS_BEFORE, frames * STEPS_PER_FRAME + STEPS_AFTER) * length / frames
        steps = np.clip(start * STEPS_PER_FRAME + steps, 0, len(self.spectrogram) - 1)
        mel = disturb(_interpolate(self.spectrogram, steps), rng)
        return windows_of(mel), _interpolate(self.expression, at)


def windows_of(mel: np.ndarray) -> np.ndarray:
    """Windows of a spectrogram that already has its context: `(4 frames + 16, 16)` to `(frames, 16, 16)`."""
    frames = (len(mel) - MEL_WINDOW) // STEPS_PER_FRAME
    index = STEPS_PER_FRAME * np.arange(frames)[:, None] + np.arange(MEL_WINDOW)
    return mel[index]


def disturb(mel: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another microphone, room and voice `(steps, 16)`: pitch, reverberation, equaliser, gain, noise floor."""
    bands = np.arange(mel.shape[1])
    if rng.random() < 0.7:  # voice pitch and length of the vocal tract: bands move
        position = np.clip(bands * rng.uniform(0.9, 1.1) + rng.uniform(-0.5, 0.5), 0, mel.shape[1] - 1)
        mel = _interpolate(mel.T, position).T
    if rng.random() < 0.4:  # a room: energy dies away slowly
        decay = np.float32(10 ** -rng.uniform(1.2, 2.5))
        reverberant = mel.copy()
        for i in range(1, len(mel)):
            reverberant[i] = np.maximum(mel[i], reverberant[i - 1] - decay)
        mel = reverberant
    knots = rng.normal(0, 0.12, 4)
    mel = mel + np.interp(bands, np.linspace(0, bands[-1], 4), knots) + rng.normal(0, 0.05)
    if rng.random() < 0.7:
        floor = rng.uniform(-1.0, -0.2) + np.interp(bands, np.linspace(0, bands[-1], 3), rng.normal(0, 0.15, 3))
        mel = np.maximum(mel, floor + rng.normal(0, 0.04, mel.shape))
    return np.maximum(mel, SILENCE).astype(np.float32)


def _interpolate(rows: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Rows between rows: `(n, bands)` at positions `(m,)` to `(m, bands)`."""
    below = np.minimum(at.astype(int), len(rows) - 2) if len(rows) > 1 else np.zeros(len(at), int)
    part = (at - below)[:, None].astype(np.float32)
    return rows[below] * (1 - part) + rows[np.minimum(below + 1, len(rows) - 1)] * part
