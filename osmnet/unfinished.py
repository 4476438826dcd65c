"""What a long run has finished when it is killed: whole parts of its takes, for a later run to go on from.

Long takes are written in parts of a minute, in a folder of their own beside the takes; when all parts of a take are
there they are joined, without being encoded again, and removed. A run that goes on thus makes the same files, bit for
bit, as one that was never stopped.
"""

import contextlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FOLDER_NAME = ".osmnet-unfinished"
RECORD_NAME = "run.json"
PART_SECONDS = 60


class UnfinishedRun:
    """The parts of one run, in a folder beside its takes.

    Args:
        folder (`Path`): The folder of the takes.
    """

    def __init__(self, folder: Path):
        self.folder = folder / FOLDER_NAME

    @property
    def record(self) -> dict[str, Any] | None:
        """What the run was begun with; `None` if there is no unfinished run."""
        try:
            record = json.loads((self.folder / RECORD_NAME).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return record if isinstance(record, dict) else None

    def begin(self, record: dict[str, Any], resume: bool) -> None:
        """Begin the run anew, or go on with the one that is there.

        Args:
            record (`dict`): What the files depend on, as JSON has it.
            resume (`bool`): Go on if there is an unfinished run; else it is removed.

        Raises:
            ValueError: If the unfinished run was begun with something else.
            OSError: If the folder cannot be written.
        """
        found = self.record if resume else None
        if found is not None and found != json.loads(json.dumps(record)):
            raise ValueError(
                f"The unfinished run in '{self.folder.parent}' was begun with other inputs, settings or versions; "
                "repeat its own, or begin anew without resuming."
            )
        if found is None:
            self.remove()
            self.folder.mkdir(parents=True)
            temporary = self.folder / f".{RECORD_NAME}.part"
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            temporary.replace(self.folder / RECORD_NAME)

    def part(self, take: int, index: int) -> Path:
        """File of a part; it is there only when it is whole."""
        return self.folder / f"take-{take + 1}.{index:04d}.mp4"

    def parts_finished(self, takes: Sequence[int], count: int) -> int:
        """How many of `count` parts all the takes have, from the first on."""
        finished = (all(self.part(take, index).is_file() for take in takes) for index in range(count))
        return next((index for index, whole in enumerate(finished) if not whole), count)

    def finish_take(self, take: int) -> None:
        """Remember that a take is whole, and remove its parts."""
        (self.folder / f"take-{take + 1}.whole").touch()
        for part in self.folder.glob(f"take-{take + 1}.*.mp4"):
            part.unlink(missing_ok=True)

    def has_take(self, take: int) -> bool:
        """Whether this run has finished a take."""
        return (self.folder / f"take-{take + 1}.whole").is_file()

    def leave(self) -> None:
        """Remove the folder unless there is something finished in it to go on from."""
        with contextlib.suppress(OSError):
            if not any(path.suffix in (".mp4", ".whole") and path.name[0] != "." for path in self.folder.iterdir()):
                self.remove()

    def remove(self) -> None:
        """Remove the folder; nothing happens if there is none."""
        shutil.rmtree(self.folder, ignore_errors=True)
