"""Sound and expression of a clip, and stretches of them that sound like another recording."""

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
from osmnet.training.osm_net.sound import Disturbance, loudness, mel_steps, rerecorded

NUM_IDENTITIES = 8  # frames of a clip that are fitted singly
FEWEST_GROUPS = 5  # speakers, or else clips, from which on whole ones are set aside
FULL_SCALE = 32767  # sound is kept in 16 bits, as it came


class ClipSound:
    """The sound of a clip or of a part of it, in 16 bits, as it came.

    Args:
        waveform (`np.ndarray` of shape `(samples,)`): 16 kHz mono, in [-1, 1].
        level (`float`): `loudness` of the whole clip.
        frames (`int`): Video frames that go with it.
    """

    def __init__(self, waveform: np.ndarray, level: float, frames: int):
        self._sound = np.rint(waveform * FULL_SCALE).astype(np.int16)
        self.level, self.frames = level, frames

    @property
    def waveform(self) -> np.ndarray:
        """The sound `(samples,)`, 16 kHz mono, float32."""
        return self._sound.astype(np.float32) / FULL_SCALE

    def cut(self, frames: int, change: Disturbance, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A random stretch as it could have been spoken and recorded.

        Args:
            frames (`int`): Length of the result. A clip that is too short for it is slowed down.
            change (`Disturbance`): How.
            rng (`np.random.Generator`): Says where.

        Returns:
            `tuple[np.ndarray, np.ndarray]`: Mel windows `(frames, 16, 16)`, and the positions `(frames,)` of its
            frames among those of the clip, with fractions.
        """
        speed = min(change.speed, (self.frames - 1) / frames)
        start = rng.uniform(0, self.frames - 1 - frames * speed)
        # Frames are seen in their middle: half a frame of the result is half of `speed` frames of the clip.
        at = np.clip(start + speed * (np.arange(frames) + 0.5) - 0.5, 0, self.frames - 1)
        return windows_of(mel_steps(self.waveform, self.level, start, frames, change.at_speed(speed))), at


class SpeechClip:
    """Sound and expression of one clip, or of a part of it.

    Args:
        clip (`Clip`): A prepared clip with speech.
        face_model (`FaceModel`): The linear face model.
        part (`tuple[float, float]`): From which share of the clip to which.
    """

    def __init__(self, clip: Clip, face_model: FaceModel, part: tuple[float, float] = (0.0, 1.0)):
        fit, waveform = clip.fit(face_model), clip.speech()
        first, last = (round(share * len(fit.expression)) for share in part)
        last = max(last, first + 1)
        self.expression = fit.expression[first:last]
        part_of = slice(first * SAMPLES_PER_FRAME, last * SAMPLES_PER_FRAME)
        self.sound = ClipSound(waveform[part_of], loudness(waveform), len(self.expression))
        # At run time α comes from a single picture, so it must in training.
        landmarks = clip.landmarks_px()
        chosen = np.linspace(first, last - 1, NUM_IDENTITIES).astype(int)
        self.identities = np.stack([face_model.fit(landmarks[i], clip.size).identity for i in chosen])
        self.identity = self.identities[0]
        self.speaker = clip.speaker
        self.name = clip.name
        self.said: list[np.ndarray] = []  # (frames, speech_dim) each: what a speech encoder heard, see `hear`

    def __len__(self) -> int:
        return len(self.expression)

    @torch.no_grad()
    def predict(self, network: ExpressionExtractor) -> torch.Tensor:
        """β `(frames, 64)` that the network hears, on the CPU."""
        mel = mel_windows(self.sound.waveform)
        mel = np.pad(mel, ((0, max(len(self) - len(mel), 0)), (0, 0), (0, 0)), mode="edge")[: len(self)]
        device = network.output_scale.device
        identity = torch.from_numpy(self.identity)[None].to(device)
        said = torch.from_numpy(self.said[0]).float()[None].to(device) if network.config.speech_dim else None
        return network(torch.from_numpy(mel)[None].to(device), identity, said)[0].cpu()

    def cut(self, frames: int, change: Disturbance, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """A random stretch, see `ClipSound.cut`.

        Returns:
            `tuple[np.ndarray, ...]`: Mel windows `(frames, 16, 16)`, β `(frames, 64)` and, if the clip was heard by a
            speech encoder, what is said `(frames, speech_dim)`, in one of the recordings that were made up.
        """
        mel, at = self.sound.cut(frames, change, rng)
        said = [_interpolate(self.said[rng.integers(len(self.said))].astype(np.float32), at)] if self.said else []
        return mel, _interpolate(self.expression, at), *said

    def hear(self, encoder: SpeechEncoder, ranges: Mapping[str, Sequence[float]], copies: int, seed: int) -> None:
        """Let a speech encoder hear the clip, as it is and as it could have been recorded.

        Args:
            encoder (`SpeechEncoder`): In evaluation mode.
            ranges (mapping): Of what changes, see `osmnet.training.osm_net.sound.SOUND`.
            copies (`int`): How many recordings to make up.
            seed (`int`): With the clip's name says which.
        """
        rng = np.random.default_rng([seed, zlib.crc32(self.name.encode())])
        waveform, frames = self.sound.waveform, np.arange(len(self))
        self.said = [encoder.encode(waveform, 0, len(self)).astype(np.float16)]
        for _ in range(copies):
            change = Disturbance.draw(ranges, rng)
            faster = 2 ** (change.pitch / 12)
            piece = rerecorded(waveform, self.sound.level, change)
            self.said.append(encoder.encode_piece(piece, (frames + 0.5) / faster - 0.5).astype(np.float16))


def heard_clip(
    clip: Clip, face_model: FaceModel, encoder: SpeechEncoder | None, part: tuple[float, float] = (0.0, 1.0)
) -> SpeechClip:
    """A `SpeechClip` as it is, heard by a speech encoder if there is one."""
    made = SpeechClip(clip, face_model, part)
    if encoder is not None:
        made.hear(encoder, {}, copies=0, seed=0)
    return made


def windows_of(mel: np.ndarray) -> np.ndarray:
    """Windows of a spectrogram that already has its context: `(4 frames + 16, 16)` to `(frames, 16, 16)`."""
    frames = (len(mel) - MEL_WINDOW) // STEPS_PER_FRAME
    index = STEPS_PER_FRAME * np.arange(frames)[:, None] + np.arange(MEL_WINDOW)
    return mel[index]


def draw_shares(clips: Sequence[Any]) -> np.ndarray:
    """How often each clip is drawn: half-way between alike and by length, for clips and again for speakers."""
    share = np.sqrt([len(clip) for clip in clips])
    _, speaker = np.unique([clip.speaker for clip in clips], return_inverse=True)
    share /= np.sqrt(np.bincount(speaker, share))[speaker]
    return share / share.sum()


def set_aside(clips: Sequence[Clip], share: float) -> tuple[list[Clip], list[Clip], float]:
    """Part clips to train on from those that say when to stop: speakers, if there are enough, else clips, else ends.

    Args:
        clips (sequence of `Clip`): The training clips.
        share (`float`): About which share of the speakers (or clips, or of each clip) is set aside.

    Returns:
        `tuple[list[Clip], list[Clip], float]`: Clips to train on, clips set aside, and, where both lists hold all
        clips because there are too few, the share of each clip at which the part that is set aside begins (else 1).
    """
    for group in (lambda clip: clip.speaker, lambda clip: clip.name):
        # By a number made of the name: the choice among many hardly changes when clips are added.
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
    """Rows between rows: `(n, dim)` at positions `(m,)` to `(m, dim)`."""
    below = np.minimum(at.astype(int), max(len(rows) - 2, 0))
    part = (at - below)[:, None].astype(np.float32)
    return rows[below] * (1 - part) + rows[np.minimum(below + 1, len(rows) - 1)] * part
