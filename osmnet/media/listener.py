"""Streaming version of `features` for sound in chunks."""

from __future__ import annotations

from collections import deque

import numpy as np
import soxr

from osmnet.media.audio import SAMPLES_PER_FRAME, SAMPLING_RATE, num_frames
from osmnet.media.features import (
    HOP,
    MEL_WINDOW,
    N_FFT,
    NUM_MELS,
    SILENCE,
    STEPS_PER_FRAME,
    WINDOW_LENGTH,
    activity_above,
    gated_level,
    log_mel,
    mel_filters,
    speech_filter,
)

BEFORE = (WINDOW_LENGTH - HOP) // 2  # samples of a step's window before its own 10 ms, and after them
QUALITY = "MQ"  # of soxr; as good as the best for 16 bands up to 8 kHz: LQ loses the top band, HQ adds delay
# Prior for the loudness of speech: that of a quiet microphone (about -37 dB of full scale), weighted as 40 ms of
# speech. Nothing is amplified more than speech of about -70 dB.
FIRST_LEVEL, FIRST_STEPS, LOWEST_LEVEL = 10.0, 4, -25.0  # dB of power, steps, dB
LEVEL_STEPS = 1000  # steps, 10 s of speech over which loudness is measured
SETTLED_STEPS, FASTEST = 100, 0.5  # steps, dB per frame: limit of change after 1 s of speech
FLOOR_STEPS = 800  # steps; in 8 s a talker pauses at least once, so the quietest are room noise
ABOVE_FLOOR, BELOW_LEVEL = 7.0, -28.0  # dB; where speech begins, as in `speech_activity`


class RunningLevel:
    """Running `gated_level` of recent speech.

    Attributes:
        level (`float`): dB.
    """

    def __init__(self):
        self.level = FIRST_LEVEL
        self._power = np.full(LEVEL_STEPS, 10 ** (FIRST_LEVEL / 10))
        self._steps = FIRST_STEPS

    def add(self, power: np.ndarray) -> None:
        """Add steps of speech."""
        if len(power) == 0:
            return
        self._power[(self._steps + np.arange(len(power))) % LEVEL_STEPS] = power
        self._steps += len(power)
        level = max(10 * np.log10(gated_level(self._power[: self._steps])), LOWEST_LEVEL)
        furthest = FASTEST if self._steps > SETTLED_STEPS else np.inf
        self.level += float(np.clip(level - self.level, -furthest, furthest))


class NoiseFloor:
    """Loudness of the quietest 2 % of recent sound, without digital silence."""

    def __init__(self):
        self._recent = np.zeros(FLOOR_STEPS)
        self._steps = 0

    def add(self, loudness: np.ndarray) -> None:
        """Add steps, in dB."""
        self._recent[(self._steps + np.arange(len(loudness))) % FLOOR_STEPS] = loudness
        self._steps += len(loudness)

    @property
    def level(self) -> float:
        """Loudness in dB; minus infinity before the first step."""
        count = min(self._steps, FLOOR_STEPS)
        return float(np.partition(self._recent[:count], count // 50)[count // 50]) if count else -np.inf


class Listener:
    """Features of the latest frames of streamed sound.

    Loudness and noise floor are those of the sound so far. Chunk boundaries have no effect.

    Args:
        keep (`int`): Number of frames to keep.

    Attributes:
        frames (`int`): Frames processed.
        samples (`int`): Samples at 16 kHz pushed, processed or not.
    """

    def __init__(self, keep: int):
        self.frames = self.samples = 0
        self._keep = keep
        self._rate: float | None = None
        self._stream: soxr.ResampleStream | None = None
        self._pending = np.zeros(BEFORE, np.float32)  # from the first sample of the next frame's windows
        self._power: deque[np.ndarray] = deque(maxlen=keep)  # (4, 17) per frame: mel bands, then the voice's band
        self._sound: deque[np.ndarray] = deque(maxlen=keep)  # (640,) per frame
        self._loudness, self._voice, self._floor = RunningLevel(), RunningLevel(), NoiseFloor()
        self._filters = np.concatenate([mel_filters(), speech_filter()]).T  # (257, 17)
        self._hann = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW_LENGTH) / WINDOW_LENGTH)).astype(np.float32)

    def push(self, chunk: np.ndarray, sampling_rate: float) -> None:
        """Append sound.

        Args:
            chunk (`np.ndarray` of shape `(samples,)`): Mono, float32.
            sampling_rate (`float`): Its rate in Hz, the same for all chunks.
        """
        if self._rate is None:
            self._rate = sampling_rate
            if sampling_rate != SAMPLING_RATE:
                self._stream = resampler(sampling_rate)
        self._append(chunk if self._stream is None else self._stream.resample_chunk(chunk))

    def end(self) -> int:
        """Flush the resampler; returns the total number of frames."""
        if self._stream is not None:
            self._append(self._stream.resample_chunk(np.zeros(0, np.float32), last=True))
        return num_frames(self.samples)

    def push_silence(self) -> None:
        """Append one frame of silence."""
        self._append(np.zeros(SAMPLES_PER_FRAME, np.float32))

    def _append(self, samples: np.ndarray) -> None:
        self.samples += len(samples)
        self._pending = np.concatenate([self._pending, samples])

    def advance(self) -> bool:
        """Process one frame; False until its sound and 7.5 ms more have arrived."""
        wanted = SAMPLES_PER_FRAME + 2 * BEFORE
        if len(self._pending) < wanted:
            return False
        spans = np.lib.stride_tricks.sliding_window_view(self._pending[:wanted], WINDOW_LENGTH)[::HOP]  # (4, 400)
        self._sound.append(self._pending[BEFORE : BEFORE + SAMPLES_PER_FRAME].copy())
        self._pending = self._pending[SAMPLES_PER_FRAME:]
        spectrum = np.fft.rfft(spans * self._hann, N_FFT)  # (4, 257)
        power = ((spectrum.real**2 + spectrum.imag**2) @ self._filters).astype(np.float32)
        self._power.append(power)
        self.frames += 1
        self._follow(power[:, :NUM_MELS].sum(axis=1), power[:, NUM_MELS])
        return True

    def _follow(self, total: np.ndarray, voice: np.ndarray) -> None:
        decibels = 10 * np.log10(voice + 1e-10)
        audible = decibels > self._voice.level - 65
        self._floor.add(decibels[audible])
        speech = audible & (decibels > self._floor.level + ABOVE_FLOOR)
        self._loudness.add(total[speech])
        self._voice.add(voice[speech])

    @property
    def first(self) -> int:
        """First frame kept."""
        return max(self.frames - self._keep, 0)

    def mel_windows(self, first: int, stop: int) -> np.ndarray:
        """Return log-mel windows; future frames repeat the last step.

        Args:
            first (`int`): First frame; it and the 2 before it are kept, or it begins the sound.
            stop (`int`): Frame after the last, perhaps still to come.

        Returns:
            `np.ndarray` of shape `(stop - first, 16, 16)`: As `osmnet.media.features.mel_windows`.
        """
        mel = log_mel(np.concatenate(self._power)[:, :NUM_MELS], 10 ** (self._loudness.level / 10))  # (4 n, 16)
        before = (MEL_WINDOW - STEPS_PER_FRAME) // 2
        begin = STEPS_PER_FRAME * (first - self.first) - before  # step of `mel` that the first window starts with
        end = STEPS_PER_FRAME * (stop - self.first) + before
        steps = np.pad(mel[max(begin, 0) : end], ((max(-begin, 0), 0), (0, 0)), constant_values=SILENCE)
        steps = np.pad(steps, ((0, end - begin - len(steps)), (0, 0)), mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(steps, MEL_WINDOW, axis=0)[::STEPS_PER_FRAME]
        return np.ascontiguousarray(windows.transpose(0, 2, 1))

    def waveform(self, first: int) -> np.ndarray:
        """Return the sound from kept frame `first` on, float32."""
        return np.concatenate(list(self._sound)[first - self.first :])

    def activity(self, first: int) -> np.ndarray:
        """Measure speech activity above the noise so far.

        Args:
            first (`int`): First frame; exact if the 3 before it are kept.

        Returns:
            `np.ndarray` of shape `(frames - first,)`: As `osmnet.media.features.speech_activity`.
        """
        loudness = np.maximum(10 * np.log10(np.concatenate(self._power)[:, NUM_MELS] + 1e-10) - self._voice.level, -70)
        threshold = max(self._floor.level - self._voice.level + ABOVE_FLOOR, BELOW_LEVEL)
        return activity_above(loudness, threshold)[first - self.first :]


def resampler(sampling_rate: float) -> soxr.ResampleStream:
    """Make a streaming resampler to 16 kHz."""
    return soxr.ResampleStream(sampling_rate, SAMPLING_RATE, 1, dtype="float32", quality=QUALITY)


def resampling_delay(sampling_rate: float) -> float:
    """Measure the resampler's longest delay in seconds."""
    if sampling_rate == SAMPLING_RATE:
        return 0.0
    stream = resampler(sampling_rate)
    step = max(round(sampling_rate / 2000), 1)
    given = got = 0
    longest = 0.0
    while given < sampling_rate:
        given += step
        got += len(stream.resample_chunk(np.zeros(step, np.float32)))
        longest = max(longest, given / sampling_rate - got / SAMPLING_RATE)
    return longest + step / sampling_rate
