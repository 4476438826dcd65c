"""Speech in, features out: decoding any recording to 16 kHz mono, log-mel windows and voice activity per video frame.

Convention:
    Video frame `i` covers the samples `640 i … 640 (i + 1)`. Mel step `j` is centred on sample `160 j + 80`, so that
    the steps `4 i … 4 i + 3` lie inside frame `i` and a window of 16 steps is centred exactly on a frame's middle.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import av
import numpy as np
import soxr

SAMPLING_RATE = 16_000  # Hz, of every waveform inside the library
FPS = 25  # video frames a second
HOP = 160  # samples between two mel steps: 10 ms
NUM_MELS = 16  # mel bands
MEL_WINDOW = 16  # mel steps in the window of one video frame

SAMPLES_PER_FRAME = SAMPLING_RATE // FPS  # 640
STEPS_PER_FRAME = SAMPLES_PER_FRAME // HOP  # 4
MIN_SECONDS = 0.2  # shorter recordings hold no syllable
SILENCE_PEAK = 1e-3  # about -60 dB of full scale

N_FFT = 512
WINDOW_LENGTH = 400  # 25 ms
_MEL_FMIN, _MEL_FMAX = 50.0, 8000.0  # Hz
MEL_FLOOR = 1e-6  # power relative to the recording's loudness: -60 dB
_SPEECH_BAND = (200.0, 4000.0)  # Hz: voice without hum below and hiss above
_CHUNK_STEPS = 8192  # mel steps transformed at a time: bounds the memory on an hour of speech
_MAX_CHANNELS = 64
_MAX_START_SHIFT = 10.0  # seconds; a larger distance between sound and picture is a broken timestamp


def load_speech(
    speech: str | os.PathLike[str] | np.ndarray | tuple[Any, Any], sampling_rate: int | None = None
) -> np.ndarray:
    """Load a recording as mono speech at 16 kHz.

    Reads whatever the FFmpeg inside PyAV reads, videos too (their sound; sample 0 is then the moment of the first
    picture). Of a damaged or cut file, the part that decodes is used. A recording above full scale is scaled down to
    a peak of 1, never clipped; others keep their level.

    Args:
        speech (`str`, `os.PathLike`, `np.ndarray` or `tuple`): A file; or an array of shape `(samples,)`,
            `(samples, channels)` or `(channels, samples)`, floats in [-1, 1] or integers (up to 32 bits) that use the
            range of their type, with its rate in `sampling_rate`; or `(array, rate)` or `(rate, array)`.
        sampling_rate (`int`, *optional*): Rate of an array in Hz. Not used for files, which know their own.

    Returns:
        `np.ndarray` of shape `(samples,)`: float32 in [-1, 1] at 16 kHz.

    Raises:
        ValueError: If the file is missing, empty, not decodable or has no sound, if the sound is shorter than 0.2 s,
            silent throughout or not finite, or if an array comes without its rate.
    """
    if isinstance(speech, str | os.PathLike):
        name = f"'{os.fspath(speech)}'"
        waveform = _decode_file(Path(speech))
    else:
        name = "the given array"
        waveform = _from_array(speech, sampling_rate)
    return _checked(waveform, name)


def num_frames(samples: int) -> int:
    """Number of 25 fps video frames that cover `samples` samples at 16 kHz (the last one may be covered in part)."""
    return -(-int(samples) // SAMPLES_PER_FRAME)


def mel_spectrogram(waveform: np.ndarray) -> np.ndarray:
    """Log-mel spectrogram of a recording, independent of its loudness.

    25 ms Hann windows every 10 ms, 512-point power spectrum, 16 triangular filters of peak 1 on the Slaney mel scale
    from 50 to 8000 Hz (`librosa.filters.mel(..., norm=None)`). Powers are taken relative to the recording's loudness
    (the mean power of its loud parts, see `gated_level`), then `(log10(power + 1e-6) + 3) / 3`: 1 is the whole
    loudness in one band, -1 is 60 dB or more below it. Loud moments reach about 1.2.

    Args:
        waveform (`np.ndarray` of shape `(samples,)`): Mono speech at 16 kHz.

    Returns:
        `np.ndarray` of shape `(steps, 16)`: float32, about [-1, 1], low bands first. `steps` is 4 per video frame:
        the end is filled with silence to a whole frame.

    Raises:
        ValueError: If `waveform` is not one-dimensional, empty or not finite.
    """
    power = _band_power(_as_waveform(waveform), mel_filters())  # (steps, 16)
    level = gated_level(power.sum(axis=1))
    if level > 0:
        power /= np.float32(level)
    return np.maximum((np.log10(power + np.float32(MEL_FLOOR)) + 3) / 3, np.float32(-1))  # -1 exactly in silence


def mel_windows(waveform: np.ndarray) -> np.ndarray:
    """Log-mel window of every video frame, the input of the speech networks.

    The window of frame `i` holds the steps `4 i - 6 … 4 i + 9` of `mel_spectrogram`: 160 ms around the frame's middle.
    Before the beginning and after the end it holds the floor value -1 (silence).

    Args:
        waveform (`np.ndarray` of shape `(samples,)`): Mono speech at 16 kHz.

    Returns:
        `np.ndarray` of shape `(frames, 16, 16)`: float32 `(frame, step, band)`, about [-1, 1].

    Raises:
        ValueError: If `waveform` is not one-dimensional, empty or not finite.

    Source:
        OSM-Net, Sec. IV-A, implementation details: 25 fps and a mel spectrogram of 16 x 16 per frame. It leaves the
        hop, the bands' limits and the scaling open; ours are above.
    """
    before = (MEL_WINDOW - STEPS_PER_FRAME) // 2  # 6
    mel = np.pad(mel_spectrogram(waveform), ((before, before), (0, 0)), constant_values=-1.0)
    windows = np.lib.stride_tricks.sliding_window_view(mel, MEL_WINDOW, axis=0)[::STEPS_PER_FRAME]  # (frames, 16, 16)
    return np.ascontiguousarray(windows.transpose(0, 2, 1))


def speech_activity(waveform: np.ndarray) -> np.ndarray:
    """How much of each video frame is speech, from the energy between 200 and 4000 Hz.

    The threshold lies 28 dB below the recording's own loud parts, yet at least 7 dB above its noise floor (its
    quietest 2 % that are not digital silence); activity rises from 0 to 1 between 3 dB below it and 3 dB above. It
    holds for 80 ms after speech ends and opens 20 ms before. Only energy counts: music that comes and goes is speech.

    Args:
        waveform (`np.ndarray` of shape `(samples,)`): Mono speech at 16 kHz.

    Returns:
        `np.ndarray` of shape `(frames,)`: float32 in [0, 1]; 0 in silence and in steady noise, 1 in speech.

    Raises:
        ValueError: If `waveform` is not one-dimensional, empty or not finite.
    """
    waveform = _as_waveform(waveform)
    frequencies = np.fft.rfftfreq(N_FFT, 1 / SAMPLING_RATE)
    band = (frequencies >= _SPEECH_BAND[0]) & (frequencies <= _SPEECH_BAND[1])
    power = _band_power(waveform, band[None].astype(np.float32))[:, 0]  # (steps,)
    level = gated_level(power)
    if level <= 0:
        return np.zeros(num_frames(len(waveform)), np.float32)

    loudness = 10 * np.log10(power / level + 1e-7)  # dB below the recording's loud parts, at least -70
    heard = loudness[loudness > -65]  # digital silence says nothing about the noise of the room
    threshold = max(float(np.percentile(heard, 2)) + 7.0, -28.0)
    activity = np.clip((loudness - threshold + 3) / 6, 0, 1)

    # Hold: the largest of the last 8 and the next 2 steps; then a short mean takes the corners off.
    padded = np.pad(activity, (8, 2))
    activity = np.lib.stride_tricks.sliding_window_view(padded, 11).max(axis=1)
    activity = np.convolve(np.pad(activity, 2, mode="edge"), np.full(5, 0.2), mode="valid")
    return activity.reshape(-1, STEPS_PER_FRAME).mean(axis=1).astype(np.float32)


# Files


def local_file(path: Path, kind: str) -> str:
    """Check that `path` is a file with something in it and spell it so that FFmpeg takes it for nothing else.

    Args:
        path (`Path`): The file.
        kind (`str`): What it should be, for the messages ("recording", "video").

    Returns:
        `str`: The path with FFmpeg's `file:` prefix, so that a colon in a name is not read as a protocol.

    Raises:
        ValueError: If there is no such file, if it is a folder, or if it is empty.
    """
    try:
        if path.is_dir():
            raise ValueError(f"'{path}' is a folder: give the path of one {kind}.")
        if not path.is_file():
            raise ValueError(f"There is no file '{path}': check the path of the {kind}.")
        if path.stat().st_size == 0:
            raise ValueError(f"'{path}' is empty (0 bytes): copy or make the {kind} again.")
    except OSError as error:
        raise ValueError(f"'{path}' cannot be read ({error.strerror}): check the path of the {kind}.") from error
    return f"file:{path}"


def _decode_file(path: Path) -> np.ndarray:
    address = local_file(path, "recording")
    try:
        # Playlists may name other addresses: only local files are ever opened.
        with av.open(address, metadata_errors="ignore", options={"protocol_whitelist": "file"}) as container:
            if not container.streams.audio:
                raise ValueError(f"'{path}' has no sound: give a recording, or a video with sound.")
            waveform = _decode_stream(container, container.streams.best("audio") or container.streams.audio[0])
    except av.FFmpegError as error:
        raise ValueError(
            f"'{path}' cannot be decoded as sound ({error.strerror}): give a whole recording, for example WAV or MP3."
        ) from error
    if waveform is None:
        raise ValueError(f"No sound in '{path}' could be decoded: the file is damaged, record or export it again.")
    return waveform


def _decode_stream(container: av.container.InputContainer, stream: Any) -> np.ndarray | None:
    """Decode, mix to mono and resample piece by piece, so that memory holds one 16 kHz copy only."""
    pieces: list[np.ndarray] = []
    start: float | None = None
    current: tuple[str, str, int] | None = None  # sample format, channel layout and rate may change on the way

    def resample(frame: av.AudioFrame | None) -> None:
        for planar in to_floats.resample(frame):
            pieces.append(to_rate.resample_chunk(planar.to_ndarray().mean(axis=0)))
        if frame is None:
            pieces.append(to_rate.resample_chunk(np.zeros(0, np.float32), last=True))

    for frame in _decodable_frames(container, stream):
        found = (frame.format.name, frame.layout.name, frame.sample_rate)
        if found != current:
            if current is not None:
                resample(None)
            current = found
            to_floats = av.AudioResampler(format="fltp")  # (channels, samples) in [-1, 1]; the rest is left as it is
            to_rate = soxr.ResampleStream(frame.sample_rate, SAMPLING_RATE, 1, dtype="float32")
        if start is None:
            start = frame.time
        resample(frame)
    if current is None:
        return None
    resample(None)
    return _shifted(np.concatenate(pieces), _seconds_after_picture(container, start))


def _decodable_frames(container: av.container.InputContainer, stream: Any) -> Any:
    """Yield the frames of a stream, skipping packets that do not decode and stopping where the file breaks off."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.FFmpegError):
            return
        try:
            frames = packet.decode()
        except av.FFmpegError:
            continue  # one damaged packet: the recording goes on behind it
        yield from frames


def _seconds_after_picture(container: av.container.InputContainer, sound_start: float | None) -> float:
    """How much later than the picture the sound of a video begins; 0 for a plain recording."""
    for stream in container.streams.video:
        is_cover = bool(stream.disposition & av.stream.Disposition.attached_pic)
        if is_cover or stream.start_time is None or stream.time_base is None or sound_start is None:
            continue
        seconds = sound_start - float(stream.start_time * stream.time_base)
        return seconds if abs(seconds) < _MAX_START_SHIFT else 0.0
    return 0.0


def _shifted(waveform: np.ndarray, seconds: float) -> np.ndarray:
    samples = round(seconds * SAMPLING_RATE)
    return np.pad(waveform, (samples, 0)) if samples > 0 else waveform[-samples:]


# Arrays


def _from_array(speech: Any, sampling_rate: Any) -> np.ndarray:
    if isinstance(speech, tuple | list):
        if len(speech) != 2 or np.ndim(speech[0]) + np.ndim(speech[1]) == 0:
            raise ValueError("Speech given as a pair must be (array, sampling rate), for example (waveform, 16000).")
        speech, sampling_rate = speech if np.ndim(speech[1]) == 0 else (speech[1], speech[0])
    if not isinstance(speech, np.ndarray):
        raise ValueError(f"Speech must be a file or a numpy array with its rate, not {type(speech).__name__}.")
    rate = _checked_rate(sampling_rate)
    mono = _to_mono_float(speech)
    if rate == SAMPLING_RATE or len(mono) == 0:
        return mono
    return soxr.resample(mono, rate, SAMPLING_RATE)


def _checked_rate(sampling_rate: Any) -> float:
    if sampling_rate is None:
        raise ValueError("Speech given as an array needs its rate: pass sampling_rate=..., for example 16000.")
    if np.ndim(sampling_rate) != 0 or not isinstance(sampling_rate, int | float | np.number):
        raise ValueError(f"sampling_rate must be a number of Hz, not of type {type(sampling_rate).__name__}.")
    rate = float(sampling_rate)
    if not 1_000 <= rate <= 1_000_000:
        raise ValueError(f"sampling_rate must lie between 1000 and 1000000 Hz, not {sampling_rate}.")
    return rate


def _to_mono_float(array: np.ndarray) -> np.ndarray:
    if array.ndim not in (1, 2):
        raise ValueError(f"Speech must have shape (samples,) or (samples, channels), not {array.shape}.")
    scale, offset = 1.0, 0.0
    if array.dtype.kind in "iu":
        if array.dtype.itemsize > 4:
            raise ValueError("Speech of 64-bit integers has no known full scale: convert it to int16 or to floats.")
        scale = 2.0 ** (8 * array.dtype.itemsize - 1)
        offset = scale if array.dtype.kind == "u" else 0.0
    elif array.dtype.kind != "f":
        raise ValueError(f"Speech must be floats in [-1, 1] or integers, not {array.dtype}.")
    if array.ndim == 2:
        channel_axis = int(np.argmin(array.shape))
        if array.shape[channel_axis] > _MAX_CHANNELS:
            raise ValueError(f"Speech of shape {array.shape} has too many channels: give (samples, channels).")
        if array.shape[channel_axis] == 0:
            return np.zeros(0, np.float32)
        array = array.mean(axis=channel_axis, dtype=np.float32)
    return (array.astype(np.float32) - np.float32(offset)) / np.float32(scale)


def _checked(waveform: np.ndarray, name: str) -> np.ndarray:
    if not np.isfinite(waveform).all():
        raise ValueError(f"The sound of {name} holds NaN or infinite samples: record or export it again.")
    seconds = len(waveform) / SAMPLING_RATE
    if seconds < MIN_SECONDS:
        raise ValueError(f"The sound of {name} is {seconds:.2f} s long: give at least {MIN_SECONDS} s of speech.")
    # Around the mean: a constant offset of the sound card is silence as well.
    if float(np.ptp(waveform)) / 2 < SILENCE_PEAK:
        raise ValueError(f"The sound of {name} is silent throughout: check the microphone, or give another recording.")
    peak = float(np.abs(waveform).max())
    return waveform / np.float32(peak) if peak > 1 else waveform


# Features


def _as_waveform(waveform: np.ndarray) -> np.ndarray:
    waveform = np.asarray(waveform)
    if waveform.ndim != 1 or waveform.size == 0:
        raise ValueError(f"The waveform must have shape (samples,) with at least one sample, not {waveform.shape}.")
    waveform = waveform.astype(np.float32, copy=False)
    if not np.isfinite(waveform).all():
        raise ValueError("The waveform holds NaN or infinite samples.")
    return waveform


def _band_power(waveform: np.ndarray, filters: np.ndarray) -> np.ndarray:
    """Power of each mel step in each of `filters` `(bands, 257)`: float32 `(steps, bands)`, 4 steps a video frame."""
    steps = num_frames(len(waveform)) * STEPS_PER_FRAME
    before = (WINDOW_LENGTH - HOP) // 2  # step j is centred on sample 160 j + 80
    after = (steps - 1) * HOP + WINDOW_LENGTH - before - len(waveform)
    spans = np.lib.stride_tricks.sliding_window_view(np.pad(waveform, (before, after)), WINDOW_LENGTH)[::HOP]
    hann = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW_LENGTH) / WINDOW_LENGTH)).astype(np.float32)
    power = np.empty((steps, len(filters)), np.float32)
    for first in range(0, steps, _CHUNK_STEPS):
        chunk = slice(first, first + _CHUNK_STEPS)
        spectrum = np.fft.rfft(spans[chunk] * hann, N_FFT)  # (chunk, 257)
        power[chunk] = (spectrum.real**2 + spectrum.imag**2) @ filters.T
    return power


def gated_level(power: np.ndarray) -> float:
    """Loudness of the loud parts: mean power of the steps above a tenth of the mean (the relative gate of BS.1770)."""
    mean = float(power.mean(dtype=np.float64))
    return float(power[power >= 0.1 * mean].mean(dtype=np.float64)) if mean > 0 else 0.0


def _hz_to_mel(hz: np.ndarray) -> np.ndarray:
    """Slaney's mel scale: linear below 1000 Hz, logarithmic above."""
    return np.where(hz < 1000, 3 * hz / 200, 15 + 27 * np.log(np.maximum(hz, 1000) / 1000) / np.log(6.4))


def _mel_to_hz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15, 200 * mel / 3, 1000 * np.exp((np.maximum(mel, 15) - 15) * np.log(6.4) / 27))


@functools.lru_cache(maxsize=64)
def mel_filters(pitch: float = 1.0) -> np.ndarray:
    """Make triangular mel filters; equal to librosa's, whose import would cost a second.

    Args:
        pitch (`float`): Filters that take a sound for one of `pitch` times its frequencies.

    Returns:
        `np.ndarray` of shape `(16, 257)`: float32, low bands first.
    """
    lowest, highest = _hz_to_mel(np.array([_MEL_FMIN, _MEL_FMAX]))
    edges = _mel_to_hz(np.linspace(float(lowest), float(highest), NUM_MELS + 2))[:, None] / pitch  # Hz
    bins = np.fft.rfftfreq(N_FFT, 1 / SAMPLING_RATE)[None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)
