"""Recordings of any length, in memory or in a temporary file."""

from __future__ import annotations

import os
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from osmnet.media.audio import SAMPLING_RATE, Level, MonoArray, find_sound
from osmnet.media.isolated import IsolatedDecoder
from osmnet.utils.checks import short

MEMORY_SECONDS = 120  # s; longer sound is decoded into a file, an hour would take 230 MB


class Recording:
    """Mono 16 kHz speech, read by slices: `recording[a:b]` is float32 in [-1, 1].

    Thread-safe. Decoded sound over two minutes goes to a temporary file (`TMPDIR`). A 16 kHz array is not copied and
    must not change. Pickling copies all samples.

    Example:
        >>> recording = Recording.open("lecture.mp3")
        >>> recording[16_000 : 2 * 16_000]  # the second second
    """

    def __init__(self, samples: np.ndarray | MonoArray | SampleFile, peak: float = 1.0):
        """Wrap samples; divided by `peak` above 1."""
        self._samples = samples
        self._peak = np.float32(peak)

    @classmethod
    def open(
        cls,
        speech: str | os.PathLike[str] | np.ndarray | tuple[Any, Any],
        sampling_rate: int | None = None,
        *,
        max_seconds: float | None = None,
        isolated: IsolatedDecoder | bool | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> Recording:
        """Open a recording.

        Args:
            speech (`str`, `os.PathLike`, `np.ndarray` or `tuple`): See `load_speech`, also for the next two.
            sampling_rate (`int`, *optional*): Rate of an array in Hz.
            max_seconds (`float`, *optional*): Length at which to stop decoding.
            isolated (`IsolatedDecoder` or `bool`, *optional*): See `load_speech`.
            progress (`Callable`, *optional*): Called with the seconds decoded, every few seconds of sound.

        Returns:
            `Recording`: With the samples of `load_speech`, bit for bit.

        Raises:
            ValueError: As `load_speech`; also if the temporary folder is full.
        """
        name, sound = find_sound(speech, sampling_rate, max_seconds, isolated)
        level = Level(name)

        def measured() -> Iterable[np.ndarray]:
            for piece in sound:
                level.add(piece)
                yield piece
                if progress is not None:
                    progress(level.samples / SAMPLING_RATE)

        if isinstance(sound, MonoArray):
            for _ in measured():
                pass
            return cls(sound, float(level.peak()))
        samples = _keep(measured(), name)
        return cls(samples, float(level.peak()))

    def __reduce__(self) -> tuple[Any, ...]:
        return Recording, (self._samples[:], float(self._peak))

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, where: slice) -> np.ndarray:
        if not isinstance(where, slice) or where.step not in (None, 1):
            raise TypeError(f"A recording is read by slices of step 1, recording[a:b], not by {short(where)}.")
        part = self._samples[where]
        return part / self._peak if self._peak > 1 else part

    @property
    def waveform(self) -> np.ndarray:
        """Read all samples, `(samples,)` float32; 230 MB per hour."""
        return self[:]


class SampleFile:
    """Samples in an unnamed temporary file."""

    def __init__(self) -> None:
        # Read, not mapped: pages of a mapped file count as memory of the process.
        self._file: Any = tempfile.TemporaryFile(prefix="osmnet-", buffering=0)  # noqa: SIM115 (stays open)
        self._lock = threading.Lock()
        self._length = 0
        weakref.finalize(self, self._file.close)

    def append(self, piece: np.ndarray) -> None:
        """Append float32 samples; raises `OSError` if the disk is full."""
        rest = np.ascontiguousarray(piece, np.float32).data.cast("B")
        while len(rest):
            rest = rest[self._file.write(rest) :]
        self._length += len(piece)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, where: slice) -> np.ndarray:
        start, stop, _ = where.indices(self._length)
        part = np.empty(max(stop - start, 0), np.float32)
        rest = part.data.cast("B")
        position = start * part.itemsize
        while len(rest):
            count = self._read(rest, position)
            if not count:
                raise OSError("The temporary file of a recording was truncated.")
            rest, position = rest[count:], position + count
        return part

    def _read(self, into: memoryview, position: int) -> int:
        if hasattr(os, "preadv"):  # no file position that threads or a forked process would share
            return os.preadv(self._file.fileno(), [into], position)
        with self._lock:
            self._file.seek(position)
            return self._file.readinto(into)


def _keep(pieces: Iterable[np.ndarray], name: str) -> np.ndarray | SampleFile:
    limit = MEMORY_SECONDS * SAMPLING_RATE
    waiting: list[np.ndarray] = []
    samples = 0
    file: SampleFile | None = None
    for piece in pieces:
        waiting.append(piece)
        samples += len(piece)
        if samples <= limit:
            continue
        try:
            if file is None:
                file = SampleFile()
            for each in waiting:
                file.append(each)
        except OSError as error:
            raise ValueError(
                f"The sound of {name} does not fit into the temporary folder ({error.strerror or error}): make room "
                "(230 MB an hour), or let TMPDIR name another folder."
            ) from error
        waiting.clear()
    return np.concatenate([*waiting, np.zeros(0, np.float32)]) if file is None else file
