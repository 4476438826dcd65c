"""Finished parts of an interrupted run, which a later run resumes from.

Long takes are written in one-minute parts and then joined without encoding again: a resumed run gives the same files,
bit for bit.
"""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from osmnet.utils.files import discard, write_whole

FOLDER_NAME = ".osmnet-unfinished"
RECORD_NAME, REPLACED_NAME, LOCK_NAME = "run.json", "replaced.json", "lock"
PART_SECONDS = 60
MAX_RECORD = 2**22  # bytes
# Descriptions of record entries, in the order in which a difference is reported.
MEANINGS = {
    "take_seeds": "other seeds, or another number of takes",
    "frames": "speech of another length",
    "frame_size": "another size",
    "precision": "another precision",
    "label": "another choice of label",
    "consent": "another word on consent",
    "versions": "another version of osmnet or what it is built on",
    "inputs": "another portrait, speech, model or setting",
}


class UnfinishedRun:
    """Parts of one run, in a folder of its own.

    Args:
        takes (`Path`): The folder of the takes.
        record (`dict`): Everything the files depend on, as JSON. Runs with other records have other folders.
    """

    def __init__(self, takes: Path, record: dict[str, Any]):
        self.takes, self.record = takes, record
        key = hashlib.blake2b(json.dumps(record, sort_keys=True).encode(), digest_size=8).hexdigest()
        self.folder = takes / FOLDER_NAME / key
        self._lock = FileLock(self.folder / LOCK_NAME)

    def is_there(self) -> bool:
        """Whether an interrupted run with this record exists."""
        return (self.folder / RECORD_NAME).is_file()

    def begin(self, resume: bool, replaced: Collection[Path] = ()) -> None:
        """Lock the folder, and start over or resume.

        Args:
            resume (`bool`): Resume the run if it exists; otherwise remove its parts.
            replaced (collection of `Path`): Files of earlier takes that this run replaces.

        Raises:
            ValueError: If another process writes takes into the folder, or only other runs can be resumed.
            OSError: If the folder cannot be made.
        """
        others = [record for record in unfinished_records(self.takes) if record != self.record]
        resumed = resume and self.is_there()
        if resume and others and not resumed:
            differs = next((key for key in MEANINGS if others[0].get(key) != self.record.get(key)), "inputs")
            raise ValueError(
                f"The unfinished run in '{self.takes}' was begun with {MEANINGS[differs]}; repeat its command, or "
                "begin anew without resuming."
            )
        _sweep(self.takes / FOLDER_NAME, self.folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(self._in_use()) from None
        except OSError:
            self._remove_empty()
            raise
        for other in self.folder.parent.iterdir():
            if other != self.folder and _is_locked(other):
                self.leave()
                raise ValueError(self._in_use())
        for path in self.folder.iterdir():
            half_written = path.name.startswith(".")
            if path.name != LOCK_NAME and (half_written or not resume):
                discard(path)
        try:
            if times := {file.name: file.stat().st_mtime_ns for file in replaced}:
                write_whole(self.folder / REPLACED_NAME, json.dumps(times).encode())
            write_whole(self.folder / RECORD_NAME, (json.dumps(self.record, indent=1) + "\n").encode())
        except BaseException:
            self.leave()
            raise

    def _in_use(self) -> str:
        return f"Another process is making takes in '{self.takes}'; wait for it, or name another folder."

    def part(self, take: int, index: int) -> Path:
        """Return the path of a part; the file exists only when complete."""
        return self.folder / f"take-{take + 1}.{index:04d}.mp4"

    def parts_finished(self, takes: Sequence[int], count: int, is_whole: Callable[[Path, int], bool]) -> int:
        """Count the leading parts that all takes have.

        Args:
            takes (`Sequence[int]`): Indices of the takes.
            count (`int`): Number of parts of a take.
            is_whole (`Callable`): Called with a part's file and index; whether it is complete.
        """
        for index in range(count):
            if not all(is_whole(self.part(take, index), index) for take in takes):
                return index
        return count

    def mark_take(self, take: int, video: Path) -> None:
        """Keep the digest of a finished video, before it gets its final name."""
        write_whole(self._mark(take), _digest(video).encode())

    def remove_parts(self, take: int) -> None:
        """Remove the parts of a finished take."""
        for part in self.folder.glob(f"take-{take + 1}.*.mp4"):
            discard(part)

    def has_take(self, take: int, video: Path) -> bool:
        """Whether a video is this run's finished take."""
        mark = self._mark(take)
        return mark.is_file() and video.is_file() and mark.read_text() == _digest(video)

    def lost_take(self, take: int, video: Path) -> bool:
        """Whether a take was finished and its video is not there any more."""
        return self._mark(take).is_file() and not video.exists()

    def _mark(self, take: int) -> Path:
        return self.folder / f"take-{take + 1}.whole"

    def replaced(self, existing: Iterable[Path]) -> set[Path]:
        """Return those of the existing files that this run, when it began, was to replace."""
        times = _read(self.folder / REPLACED_NAME) or {}  # a damaged list permits nothing
        return {file for file in existing if times.get(file.name) == file.stat().st_mtime_ns}

    def leave(self) -> None:
        """Unlock the folder; remove it if nothing is finished."""
        self._lock.release()
        if not _finished(self.folder):
            self.remove()

    def remove(self) -> None:
        """Unlock and remove the folder."""
        self._lock.release()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._remove_empty()

    def _remove_empty(self) -> None:
        with contextlib.suppress(OSError):  # something is in it
            for folder in (self.folder, self.folder.parent):
                if folder.exists():
                    folder.rmdir()


def unfinished_records(takes: Path) -> list[dict[str, Any]]:
    """Return records of resumable runs in a folder, newest first."""
    files = [path for path in (takes / FOLDER_NAME).glob(f"*/{RECORD_NAME}") if _finished(path.parent)]
    records = [_read(path) for path in sorted(files, key=lambda path: path.stat().st_mtime, reverse=True)]
    return [record for record in records if record]


def _read(path: Path) -> dict[str, Any] | None:
    """Read a JSON object, `None` if there is none or it is damaged."""
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(MAX_RECORD))  # a longer one does not parse
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _finished(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return any(path.suffix in (".mp4", ".whole") and path.name[0] != "." for path in folder.iterdir())
    return False


def _sweep(folder: Path, own: Path) -> None:
    """Remove remains of killed runs that cannot be resumed."""
    for path in folder.glob("*"):
        if path != own and path.is_dir() and not _finished(path):
            with contextlib.suppress(Timeout, OSError), FileLock(path / LOCK_NAME, timeout=0):
                shutil.rmtree(path, ignore_errors=True)


def _is_locked(folder: Path) -> bool:
    if not (folder / LOCK_NAME).is_file():
        return False
    try:
        with FileLock(folder / LOCK_NAME, timeout=0):
            return False
    except Timeout:
        return True
