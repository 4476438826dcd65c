"""`IsolatedDecoder`: files that strangers send, decoded in limited child processes.

A child has no file and no socket but the one to its parent, and can open none; its memory and time are limited. It
gets the content of a file, not its path. What it sends back is not trusted either: plain arrays of a limited size.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

import numpy as np

from osmnet.media.container import local_file
from osmnet.utils.checks import check_flag

MB = 2**20
START_SECONDS = 60.0  # s until a child has imported its modules; about one on an idle machine
HEADER = struct.Struct("!cQ")  # kind of a message, bytes that follow
READY, REQUEST, CONTENT, PIXELS, SAMPLES, DONE, REFUSED = b"R", b"Q", b"C", b"P", b"S", b"D", b"E"
MAX_TEXT = 4096  # bytes of a refusal
MAX_PIXELS = 1024 * MB  # bytes of a picture
MAX_SAMPLES = 64 * MB  # bytes of one message of samples
_STOPPED = "decoding it took more than {0:g} s: give a shorter recording, or a smaller picture"
_CRASHED = "the decoder ended unexpectedly: save the file with another program first"


@dataclass(frozen=True)
class DecodeLimits:
    """Limits of decoding one file.

    Attributes:
        content_mb (`int`): Largest file, MB.
        memory_mb (`int`): Memory beyond that of the file and the child's modules, MB.
        seconds (`float`): Time, s: by the clock, and of a processor.
        megapixels (`float`, *optional*): Largest picture, millions of pixels; that of `load_portrait` if not given.
    """

    content_mb: int = 1024
    memory_mb: int = 1024
    seconds: float = 60.0
    megapixels: float | None = None


class _LostWorkerError(Exception):
    """The child ended or said something wrong."""


class IsolatedDecoder:
    """Decodes pictures and sound in child processes; several threads may use it.

    A child is replaced after `requests` files, and after a file that it did not survive.

    Args:
        limits (`DecodeLimits`): Limits of each file.
        workers (`int`): Children; further files wait.
        requests (`int`): Files that one child decodes.

    Example:
        >>> with IsolatedDecoder(DecodeLimits(seconds=10)) as decoder:
        ...     picture = load_portrait("upload.jpg", isolated=decoder)
    """

    def __init__(self, limits: DecodeLimits = DecodeLimits(), workers: int = 2, requests: int = 100):  # noqa: B008
        if os.name != "posix":
            raise ValueError("Isolated decoding needs Linux or macOS; leave OSMNET_ISOLATE unset.")
        self.limits = limits
        self.requests = requests
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        self._owner = os.getpid()
        self._closed = False
        for _ in range(workers):
            self._idle.put(None)

    def start(self) -> None:
        """Start the children now; otherwise each starts with the first file that needs it, which takes a second."""
        waiting = [self._idle.get_nowait() for _ in range(self._idle.qsize())]
        for worker in waiting:
            self._idle.put(worker or _Worker(self.limits))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the children that are idle; those at work, and later ones, end with their file."""
        self._closed = True
        idle = []
        with suppress(queue.Empty):
            while True:
                idle.append(self._idle.get_nowait())
        for worker in idle:
            if worker is not None:
                worker.close()
            self._idle.put(None)

    def picture(self, path: str | os.PathLike[str], max_side: int, max_megapixels: float) -> np.ndarray:
        """Decode a picture, as `load_portrait` does.

        Args:
            path (`str` or `os.PathLike`): The file.
            max_side (`int`): See `load_portrait`.
            max_megapixels (`float`): See `load_portrait`; `limits.megapixels` comes first.

        Returns:
            `np.ndarray` of shape `(H, W, 3)`: uint8 RGB.

        Raises:
            ValueError: As `load_portrait`; also if a limit is exceeded.
        """
        most = max_megapixels if self.limits.megapixels is None else self.limits.megapixels
        request = {"kind": "picture", "max_side": max_side, "megapixels": most}
        with self._ask(path, "portrait", request) as replies:
            kind, data = next(replies)
            shape = struct.unpack("!QQ", data[:16]) if kind == PIXELS and len(data) > 16 else (0, 0)
            if not 0 < max(shape) <= max_side or len(data) != 16 + 3 * shape[0] * shape[1]:
                raise _LostWorkerError
            pixels = np.frombuffer(data, np.uint8, offset=16).reshape(*shape, 3)
            if next(replies)[0] != DONE:
                raise _LostWorkerError
            return pixels

    def sound(self, path: str | os.PathLike[str], max_seconds: float | None) -> Generator[np.ndarray]:
        """Decode a recording, as `find_sound` does.

        Args:
            path (`str` or `os.PathLike`): The file.
            max_seconds (`float`, *optional*): See `load_speech`.

        Yields:
            `np.ndarray` of shape `(n,)`: float32 at 16 kHz.

        Raises:
            ValueError: As `load_speech`; also if a limit is exceeded.
        """
        with self._ask(path, "recording", {"kind": "sound", "max_seconds": max_seconds}) as replies:
            for kind, data in replies:
                if kind == DONE:
                    return
                if kind != SAMPLES or len(data) % 4:
                    raise _LostWorkerError
                yield np.frombuffer(data, np.float32)

    @contextmanager
    def _ask(
        self, path: str | os.PathLike[str], kind: str, request: dict[str, Any]
    ) -> Iterator[Iterator[tuple[bytes, bytearray]]]:
        """Send a file to a child; gives its replies, and returns the child afterwards."""
        content = self._content(Path(path), kind)
        with self._worker() as worker:
            deadline = worker.begin()
            try:
                worker.send(REQUEST, json.dumps({**request, "name": os.fspath(path)}).encode())
                worker.send(CONTENT, content)
                yield worker.replies()
            except (_LostWorkerError, OSError) as error:
                late = time.monotonic() >= deadline or worker.ran_out_of_time()
                reason = _STOPPED.format(self.limits.seconds) if late else _CRASHED
                raise ValueError(f"'{os.fspath(path)}' cannot be used ({reason}).") from error

    def _content(self, path: Path, kind: str) -> bytes:
        local_file(path, kind)
        try:
            with path.open("rb") as file:
                content = file.read(self.limits.content_mb * MB + 1)
        except OSError as error:
            raise ValueError(f"'{path}' cannot be read ({error.strerror}): check the path of the {kind}.") from error
        if len(content) > self.limits.content_mb * MB:
            raise ValueError(f"'{path}' has more than {self.limits.content_mb} MB: give a smaller {kind}.")
        return content

    @contextmanager
    def _worker(self) -> Iterator[_Worker]:
        if os.getpid() != self._owner:  # a fork, whose parent talks to these children
            with _Worker(self.limits) as own:
                yield own
            return
        worker = self._idle.get()
        try:
            if worker is None or not worker.is_alive():
                worker = _Worker(self.limits)
            yield worker
        except BaseException as error:
            if not (isinstance(error, ValueError) and isinstance(error.__cause__, _RefusalError)):
                worker = self._replaced(worker)
            raise
        finally:
            if worker is not None and self._closed:
                worker.close()
                worker = None
            elif worker is not None and worker.served >= self.requests:
                worker = self._replaced(worker)
            self._idle.put(worker)

    def _replaced(self, worker: _Worker | None) -> _Worker | None:
        if worker is not None:
            worker.close()
        try:
            return _Worker(self.limits)
        except OSError:  # no process now; the next file tries again
            return None


class _RefusalError(Exception):
    """The child refused a file, in good health."""


class _Worker:
    """A child process, see `osmnet.media.isolated_worker`."""

    def __init__(self, limits: DecodeLimits):
        self.limits = limits
        self.served = 0
        self.is_ready = False
        self.deadline = time.monotonic() + START_SECONDS
        self.socket, theirs = socket.socketpair()
        # Nothing of this process's environment, which may hold tokens.
        environment = {
            "PYTHONPATH": os.pathsep.join(os.path.abspath(each) for each in sys.path),
            "MALLOC_ARENA_MAX": "1",  # each arena reserves 64 MB of addresses, which count
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "osmnet.media.isolated_worker", str(limits.memory_mb),
                 str(limits.content_mb), str(limits.seconds)],
                stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                env=environment, cwd="/", start_new_session=True,
            )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()
        self.process.kill()
        self.process.wait()

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def begin(self) -> float:
        """Wait until the child is ready, and start the clock; gives the deadline."""
        if not self.is_ready:
            self.deadline = max(self.deadline, time.monotonic() + START_SECONDS / 2)
            try:
                if self.receive()[0] != READY:
                    raise _LostWorkerError
            except (_LostWorkerError, OSError) as error:
                raise ValueError("The process that decodes files did not start; try again in a minute.") from error
            self.is_ready = True
        self.served += 1
        self.deadline = time.monotonic() + self.limits.seconds
        return self.deadline

    def ran_out_of_time(self) -> bool:
        """Whether the child was ended for the time of a processor that it used."""
        with suppress(subprocess.TimeoutExpired):
            return self.process.wait(1) == -signal.SIGXCPU
        return False

    def send(self, kind: bytes, data: bytes) -> None:
        self.socket.settimeout(self._left())
        self.socket.sendall(HEADER.pack(kind, len(data)))
        self.socket.sendall(data)

    def replies(self) -> Iterator[tuple[bytes, bytearray]]:
        while True:
            kind, data = self.receive()
            if kind == REFUSED:
                raise ValueError(data.decode("utf-8", "replace")) from _RefusalError()
            yield kind, data
            if kind == DONE:
                return

    def receive(self) -> tuple[bytes, bytearray]:
        kind, length = HEADER.unpack(self._exactly(HEADER.size))
        largest = {PIXELS: MAX_PIXELS, SAMPLES: MAX_SAMPLES, REFUSED: MAX_TEXT}.get(kind, 0)
        if length > largest:
            raise _LostWorkerError
        return kind, self._exactly(length)

    def _exactly(self, length: int) -> bytearray:
        data = bytearray(length)
        rest = memoryview(data)
        while len(rest):
            self.socket.settimeout(self._left())
            count = self.socket.recv_into(rest)
            if not count:
                raise _LostWorkerError
            rest = rest[count:]
        return data

    def _left(self) -> float:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


@cache
def shared_decoder() -> IsolatedDecoder:
    """The decoder for `isolated=True`, started on first use."""
    return IsolatedDecoder()


def decoder_for(isolated: IsolatedDecoder | bool | None) -> IsolatedDecoder | None:
    """Choose how to decode.

    Args:
        isolated (`IsolatedDecoder` or `bool`, *optional*): A decoder, `True` for the shared one, `False` for this
            process; if not given, the environment variable `OSMNET_ISOLATE` decides ("1" for the shared one).

    Returns:
        `IsolatedDecoder`: Or `None` for this process.
    """
    if isinstance(isolated, IsolatedDecoder):
        return isolated
    if isolated is not None:
        check_flag("isolated", isolated)
    else:
        isolated = os.environ.get("OSMNET_ISOLATE", "").strip() == "1"
    return shared_decoder() if isolated else None
