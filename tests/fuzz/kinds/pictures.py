"""Pictures: portraits that strangers upload."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.case import Case
from tests.fuzz.kinds.shared import pipe
from tests.fuzz.mutate import mutate_media, png_chunk, png_chunks, repaired
from tests.fuzz.seeds import contents, giant_png

SIDES = (1, 2, 255, 8000, 11_000, 13_000, 20_000, 65_535, 2**31 - 1)


def make(rng: Random, seeds: Path) -> Case:
    """Make a case."""
    target = rng.choices(("load", "opened", "encode", "isolated"), (67, 10, 19, 4))[0]
    files = contents(seeds / "pictures")
    name = rng.choice(list(files))
    if rng.random() < 0.02:
        name, data = "giant.png", _giant(rng)
    elif name.endswith(".png") and rng.random() < 0.2:
        data = _with_chunk(rng, files[name])
    else:
        data = mutate_media(rng, files[name], files[rng.choice(list(files))])
    arguments = {"max_side": rng.choice(("2048", "2048", "4096", "64", "1"))}
    return Case("pictures", target, {name: data}, arguments=arguments)


def _giant(rng: Random) -> bytes:
    if rng.random() < 0.5:  # only said to be giant
        data = bytearray(giant_png(64, 64, 8, rng.choice((0, 2, 6))))
        data[16:20], data[20:24] = (rng.choice(SIDES).to_bytes(4, "big") for _ in range(2))
        return repaired(bytes(data))
    side = rng.choice((4000, 8000, 13_000, 18_000))
    bits, colour = rng.choice(((1, 0), (1, 3), (2, 3), (8, 0)))
    return giant_png(side, 13_000 if bits == 1 else 4000, bits, colour)


def _with_chunk(rng: Random, data: bytes) -> bytes:
    """Add a chunk that promises or unpacks to a lot, or is damaged."""
    packed = __import__("zlib").compress(bytes(rng.choice((10, 10**6, 10**8))), 9)
    added = rng.choice(
        (
            png_chunk(b"iCCP", b"icc\0\0" + packed),
            png_chunk(b"zTXt", b"Comment\0\0" + packed),
            png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + packed),
            png_chunk(b"tEXt", b"Comment\0" + rng.randbytes(50)),
            png_chunk(b"tRNS", rng.randbytes(rng.choice((0, 1, 2, 6, 300)))),
            png_chunk(b"PLTE", rng.randbytes(rng.choice((0, 1, 3, 900)))),
            png_chunk(b"gAMA", bytes(4)),
            png_chunk(b"pHYs", b"\xff" * 9),
            png_chunk(b"acTL", b"\xff" * 8),
            png_chunk(b"eXIf", b"MM\0*\0\0\0\x08" + rng.randbytes(60)),
            png_chunk(rng.randbytes(4), rng.randbytes(8)),
        )
    )
    chunks = [piece for _, piece in png_chunks(data)]
    chunks.insert(rng.randrange(len(chunks) + 1), added)
    return data[:8] + b"".join(chunks)


def _file(folder: Path) -> Path:
    return next(path for path in folder.iterdir() if path.is_file())


def load(folder: Path, max_side: int) -> Any:
    """Load it as a portrait."""
    from osmnet.media.image import load_portrait

    return load_portrait(_file(folder), max_side)


def opened(folder: Path, max_side: int) -> Any:
    """Open it with PIL, as a caller may, and load that."""
    from PIL import Image

    from osmnet.media.image import load_portrait

    try:
        image = Image.open(_file(folder))
    except Exception as error:
        raise ValueError("PIL does not open it.") from error
    with image:
        return load_portrait(image, max_side)


def encode(folder: Path, max_side: int) -> Any:
    """Find the face in it."""
    return pipe().encode_source(_file(folder), size=64)


def isolated(folder: Path, max_side: int) -> Any:
    """Load it in a limited child process."""
    from osmnet.media.image import load_portrait

    return load_portrait(_file(folder), max_side, isolated=True)


TARGETS = {"load": load, "opened": opened, "encode": encode, "isolated": isolated}
