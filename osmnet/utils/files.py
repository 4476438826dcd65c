"""Atomic file writes, folder locks and the cache folder."""

import errno
import os
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from osmnet.utils.home import is_lent

Seal = Callable[[Path], None]
WRITE_ERRORS = (OSError, SafetensorError)


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
        raise ValueError(f"The folder '{folder}' cannot be written to ({why(error)}); choose another.") from error


def write_whole(
    path: Path, content: bytes, seal: Seal | None = None, folder: str | os.PathLike[str] | None = None
) -> None:
    """Write a file atomically.

    Args:
        path (`Path`): The file; missing folders are made, an existing file is replaced.
        content (`bytes`): What is in it.
        seal (`Callable`, *optional*): As of `put_in_place`.
        folder (`str` or `os.PathLike`, *optional*): As of `temporary_path`.

    Raises:
        ValueError: If it cannot be written; nothing incomplete is left.
    """
    temporary = temporary_path(path, folder)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        put_in_place(temporary, path, seal)
    except OSError as error:
        raise ValueError(cannot_write(path, error)) from error
    finally:
        discard(temporary)


def temporary_path(path: Path, folder: str | os.PathLike[str] | None = None) -> Path:
    """Name a temporary file beside `path`, or in `folder` (same disk)."""
    return Path(folder or path.parent) / f".{path.name}.{secrets.token_hex(4)}.part"


def put_in_place(temporary: Path, path: Path, seal: Seal | None = None) -> None:
    """Sync a finished file to disk, rename it, and sync its folder.

    Args:
        temporary (`Path`): From `temporary_path`.
        path (`Path`): The file; replaced if it exists.
        seal (`Callable`, *optional*): Called with the file first; may replace it by a signed copy.

    Raises:
        OSError: If the disk is full.
    """
    if seal is not None:
        seal(temporary)
    sync(temporary)
    os.replace(temporary, path)
    sync(path.parent)


def put_folder_in_place(temporary: Path, folder: Path) -> None:
    """Sync the files of a finished folder to disk and rename it.

    Args:
        temporary (`Path`): From `temporary_folder_in`.
        folder (`Path`): Its final name, on the same disk; must not exist.

    Raises:
        OSError: If the disk is full.
    """
    for path in sorted(temporary.rglob("*")):
        sync(path)
    sync(temporary)
    temporary.rename(folder)
    sync(folder.parent)


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to disk."""
    is_folder = path.is_dir()
    if is_folder and sys.platform == "win32":  # which opens no folders
        return
    try:
        handle = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
    except PermissionError:
        if is_folder:  # writable but not readable: the file itself is on the disk
            return
        raise
    try:
        os.fsync(handle)
    except OSError as error:
        if not (is_folder and error.errno in (errno.EINVAL, errno.ENOTSUP)):  # as on some network drives
            raise
    finally:
        os.close(handle)


def discard(temporary: Path) -> None:
    """Delete a temporary file or folder, if possible and if it is there."""
    if temporary.is_dir():
        shutil.rmtree(temporary, ignore_errors=True)
    else:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def temporary_folder_in(folder: Path) -> Path:
    """Make a temporary folder inside `folder`, which is made if necessary.

    Raises:
        OSError: If the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=".saving-", dir=folder))


@contextmanager
def written_whole(folder: Path, last: str = "") -> Iterator[Path]:
    """Yield a temporary folder whose files move into `folder` after the block, `last` at the end.

    Raises:
        ValueError: If the folder cannot be written; it is then left as it was.
    """
    is_new, temporary = not folder.exists(), None
    try:
        temporary = temporary_folder_in(folder)
        yield temporary
        files = [path.relative_to(temporary) for path in sorted(temporary.rglob("*")) if path.is_file()]
        for file in files:
            sync(temporary / file)
        _move(temporary, folder, sorted(files, key=lambda file: file.name == last))
    except WRITE_ERRORS as error:
        raise ValueError(f"Cannot save in '{folder}' ({why(error)}); free space or choose another folder.") from error
    finally:
        if temporary is not None:
            discard(temporary)
        if is_new:
            with suppress(OSError):  # something is in it
                folder.rmdir()


def _move(temporary: Path, folder: Path, files: list[Path]) -> None:
    """Move files into a folder, all or none."""
    replaced = Path(tempfile.mkdtemp(dir=temporary))  # second names of the files that are replaced
    made: list[Path] = []
    moved: list[tuple[Path, Path | None]] = []
    try:
        for number, file in enumerate(files):
            target, kept = folder / file, replaced / str(number)
            if not target.parent.exists():
                target.parent.mkdir()
                made.append(target.parent)
            moved.append((target, kept if target.exists() else None))
            if target.exists():
                try:
                    os.link(target, kept)
                except OSError:  # a disk without hard links
                    os.replace(target, kept)
            os.replace(temporary / file, target)
        for changed in sorted({target.parent for target, _ in moved}):
            sync(changed)
    except OSError:
        for target, kept in moved:
            if kept is None:
                target.unlink(missing_ok=True)
            elif kept.exists():
                os.replace(kept, target)
        for each in made:
            with suppress(OSError):
                each.rmdir()
        raise


def why(error: BaseException) -> str:
    """Return why a file could not be written, in the words of the operating system where it gave a reason."""
    text = str(error)
    number = getattr(error, "errno", None)
    if rust := re.search(r"\(os error (\d+)\)", text):
        number = int(rust[1])
    if number in errno.errorcode:
        return os.strerror(number)
    # torch.save tells of a full disk by what its archive writer met.
    if isinstance(error, RuntimeError) and re.search("inline_container|iostream|PytorchStreamWriter", text):
        return "not all could be written"
    return " ".join(text.split()) or type(error).__name__


def cannot_write(path: Path, error: BaseException) -> str:
    """Return the message for a file that cannot be written."""
    return f"'{path}' cannot be written ({why(error)}): give a folder with room in which you may write."


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
        raise ValueError(f"The folder '{shown}' cannot be written to ({why(error)}); choose another.") from error
    try:
        yield
    finally:
        lock.release()


def cache_folder() -> Path:
    """Return `OSMNET_CACHE`, or the system's cache folder for osmnet.

    Raises:
        RuntimeError: If there is neither `OSMNET_CACHE` nor a home folder.
    """
    if named := os.environ.get("OSMNET_CACHE"):
        return Path(named)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "osmnet" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "osmnet"
    named = os.environ.get("XDG_CACHE_HOME")
    return (Path(named) if named and not is_lent(named) else Path.home() / ".cache") / "osmnet"
