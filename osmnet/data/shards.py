"""Dataset files: WebDataset tar shards, and a manifest of each clip's byte range; layout in docs/preparing.md."""

import contextlib
import io
import json
import re
import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

import fsspec
import numpy as np

from osmnet.face.morphable import FaceFit, FaceModel
from osmnet.media.audio import FPS, SAMPLING_RATE
from osmnet.utils.files import put_in_place, write_whole

DATASET_FORMAT, DATASET_VERSION = "osmnet-dataset", 1
TRACKS = 2  # version of a clip's track: 1, in the whole picture; 2, tracked again on the crop
DATASET_FILE, MANIFEST, SHARDS = "dataset.json", "manifest.jsonl", "shards"
NEEDED = {"key", "speaker", "shard", "files", "frames", "size"}  # of the line of a clip that was kept
MAX_SHARD_BYTES = 256 * 2**20
SUBPIXELS = 32  # steps per pixel of stored landmarks: half the bytes, a tenth of the landmarker's noise


def fingerprint(face_model: FaceModel) -> str:
    """Hash a face model's geometry to eight hex digits."""
    digest = 0
    for name in ("mean_shape", "identity_basis", "expression_basis"):
        digest = zlib.crc32(np.ascontiguousarray(face_model.array(name)).tobytes(), digest)
    return f"{digest:08x}"


def encode_track(
    landmarks_px: np.ndarray, fit: FaceFit, face_model: str, descriptor: np.ndarray | None = None
) -> bytes:
    """Encode a clip's `npz` member.

    Args:
        landmarks_px (`np.ndarray` of shape `(frames, 478, 3)`): Vertices in pixels of the crop, within ±1023.
        fit (`FaceFit`): Result of `FaceModel.fit_track` for them.
        face_model (`str`): `fingerprint` of that face model.
        descriptor (`np.ndarray` of shape `(128,)`, *optional*): Of the identity network.

    Returns:
        `bytes`: `landmarks` (int16, multiples of 1/32 pixel), `head_pose`, `expression`, `identity`, `face_model` and,
        if given, `descriptor`.
    """
    limit = np.iinfo(np.int16).max
    landmarks = np.clip(np.rint(landmarks_px * SUBPIXELS), -limit, limit).astype(np.int16)
    file = io.BytesIO()
    np.savez_compressed(
        file, landmarks=landmarks, head_pose=fit.head_pose.astype(np.float32),
        expression=fit.expression.astype(np.float32), identity=fit.identity.astype(np.float32),
        face_model=np.array(face_model),
        **({} if descriptor is None else {"descriptor": descriptor.astype(np.float32)}),
    )  # fmt: skip
    return file.getvalue()


class ShardWriter:
    """Write a video's clips to tar shards, all or none and reproducibly.

    Args:
        folder (`Path`): The dataset.
        name (`str`): The video; its shards are `shards/NAME.000.tar` and so on, see `shard_name`.
        max_bytes (`int`): After a shard of this size another one is begun.
    """

    def __init__(self, folder: Path, name: str, max_bytes: int = MAX_SHARD_BYTES):
        self.shards, self.name, self.max_bytes = folder / SHARDS, shard_name(name), max_bytes
        self._rows: list[dict[str, Any]] = []
        self._tar: Any = None  # current shard; below, its bytes and the number of finished shards
        self._bytes = self._count = 0

    def __enter__(self) -> "ShardWriter":
        self.shards.mkdir(parents=True, exist_ok=True)
        self._temporary = TemporaryDirectory(prefix=".", suffix=".part", dir=self.shards)
        return self

    def add(self, row: dict[str, Any], files: dict[str, bytes]) -> None:
        """Add a clip.

        Args:
            row (`dict`): Its line of the manifest, with its `key`; when the block ends it gets `shard` (the file) and
                `files` (`[offset, bytes]` there by ending).
            files (`dict[str, bytes]`): Contents by ending.

        Raises:
            ValueError: If the key holds a dot or a slash, at which WebDataset readers split names.
            OSError: If the disk is full.
        """
        key = row["key"]
        if not key or "." in key or "/" in key:
            raise ValueError(f"A clip cannot be called '{key}': its name must hold neither a dot nor a slash.")
        if self._tar is not None and self._bytes >= self.max_bytes:
            self._close()
        if self._tar is None:
            self._tar = _tar_writer(Path(self._temporary.name) / f"{self.name}.{self._count:03d}.tar")
        self._bytes += self._tar.write({"__key__": key, **files})
        self._rows.append(row)

    def _close(self) -> None:
        tar, self._tar = self._tar, None
        self._bytes, self._count = 0, self._count + 1
        tar.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._temporary:
            if kind is None:
                if self._tar is not None:
                    self._close()
                self._put_in_place()
            elif self._tar is not None:
                with contextlib.suppress(OSError):  # a full disk is what ended the block
                    self._close()

    def _put_in_place(self) -> None:
        places: dict[str, dict[str, Any]] = {}
        finished = sorted(Path(self._temporary.name).iterdir())
        for path in finished:
            with tarfile.open(path) as tar:
                for member in tar:
                    key, _, ending = member.name.rpartition(".")
                    place = places.setdefault(key, {"shard": f"{SHARDS}/{path.name}", "files": {}})
                    place["files"][ending] = [member.offset_data, member.size]
        for path in finished:
            put_in_place(path, self.shards / path.name)
        for row in self._rows:
            row |= places[row["key"]]


def shard_name(name: str) -> str:
    """Make a video's name URL-safe; a checksum keeps it unique."""
    safe = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:100]
    return safe if safe == name else f"{safe}-{zlib.crc32(name.encode()):08x}"


def _tar_writer(path: Path) -> Any:
    try:
        from webdataset import TarWriter
    except ImportError as error:
        raise ValueError("Shards need the package 'webdataset'; install osmnet with its extra 'train'.") from error
    return TarWriter(str(path), encoder=False, user="", group="", mode=0o644, mtime=0, format="GNU_FORMAT")


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
    """Read a dataset's manifest.

    Args:
        source (`str` or `Path`): A folder or an address (`https://…`, `hf://datasets/…`).

    Returns:
        `list[dict]`: Its rows.

    Raises:
        ValueError: If there is no dataset, it is of another version, or damaged.
    """
    where = str(source).rstrip("/")
    about = _read_text(where, DATASET_FILE)
    try:
        described = json.loads(about)
        version = described["version"] if described.get("format") == DATASET_FORMAT else None
    except (ValueError, KeyError, AttributeError):
        version = None
    if version != DATASET_VERSION:
        raise ValueError(
            f"'{where}' is a dataset of version {version}, and this osmnet reads version {DATASET_VERSION}; prepare "
            "it again with `osmnet prepare`."
        )
    rows = []
    for number, line in enumerate(_read_text(where, MANIFEST).splitlines(), 1):
        try:
            row = json.loads(line)
            whole = row["status"] != "kept" or row.keys() >= NEEDED
        except (ValueError, KeyError, TypeError, AttributeError):
            whole = False
        if not whole:
            raise ValueError(f"'{where}/{MANIFEST}', line {number} is damaged; prepare the dataset again.")
        rows.append(row)
    return rows


def read_range(address: str, start: int, size: int) -> bytes:
    """Read `size` bytes at offset `start` of a path or URL.

    Raises:
        ValueError: If the file is missing or too short, or cannot be reached.
    """
    try:
        system, path = fsspec.core.url_to_fs(address)
        content = system.cat_file(path, start=start, end=start + size)
    except Exception as error:  # each kind of address has errors of its own
        raise ValueError(f"'{address}' cannot be read ({error}); is the dataset whole?") from error
    if len(content) != size:
        raise ValueError(f"'{address}' is shorter than its manifest says; copy or prepare the dataset again.")
    return content


def _read_text(where: str, name: str) -> str:
    try:
        system, path = fsspec.core.url_to_fs(f"{where}/{name}")
        return system.cat_file(path).decode("utf-8")
    except FileNotFoundError as error:
        raise ValueError(
            f"'{where}' is not a prepared dataset (it has no {name}); make one with `osmnet prepare CLIPS --out "
            f"{where}`."
        ) from error
    except Exception as error:  # each kind of address has errors of its own
        raise ValueError(f"'{where}/{name}' cannot be read ({error}); check the address.") from error
