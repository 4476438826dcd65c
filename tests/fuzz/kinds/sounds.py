"""Sounds: recordings that strangers upload."""

from __future__ import annotations

import struct
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.case import Case
from tests.fuzz.kinds.shared import pipe
from tests.fuzz.mutate import NUMBERS, mutate_media
from tests.fuzz.seeds import contents

PLAYLISTS = (
    "#EXTM3U\n#EXTINF:1,\n{0}\n", "ffconcat version 1.0\nfile {0}\n", "[playlist]\nFile1={0}\n",
    "v=0\nm=audio 0 RTP/AVP 0\nc=IN IP4 127.0.0.1\n", "#!AMR\n{0}", '<?xml version="1.0"?><MPD>{0}</MPD>',
)  # fmt: skip


def make(rng: Random, seeds: Path) -> Case:
    """Make a case."""
    target = rng.choices(("load", "record", "encode", "isolated"), (34, 39, 23, 4))[0]
    files = contents(seeds / "sounds")
    name = rng.choice(list(files))
    kind = rng.random()
    if kind < 0.08:
        name, data = "strange.wav", _wav(rng)
    elif kind < 0.1:
        name = rng.choice(("list.m3u8", "list.txt", "list.sdp", "list.wav"))
        data = rng.choice(PLAYLISTS).format("/etc/hostname").encode()
    else:
        data = mutate_media(rng, files[name], files[rng.choice(list(files))])
    return Case("sounds", target, {name: data}, arguments={"max_seconds": rng.choice(("None", "60", "0.5"))})


def _wav(rng: Random) -> bytes:
    """A WAV whose header promises anything."""
    channels = rng.choice((0, 1, 2, 8, 9, 16, 63, 64, 65, 255, 65535))
    rate = rng.choice((0, 1, 7, 999, 1000, 16000, 44100, 767_999, 768_000, 768_001, 2**31 - 1, 2**32 - 1))
    bits = rng.choice((1, 8, 16, 24, 32, 64))
    block = rng.choice((channels * bits // 8, rng.choice(NUMBERS))) % 65536
    body = rng.randbytes(rng.choice((0, 100, 20_000)))
    length = rng.choice((len(body), rng.choice(NUMBERS) % 2**32))
    second = rng.choice((rate * block, rng.choice(NUMBERS))) % 2**32
    form = struct.pack("<HHIIHH", rng.choice((1, 1, 3, 6, 17, 65534)), channels, rate, second, block, bits)
    return b"RIFF" + struct.pack("<I", 36 + len(body)) + b"WAVEfmt " + struct.pack("<I", 16) + form + (
        b"data" + struct.pack("<I", length) + body
    )  # fmt: skip


def _file(folder: Path) -> Path:
    return next(path for path in folder.iterdir() if path.is_file())


def load(folder: Path, max_seconds: float | None) -> Any:
    """Load the whole sound."""
    from osmnet.media.audio import load_speech

    return load_speech(_file(folder), max_seconds=max_seconds)


def record(folder: Path, max_seconds: float | None) -> Any:
    """Open it as a recording."""
    from osmnet.media.recording import Recording

    return Recording.open(_file(folder), max_seconds=max_seconds)[:16_000]


def encode(folder: Path, max_seconds: float | None) -> Any:
    """Encode its first seconds."""
    from osmnet.media.recording import Recording

    return pipe().encode_speech(Recording.open(_file(folder), max_seconds=max_seconds or 60))


def isolated(folder: Path, max_seconds: float | None) -> Any:
    """Load it in a limited child process."""
    from osmnet.media.audio import load_speech

    return load_speech(_file(folder), max_seconds=max_seconds, isolated=True)


TARGETS = {"load": load, "record": record, "encode": encode, "isolated": isolated}
