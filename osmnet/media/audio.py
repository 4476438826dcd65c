"""Speech in: any recording, decoded piece by piece to 16 kHz mono.

Convention:
    Video frame `i` covers the samples `640 i … 640 (i + 1)`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import soxr

SAMPLING_RATE = 16_000  # Hz, of every waveform inside the library
FPS = 25  # video frames a second

SAMPLES_PER_FRAME = SAMPLING_RATE // FPS  # 640
MIN_SECONDS = 0.2  # shorter recordings hold no syllable
SILENCE_PEAK = 1e-3  # about -60 dB of full scale

_MAX_CHANNELS = 64
_MAX_START_SHIFT = 10.0  # seconds; a larger distance between sound and picture is a broken timestamp
_PIECE = 2**16  # samples converted at a time


def load_speech(
    speech: str | os.PathLike[str] | np.ndarray | tuple[Any, Any], sampling_rate: int | None = None
) -> np.ndarray:
    """Load a recording as mono speech at 16 kHz.

    Reads whatever the FFmpeg inside PyAV reads, videos too (their sound; sample 0 is then the moment of the first
    picture). Of a damaged or cut file, the part that decodes is used. A recording above full scale is scaled down to
    a peak of 1, never clipped; others keep their level. Long recordings need not be held in memory: see
    `osmnet.media.recording.Recording`.

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
    name, sound = find_sound(speech, sampling_rate)
    level, pieces = Level(name), []
    for piece in sound:
        level.add(piece)
        pieces.append(piece)
    peak = level.peak()
    waveform = np.concatenate(pieces)
    return waveform / peak if peak > 1 else waveform


def num_frames(samples: int) -> int:
    """Number of 25 fps video frames that cover `samples` samples at 16 kHz (the last one may be covered in part)."""
    return -(-int(samples) // SAMPLES_PER_FRAME)


def find_sound(speech: Any, sampling_rate: Any = None) -> tuple[str, MonoArray | Iterator[np.ndarray]]:
    """Find the sound that `load_speech` was given, and begin to read it.

    Args:
        speech (`str`, `os.PathLike`, `np.ndarray` or `tuple`): As for `load_speech`.
        sampling_rate (`int`, *optional*): Rate of an array in Hz.

    Returns:
        `tuple[str, MonoArray | Iterator[np.ndarray]]`: What to call it in messages; and float32 pieces at 16 kHz in
        order, not scaled. Those of an array that has this rate already can be read in any order.

    Raises:
        ValueError: If an array cannot be used. A file's faults show when its pieces are read.
    """
    if isinstance(speech, str | os.PathLike):
        if speech == "":
            raise ValueError("There is no recording: its path is empty.")
        return f"'{os.fspath(speech)}'", _decode_file(Path(speech))
    array, rate = _array_and_rate(speech, sampling_rate)
    sound = MonoArray(array)
    return "the given array", sound if rate == SAMPLING_RATE else _resampled(sound, rate)


class Level:
    """How loud a recording is, gathered piece by piece, and whether it is of use.

    Args:
        name (`str`): What to call it in messages.
    """

    def __init__(self, name: str):
        self.name = name
        self.samples = 0
        self._lowest, self._highest = np.float32(np.inf), np.float32(-np.inf)

    def add(self, piece: np.ndarray) -> None:
        """Take the next samples into account; raises `ValueError` if there is NaN or infinity among them."""
        if len(piece) == 0:
            return
        lowest, highest = piece.min(), piece.max()
        if not (np.isfinite(lowest) and np.isfinite(highest)):
            raise ValueError(f"The sound of {self.name} holds NaN or infinite samples: record or export it again.")
        self.samples += len(piece)
        self._lowest, self._highest = min(lowest, self._lowest), max(highest, self._highest)

    def peak(self) -> np.float32:
        """Largest sample; raises `ValueError` if the recording is too short or silent throughout."""
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


def _decode_file(path: Path) -> Iterator[np.ndarray]:
    address = local_file(path, "recording")
    found = False
    try:
        # Playlists may name other addresses: only local files are ever opened.
        with av.open(address, metadata_errors="ignore", options={"protocol_whitelist": "file"}) as container:
            if not container.streams.audio:
                raise ValueError(f"'{path}' has no sound: give a recording, or a video with sound.")
            for piece in _decode_stream(container, container.streams.best("audio") or container.streams.audio[0]):
                found = True
                yield piece
    except av.FFmpegError as error:
        raise ValueError(
            f"'{path}' cannot be decoded as sound ({error.strerror}): give a whole recording, for example WAV or MP3."
        ) from error
    if not found:
        raise ValueError(f"No sound in '{path}' could be decoded: the file is damaged, record or export it again.")


def _decode_stream(container: av.container.InputContainer, stream: Any) -> Iterator[np.ndarray]:
    """Decode, mix to mono and resample piece by piece; the first piece begins with the picture, if there is one."""
    waiting: list[np.ndarray] = []  # mono, at the file's own rate: FFmpeg's frames are too short to resample singly
    current: tuple[str, str, int] | None = None  # sample format, channel layout and rate may change on the way
    cut = 0  # samples at the beginning that lie before the picture

    def add(frame: av.AudioFrame | None) -> None:
        waiting.extend(planar.to_ndarray().mean(axis=0) for planar in to_floats.resample(frame))

    def resample(last: bool = False) -> np.ndarray:
        nonlocal cut
        piece = to_rate.resample_chunk(np.concatenate([*waiting, np.zeros(0, np.float32)]), last=last)
        waiting.clear()
        dropped = min(cut, len(piece))
        cut -= dropped
        return piece[dropped:]

    for frame in _decodable_frames(container, stream):
        found = (frame.format.name, frame.layout.name, frame.sample_rate)
        if found != current:
            if current is None:
                shift = round(_seconds_after_picture(container, frame.time) * SAMPLING_RATE)
                cut = max(-shift, 0)
                yield np.zeros(max(shift, 0), np.float32)
            else:
                add(None)
                yield resample(last=True)
            current = found
            to_floats = av.AudioResampler(format="fltp")  # (channels, samples) in [-1, 1]; the rest is left as it is
            to_rate = soxr.ResampleStream(frame.sample_rate, SAMPLING_RATE, 1, dtype="float32")
        add(frame)
        if sum(map(len, waiting)) >= _PIECE:
            yield resample()
    if current is not None:
        add(None)
        yield resample(last=True)


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


# Arrays


class MonoArray:
    """An array that was given, as mono float32: every piece is converted when it is read, and the array not copied.

    Args:
        array (`np.ndarray`): See `load_speech`.

    Raises:
        ValueError: If its shape or type is none of a sound.
    """

    def __init__(self, array: np.ndarray):
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
        self._array = array

    def __len__(self) -> int:
        """Samples."""
        return len(self._array)

    def __getitem__(self, where: slice) -> np.ndarray:
        """Samples of a slice, `(n,)` float32."""
        part = self._array[where]
        if part.ndim == 2:
            part = part.mean(axis=1, dtype=np.float32)
        part = part.astype(np.float32, copy=False)
        return part if self._scale == 1 else (part - np.float32(self._offset)) / np.float32(self._scale)

    def __iter__(self) -> Iterator[np.ndarray]:
        """All of it, in pieces."""
        return (self[start : start + _PIECE] for start in range(0, len(self), _PIECE))


def _resampled(sound: MonoArray, rate: float) -> Iterator[np.ndarray]:
    stream = soxr.ResampleStream(rate, SAMPLING_RATE, 1, dtype="float32")
    for piece in sound:
        yield stream.resample_chunk(piece)
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def _array_and_rate(speech: Any, sampling_rate: Any) -> tuple[np.ndarray, float]:
    if isinstance(speech, tuple | list):
        if len(speech) != 2 or np.ndim(speech[0]) + np.ndim(speech[1]) == 0:
            raise ValueError("Speech given as a pair must be (array, sampling rate), for example (waveform, 16000).")
        speech, sampling_rate = speech if np.ndim(speech[1]) == 0 else (speech[1], speech[0])
    if not isinstance(speech, np.ndarray):
        raise ValueError(f"Speech must be a file or a numpy array with its rate, not {type(speech).__name__}.")
    return speech, _checked_rate(sampling_rate)


def _checked_rate(sampling_rate: Any) -> float:
    if sampling_rate is None:
        raise ValueError("Speech given as an array needs its rate: pass sampling_rate=..., for example 16000.")
    if np.ndim(sampling_rate) != 0 or not isinstance(sampling_rate, int | float | np.number):
        raise ValueError(f"sampling_rate must be a number of Hz, not of type {type(sampling_rate).__name__}.")
    rate = float(sampling_rate)
    if not 1_000 <= rate <= 1_000_000:
        raise ValueError(f"sampling_rate must lie between 1000 and 1000000 Hz, not {sampling_rate}.")
    return rate
