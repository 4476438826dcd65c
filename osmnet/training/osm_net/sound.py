"""Sound augmentation: another microphone, room and voice, as mel steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.fft
import soxr

from osmnet.media.audio import SAMPLES_PER_FRAME, SAMPLING_RATE
from osmnet.media.features import HOP, MEL_FLOOR, N_FFT, STEPS_PER_FRAME, WINDOW_LENGTH, gated_level, mel_filters

# Mel steps that the windows of the first and the last frame reach beyond a stretch (osmnet.media.features).
STEPS_BEFORE, STEPS_AFTER = 6, 10
SILENCE = -1.0  # of every band of a spectrogram

SOUND = {
    "gain": (-4.0, 4.0),  # dB, relative to the measured loudness
    "equaliser": (-8.0, 8.0),  # dB at each knot
    "noise": (12.0, 60.0),  # dB, signal to noise
    "reverberation": (0.1, 0.7),  # s to fade by 60 dB
    "pitch": (-2.5, 2.5),  # semitones; formants shift, too, as with another vocal tract
    "speed": (0.88, 1.14),  # factor, for sound and mouth together
}
SHARE = {"gain": 1.0, "equaliser": 0.8, "noise": 0.7, "reverberation": 0.4, "pitch": 0.7, "speed": 1.0}
LIMITS = {
    "gain": (-40.0, 40.0), "equaliser": (-40.0, 40.0), "noise": (-10.0, 120.0), "reverberation": (0.0, 2.0),
    "pitch": (-12.0, 12.0), "speed": (0.5, 2.0),
}  # fmt: skip
EQUALISER_KNOTS = np.array([60.0, 180.0, 500.0, 1200.0, 2500.0, 4500.0, 8000.0])  # Hz
DIRECT_TO_ROOM = (0.0, 14.0)  # dB, direct sound to reverberation
ROOM_DELAY = (0.002, 0.02)  # s until the first echo
NOISE_SLOPE = (0.0, 2.0)  # power is frequency to minus this: white to brown
HANN = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW_LENGTH) / WINDOW_LENGTH)).astype(np.float32)


@dataclass(frozen=True)
class SoundAugmentation:
    """One draw of the augmentation; the defaults change nothing.

    Attributes:
        gain (`float`): dB.
        equaliser (`np.ndarray` of shape `(7,)` or `None`): dB at `EQUALISER_KNOTS`.
        noise (`float` or `None`): Signal-to-noise ratio, dB; `None` for no noise.
        reverberation (`float`): Time to fade by 60 dB, s; 0 for none.
        pitch (`float`): Semitones.
        speed (`float`): Factor.
        seed (`int`): Seed of the noise and of the echoes.
    """

    gain: float = 0.0
    equaliser: np.ndarray | None = None
    noise: float | None = None
    reverberation: float = 0.0
    pitch: float = 0.0
    speed: float = 1.0
    seed: int = 0

    @classmethod
    def draw(cls, ranges: Mapping[str, Sequence[float]], rng: np.random.Generator) -> "SoundAugmentation":
        """Draw one; kinds missing in `ranges` are off."""
        change: dict[str, Any] = {"seed": int(rng.integers(2**31))}
        for name, share in SHARE.items():  # in this order whatever the order of the ranges
            if name in ranges and rng.random() < share:
                low, high = ranges[name]
                count = len(EQUALISER_KNOTS) if name == "equaliser" else None
                change[name] = rng.uniform(low, high, count)
        return cls(**change)

    def at_speed(self, speed: float) -> "SoundAugmentation":
        """Copy with another speed."""
        return replace(self, speed=speed)


def check_ranges(ranges: Mapping[str, Sequence[float]]) -> None:
    """Raise `ValueError` for an unknown kind or invalid range."""
    for name, given in ranges.items():
        if name not in SOUND:
            raise ValueError(f"There is no sound augmentation '{name}'; there are {', '.join(SOUND)}.")
        lowest, highest = LIMITS[name]
        if len(given) != 2 or not lowest <= given[0] <= given[1] <= highest:
            raise ValueError(
                f"The range sound_{name} must be two numbers from {lowest:g} to {highest:g}, the smaller one first, "
                f"not {list(given)}."
            )


def loudness(waveform: np.ndarray) -> float:
    """Measure the reference level of `mel_spectrogram`.

    Args:
        waveform (`np.ndarray` of shape `(samples,)`): Mono speech at 16 kHz.

    Returns:
        `float`: Mean power of the loud parts, summed over the bands; 0 for silence.
    """
    steps = len(waveform) // HOP
    power = _band_power(waveform, HOP * np.arange(steps) + HOP // 2, mel_filters())
    return gated_level(power.sum(1)) if steps else 0.0


def mel_steps(waveform: np.ndarray, level: float, start: float, frames: int, change: SoundAugmentation) -> np.ndarray:
    """Compute the spectrogram of an augmented stretch.

    Args:
        waveform (`np.ndarray` of shape `(samples,)`): A clip's sound, mono at 16 kHz, silent beyond its ends.
        level (`float`): `loudness` of the clip.
        start (`float`): First video frame of the stretch.
        frames (`int`): Video frames of the result; the stretch has `change.speed` times as many.
        change (`SoundAugmentation`): The augmentation.

    Returns:
        `np.ndarray` of shape `(4 * frames + 16, 16)`: float32, with the context of the first and the last frame, for
        `speech_clip.windows_of`. Without augmentation, and at a whole frame, the rows are those of `mel_spectrogram`.
    """
    steps = np.arange(-STEPS_BEFORE, frames * STEPS_PER_FRAME + STEPS_AFTER)
    centres = start * SAMPLES_PER_FRAME + change.speed * (HOP * steps + HOP // 2)
    tail = round(change.reverberation * SAMPLING_RATE)
    # The sound before the stretch reverberates in it.
    first = int(centres[0]) - WINDOW_LENGTH - tail
    last = int(centres[-1]) + WINDOW_LENGTH
    piece = np.zeros(last - first, np.float32)
    inside = slice(max(first, 0), max(min(last, len(waveform)), 0))
    piece[inside.start - first : inside.stop - first] = waveform[inside]
    if change.equaliser is not None or change.noise is not None or tail:
        piece, level = _rerecord(piece, level, change)
    # Pitch and speed only change where the spectrogram is sampled.
    power = _band_power(piece, np.rint(centres).astype(int) - first, mel_filters(2 ** (change.pitch / 12)))
    power *= np.float32(10 ** (change.gain / 10) / level if level > 0 else 1)
    return np.maximum((np.log10(power + np.float32(MEL_FLOOR)) + 3) / 3, np.float32(SILENCE))


def rerecorded(waveform: np.ndarray, level: float, change: SoundAugmentation) -> np.ndarray:
    """Augment a waveform.

    Args:
        waveform (`np.ndarray` of shape `(samples,)`): Mono at 16 kHz.
        level (`float`): Its `loudness`.
        change (`SoundAugmentation`): The augmentation; its speed is ignored, and its pitch changes the length.

    Returns:
        `np.ndarray` of shape `(samples / 2 ** (pitch / 12),)`: float32.
    """
    if change.equaliser is not None or change.noise is not None or change.reverberation:
        waveform, _ = _rerecord(waveform, level, change)
    if change.pitch:
        waveform = soxr.resample(waveform, SAMPLING_RATE * 2 ** (change.pitch / 12), SAMPLING_RATE)
    return (waveform * 10 ** (change.gain / 20)).astype(np.float32)


def _rerecord(piece: np.ndarray, level: float, change: SoundAugmentation) -> tuple[np.ndarray, float]:
    """Apply equaliser, room and noise; return sound and new level."""
    rng = np.random.default_rng(change.seed)
    size = scipy.fft.next_fast_len(len(piece) + round(change.reverberation * SAMPLING_RATE), real=True)
    spectrum = scipy.fft.rfft(piece, size)
    before = float(np.vdot(spectrum, spectrum).real)
    frequencies = np.arange(len(spectrum), dtype=np.float32) * np.float32(SAMPLING_RATE / size)
    if change.equaliser is not None:
        # Coarse first: the curve is too smooth to need the logarithm of every frequency.
        coarse = np.linspace(0, SAMPLING_RATE / 2, 256)
        decibels = np.interp(np.log(coarse + 20), np.log(EQUALISER_KNOTS + 20), change.equaliser)
        spectrum *= np.interp(frequencies, coarse, 10 ** (decibels / 20)).astype(np.float32)
    if change.reverberation:
        spectrum *= scipy.fft.rfft(_room(change.reverberation, rng), size)
    after = float(np.vdot(spectrum, spectrum).real)
    if before:  # the level of the whole recording is assumed to change as this part does
        level *= after / before
    if change.noise is not None:
        noise = rng.standard_normal((2, len(spectrum)), dtype=np.float32)
        slope = rng.uniform(*NOISE_SLOPE)
        colour = np.maximum(frequencies, 60) ** np.float32(-slope / 2)
        # The level of this noise for unit variance of each number of its spectrum.
        bins = np.maximum(np.linspace(0, SAMPLING_RATE / 2, N_FFT // 2 + 1), 60) ** -slope
        of_one = float((HANN**2).sum() * (mel_filters() @ bins).sum()) * 2 / size
        share = level / of_one * 10 ** (-change.noise / 10)
        spectrum += np.float32(np.sqrt(share)) * colour * (noise[0] + 1j * noise[1])
        level *= 1 + 10 ** (-change.noise / 10)
    return scipy.fft.irfft(spectrum, size)[: len(piece)], level


def _room(seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Impulse response: direct sound, then noise fading by 60 dB."""
    length = round(seconds * SAMPLING_RATE)
    echoes = rng.standard_normal(length) * 10 ** (-3 * np.arange(length) / length)
    echoes[: round(min(rng.uniform(*ROOM_DELAY), seconds / 2) * SAMPLING_RATE)] = 0
    echoes *= 10 ** (-rng.uniform(*DIRECT_TO_ROOM) / 20) / max(float(np.linalg.norm(echoes)), 1e-9)
    echoes[0] = 1
    return echoes.astype(np.float32)


def _band_power(waveform: np.ndarray, centres: np.ndarray, filters: np.ndarray) -> np.ndarray:
    """Power of bands around samples: float32 `(steps, bands)`."""
    padded = np.pad(waveform, WINDOW_LENGTH)
    spans = np.lib.stride_tricks.sliding_window_view(padded, WINDOW_LENGTH)[centres + WINDOW_LENGTH // 2]
    spectrum = scipy.fft.rfft(spans * HANN, N_FFT)  # (steps, 257)
    return (spectrum.real**2 + spectrum.imag**2) @ filters.T
