"""Sound and expression of a clip."""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from osmnet.data.dataset import Clip
from osmnet.face.morphable import FaceModel
from osmnet.media.audio import SAMPLES_PER_FRAME
from osmnet.media.features import MEL_WINDOW, STEPS_PER_FRAME, mel_windows
from osmnet.models.osm_net.expression import ExpressionExtractor
from osmnet.models.osm_net.speech_encoder import SpeechEncoder
from osmnet.training.osm_net.sound import SoundAugmentation, loudness, mel_steps, rerecorded

NUM_IDENTITIES = 8  # frames of a clip, each fitted by itself
FEWEST_GROUPS = 5  # speakers, or else clips, for whole ones to be set aside
FULL_SCALE = 32767  # of 16-bit sound


class ClipSound:
    """Sound of a clip or of a part, in 16 bits.

    Args:
        waveform (`np.ndarray` of shape `(samples,)`): 16 kHz mono, in [-1, 1].
        level (`float`): `loudness` of the whole clip.
        frames (`int`): Number of its video frames.
    """

    def __init__(self, waveform: np.ndarray, level: float, frames: int):
        self._sound = np.rint(waveform * FULL_SCALE).astype(np.int16)
        self.level, self.frames = level, frames

    @property
    def waveform(self) -> np.ndarray:
        """Sound `(samples,)`, 16 kHz mono, float32."""
        return self._sound.astype(np.float32) / FULL_SCALE

    def cut(self, frames: int, change: SoundAugmentation, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Cut a random stretch, augmented.

        Args:
            frames (`int`): Length of the result. A shorter clip is slowed down.
            change (`SoundAugmentation`): The augmentation.
            rng (`np.random.Generator`): Draws the position.

        Returns:
            `tuple[np.ndarray, np.ndarray]`: Mel windows `(frames, 16, 16)`, and the fractional positions
            `(frames,)` of its frames in the clip.
        """
        speed = min(change.speed, (self.frames - 1) / frames)
        start = rng.uniform(0, self.frames - 1 - frames * speed)
        # Positions are centres of frames: half a frame of the result is half of `speed` frames of the clip.
        at = np.clip(start + speed * (np.arange(frames) + 0.5) - 0.5, 0, self.frames - 1)
        return windows_of(mel_steps(self.waveform, self.level, start, frames, change.at_speed(speed))), at


class SpeechClip:
    """Sound and expression of a clip or of a part.

    Args:
        clip (`Clip`): A prepared clip with speech.
        face_model (`FaceModel`): The linear face model.
        part (`tuple[float, float]`): Start and end as shares of the clip.
    """

    def __init__(self, clip: Clip, face_model: FaceModel, part: tuple[float, float] = (0.0, 1.0)):
        fit, waveform = clip.fit(face_model), clip.speech()
        first, last = (round(share * len(fit.expression)) for share in part)
        last = max(last, first + 1)
        self.expression = fit.expression[first:last]
        part_of = slice(first * SAMPLES_PER_FRAME, last * SAMPLES_PER_FRAME)
        self.sound = ClipSound(waveform[part_of], loudness(waveform), len(self.expression))
        # α comes from a single picture at inference, so it does in training.
        landmarks = clip.landmarks_px()
        chosen = np.linspace(first, last - 1, NUM_IDENTITIES).astype(int)
        self.identities = np.stack([face_model.fit(landmarks[i], clip.size).identity for i in chosen])
        self.identity = self.identities[0]
        self.speaker = clip.speaker
        self.name = clip.name
        self.speech_features: list[np.ndarray] = []  # (frames, speech_dim) each, by `encode`

    def __len__(self) -> int:
        return len(self.expression)

    @torch.no_grad()
    def predict(self, network: ExpressionExtractor) -> torch.Tensor:
        """Predict β `(frames, 64)`, on the CPU."""
        mel = mel_windows(self.sound.waveform)
        mel = np.pad(mel, ((0, max(len(self) - len(mel), 0)), (0, 0), (0, 0)), mode="edge")[: len(self)]
        device = network.output_scale.device
        identity = torch.from_numpy(self.identity)[None].to(device)
        speech = None
        if network.config.speech_dim:
            speech = torch.from_numpy(self.speech_features[0]).float()[None].to(device)
        return network(torch.from_numpy(mel)[None].to(device), identity, speech)[0].cpu()

    def cut(self, frames: int, change: SoundAugmentation, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Cut a random stretch, see `ClipSound.cut`.

        Returns:
            `tuple[np.ndarray, ...]`: Mel windows `(frames, 16, 16)`, β `(frames, 64)` and, after `encode`, the speech
            features `(frames, speech_dim)` of one of the recordings.
        """
        mel, at = self.sound.cut(frames, change, rng)
        features = []
        if self.speech_features:
            chosen = self.speech_features[rng.integers(len(self.speech_features))]
            features = [_interpolate(chosen.astype(np.float32), at)]
        return mel, _interpolate(self.expression, at), *features

    def encode(self, encoder: SpeechEncoder, ranges: Mapping[str, Sequence[float]], copies: int, seed: int) -> None:
        """Set `speech_features` of the clip and of augmented recordings.

        Args:
            encoder (`SpeechEncoder`): In evaluation mode.
            ranges (mapping): Ranges of the augmentation, see `osmnet.training.osm_net.sound.SOUND`.
            copies (`int`): Number of augmented recordings.
            seed (`int`): Seed of the augmentation, with the clip's name.
        """
        rng = np.random.default_rng([seed, zlib.crc32(self.name.encode())])
        waveform, frames = self.sound.waveform, np.arange(len(self))
        self.speech_features = [encoder.encode(waveform, 0, len(self)).astype(np.float16)]
        for _ in range(copies):
            change = SoundAugmentation.draw(ranges, rng)
            faster = 2 ** (change.pitch / 12)
            piece = rerecorded(waveform, self.sound.level, change)
            features = encoder.encode_piece(piece, (frames + 0.5) / faster - 0.5)
            self.speech_features.append(features.astype(np.float16))


def encoded_clip(
    clip: Clip, face_model: FaceModel, encoder: SpeechEncoder | None, part: tuple[float, float] = (0.0, 1.0)
) -> SpeechClip:
    """Make an encoded `SpeechClip` without augmentation."""
    made = SpeechClip(clip, face_model, part)
    if encoder is not None:
        made.encode(encoder, {}, copies=0, seed=0)
    return made


def windows_of(mel: np.ndarray) -> np.ndarray:
    """Cut mel windows, `(4 frames + 16, 16)` to `(frames, 16, 16)`."""
    frames = (len(mel) - MEL_WINDOW) // STEPS_PER_FRAME
    index = STEPS_PER_FRAME * np.arange(frames)[:, None] + np.arange(MEL_WINDOW)
    return mel[index]


def draw_shares(clips: Sequence[Any]) -> np.ndarray:
    """Compute sampling weights: a speaker's is the square root of its length in all, parted by those of its clips."""
    lengths = np.array([len(clip) for clip in clips], float)
    _, speaker = np.unique([clip.speaker for clip in clips], return_inverse=True)
    of_clip = np.sqrt(lengths) / np.bincount(speaker, np.sqrt(lengths))[speaker]
    share = of_clip * np.sqrt(np.bincount(speaker, lengths))[speaker]
    return share / share.sum()


def set_aside(clips: Sequence[Clip], share: float) -> tuple[list[Clip], list[Clip], float]:
    """Split training clips for validation: by speaker, else by clip, else in time.

    Args:
        clips (sequence of `Clip`): The training clips.
        share (`float`): Approximate share of the speakers (or clips, or of each clip) to set aside.

    Returns:
        `tuple[list[Clip], list[Clip], float]`: Clips to train on; clips set aside; and 1, or, if there are too few
        clips and both lists have all of them, the share of each clip at which the part set aside begins.
    """
    for group in (lambda clip: clip.speaker, lambda clip: clip.name):
        # By a checksum of the name, so that the choice hardly changes when clips are added.
        names = sorted({group(clip) for clip in clips}, key=lambda name: zlib.crc32(f"aside {name}".encode()))
        if len(names) >= FEWEST_GROUPS:
            chosen = set(names[: max(1, round(share * len(names)))])
            return (
                [clip for clip in clips if group(clip) not in chosen],
                [clip for clip in clips if group(clip) in chosen],
                1.0,
            )
    return list(clips), list(clips), 1 - share


def _interpolate(rows: np.ndarray, at: np.ndarray) -> np.ndarray:
    below = np.minimum(at.astype(int), max(len(rows) - 2, 0))
    part = (at - below)[:, None].astype(np.float32)
    return rows[below] * (1 - part) + rows[np.minimum(below + 1, len(rows) - 1)] * part
