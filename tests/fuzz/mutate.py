"""Seeded mutation of bytes, of the fields of media formats, and of JSON."""

from __future__ import annotations

import json
import struct
import zlib
from random import Random
from typing import Any

Field = tuple[int, int, str]  # offset, bytes, byte order of a number

NUMBERS = (
    0, 1, 2, 3, 7, 8, 9, 15, 16, 63, 64, 65, 100, 127, 128, 255, 256, 1000, 8000, 16000, 32767, 32768, 65535, 65536,
    10**6, 2**24 - 1, 2**24, 10**8, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1,
)  # fmt: skip
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


# Bytes


def mutate_bytes(rng: Random, data: bytes, other: bytes = b"") -> bytes:
    """Apply one to four random edits, sometimes splicing in `other`."""
    for _ in range(rng.choice((1, 1, 2, 3, 4))):
        data = rng.choice(_EDITS)(rng, data, other)
    return data


def _place(rng: Random, data: bytes) -> int:
    # Headers are short and decide most: half of all edits hit the first bytes.
    return rng.randrange(min(len(data), 256) if rng.random() < 0.5 else len(data)) if data else 0


def _flip(rng: Random, data: bytes, other: bytes) -> bytes:
    content = bytearray(data)
    for _ in range(rng.choice((1, 1, 4, 16, 64)) if data else 0):
        content[_place(rng, data)] ^= 1 << rng.randrange(8)
    return bytes(content)


def _overwrite(rng: Random, data: bytes, other: bytes) -> bytes:
    start, new = _place(rng, data), rng.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * rng.choice((1, 2, 4, 8, 64))
    return data[:start] + new + data[start + len(new) :]


def _number(rng: Random, data: bytes, other: bytes) -> bytes:
    return set_field(rng, data, (_place(rng, data), rng.choice((1, 2, 4, 8)), rng.choice(("big", "little"))))


def _truncate(rng: Random, data: bytes, other: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _cut(rng: Random, data: bytes, other: bytes) -> bytes:
    start = _place(rng, data)
    return data[:start] + data[start + rng.choice((1, 2, 4, 100, 1000)) :]


def _repeat(rng: Random, data: bytes, other: bytes) -> bytes:
    start = _place(rng, data)
    stop = start + rng.choice((1, 8, 100, 2000))
    return data[:stop] + data[start:stop] * rng.choice((1, 1, 2, 20)) + data[stop:]


def _insert(rng: Random, data: bytes, other: bytes) -> bytes:
    start = _place(rng, data)
    return data[:start] + rng.randbytes(rng.choice((1, 2, 4, 100))) + data[start:]


def _splice(rng: Random, data: bytes, other: bytes) -> bytes:
    start = _place(rng, data)
    return data[:start] + other[_place(rng, other) :]


_EDITS = (_flip, _flip, _overwrite, _number, _number, _truncate, _cut, _repeat, _insert, _splice)


def set_field(rng: Random, data: bytes, field: Field) -> bytes:
    """Set a number to one near a limit, or move it a little."""
    start, size, order = field
    limit = 256**size
    if rng.random() < 0.3:
        number = int.from_bytes(data[start : start + size], order) + rng.choice((-2, -1, 1, 2, 8, 256))
    else:
        number = rng.choice(NUMBERS)
    return data[:start] + (number % limit).to_bytes(size, order) + data[start + size :]


# Media formats


def mutate_media(rng: Random, data: bytes, other: bytes = b"") -> bytes:
    """Change numbers of a format's headers, or any bytes; checksums are mostly made right again."""
    fields = media_fields(data)
    if fields and rng.random() < 0.6:
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            data = set_field(rng, data, rng.choice(fields))
    else:
        data = mutate_bytes(rng, data, other)
    return repaired(data) if rng.random() < 0.8 else data


def media_fields(data: bytes) -> list[Field]:
    """Find the numbers in the headers of a media file."""
    try:
        for is_format, find in _FORMATS:
            if is_format(data):
                return [field for field in find(data) if field[0] + field[1] <= len(data)]
    except (struct.error, IndexError):
        pass
    return []


def _big(start: int, *sizes: int) -> list[Field]:
    return _run(start, sizes, "big")


def _little(start: int, *sizes: int) -> list[Field]:
    return _run(start, sizes, "little")


def _run(start: int, sizes: tuple[int, ...], order: str) -> list[Field]:
    fields = []
    for size in sizes:
        fields.append((start, size, order))
        start += size
    return fields


def _png(data: bytes) -> list[Field]:
    fields, start = [], 8
    while start + 12 <= len(data):
        length, kind = struct.unpack(">I4s", data[start : start + 8])
        fields += _big(start, 4)
        if kind in (b"IHDR", b"acTL", b"fcTL"):
            fields += 3 * _big(start + 8, *(4, 4, 1, 1, 1, 1, 1)[: 7 if kind == b"IHDR" else 2])
        elif kind == b"eXIf":
            fields += _tiff(data, start + 8)
        start += 12 + length
    return fields


def _jpeg(data: bytes) -> list[Field]:
    fields, start = [], 2
    while start + 4 <= len(data) and data[start] == 0xFF:
        kind, length = data[start + 1], int.from_bytes(data[start + 2 : start + 4], "big")
        fields += _big(start + 2, 2)
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            fields += 3 * _big(start + 4, 1, 2, 2, 1, 1, 1, 1)
        elif data[start + 4 : start + 10] == b"Exif\0\0":
            fields += _tiff(data, start + 10)
        elif kind == 0xE2:  # ICC
            fields += _big(start + 18, 4, 4, 4, 4, 4)
        elif kind == 0xDA:
            break
        start += 2 + length
    return fields


def _tiff(data: bytes, start: int = 0) -> list[Field]:
    order = "little" if data[start : start + 2] == b"II" else "big"
    number = lambda at, size: int.from_bytes(data[at : at + size], order)  # noqa: E731
    fields, where = [(start + 4, 4, order)], number(start + 4, 4)
    for _ in range(4):
        if not where or start + where + 2 > len(data):
            break
        count, at = number(start + where, 2), start + where + 2
        fields += _run(at - 2, (2,), order)
        for k in range(min(count, 64)):
            fields += _run(at + 12 * k, (2, 2, 4, 4), order)
        where = number(at + 12 * count, 4)
    return fields


def _gif(data: bytes) -> list[Field]:
    fields = _little(6, 2, 2, 1, 1, 1)
    start = data.find(b"\x2c", 13)
    return fields + _little(start + 1, 2, 2, 2, 2, 1, 1)


def _bmp(data: bytes) -> list[Field]:
    return _little(2, 4, 2, 2, 4, 4, 4, 4, 2, 2, 4, 4, 4, 4, 4, 4)


def _riff(data: bytes) -> list[Field]:
    fields, start = _little(4, 4), 12
    while start + 8 <= len(data):
        kind, length = struct.unpack("<4sI", data[start : start + 8])
        fields += _little(start + 4, 4)
        if kind == b"fmt ":
            fields += 3 * _little(start + 8, 2, 2, 4, 4, 2, 2)
        elif kind == b"VP8X":
            fields += 3 * _little(start + 8, 4, 3, 3)
        elif kind in (b"VP8 ", b"VP8L"):
            fields += 3 * _little(start + 8, 3, 3, 2, 2)
        start += 8 + length + length % 2
    return fields


def _flac(data: bytes) -> list[Field]:
    fields, start = 3 * _big(8, 2, 2, 3, 3, 3, 5), 4
    while start + 4 <= len(data):
        fields += _big(start, 1) + _big(start + 1, 3)
        if data[start] & 0x80:
            break
        start += 4 + int.from_bytes(data[start + 1 : start + 4], "big")
    return fields


def _ogg(data: bytes) -> list[Field]:
    fields, start = [], 0
    while (start := data.find(b"OggS", start)) >= 0 and len(fields) < 200:
        fields += _little(start + 5, 1, 8, 4, 4) + _little(start + 26, 1, 1)
        body = start + 27 + (data[start + 26] if start + 26 < len(data) else 0)
        fields += _little(body + 7, 4, 1, 4, 4, 4, 4, 1) if start == 0 else []
        start += 4
    return fields


def _mp3(data: bytes) -> list[Field]:
    start = 0
    fields = []
    if data[:3] == b"ID3":
        fields += _big(3, 1, 1, 1, 4)
        start = 10 + sum((byte & 127) << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=True))
    return fields + 2 * _big(start, 1, 1, 1, 1) + _big(start + 36, 4, 4, 4, 4)


def _mp4(data: bytes) -> list[Field]:
    fields: list[Field] = []
    _boxes(data, 0, len(data), fields)
    return fields


def _boxes(data: bytes, start: int, stop: int, fields: list[Field]) -> None:
    while start + 8 <= stop:
        length, kind = struct.unpack(">I4s", data[start : start + 8])
        fields += _big(start, 4)
        end = start + length if 8 <= length <= stop - start else stop
        if kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"udta", b"moof", b"traf", b"mvex"):
            _boxes(data, start + 8, end, fields)
        elif kind != b"mdat":
            words = min((end - start - 8) // 4, 40)
            fields += _big(start + 8, *[4] * words)
            if kind == b"stsd":  # of pictures: sizes; of sound: channels, bits, rate
                fields += 3 * _big(start + 40, *[2] * 8)
        start = end


def _matroska(data: bytes) -> list[Field]:
    fields: list[Field] = []
    _elements(data, 0, len(data), fields)
    return fields


def _elements(data: bytes, start: int, stop: int, fields: list[Field]) -> None:
    while start + 2 <= stop and data[start] and len(fields) < 2000:
        id_size = 9 - data[start].bit_length()
        at = start + id_size
        if at >= stop or not data[at]:
            return
        size = 9 - data[at].bit_length()
        length = int.from_bytes(data[at : at + size], "big") & ((1 << 7 * size) - 1)
        fields += _big(at, size)
        body = at + size
        end = min(body + length, stop)
        if id_size == 4 and data[start:at] != b"\x1f\x43\xb6\x75" or data[start:at] in (b"\xae", b"\xe0", b"\xe1"):
            _elements(data, body, end, fields)
        elif length in (1, 2, 3, 4, 8):
            fields += 2 * _big(body, length)
        start = end


_FORMATS = (
    (lambda data: data.startswith(PNG_MAGIC), _png),
    (lambda data: data.startswith(b"\xff\xd8\xff"), _jpeg),
    (lambda data: data[:4] in (b"II*\0", b"MM\0*"), _tiff),
    (lambda data: data.startswith(b"GIF8"), _gif),
    (lambda data: data.startswith(b"BM"), _bmp),
    (lambda data: data.startswith(b"RIFF"), _riff),
    (lambda data: data.startswith(b"fLaC"), _flac),
    (lambda data: data.startswith(b"OggS"), _ogg),
    (lambda data: data[4:8] == b"ftyp", _mp4),
    (lambda data: data.startswith(b"\x1a\x45\xdf\xa3"), _matroska),
    (lambda data: data[:3] == b"ID3" or data[:1] == b"\xff", _mp3),
)


def repaired(data: bytes) -> bytes:
    """Make the checksums of a PNG or Ogg file right, so that decoders look further."""
    if data.startswith(PNG_MAGIC):
        return b"".join([data[:8], *(piece for _, piece in png_chunks(data))])
    if data.startswith(b"OggS"):
        return _repaired_ogg(data)
    return data


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Split a PNG into its chunks: kind, and bytes with a right checksum."""
    chunks, start = [], 8
    while start + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[start : start + 8])
        body = data[start + 8 : start + 8 + min(length, len(data))]
        checksum = struct.pack(">I", zlib.crc32(kind + body))
        chunks.append((kind, data[start : start + 8] + body + checksum))
        start += 12 + min(length, len(data))
    return chunks


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """Build a PNG chunk."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _ogg_table() -> list[int]:
    table = []
    for byte in range(256):
        value = byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value & 0x80000000 else 0)) & 0xFFFFFFFF
        table.append(value)
    return table


_OGG = _ogg_table()


def _repaired_ogg(data: bytes) -> bytes:
    content, start = bytearray(data), 0
    while content[start : start + 4] == b"OggS" and start + 27 < len(content):
        segments = content[start + 26]
        end = start + 27 + segments + sum(content[start + 27 : start + 27 + segments])
        content[start + 22 : start + 26] = bytes(4)
        checksum = 0
        for byte in content[start:end]:
            checksum = (checksum << 8) & 0xFFFFFFFF ^ _OGG[(checksum >> 24) ^ byte]
        content[start + 22 : start + 26] = struct.pack("<I", checksum)
        start = end
    return bytes(content)


# JSON

STRANGE = (
    None, True, False, 0, 1, -1, 3, 10**30, -(10**30), 2**63, 1e308, -0.5, 1e-320, "", "x", "x" * 5000, "../../x",
    "/etc/passwd", "a\nb", "\x1b[31mred", "\0", "é\u202e", "NaN", "1", [], {}, [[]], [None] * 5, [0] * 5000, {"": 0},
    {"a": {"b": []}}, [1, "a", None], [-1, -1], [0, 10**12], [10**12, 10],
)  # fmt: skip


def mutate_json(rng: Random, value: Any) -> bytes:
    """Change one to three places of a JSON value, or its text; returns the text."""
    value = json.loads(json.dumps(value))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        value = _mutated_value(rng, value)
    text = json.dumps(value)
    if rng.random() < 0.25:
        text = rng.choice(_TEXT_EDITS)(rng, text)
    data = text.encode("utf-8", "surrogatepass")
    return mutate_bytes(rng, data) if rng.random() < 0.15 else data


def _mutated_value(rng: Random, value: Any) -> Any:
    if isinstance(value, dict) and value and rng.random() < 0.9:
        value, name = dict(value), rng.choice(list(value))
        edit = rng.random()
        if edit < 0.1:
            del value[name]
        elif edit < 0.17:
            value[rng.choice((name + "x", "", "__class__", "_class_name", "\n", "../x"))] = value.pop(name)
        elif edit < 0.22:
            value[rng.choice(("extra", "self", "_diffusers_version", "seed"))] = rng.choice(STRANGE)
        else:
            value[name] = _mutated_value(rng, value[name])
        return value
    if isinstance(value, list) and value and rng.random() < 0.8:
        value, index = list(value), rng.randrange(len(value))
        edit = rng.random()
        if edit < 0.1:
            del value[index]
        elif edit < 0.2:
            value += [value[index]] * rng.choice((1, 2, 1000))
        else:
            value[index] = _mutated_value(rng, value[index])
        return value
    if isinstance(value, int | float) and rng.random() < 0.5:
        return rng.choice((value + 1, value - 1, -value, value * 2, value / 2, value * 1000, str(value), [value]))
    return rng.choice(STRANGE)


def _numbers(rng: Random, text: str) -> str:
    places = [k for k, letter in enumerate(text) if letter.isdigit()]
    if not places:
        return text
    place = rng.choice(places)
    new = rng.choice(("NaN", "Infinity", "-Infinity", "1e999", "9" * 5000, "1" + "0" * 400, "0.1e-9999"))
    return text[:place] + new + text[place + 1 :]


_TEXT_EDITS = (
    _numbers,
    _numbers,
    lambda rng, text: "[" * 100_000 + text,
    lambda rng, text: '{"a":' * 50_000 + text + "}" * 50_000,
    lambda rng, text: "[" * 20 + text + "]" * 20,
    lambda rng, text: "\ufeff" + text,
    lambda rng, text: text + text,
    lambda rng, text: text[: rng.randrange(len(text) + 1)],
    lambda rng, text: text.replace('"', "'"),
    lambda rng, text: "",
    lambda rng, text: "\ud800".join(text[:5]),
)
