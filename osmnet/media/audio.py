"""Load speech as 16 kHz mono, decoded piece by piece.

Convention:
    Video frame `i` covers the samples `640 i … 640 (i + 1)`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import soxr

from osmnet.media.container import open_container
from osmnet.media.isolated import IsolatedDecoder, decoder_for
from osmnet.utils.checks import check_path, check_range, short

SAMPLING_RATE = 16_000  # Hz, of every waveform inside the library
FPS = 25  # video frames a second

SAMPLES_PER_FRAME = SAMPLING_RATE // FPS  # 640
MIN_SECONDS = 0.2  # s; shorter recordings hold no syllable
SILENCE_PEAK = 1e-3  # of full scale, about -60 dB
MIN_RATE, MAX_RATE = 1_000, 768_000  # Hz; beyond them a rate is an error, and resampling would need gigabytes

MAX_SECONDS = 1e9  # of `max_seconds`

_MAX_CHANNELS = 64  # of FFmpeg's resampler
_MAX_START_SHIFT = 10.0  # s between sound and picture; a larger distance is a broken timestamp
_PIECE = 2**16  # samples converted at a time
_ADVICE = "give a whole recording, for example WAV or MP3."


def load_speech(
    speech: str | os.PathLike[str] | np.ndarray | tuple[Any, Any],
    sampling_rate: int | None = None,
    *,
    max_seconds: float | None = None,
    isolated: IsolatedDecoder | bool | None = None,
) -> np.ndarray:
    """Load a recording as 16 kHz mono speech.

    Sample 0 of a video is the time of its first picture. Truncated files load as far as they decode. Sound above full
    scale is scaled to a peak of 1.

    Args:
        speech (`str`, `os.PathLike`, `np.ndarray` or `tuple`): A file of one of `osmnet.media.container.FORMATS`; or
            an array of shape `(samples,)`, `(samples, channels)` or `(channels, samples)`, floats in [-1, 1] or
            integers (up to 32 bits) that use the range of their type; or `(array, rate)` or `(rate, array)`. At most
            64 channels.
        sampling_rate (`int`, *optional*): Rate of an array in Hz, 1,000 to 768,000. Not used for files.
        max_seconds (`float`, *optional*): Length in seconds at which to stop decoding.
        isolated (`IsolatedDecoder` or `bool`, *optional*): Decode a file in a limited child process, see
            `osmnet.media.isolated.decoder_for`.

    Returns:
        `np.ndarray` of shape `(samples,)`: float32 in [-1, 1] at 16 kHz.

    Raises:
        ValueError: If the file is missing, empty, not decodable or without sound, if the sound is shorter than 0.2 s,
            silent throughout or not finite, or if channels or rate are out of range.
    """
    name, sound = find_sound(speech, sampling_rate, max_seconds, isolated)
    level, pieces = Level(name), []
    for piece in sound:
        level.add(piece)
        pieces.append(piece)
    peak = level.peak()
    waveform = np.concatenate(pieces)
    return waveform / peak if peak > 1 else waveform


def num_frames(samples: int) -> int:
    """Count the 25 fps frames that cover `samples` at 16 kHz, rounded up."""
    return -(-int(samples) // SAMPLES_PER_FRAME)


def find_sound(
    speech: Any,
    sampling_rate: Any = None,
    max_seconds: float | None = None,
    isolated: IsolatedDecoder | bool | None = None,
) -> tuple[str, MonoArray | Iterator[np.ndarray]]:
    """Resolve `speech` to a name and its samples.

    Args:
        speech (`str`, `os.PathLike`, `np.ndarray` or `tuple`): As for `load_speech`, like the others.
        sampling_rate (`int`, *optional*): Rate of an array in Hz.
        max_seconds (`float`, *optional*): Length at which to stop.
        isolated (`IsolatedDecoder` or `bool`, *optional*): Decode a file in a child process.

    Returns:
        `tuple[str, MonoArray | Iterator[np.ndarray]]`: Its name for messages; and unscaled float32 pieces at 16 kHz.
        An array that has this rate already can be read in any order.

    Raises:
        ValueError: If an array cannot be used. Faults of a file are raised when its pieces are read.
    """
    if max_seconds is not None:
        check_range("max_seconds", max_seconds, 0, MAX_SECONDS)
    if isinstance(speech, str | os.PathLike):
        if speech == "":
            raise ValueError("There is no recording: its path is empty.")
        path, decoder = check_path("speech", speech), decoder_for(isolated)
        pieces = decoder.sound(path, max_seconds) if decoder else first_seconds(decode_file(path), max_seconds)
        return f"'{os.fspath(speech)}'", pieces
    array, rate = _array_and_rate(speech, sampling_rate)
    if rate == SAMPLING_RATE:
        return "the given array", MonoArray(array, None if max_seconds is None else round(max_seconds * rate))
    return "the given array", first_seconds(_resampled(MonoArray(array), rate), max_seconds)


def first_seconds(pieces: Generator[np.ndarray], max_seconds: float | None) -> Iterator[np.ndarray]:
    """Cut pieces of 16 kHz sound off after `max_seconds`, if it is given."""
    if max_seconds is None:
        yield from pieces
        return
    left = round(max_seconds * SAMPLING_RATE)
    with contextlib.closing(pieces):
        for piece in pieces:
            yield piece[:left]
            left -= len(piece)
            if left <= 0:
                return


class Level:
    """Running level of a recording, to refuse unusable ones.

    Args:
        name (`str`): Its name in messages.
    """

    def __init__(self, name: str):
        self.name = name
        self.samples = 0
        self._lowest, self._highest = np.float32(np.inf), np.float32(-np.inf)

    def add(self, piece: np.ndarray) -> None:
        """Add samples; raises `ValueError` if any is not finite."""
        if len(piece) == 0:
            return
        lowest, highest = piece.min(), piece.max()
        if not (np.isfinite(lowest) and np.isfinite(highest)):
            raise ValueError(f"The sound of {self.name} holds NaN or infinite samples: record or export it again.")
        self.samples += len(piece)
        self._lowest, self._highest = min(lowest, self._lowest), max(highest, self._highest)

    def peak(self) -> np.float32:
        """Return the peak; raises `ValueError` if the recording is too short or silent."""
        seconds = self.samples / SAMPLING_RATE
        if seconds < MIN_SECONDS:
            raise ValueError(
                f"The sound of {self.name} is {seconds:.2f} s long: give at least {MIN_SECONDS} s of speech."
            )
        # Around the mean: a constant offset of the sound card is silence as well.
        if float(self._highest - self._lowest) / 2 < SILENCE_PEAK:
            raise ValueError(
                f"The sound of {self.name} is silent throughout: check the microphone, or give another recording."
            )
        return max(self._highest, -self._lowest)


# Files


def decode_file(path: Path, content: bytes | None = None) -> Generator[np.ndarray]:
    """Decode a file, or its content if that was read before, to float32 pieces at 16 kHz."""
    found = False
    try:
        with open_container(path, "recording", _ADVICE, content) as container:
            if not container.streams.audio:
                raise ValueError(f"'{path}' has no sound: give a recording, or a video with sound.")
            stream = container.streams.best("audio") or container.streams.audio[0]
            for piece in _decode_stream(container, stream, path):
                found = True
                yield piece
    except av.FFmpegError as error:
        raise ValueError(f"'{path}' cannot be decoded as a recording ({error.strerror}): {_ADVICE}") from error
    if not found:
        raise ValueError(f"No sound in '{path}' could be decoded: the file is damaged, record or export it again.")


def _decode_stream(container: av.container.InputContainer, stream: Any, path: Path) -> Iterator[np.ndarray]:
    """Decode to 16 kHz mono pieces, starting with the picture if there is one."""
    waiting: list[np.ndarray] = []  # mono at the file's rate; single frames are too short to resample
    current: tuple[str, str, int] | None = None  # sample format, channel layout and rate; they may change
    cut = 0  # samples that precede the picture

    def add(frame: av.AudioFrame | None) -> None:
        for packed in to_floats.resample(frame):
            # Packed, not planar: past eight planes PyAV's `to_ndarray` reads memory that is not its own.
            channels = packed.to_ndarray().reshape(-1, packed.layout.nb_channels)
            waiting.append(np.ascontiguousarray(channels.T).mean(axis=0))

    def resample(last: bool = False) -> np.ndarray:
        nonlocal cut
        piece: np.ndarray = to_rate.resample_chunk(np.concatenate([*waiting, np.zeros(0, np.float32)]), last=last)
        waiting.clear()
        dropped = min(cut, len(piece))
        cut -= dropped
        return piece[dropped:]

    for frame in _decodable_frames(container, stream):
        # 1. Adapt to a new format; align the first samples with the picture.
        found = (frame.format.name, frame.layout.name, frame.sample_rate)
        if found != current:
            _check_file(path, frame)
            if current is None:
                shift = round(_seconds_after_picture(container, frame.time) * SAMPLING_RATE)
                cut = max(-shift, 0)
                yield np.zeros(max(shift, 0), np.float32)
            else:
                add(None)
                yield resample(last=True)
            current = found
            to_floats = av.AudioResampler(format="flt")  # [-1, 1]; channels and rate stay as they are
            to_rate = soxr.ResampleStream(frame.sample_rate, SAMPLING_RATE, 1, dtype="float32")
        # 2. Mix to mono and resample, a piece at a time.
        add(frame)
        if sum(map(len, waiting)) >= _PIECE:
            yield resample()
    # 3. Flush.
    if current is not None:
        add(None)
        yield resample(last=True)


def _check_file(path: Path, frame: av.AudioFrame) -> None:
    if frame.layout.nb_channels > _MAX_CHANNELS:
        raise ValueError(
            f"'{path}' has {frame.layout.nb_channels} channels: give a recording of at most {_MAX_CHANNELS}."
        )
    if not MIN_RATE <= frame.sample_rate <= MAX_RATE:
        raise ValueError(
            f"'{path}' has a sampling rate of {frame.sample_rate} Hz: give a recording of {MIN_RATE} to {MAX_RATE} Hz."
        )


def _decodable_frames(container: av.container.InputContainer, stream: Any) -> Any:
    """Yield frames up to where the file breaks off, skipping damaged packets."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.FFmpegError):
            return
        try:
            frames = packet.decode()
        except av.FFmpegError:
            continue
        yield from frames


def _seconds_after_picture(container: av.container.InputContainer, sound_start: float | None) -> float:
    """Delay of the sound in seconds, 0 without a picture."""
    for stream in container.streams.video:
        is_cover = bool(stream.disposition & av.stream.Disposition.attached_pic)
        if is_cover or stream.start_time is None or stream.time_base is None or sound_start is None:
            continue
        seconds = sound_start - float(stream.start_time * stream.time_base)
        return seconds if abs(seconds) < _MAX_START_SHIFT else 0.0
    return 0.0


# Arrays


class MonoArray:
    """Array as mono float32, converted on read.

    Args:
        array (`np.ndarray`): See `load_speech`.
        max_samples (`int`, *optional*): Length at which to cut it.

    Raises:
        ValueError: If its shape or type is not that of a sound.
    """

    def __init__(self, array: np.ndarray, max_samples: int | None = None):
        if array.ndim not in (1, 2):
            raise ValueError(f"Speech must have shape (samples,) or (samples, channels), not {array.shape}.")
        self._scale, self._offset = 1.0, 0.0
        if array.dtype.kind in "iu":
            if array.dtype.itemsize > 4:
                raise ValueError(
                    "Speech of 64-bit integers has no known full scale: convert it to int16 or to floats."
                )
            self._scale = 2.0 ** (8 * array.dtype.itemsize - 1)
            self._offset = self._scale if array.dtype.kind == "u" else 0.0
        elif array.dtype.kind != "f":
            raise ValueError(f"Speech must be floats in [-1, 1] or integers, not {array.dtype}.")
        if array.ndim == 2:
            channel_axis = int(np.argmin(array.shape))
            if array.shape[channel_axis] > _MAX_CHANNELS:
                raise ValueError(f"Speech of shape {array.shape} has too many channels: give (samples, channels).")
            array = array if channel_axis == 1 else array.T  # (samples, channels)
            if array.shape[1] == 0:
                array = np.zeros(0, np.float32)
        self._array = array[:max_samples]

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, where: slice) -> np.ndarray:
        part = self._array[where]
        if part.ndim == 2:
            part = part.mean(axis=1, dtype=np.float32)
        part = part.astype(np.float32, copy=False)
        return part if self._scale == 1 else (part - np.float32(self._offset)) / np.float32(self._scale)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[start : start + _PIECE] for start in range(0, len(self), _PIECE))


def _resampled(sound: MonoArray, rate: float) -> Generator[np.ndarray]:
    stream = soxr.ResampleStream(rate, SAMPLING_RATE, 1, dtype="float32")
    for piece in sound:
        yield stream.resample_chunk(piece)
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def _array_and_rate(speech: Any, sampling_rate: Any) -> tuple[np.ndarray, float]:
    if isinstance(speech, tuple | list):
        is_array = [isinstance(each, np.ndarray) and each.ndim > 0 for each in speech]
        if len(speech) != 2 or not any(is_array):
            raise ValueError("Speech given as a pair must be (array, sampling rate), for example (waveform, 16000).")
        speech, sampling_rate = (speech[1], speech[0]) if is_array == [False, True] else speech
    if not isinstance(speech, np.ndarray):
        raise ValueError(f"Speech must be a file or a numpy array with its rate, not {type(speech).__name__}.")
    return speech, _checked_rate(sampling_rate)


def _checked_rate(sampling_rate: Any) -> float:
    if sampling_rate is None:
        raise ValueError("Speech given as an array needs its rate: pass sampling_rate=..., for example 16000.")
    if not isinstance(sampling_rate, int | float | np.integer | np.floating):
        raise ValueError(f"sampling_rate must be a number of Hz, not of type {type(sampling_rate).__name__}.")
    if not MIN_RATE <= sampling_rate <= MAX_RATE:
        raise ValueError(f"sampling_rate must lie between {MIN_RATE} and {MAX_RATE} Hz, not {short(sampling_rate)}.")
    return float(sampling_rate)
