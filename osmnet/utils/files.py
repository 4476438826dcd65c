"""Files that are written whole: each appears under its name only when it is whole; and folders that one run has."""

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
    """Make a folder, and see now rather than after an hour whether something can be written to it.

    Raises:
        ValueError: If it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"The folder '{folder}' cannot be written to ({error.strerror}); choose another.") from error


def write_whole(path: Path, content: bytes) -> None:
    """Write a file to a temporary name beside it and rename it.

    Raises:
        ValueError: If it cannot be written; nothing half-written is left.
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
    """Name a file to write until it is whole: beside `path`, or in another folder of the same disk."""
    return Path(folder or path.parent) / f".{path.name}.{secrets.token_hex(4)}.part"


def put_in_place(temporary: Path, path: Path, seal: Seal | None = None) -> None:
    """Give a finished file its name; a file of that name is whole, even after a power cut.

    Args:
        temporary (`Path`): From `temporary_path`.
        path (`Path`): The file; replaced if it is there.
        seal (`Callable`, *optional*): Called first with the finished file; may put a signed copy in its place.

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
    """Keep a second run out of a folder that one is at work in; a killed run holds nothing.

    Args:
        folder (`Path`): The folder, made if it is not there; the file `.lock` in it is held.
        shown (`Path`, *optional*): What to call it in messages, when it is the inside of another one.

    Raises:
        ValueError: If another run is at work in it, or it cannot be written to.
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
    """Return the folder for measurements that may be repeated: `OSMNET_CACHE`, or the system's place for caches."""
    if named := os.environ.get("OSMNET_CACHE"):
        return Path(named)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "osmnet" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "osmnet"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "osmnet"
