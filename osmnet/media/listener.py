"""Hearing speech while it is spoken: chunks of sound in, what `features` makes of them out, frame by frame."""

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

BEFORE = (WINDOW_LENGTH - HOP) // 2  # samples that a step sees before its own 10 ms, and after them
# As good as the best for 16 bands up to 8 kHz; the lower ones lose the top band, the higher ones wait longer.
QUALITY = "MQ"
# Until something is heard, speech is taken to be as loud as from a quiet microphone (about -37 dB of full scale), a
# guess that counts as much as 40 ms of speech. Nothing is amplified further than that of about -70 dB.
FIRST_LEVEL, FIRST_STEPS, LOWEST_LEVEL = 10.0, 4, -25.0  # dB of power, steps, dB
LEVEL_STEPS = 1000  # of speech, 10 s, of which its loudness is that of the loud parts
SETTLED_STEPS, FASTEST = 100, 0.5  # from 1 s of speech on, the level changes by at most so many dB a frame
FLOOR_STEPS = 800  # 8 s in which a talker pauses at least once, so that what is quietest in them is the room
ABOVE_FLOOR, BELOW_LEVEL = 7.0, -28.0  # dB: where speech begins, as in `speech_activity`


class RunningLevel:
    """Loudness of the loud parts of the speech heard last: `gated_level` of a recording that has not ended.

    Attributes:
        level (`float`): In dB.
    """

    def __init__(self):
        self.level = FIRST_LEVEL
        self._power = np.full(LEVEL_STEPS, 10 ** (FIRST_LEVEL / 10))
        self._steps = FIRST_STEPS

    def hear(self, power: np.ndarray) -> None:
        """Take in some steps of speech."""
        if len(power) == 0:
            return
        self._power[(self._steps + np.arange(len(power))) % LEVEL_STEPS] = power
        self._steps += len(power)
        level = max(10 * np.log10(gated_level(self._power[: self._steps])), LOWEST_LEVEL)
        furthest = FASTEST if self._steps > SETTLED_STEPS else np.inf
        self.level += float(np.clip(level - self.level, -furthest, furthest))


class NoiseFloor:
    """The quietest 2 % of the last seconds, in dB; digital silence does not count."""

    def __init__(self):
        self._heard = np.zeros(FLOOR_STEPS)
        self._steps = 0

    def hear(self, loudness: np.ndarray) -> None:
        """Take in some steps, dB."""
        self._heard[(self._steps + np.arange(len(loudness))) % FLOOR_STEPS] = loudness
        self._steps += len(loudness)

    @property
    def level(self) -> float:
        """Loudness in dB; minus infinity as long as nothing was heard."""
        count = min(self._steps, FLOOR_STEPS)
        return float(np.partition(self._heard[:count], count // 50)[count // 50]) if count else -np.inf


class Listener:
    """Takes in sound as it comes and keeps what the last frames of video need of it.

    What it says after `n` frames does not depend on the chunks in which they came. It differs from the features of a
    whole recording in one thing: loudness and noise are those of what was heard so far.

    Args:
        keep (`int`): How many of the last frames it remembers.

    Attributes:
        frames (`int`): How many frames were heard.
        samples (`int`): How many samples at 16 kHz were given, heard or not.
    """

    def __init__(self, keep: int):
        self.frames = self.samples = 0
        self._keep = keep
        self._rate: float | None = None
        self._stream: soxr.ResampleStream | None = None
        self._pending = np.zeros(BEFORE, np.float32)  # from the first sample that the next frame needs
        self._power: deque[np.ndarray] = deque(maxlen=keep)  # (4, 17) of each frame: mel bands, then the voice's band
        self._sound: deque[np.ndarray] = deque(maxlen=keep)  # (640,) of each frame
        self._loudness, self._voice, self._floor = RunningLevel(), RunningLevel(), NoiseFloor()
        self._filters = np.concatenate([mel_filters(), speech_filter()]).T  # (257, 17)
        self._hann = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW_LENGTH) / WINDOW_LENGTH)).astype(np.float32)

    def give(self, chunk: np.ndarray, sampling_rate: float) -> None:
        """Take in sound.

        Args:
            chunk (`np.ndarray` of shape `(samples,)`): Mono, float32.
            sampling_rate (`float`): Its rate in Hz, the same in all chunks.
        """
        if self._rate is None:
            self._rate = sampling_rate
            if sampling_rate != SAMPLING_RATE:
                self._stream = resampler(sampling_rate)
        self._append(chunk if self._stream is None else self._stream.resample_chunk(chunk))

    def end(self) -> int:
        """Say that silence follows; returns how many frames the sound has."""
        if self._stream is not None:
            self._append(self._stream.resample_chunk(np.zeros(0, np.float32), last=True))
        return num_frames(self.samples)

    def give_silence(self) -> None:
        """Take in one frame of silence."""
        self._append(np.zeros(SAMPLES_PER_FRAME, np.float32))

    def _append(self, samples: np.ndarray) -> None:
        self.samples += len(samples)
        self._pending = np.concatenate([self._pending, samples])

    def hear(self) -> bool:
        """Hear one more frame, if its sound is there: all of it, and 7.5 ms of the next."""
        wanted = SAMPLES_PER_FRAME + 2 * BEFORE
        if len(self._pending) < wanted:
            return False
        spans = np.lib.stride_tricks.sliding_window_view(self._pending[:wanted], WINDOW_LENGTH)[::HOP]  # (4, 400)
        self._sound.append(self._pending[BEFORE : BEFORE + SAMPLES_PER_FRAME].copy())
        self._pending = self._pending[SAMPLES_PER_FRAME:]
        spectrum = np.fft.rfft(spans * self._hann, N_FFT)
        power = ((spectrum.real**2 + spectrum.imag**2) @ self._filters).astype(np.float32)
        self._power.append(power)
        self.frames += 1
        self._follow(power[:, :NUM_MELS].sum(axis=1), power[:, NUM_MELS])
        return True

    def _follow(self, total: np.ndarray, voice: np.ndarray) -> None:
        """Follow loudness and noise by one frame."""
        decibels = 10 * np.log10(voice + 1e-10)
        heard = decibels > self._voice.level - 65
        self._floor.hear(decibels[heard])
        speech = heard & (decibels > self._floor.level + ABOVE_FLOOR)
        self._loudness.hear(total[speech])
        self._voice.hear(voice[speech])

    @property
    def first(self) -> int:
        """The first frame that is remembered."""
        return max(self.frames - self._keep, 0)

    def mel_windows(self, first: int, stop: int) -> np.ndarray:
        """Log-mel windows of frames, relative to the loudness heard so far; in the future the last sound goes on.

        Args:
            first (`int`): First frame, one that is remembered with 2 before it, or that begins the sound.
            stop (`int`): Frame before which to stop; it may lie in the future.

        Returns:
            `np.ndarray` of shape `(stop - first, 16, 16)`: As `osmnet.media.features.mel_windows`.
        """
        mel = log_mel(np.concatenate(self._power)[:, :NUM_MELS], 10 ** (self._loudness.level / 10))
        before = (MEL_WINDOW - STEPS_PER_FRAME) // 2
        begin = STEPS_PER_FRAME * (first - self.first) - before  # step of `mel` that the first window starts with
        end = STEPS_PER_FRAME * (stop - self.first) + before
        steps = np.pad(mel[max(begin, 0) : end], ((max(-begin, 0), 0), (0, 0)), constant_values=SILENCE)
        steps = np.pad(steps, ((0, end - begin - len(steps)), (0, 0)), mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(steps, MEL_WINDOW, axis=0)[::STEPS_PER_FRAME]
        return np.ascontiguousarray(windows.transpose(0, 2, 1))

    def waveform(self, first: int) -> np.ndarray:
        """Sound of the frames from `first`, one that is remembered, to the last one heard: `(640 n,)`, float32."""
        return np.concatenate(list(self._sound)[first - self.first :])

    def activity(self, first: int) -> np.ndarray:
        """How much of each frame is speech, above the noise heard so far.

        Args:
            first (`int`): First frame wanted; it is exact if 3 before it are remembered.

        Returns:
            `np.ndarray` of shape `(frames - first,)`: As `osmnet.media.features.speech_activity`.
        """
        loudness = np.maximum(10 * np.log10(np.concatenate(self._power)[:, NUM_MELS] + 1e-10) - self._voice.level, -70)
        threshold = max(self._floor.level - self._voice.level + ABOVE_FLOOR, BELOW_LEVEL)
        return activity_above(loudness, threshold)[first - self.first :]


def resampler(sampling_rate: float) -> soxr.ResampleStream:
    """Make what brings sound that comes in chunks to 16 kHz; its output does not depend on the chunks."""
    return soxr.ResampleStream(sampling_rate, SAMPLING_RATE, 1, dtype="float32", quality=QUALITY)


def resampling_delay(sampling_rate: float) -> float:
    """Longest time in seconds that sound stays inside the resampler: tried out on one second of silence."""
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
