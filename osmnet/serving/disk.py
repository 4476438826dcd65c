"""`DiskBudget`: disk limit of a service."""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from osmnet.serving.inputs import RefusedInputError


class DiskBudget:
    """Disk limit for uploads and results.

    Args:
        folders (sequence of `Path`): Folders to count, recursively.
        max_mb (`int`): Limit, MB.
    """

    def __init__(self, folders: Sequence[Path], max_mb: int):
        self.folders = list(folders)
        self.max_mb = max_mb

    def used_mb(self) -> float:
        """Total file size, MB."""
        total = 0
        for folder in self.folders:
            for parent, _, files in os.walk(folder):  # which passes over folders that are removed meanwhile
                for name in files:
                    with suppress(OSError):
                        total += os.stat(os.path.join(parent, name)).st_size
        return total / 2**20

    def check(self) -> None:
        """Refuse if the limit is reached.

        Raises:
            RefusedInputError: If the limit is reached.
        """
        if self.used_mb() >= self.max_mb:
            raise RefusedInputError("takes", "The server has no room for more results now; try again in some minutes.")
