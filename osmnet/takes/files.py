"""File names of takes."""

import re
from pathlib import Path

TAKE_FILE = re.compile(r"take-\d+\.(mp4|json|webp|gif)|sheet\.png")


class TakeFiles:
    """File names of a run: a folder of takes, or one video file.

    Args:
        path (`Path`): Folder, or file `*.mp4`.
        count (`int`): Number of takes.

    Raises:
        ValueError: If several takes are to go into one file.
    """

    def __init__(self, path: Path, count: int):
        self.is_file = path.suffix.lower() == ".mp4"
        if self.is_file and count != 1:
            raise ValueError(f"'{path.name}' is one file, and there are {count} takes; name a folder.")
        self.path = path
        self.folder = path.parent if self.is_file else path

    def video(self, take: int) -> Path:
        """Return a take's video path."""
        return self.path if self.is_file else self.folder / f"take-{take + 1}.mp4"

    def beside(self, take: int, suffix: str) -> Path:
        """Return a path beside a take's video."""
        return self.video(take).with_suffix(suffix)

    def existing(self) -> list[Path]:
        """Return the take files that exist."""
        if self.is_file:
            return [self.path] if self.path.exists() else []
        return taken(self.folder)


def taken(folder: Path) -> list[Path]:
    """Return the take files in a folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if TAKE_FILE.fullmatch(path.name) and path.is_file())


def free_folder(folder: Path) -> Path:
    """Return the first of `out`, `out-2`, ... without takes."""
    number, free = 1, folder
    while taken(free) or free.is_file():
        number += 1
        free = folder.with_name(f"{folder.name}-{number}")
    return free
