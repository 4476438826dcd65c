"""Atomic file writes, folder locks and the cache folder."""

import os
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

Seal = Callable[[Path], None]


def make_folder(folder: Path) -> None:
    """Make a folder and check that it is writable.

    Raises:
        ValueError: If it is not writable.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"The folder '{folder}' cannot be written to ({error.strerror}); choose another.") from error


def write_whole(path: Path, content: bytes) -> None:
    """Write a file atomically.

    Raises:
        ValueError: If it cannot be written; nothing incomplete is left.
    """
    temporary = temporary_path(path)
    try:
        temporary.write_bytes(content)
        put_in_place(temporary, path)
    except OSError as error:
        raise ValueError(f"'{path}' cannot be written ({error.strerror}); choose another folder.") from error
    finally:
        temporary.unlink(missing_ok=True)


def temporary_path(path: Path, folder: str | os.PathLike[str] | None = None) -> Path:
    """Name a temporary file beside `path`, or in `folder` (same disk)."""
    return Path(folder or path.parent) / f".{path.name}.{secrets.token_hex(4)}.part"


def put_in_place(temporary: Path, path: Path, seal: Seal | None = None) -> None:
    """Sync a finished file to disk and rename it.

    Args:
        temporary (`Path`): From `temporary_path`.
        path (`Path`): The file; replaced if it exists.
        seal (`Callable`, *optional*): Called with the file first; may replace it by a signed copy.

    Raises:
        OSError: If the disk is full.
    """
    if seal is not None:
        seal(temporary)
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


@contextmanager
def only_run_in(folder: Path, shown: Path | None = None) -> Iterator[None]:
    """Lock a folder for one run; killed runs leave no lock.

    Args:
        folder (`Path`): The folder, made if missing; the lock is the file `.lock` in it.
        shown (`Path`, *optional*): Its name in messages, if another.

    Raises:
        ValueError: If another run holds it, or it cannot be written to.
    """
    shown = shown or folder
    lock = FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(f"'{shown}' cannot be made because a file is in its way; name another folder.") from None
    except Timeout:
        raise ValueError(f"Another run is at work in '{shown}'; wait for it, or stop it.") from None
    except OSError as error:
        raise ValueError(f"The folder '{shown}' cannot be written to ({error.strerror}); choose another.") from error
    try:
        yield
    finally:
        lock.release()


def cache_folder() -> Path:
    """Return `OSMNET_CACHE`, or the system's cache folder for osmnet."""
    if named := os.environ.get("OSMNET_CACHE"):
        return Path(named)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "osmnet" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "osmnet"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "osmnet"
