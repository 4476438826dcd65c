"""WebDataset tar shards and the members of a clip in them; layout in docs/preparing.md."""

import contextlib
import io
import re
import tarfile
import zipfile
import zlib
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

import fsspec
import numpy as np
import soundfile

from osmnet.face.morphable import FaceFit, FaceModel
from osmnet.face.topology import NUM_VERTICES
from osmnet.media.audio import SAMPLES_PER_FRAME, SAMPLING_RATE
from osmnet.utils.checks import reason, short
from osmnet.utils.files import put_in_place

SHARDS = "shards"
TRACKS = 2  # version of a clip's track: 1, in the whole picture; 2, tracked again on the crop
DESCRIPTOR_DIM = 128  # of the identity network
HEADER_BYTES = tarfile.BLOCKSIZE  # before the content of a member
MAX_SHARD_BYTES = 256 * 2**20
MAX_NAME = 255  # bytes; file systems allow no longer ones
MAX_COEFFICIENTS = 1024  # of a face model
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
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


def decode_track(content: bytes, frames: int) -> dict[str, np.ndarray]:
    """Decode a clip's `npz` member, whose arrays are checked before they are read.

    Args:
        content (`bytes`): As `encode_track` gives it.
        frames (`int`): Frames of the clip.

    Returns:
        `dict[str, np.ndarray]`: The arrays of `encode_track`.

    Raises:
        ValueError: If it is damaged, or an array is missing, surplus, of another shape or type, or not finite.
    """
    wanted = {
        "landmarks": ("i2", (frames, NUM_VERTICES, 3)), "head_pose": ("f4", (frames, 6)),
        "expression": ("f4", (frames, None)), "identity": ("f4", (None,)), "face_model": ("U", ()),
        "descriptor": ("f4", (DESCRIPTOR_DIM,)),
    }  # fmt: skip
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            names = sorted(info.filename for info in members)
            if "descriptor.npy" not in names:  # in datasets of an earlier version
                del wanted["descriptor"]
            if names != sorted(f"{name}.npy" for name in wanted):
                raise ValueError(f"it holds {short(names)}")
            # Others may ask for gigabytes before the first byte.
            if any(
                info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for info in archive.infolist()
            ):
                raise ValueError("it is compressed in another way than by zlib")
            return {name: _read_array(archive, name, *about) for name, about in wanted.items()}
    except Exception as error:  # zipfile and NumPy raise almost anything on damaged data
        raise ValueError(reason(error)) from error


def _read_array(archive: zipfile.ZipFile, name: str, kind: str, shape: tuple[int | None, ...]) -> np.ndarray:
    with archive.open(f"{name}.npy") as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{name} is not in NumPy's format 1.0")
        found, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
        is_shape = len(found) == len(shape) and all(
            length == wanted if wanted else 0 < length <= MAX_COEFFICIENTS
            for length, wanted in zip(found, shape, strict=True)
        )
        is_kind = dtype == np.dtype(kind) if kind != "U" else dtype.kind == "U" and dtype.itemsize <= 4 * MAX_NAME
        if not (is_shape and is_kind):
            raise ValueError(f"{name} has shape {short(found)} and type {short(str(dtype))}")
        size = dtype.itemsize * int(np.prod(found))
        content = file.read(size + 1)
        if len(content) != size:
            raise ValueError(f"{name} has another length than its header says")
    array = np.frombuffer(bytearray(content), dtype).reshape(found, order="F" if is_fortran else "C")
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{name} is not finite")
    return np.array(str(array)) if dtype.kind == "U" else array  # or ValueError: no characters


def decode_sound(content: bytes, frames: int) -> np.ndarray:
    """Decode a clip's `wav` member, whose header is checked first.

    Args:
        content (`bytes`): 16-bit WAV, 16 kHz, mono.
        frames (`int`): Frames of the clip.

    Returns:
        `np.ndarray` of shape `(frames * 640,)`: float32.

    Raises:
        ValueError: If it is damaged, or of another kind or length.
    """
    if content[:4] != b"RIFF":  # libsndfile takes some twenty other formats
        raise ValueError("it is no WAV file")
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            wanted = {
                "format": "WAV", "subtype": "PCM_16", "samplerate": SAMPLING_RATE, "channels": 1,
                "frames": frames * SAMPLES_PER_FRAME,
            }  # fmt: skip
            for name, value in wanted.items():
                if getattr(file, name) != value:
                    raise ValueError(f"its {name} is {getattr(file, name)} instead of {value}")
            sound: np.ndarray = file.read(dtype="float32")
    except soundfile.SoundFileError as error:
        raise ValueError(reason(error)) from error
    if len(sound) != wanted["frames"]:
        raise ValueError(f"it has {len(sound)} samples instead of {wanted['frames']}")
    return sound


def check_key(key: str) -> None:
    """Check the name of a clip, which becomes part of file names.

    Raises:
        ValueError: If WebDataset readers would split it, or it is no part of a file name.
    """
    if not key or re.search(r"[./\\]", key) or CONTROL.search(key) or len(key.encode()) > MAX_NAME:
        raise ValueError(
            f"A clip cannot be called {short(key)}: its name must have 1 to {MAX_NAME} bytes, without dots, slashes "
            "and control characters."
        )


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
            ValueError: If the key is none, see `check_key`.
            OSError: If the disk is full.
        """
        key = row["key"]
        check_key(key)
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


def read_range(address: str, start: int, size: int) -> bytes:
    """Read `size` bytes at offset `start` of a path or URL.

    Raises:
        ValueError: If the file is missing or too short, or cannot be reached.
    """
    try:
        system, path = fsspec.core.url_to_fs(address)
        content = system.cat_file(path, start=start, end=start + size)
    except Exception as error:  # each kind of address has errors of its own
        raise ValueError(f"'{address}' cannot be read ({reason(error)}); is the dataset whole?") from error
    if len(content) != size:
        raise ValueError(f"'{address}' is shorter than its manifest says; copy or prepare the dataset again.")
    return content


def read_member(address: str, name: str, start: int, size: int) -> bytes:
    """Read a member of a tar archive, with the header before it.

    Args:
        address (`str`): Path or URL of the archive.
        name (`str`): Name of the member.
        start (`int`): Offset of its content.
        size (`int`): Its size in bytes.

    Returns:
        `bytes`: Its content.

    Raises:
        ValueError: As `read_range`, or if there is no such regular file of this size.
    """
    content = read_range(address, start - HEADER_BYTES, HEADER_BYTES + size)
    try:
        header = tarfile.TarInfo.frombuf(content[:HEADER_BYTES], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        header = tarfile.TarInfo()
    # A header holds names of 100 bytes; longer ones precede it.
    is_named = header.name == name or len(name.encode()) > tarfile.LENGTH_NAME
    if not (is_named and header.isreg() and header.size == size):
        raise ValueError(
            f"'{address}' has no file '{name}' of {size} bytes at {start}, as its manifest says; copy or prepare the "
            "dataset again."
        )
    return content[HEADER_BYTES:]
