"""`DiskBudget`: disk limit of a service."""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from osmnet.serving.inputs import RefusedInputError


class DiskBudget:
    """Disk limit for uploads and results.

    Args:
        folders (sequence of `Path`): Folders to count, recursively.
        max_mb (`int`): Limit, MB.
        passing (sequence of `Path`): Further folders, whose files are removed after `keep_seconds`.
        keep_seconds (`float`): Age of a file at which it is removed, s.
    """

    def __init__(
        self, folders: Sequence[Path], max_mb: int, passing: Sequence[Path] = (), keep_seconds: float = 3600.0
    ):
        self.folders = list(folders)
        self.max_mb = max_mb
        self.passing = list(passing)
        self.keep_seconds = keep_seconds

    def used_mb(self) -> float:
        """Total file size, MB; removes files that are too old."""
        total, oldest = 0, time.time() - self.keep_seconds
        for folder in (*self.folders, *self.passing):
            for parent, _, files in os.walk(folder):  # which passes over folders that are removed meanwhile
                for path in (os.path.join(parent, name) for name in files):
                    with suppress(OSError):
                        stat = os.stat(path)
                        if folder in self.passing and stat.st_mtime < oldest:
                            os.unlink(path)
                        else:
                            total += stat.st_size
        return total / 2**20

    def check(self) -> None:
        """Refuse if the limit is reached.

        Raises:
            RefusedInputError: If the limit is reached.
        """
        if self.used_mb() >= self.max_mb:
            raise RefusedInputError("takes", "The server has no room for more results now; try again in some minutes.")
