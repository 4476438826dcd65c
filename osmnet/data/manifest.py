"""`dataset.json` and `manifest.jsonl`: written by `osmnet prepare`, checked whenever a dataset is opened.

A dataset may come from anywhere, so nothing in it is believed: fields have types and ranges, shards lie inside the
dataset, and members lie inside their shards.
"""

import io
import json
import os
import re
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

import fsspec
from fsspec.implementations.local import LocalFileSystem

from osmnet.data.shards import HEADER_BYTES, MAX_NAME, SHARDS, check_key
from osmnet.media.audio import FPS, SAMPLES_PER_FRAME, SAMPLING_RATE
from osmnet.utils.bounded_json import MAX_JSON, leaves, parse_json
from osmnet.utils.checks import reason, short
from osmnet.utils.files import write_whole

DATASET_FORMAT, DATASET_VERSION = "osmnet-dataset", 1
DATASET_FILE, MANIFEST = "dataset.json", "manifest.jsonl"

MAX_MANIFEST = 2**30  # bytes
MAX_CLIPS = 1_000_000  # lines
MAX_FRAMES = 100_000  # of a clip: more than an hour
MAX_SIZE = 4096  # px
MAX_OFFSET = 1500  # frames between picture and sound: a minute
MAX_TEXT = 2**16  # characters; of a thumbnail, the longest entry, some ten thousand
MAX_ENTRIES = 64  # of a line
MAX_MEMBER = 2**30  # bytes
MAX_SHARD = 2**40  # bytes
ADVICE = "copy the dataset again, or run `osmnet prepare` again"

_SHARD = re.compile(rf"{SHARDS}/[A-Za-z0-9_-][A-Za-z0-9_.-]{{0,200}}\.tar", re.ASCII)
_ENDING = re.compile(r"[a-z0-9]{1,8}", re.ASCII)
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}", re.ASCII)


# Fields


def _whole(low: int, high: int) -> tuple[Callable[[Any], bool], str]:
    return lambda value: type(value) is int and low <= value <= high, f"a whole number from {low} to {high}"


def _number(low: float, high: float) -> tuple[Callable[[Any], bool], str]:
    return lambda value: type(value) in (int, float) and low <= value <= high, f"a number from {low:g} to {high:g}"


def _text(length: int = MAX_TEXT) -> tuple[Callable[[Any], bool], str]:
    return lambda value: isinstance(value, str) and _is_text(value, length), f"a text of at most {length} characters"


def _matching(pattern: re.Pattern[str], kind: str) -> tuple[Callable[[Any], bool], str]:
    return lambda value: isinstance(value, str) and bool(pattern.fullmatch(value)), kind


def _or_none(check: tuple[Callable[[Any], bool], str]) -> tuple[Callable[[Any], bool], str]:
    return lambda value: value is None or check[0](value), f"{check[1]}, or null"


def _is_text(value: str, length: int) -> bool:
    return len(value) <= length and not re.search(r"[\x00\ud800-\udfff]", value)


def _is_key(value: Any) -> bool:
    try:
        check_key(value)
    except (ValueError, TypeError):
        return False
    return True


def _is_place(value: Any) -> bool:
    """Whether it is the offset and the size of a member of a tar archive."""
    if not isinstance(value, list) or len(value) != 2 or any(type(number) is not int for number in value):
        return False
    start, size = value
    return HEADER_BYTES <= start <= MAX_SHARD and start % HEADER_BYTES == 0 and 0 < size <= MAX_MEMBER


def _are_places(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= 16
        and all(_ENDING.fullmatch(ending) and _is_place(place) for ending, place in value.items())
    )


def _is_crop(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(type(v) is int and abs(v) < 2**20 for v in value)


_IS_KEY = (_is_key, f"a name of 1 to {MAX_NAME} bytes without dots, slashes and control characters")
_IS_SPEAKER = (lambda v: isinstance(v, str) and len(v) > 0 and _is_text(v, 1024), "a name of 1 to 1024 characters")
_FIELDS = {
    "status": (lambda value: value in ("kept", "dropped"), "'kept' or 'dropped'"),
    "key": _IS_KEY,
    "video": _IS_KEY,
    "source": _text(1024),
    "source_bytes": _whole(0, 2**63),
    "source_mtime": _whole(-(2**63), 2**63),
    "speaker": _IS_SPEAKER,
    "named": _IS_SPEAKER,
    "tracks": _whole(1, 1000),
    "shard": _matching(_SHARD, f"the plain name of a .tar file in {SHARDS}/"),
    "files": (_are_places, f"offsets (multiples of {HEADER_BYTES}) and sizes (at most {MAX_MEMBER} bytes) by ending"),
    "frames": _whole(1, MAX_FRAMES),
    "first_frame": _whole(0, 2**31),
    "size": _whole(2, MAX_SIZE),
    "crop": (_is_crop, "three whole numbers"),
    "seconds": _number(0, 1e7),
    "speech": (lambda value: isinstance(value, bool), "true or false"),
    "av_offset": _or_none(_whole(-MAX_OFFSET, MAX_OFFSET)),
    "av_correlation": _or_none(_number(-2, 2)),
    "sharpness": _number(0, 1e9),
    "face_px": _number(0, 1e6),
    "yaw_deg": _number(-360, 360),
    "pitch_deg": _number(-360, 360),
    "note": _text(),
    "reason": _text(),
    "thumbnail": _matching(_BASE64, "a picture in base64"),
}
_OTHER = (lambda value: not isinstance(value, list | dict) and (not isinstance(value, str) or _text()[0](value)),
          f"a number or a text of at most {MAX_TEXT} characters")  # fmt: skip
_NEEDED = {
    "kept": ("status", "key", "speaker", "shard", "files", "frames", "size"),
    "dropped": ("status", "source", "reason"),
}


def check_row(row: Any, needed: Iterable[str] | None = None) -> None:
    """Check a line of a manifest.

    Args:
        row (`Any`): Parsed JSON.
        needed (iterable of `str`, *optional*): Names that it must have; by its status if not given.

    Raises:
        ValueError: If an entry is missing, or of another type or range; names it.
    """
    if not isinstance(row, dict):
        raise ValueError(f"a line must be an object, not {short(row)}")
    if len(row) > MAX_ENTRIES:
        raise ValueError(f"a line has {len(row)} entries, more than {MAX_ENTRIES}")
    for name, value in row.items():
        check, kind = _FIELDS.get(name, _OTHER)
        if not check(value):
            raise ValueError(f"{short(name)} must be {kind}, not {short(value)}")
    for name in needed or _NEEDED[row.get("status", "dropped")]:
        if name not in row:
            raise ValueError(f"{short(name)} is missing")
    if row.get("status") == "kept":
        _check_sizes(row)


def _check_sizes(row: dict[str, Any]) -> None:
    files, frames, size = row["files"], row["frames"], row["size"]
    if "npz" not in files:
        raise ValueError(f"'files' of {short(row['key'])} lacks the npz")
    # Pictures and sound as long as without compression, and some room for headers.
    largest = {"npz": 8192 * frames, "wav": 2 * SAMPLES_PER_FRAME * frames, "mp4": 3 * size * size * frames}
    for ending, (_, count) in files.items():
        most = largest.get(ending, 0) + MAX_JSON
        if count > most:
            raise ValueError(f"{ending} of {short(row['key'])} has {count} bytes, more than {most}")


# Files


def write_manifest(folder: Path, rows: Iterable[dict[str, Any]], **about: Any) -> None:
    """Write `dataset.json` and `manifest.jsonl` atomically.

    Args:
        folder (`Path`): The dataset.
        rows (iterable of `dict`): One a clip, kept or dropped; see `docs/preparing.md`.
        **about: Further entries of `dataset.json`, for example the options used.

    Raises:
        ValueError: If the disk is full.
    """
    described = {
        "format": DATASET_FORMAT, "version": DATASET_VERSION, "fps": FPS, "sampling_rate": SAMPLING_RATE, **about,
    }  # fmt: skip
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    for name, text in ((DATASET_FILE, json.dumps(described, indent=1) + "\n"), (MANIFEST, lines)):
        write_whole(folder / name, text.encode())


def read_manifest(source: str | Path) -> list[dict[str, Any]]:
    """Read and check a dataset's manifest; of a local one also its shards.

    Args:
        source (`str` or `Path`): A folder or an address (`https://…`, `hf://datasets/…`).

    Returns:
        `list[dict]`: Its rows.

    Raises:
        ValueError: If there is no dataset, it is of another version or damaged, an entry has another type or range, or
            a shard is missing, cut off or outside the folder.
    """
    where = str(source).rstrip("/")
    read_about(where)
    rows: list[dict[str, Any]] = []
    lines: dict[str, int] = {}  # by key
    for number, line in enumerate(io.BytesIO(_read_file(where, MANIFEST, MAX_MANIFEST)), 1):
        place = f"'{where}/{MANIFEST}', line {number}"
        if number > MAX_CLIPS:
            raise ValueError(f"'{where}/{MANIFEST}' has more than {MAX_CLIPS} lines; split the dataset.")
        try:
            row = parse_json(line)
            check_row(row)
        except ValueError as error:
            raise ValueError(f"{place} is damaged ({str(error).rstrip('.')}); {ADVICE}.") from error
        if row["status"] == "kept" and (first := lines.setdefault(row["key"], number)) != number:
            raise ValueError(f"{place} repeats the clip {short(row['key'])} of line {first}; {ADVICE}.")
        rows.append(row)
    if (folder := local_folder(where)) is not None:
        _check_shards(folder, rows)
    return rows


def read_about(source: str | Path) -> dict[str, Any]:
    """Read and check `dataset.json`.

    Args:
        source (`str` or `Path`): As of `read_manifest`.

    Returns:
        `dict`: Its entries; those by which the dataset was `prepared_with` are numbers and texts by name.

    Raises:
        ValueError: If there is no dataset, or it is of another version or damaged.
    """
    where = str(source).rstrip("/")

    def refuse(why: str, cause: Exception | None = None) -> NoReturn:
        raise ValueError(f"'{where}/{DATASET_FILE}' is damaged ({why}); {ADVICE}.") from cause

    content = _read_file(where, DATASET_FILE, MAX_JSON)
    try:
        about = parse_json(content)
    except ValueError as error:
        refuse(str(error), error)
    version = about.get("version") if isinstance(about, dict) and about.get("format") == DATASET_FORMAT else None
    if type(version) is not int or version != DATASET_VERSION:
        raise ValueError(
            f"'{where}' is a dataset of version {short(version)}, and this osmnet reads version {DATASET_VERSION}; "
            "prepare it again with `osmnet prepare`."
        )
    for name, value in (("fps", FPS), ("sampling_rate", SAMPLING_RATE)):
        if about.get(name, value) != value:
            refuse(f"{name} must be {value}, not {short(about[name])}")
    if not is_flat(about.get("prepared_with") or {}):
        refuse("prepared_with must hold numbers and texts by name")
    return about


def is_flat(value: Any) -> bool:
    """Whether it is a JSON object of numbers and texts."""
    return isinstance(value, dict) and len(value) <= MAX_ENTRIES and all(depth == 1 for _, depth in leaves(value))


def local_folder(source: str | Path) -> Path | None:
    """Return a dataset's folder, or `None` if it is not on this machine."""
    system, path = fsspec.core.url_to_fs(str(source))
    return Path(path) if isinstance(system, LocalFileSystem) else None


def check_inside(folder: Path, name: str) -> Path:
    """Check that a file of a dataset is a regular one inside it, also behind links.

    Args:
        folder (`Path`): The dataset.
        name (`str`): Path of the file in it.

    Returns:
        `Path`: The file.

    Raises:
        ValueError: If it is missing, no regular file, or a link to somewhere else.
    """
    path, root = folder / name, folder.resolve()
    allowed = [root]
    # The Hub's cache has links in snapshots/REVISION/ to blobs/.
    allowed += [above.parent / "blobs" for above in root.parents if above.name == "snapshots"]
    try:
        found = path.resolve(strict=True)
        if not any(found.is_relative_to(each) for each in allowed):
            raise ValueError(f"'{path}' is a link to a file outside of the dataset; put the file in its place.")
        if not stat.S_ISREG(found.stat().st_mode):
            raise ValueError(f"'{path}' is not a file; {ADVICE}.")
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        reason = getattr(error, "strerror", None) or "its links run in a circle"
        raise ValueError(f"'{path}' cannot be read ({reason}); {ADVICE}.") from error
    return path


def _check_shards(folder: Path, rows: Iterable[dict[str, Any]]) -> None:
    needed: dict[str, int] = {}  # bytes by shard
    for row in rows:
        if row["status"] == "kept":
            end = max(start + size for start, size in row["files"].values())
            needed[row["shard"]] = max(end, needed.get(row["shard"], 0))
    for shard, end in needed.items():
        path = check_inside(folder, shard)
        if path.stat().st_size < end:
            raise ValueError(f"'{path}' is shorter than its manifest says; {ADVICE}.")


def _read_file(where: str, name: str, most: int) -> bytes:
    folder = local_folder(where)
    if folder is not None and os.path.lexists(folder / name):
        check_inside(folder, name)
    try:
        system, path = fsspec.core.url_to_fs(f"{where}/{name}")
        with system.open(path, "rb") as file:
            pieces, left = [], most + 1
            while left > 0 and (piece := file.read(min(left, 2**22))):
                pieces.append(piece)
                left -= len(piece)
    except FileNotFoundError as error:
        raise ValueError(
            f"'{where}' is not a prepared dataset (it has no {name}); make one with `osmnet prepare CLIPS --out "
            f"{where}`."
        ) from error
    except Exception as error:  # each kind of address has errors of its own
        raise ValueError(f"'{where}/{name}' cannot be read ({reason(error)}); check the address.") from error
    if left <= 0:
        raise ValueError(f"'{where}/{name}' has more than {most} bytes; {ADVICE}.")
    return b"".join(pieces)
