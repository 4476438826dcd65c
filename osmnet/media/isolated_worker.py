"""The child of `IsolatedDecoder`: decodes what comes on its standard input, a socket, and sends arrays back.

`python -m osmnet.media.isolated_worker MEMORY_MB CONTENT_MB SECONDS`; started by `osmnet.media.isolated`.
"""

from __future__ import annotations

import encodings
import importlib
import io
import json
import math
import pkgutil
import resource
import socket
import struct
import sys
import wave
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from osmnet.media.audio import MIN_SECONDS, SAMPLING_RATE, decode_file, first_seconds
from osmnet.media.image import decode_picture
from osmnet.media.isolated import DONE, HEADER, MAX_TEXT, MB, PIXELS, READY, REFUSED, SAMPLES
from osmnet.media.seccomp import limit_calls

FIRST_FREE = 3  # file number after standard input, output and error


class Connection:
    """The socket to the parent."""

    def __init__(self) -> None:
        self._socket = socket.socket(fileno=0)

    def send(self, kind: bytes, *parts: Any) -> None:
        """Send a message of one or more buffers."""
        self._socket.sendall(HEADER.pack(kind, sum(memoryview(part).nbytes for part in parts)))
        for part in parts:
            self._socket.sendall(part)

    def receive(self) -> bytes:
        """Receive a message; ends this process if the parent has ended."""
        return bytes(self._exactly(HEADER.unpack(self._exactly(HEADER.size))[1]))

    def _exactly(self, length: int) -> bytearray:
        data = bytearray(length)
        rest = memoryview(data)
        while len(rest):
            count = self._socket.recv_into(rest)
            if not count:
                sys.exit()
            rest = rest[count:]
        return data


def main() -> None:
    """Decode until the parent ends."""
    memory_mb, content_mb, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    connection = Connection()
    prepare()
    base = address_space()
    seal(base + (memory_mb + content_mb) * MB)
    connection.send(READY)
    while True:
        request = json.loads(connection.receive())
        content = connection.receive()
        limit_next(base + memory_mb * MB + len(content), seconds)
        try:
            answer(connection, request, content)
        except ValueError as error:
            connection.send(REFUSED, " ".join(str(error).split()).encode()[:MAX_TEXT])
        except MemoryError:
            sentence = f"'{request['name']}' takes more than {memory_mb} MB to decode: give a smaller file."
            connection.send(REFUSED, sentence.encode()[:MAX_TEXT])
        del content


def prepare() -> None:
    """Import what decoding imports when it is first needed: later, no file can be opened."""
    for each in pkgutil.iter_modules(encodings.__path__):
        with suppress(ImportError):  # those of other systems
            importlib.import_module(f"encodings.{each.name}")
    for format in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"):
        file = io.BytesIO()
        Image.new("RGB", (8, 8)).save(file, format)
        decode_picture(file, 4, "a sample")
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((2, 2, SAMPLING_RATE // 2, 0, "NONE", ""))
        sound.writeframes(bytes(4 * round(MIN_SECONDS * SAMPLING_RATE)))
    list(decode_file(Path("sample.wav"), file.getvalue()))


def address_space() -> int:
    """Addresses in use, bytes."""
    with suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    return 0  # not Linux: the limit, which does not hold there, may be too low


def seal(max_memory: int) -> None:
    """Give up for good what decoding does not need."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (FIRST_FREE, FIRST_FREE))  # no file, no socket
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(ValueError, OSError):  # macOS
        resource.setrlimit(resource.RLIMIT_AS, (max_memory, max_memory))
    limit_calls()


def limit_next(memory: int, seconds: float) -> None:
    """Set the limits of the next file, within those of `seal`."""
    with suppress(ValueError, OSError):  # macOS
        resource.setrlimit(resource.RLIMIT_AS, (memory, resource.getrlimit(resource.RLIMIT_AS)[1]))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    spent = usage.ru_utime + usage.ru_stime
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(spent + seconds), resource.getrlimit(resource.RLIMIT_CPU)[1]))


def answer(connection: Connection, request: dict[str, Any], content: bytes) -> None:
    """Decode a file and send it."""
    if request["kind"] == "picture":
        pixels = decode_picture(
            io.BytesIO(content), request["max_side"], f"'{request['name']}'", request["megapixels"]
        )
        connection.send(PIXELS, struct.pack("!QQ", *pixels.shape[:2]), np.ascontiguousarray(pixels).data.cast("B"))
    else:
        for piece in first_seconds(decode_file(Path(request["name"]), content), request["max_seconds"]):
            connection.send(SAMPLES, np.ascontiguousarray(piece, np.float32).data.cast("B"))
    connection.send(DONE)


if __name__ == "__main__":
    main()
