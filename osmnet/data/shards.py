"""Prepared clips on disk: WebDataset tar shards, the manifest that says where in them each clip lies.

    DATASET/dataset.json             what the folder is: format, version, frames a second, sampling rate
    DATASET/manifest.jsonl           one line a clip that was kept, one a video or stretch that was dropped and why
    DATASET/shards/shard-00000.tar   KEY.mp4 (crop), KEY.npz (track), KEY.json (the manifest's line), KEY.wav (speech),
                                     KEY.jpg (three frames, to look at)

Any WebDataset reader streams the shards; with the offsets in the manifest a single clip is read from a file or over
HTTP without reading what lies before it.
"""

import io
import json
import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np

from osmnet.face.morphable import FaceFit, FaceModel
from osmnet.media.audio import FPS, SAMPLING_RATE

DATASET_FORMAT, DATASET_VERSION = "osmnet-dataset", 1
DATASET_FILE, MANIFEST, SHARDS = "dataset.json", "manifest.jsonl", "shards"
NEEDED = {"key", "speaker", "shard", "files", "frames", "size"}  # of the line of a clip that was kept
MAX_SHARD_BYTES = 256 * 2**20
SUBPIXELS = (
    32  # landmarks are stored as whole multiples of 1/32 pixel: half the bytes, a tenth of the landmarker's noise
)


def fingerprint(face_model: FaceModel) -> str:
    """Say which face model coefficients belong to: the same for equal geometry, eight hexadecimal digits."""
    digest = 0
    for name in ("mean_shape", "identity_basis", "expression_basis"):
        digest = zlib.crc32(np.ascontiguousarray(face_model.array(name)).tobytes(), digest)
    return f"{digest:08x}"


def encode_track(landmarks_px: np.ndarray, fit: FaceFit, face_model: str) -> bytes:
    """Make the `npz` member of a clip.

    Args:
        landmarks_px (`np.ndarray` of shape `(frames, 478, 3)`): Vertices in pixels of the crop, within ±1023.
        fit (`FaceFit`): What `FaceModel.fit_track` says of them.
        face_model (`str`): `fingerprint` of that face model.

    Returns:
        `bytes`: `landmarks` (int16, multiples of 1/32 pixel), `head_pose`, `expression`, `identity`, `face_model`.
    """
    limit = np.iinfo(np.int16).max
    landmarks = np.clip(np.rint(landmarks_px * SUBPIXELS), -limit, limit).astype(np.int16)
    file = io.BytesIO()
    np.savez_compressed(
        file, landmarks=landmarks, head_pose=fit.head_pose.astype(np.float32),
        expression=fit.expression.astype(np.float32), identity=fit.identity.astype(np.float32),
        face_model=np.array(face_model),
    )  # fmt: skip
    return file.getvalue()


class ShardWriter:
    """Writes tar shards; each appears under its name only when it is whole.

    Args:
        folder (`Path`): The dataset; shards go to `folder/shards`, numbered on from those that are there.
        max_bytes (`int`): A shard that has reached this size is closed and another one begun.
    """

    def __init__(self, folder: Path, max_bytes: int = MAX_SHARD_BYTES):
        self.folder, self.max_bytes = folder, max_bytes
        (folder / SHARDS).mkdir(parents=True, exist_ok=True)
        numbers = [int(file.stem.rpartition("-")[2]) for file in (folder / SHARDS).glob("shard-*.tar")]
        self._number = max(numbers, default=-1) + 1
        self._tar: tarfile.TarFile | None = None

    @property
    def _name(self) -> str:
        return f"{SHARDS}/shard-{self._number:05d}.tar"

    def add(self, key: str, files: dict[str, bytes]) -> dict[str, Any]:
        """Add a clip.

        Args:
            key (`str`): Its name, without a dot.
            files (`dict[str, bytes]`): Contents by ending, e.g. `{"mp4": ..., "npz": ..., "json": ...}`.

        Returns:
            `dict`: `shard` (name of the file) and `files` (ending to `[offset, bytes]` in it), for the manifest.

        Raises:
            ValueError: If the key holds a dot or a slash, which WebDataset readers split names at.
            OSError: If the disk is full; nothing of the shard being written is left.
        """
        if not key or "." in key or "/" in key:
            raise ValueError(f"A clip cannot be called '{key}': its name must hold neither a dot nor a slash.")
        try:
            if self._tar is None:
                self._tar = tarfile.open(self._part, "w", format=tarfile.GNU_FORMAT)  # noqa: SIM115
            places = {}
            for ending, content in sorted(files.items()):
                info = tarfile.TarInfo(f"{key}.{ending}")
                info.size, info.mode = len(content), 0o644
                self._tar.addfile(info, io.BytesIO(content))
                # A member's data is padded to whole blocks, and the end of it is where the file stands now.
                padded = -(-len(content) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                places[ending] = [self._tar.offset - padded, len(content)]
        except BaseException:
            self.discard()
            raise
        row = {"shard": self._name, "files": places}
        if self._tar.offset >= self.max_bytes:
            self.close()
        return row

    @property
    def _part(self) -> Path:
        path = self.folder / self._name
        return path.with_name(f".{path.name}.part")

    def discard(self) -> None:
        """Drop the shard being written."""
        if self._tar is not None:
            self._tar.fileobj.close()  # not the archive: closing it would write its end
            self._tar = None
        self._part.unlink(missing_ok=True)

    def close(self) -> None:
        """Finish the shard being written; closing twice does no harm."""
        if self._tar is None:
            return
        try:
            self._tar.close()
            self._part.replace(self.folder / self._name)
        except BaseException:
            self.discard()
            raise
        self._tar = None
        self._number += 1

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()


def write_manifest(folder: Path, rows: Iterable[dict[str, Any]], **about: Any) -> None:
    """Write `dataset.json` and `manifest.jsonl`; each appears only when it is whole.

    Args:
        folder (`Path`): The dataset.
        rows (iterable of `dict`): One a clip, kept or dropped; see `docs/preparing.md`.
        **about: What else `dataset.json` should say, e.g. the options used.
    """
    described = {
        "format": DATASET_FORMAT, "version": DATASET_VERSION, "fps": FPS, "sampling_rate": SAMPLING_RATE, **about,
    }  # fmt: skip
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    for name, text in ((DATASET_FILE, json.dumps(described, indent=1) + "\n"), (MANIFEST, lines)):
        part = folder / f".{name}.part"
        try:
            part.write_text(text, encoding="utf-8")
            part.replace(folder / name)
        finally:
            part.unlink(missing_ok=True)


def read_manifest(source: str | Path) -> list[dict[str, Any]]:
    """Read the manifest of a dataset.

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
    """Read a part of a file at a path or an address.

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
