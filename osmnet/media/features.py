"""Speech features per video frame: log-mel windows and voice activity.

Convention:
    Mel step `j` is centred on sample `160 j + 80`: the steps `4 i … 4 i + 3` lie inside video frame `i`, and its
    window of 16 steps is centred on it.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator

import numpy as np

from osmnet.media.audio import SAMPLES_PER_FRAME, SAMPLING_RATE, num_frames
from osmnet.media.recording import Recording

HOP = 160  # samples between two mel steps, 10 ms
NUM_MELS = 16  # bands
MEL_WINDOW = 16  # mel steps in the window of one video frame
STEPS_PER_FRAME = SAMPLES_PER_FRAME // HOP  # 4

N_FFT = 512  # samples
WINDOW_LENGTH = 400  # samples, 25 ms
_MEL_FMIN, _MEL_FMAX = 50.0, 8000.0  # Hz
MEL_FLOOR = 1e-6  # power relative to the recording's loudness, -60 dB
SILENCE = -1.0  # value of every band of a spectrogram in silence
_SPEECH_BAND = (200.0, 4000.0)  # Hz; voice without hum below and hiss above
_CHUNK_STEPS = 2048  # mel steps transformed at a time, 20 s; few enough to stay in the processor's cache


def speech_features(sound: np.ndarray | Recording) -> tuple[np.ndarray, np.ndarray]:
    """Compute `mel_spectrogram` and `speech_activity` in one pass.

    Args:
        sound (`np.ndarray` of shape `(samples,)` or `Recording`): Mono speech at 16 kHz.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: Spectrogram `(4 * frames, 16)` and activity `(frames,)`, float32.

    Raises:
        ValueError: If the sound is not one-dimensional, empty or not finite.
    """
    mel, band = _band_powers(sound, mel_filters(), speech_filter())
    return log_mel(mel, gated_level(mel.sum(axis=1))), _activity(band[:, 0])


def mel_spectrogram(sound: np.ndarray | Recording) -> np.ndarray:
    """Compute a log-mel spectrogram, independent of loudness.

    25 ms Hann windows every 10 ms, 512-point FFT, 16 triangular filters of peak 1 (Slaney mel scale, 50 to 8000 Hz).
    Powers are divided by `gated_level` and scaled by `(log10(power + 1e-6) + 3) / 3`: 1 is all loudness in one band.

    Args:
        sound (`np.ndarray` of shape `(samples,)` or `Recording`): Mono speech at 16 kHz.

    Returns:
        `np.ndarray` of shape `(steps, 16)`: float32, about [-1, 1.2], low bands first; 4 steps per video frame.

    Raises:
        ValueError: As `speech_features`.
    """
    (power,) = _band_powers(sound, mel_filters())
    return log_mel(power, gated_level(power.sum(axis=1)))


def mel_windows(sound: np.ndarray | Recording) -> np.ndarray:
    """Compute the log-mel window of every video frame.

    Window `i` holds the steps `4 i - 6 … 4 i + 9` of `mel_spectrogram`, 160 ms; -1 (silence) beyond the ends.

    Args:
        sound (`np.ndarray` of shape `(samples,)` or `Recording`): Mono speech at 16 kHz.

    Returns:
        `np.ndarray` of shape `(frames, 16, 16)`: float32 `(frame, step, band)`, about [-1, 1].

    Raises:
        ValueError: As `speech_features`.

    Source:
        OSM-Net, Sec. IV-A, implementation details: 25 fps and a mel spectrogram of 16 x 16 per frame. Hop, limits of
        the bands and scaling are ours.
    """
    return np.ascontiguousarray(cut_windows(mel_spectrogram(sound)))


def cut_windows(mel: np.ndarray, begin: int = 0, end: int | None = None) -> np.ndarray:
    """Cut a spectrogram into `mel_windows`, without a copy.

    Args:
        mel (`np.ndarray` of shape `(4 * frames, 16)`): From `mel_spectrogram`.
        begin (`int`): First frame.
        end (`int`, *optional*): Frame after the last, above `begin`; that of `mel` if not given.

    Returns:
        `np.ndarray` of shape `(end - begin, 16, 16)`: float32 `(frame, step, band)`, a view not for writing.
    """
    end = len(mel) // STEPS_PER_FRAME if end is None else end
    around = (MEL_WINDOW - STEPS_PER_FRAME) // 2  # 6
    first, last = STEPS_PER_FRAME * begin - around, STEPS_PER_FRAME * end + around
    before, after = max(-first, 0), max(last - len(mel), 0)
    part = mel[first + before : last - after]
    if before or after:
        part = np.pad(part, ((before, after), (0, 0)), constant_values=SILENCE)
    windows = np.lib.stride_tricks.sliding_window_view(part, MEL_WINDOW, axis=0)[::STEPS_PER_FRAME]
    return windows.transpose(0, 2, 1)


def speech_activity(sound: np.ndarray | Recording) -> np.ndarray:
    """Measure the share of speech in each video frame.

    Energy from 200 to 4000 Hz, thresholded 28 dB below the loud parts and at least 7 dB above the noise floor, with 20
    ms attack and 80 ms hold. Intermittent music counts as speech.

    Args:
        sound (`np.ndarray` of shape `(samples,)` or `Recording`): Mono speech at 16 kHz.

    Returns:
        `np.ndarray` of shape `(frames,)`: float32 in [0, 1].

    Raises:
        ValueError: As `speech_features`.
    """
    (power,) = _band_powers(sound, speech_filter())
    return _activity(power[:, 0])


def gated_level(power: np.ndarray) -> float:
    """Mean power above a tenth of the mean (relative gate of BS.1770)."""
    mean = float(power.mean(dtype=np.float64))
    return float(power[power >= 0.1 * mean].mean(dtype=np.float64)) if mean > 0 else 0.0


def log_mel(power: np.ndarray, level: float) -> np.ndarray:
    """Scale powers as in `mel_spectrogram`, in place.

    Args:
        power (`np.ndarray` of shape `(steps, 16)`): float32.
        level (`float`): `gated_level` of the recording.

    Returns:
        `np.ndarray` of shape `(steps, 16)`: `power` itself.
    """
    if level > 0:
        power /= np.float32(level)
    power += np.float32(MEL_FLOOR)
    np.log10(power, out=power)
    power += 3
    power /= 3
    return np.maximum(power, np.float32(SILENCE), out=power)  # -1 exactly in silence


def _activity(power: np.ndarray) -> np.ndarray:
    # power: (steps,) in the speech band
    level = gated_level(power)
    if level <= 0:
        return np.zeros(len(power) // STEPS_PER_FRAME, np.float32)

    loudness = 10 * np.log10(power / level + 1e-7)  # dB below the recording's loud parts, at least -70
    audible = loudness[loudness > -65]  # without digital silence, which is not room noise
    threshold = max(float(np.percentile(audible, 2)) + 7.0, -28.0)
    return activity_above(loudness, threshold)


def activity_above(loudness: np.ndarray, threshold: float) -> np.ndarray:
    """Map loudness to frame activity, see `speech_activity`.

    Args:
        loudness (`np.ndarray` of shape `(steps,)`): dB, 4 steps per frame.
        threshold (`float`): dB at which speech begins.

    Returns:
        `np.ndarray` of shape `(frames,)`: float32 in [0, 1].
    """
    activity = np.clip((loudness - threshold + 3) / 6, 0, 1)
    # The largest of the last 8 and the next 2 steps, smoothed by a short mean.
    padded = np.pad(activity, (8, 2))
    activity = np.lib.stride_tricks.sliding_window_view(padded, 11).max(axis=1)
    activity = np.convolve(np.pad(activity, 2, mode="edge"), np.full(5, 0.2), mode="valid")
    return activity.reshape(-1, STEPS_PER_FRAME).mean(axis=1).astype(np.float32)


def _band_powers(sound: np.ndarray | Recording, *filters: np.ndarray) -> list[np.ndarray]:
    """Compute the powers of mel steps: float32 `(steps, bands)` per filter."""
    if not isinstance(sound, Recording):
        sound = np.asarray(sound)
        if sound.ndim != 1 or sound.size == 0:
            raise ValueError(f"The waveform must have shape (samples,) with at least one sample, not {sound.shape}.")
    steps = num_frames(len(sound)) * STEPS_PER_FRAME
    hann = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW_LENGTH) / WINDOW_LENGTH)).astype(np.float32)
    powers = [np.empty((steps, len(bands)), np.float32) for bands in filters]
    for first, spans in _spans(sound, steps):
        spectrum = np.fft.rfft(spans * hann, N_FFT)  # (chunk, 257)
        whole = spectrum.real**2 + spectrum.imag**2
        for power, bands in zip(powers, filters, strict=True):
            power[first : first + len(spans)] = whole @ bands.T
    return powers


def _spans(sound: np.ndarray | Recording, steps: int) -> Iterator[tuple[int, np.ndarray]]:
    before = (WINDOW_LENGTH - HOP) // 2  # step j is centred on sample 160 j + 80
    for first in range(0, steps, _CHUNK_STEPS):
        start = first * HOP - before
        stop = (min(first + _CHUNK_STEPS, steps) - 1) * HOP + WINDOW_LENGTH - before
        inside = sound[max(start, 0) : stop].astype(np.float32, copy=False)
        if not np.isfinite(inside).all():
            raise ValueError("The waveform holds NaN or infinite samples.")
        lead = max(-start, 0)
        padded = np.pad(inside, (lead, stop - start - lead - len(inside)))  # beyond its ends the sound is silent
        yield first, np.lib.stride_tricks.sliding_window_view(padded, WINDOW_LENGTH)[::HOP]


def speech_filter() -> np.ndarray:
    """Make the `(1, 257)` filter of the speech band."""
    frequencies = np.fft.rfftfreq(N_FFT, 1 / SAMPLING_RATE)
    return ((frequencies >= _SPEECH_BAND[0]) & (frequencies <= _SPEECH_BAND[1]))[None].astype(np.float32)


@functools.lru_cache(maxsize=64)
def mel_filters(pitch: float = 1.0) -> np.ndarray:
    """Make triangular mel filters.

    Args:
        pitch (`float`): Factor by which the filters raise the frequencies of a sound.

    Returns:
        `np.ndarray` of shape `(16, 257)`: float32, low bands first; shared, not for writing.
    """
    from librosa.filters import mel  # imports scipy.signal: most of a second

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # raised pitches leave the lowest filter empty, as they must
        filters = mel(
            sr=SAMPLING_RATE * pitch, n_fft=N_FFT, n_mels=NUM_MELS, fmin=_MEL_FMIN, fmax=_MEL_FMAX, norm=None
        )
    filters.flags.writeable = False
    return filters
