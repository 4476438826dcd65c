"""`Workspace`: a temporary folder that is removed even if its process is killed, by the next one that starts."""

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: nothing is swept there
    fcntl = None  # type: ignore[assignment]


class Workspace:
    """A new folder among the temporary files, with a locked file beside it, named after it.

    Args:
        prefix (`str`): Begin of its name.

    Attributes:
        folder (`Path`): The folder.
    """

    def __init__(self, prefix: str):
        self._owner = os.getpid()
        while True:
            self._lock = tempfile.NamedTemporaryFile(prefix=prefix, suffix=".lock", delete=False)  # noqa: SIM115
            if fcntl is not None:
                fcntl.flock(self._lock, fcntl.LOCK_EX)
            if os.path.exists(self._lock.name):
                break
            self._lock.close()  # swept by another process before it was locked
        self.folder = Path(self._lock.name).with_suffix("")
        self.folder.mkdir(mode=0o700)

    def remove(self) -> None:
        """Remove the folder; in a forked process, which shares it with its parent, do nothing."""
        if os.getpid() != self._owner:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        Path(self._lock.name).unlink(missing_ok=True)
        self._lock.close()


def sweep(prefix: str) -> list[Path]:
    """Remove the workspaces of processes that ended without removing them.

    Args:
        prefix (`str`): Begin of their names.

    Returns:
        `list[Path]`: Folders that were removed.
    """
    swept: list[Path] = []
    if fcntl is None:
        return swept
    for lock in Path(tempfile.gettempdir()).glob(f"{prefix}*.lock"):
        with suppress(OSError), lock.open("rb") as file:  # of a process that runs, or of another user
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink()
            swept.append(lock.with_suffix(""))
    return swept
