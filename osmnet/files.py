"""Files that are written whole: each appears under its name only when it is whole."""

import secrets
import tempfile
from pathlib import Path


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
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        raise ValueError(f"'{path}' cannot be written ({error.strerror}); choose another folder.") from error
    finally:
        temporary.unlink(missing_ok=True)
