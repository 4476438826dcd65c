"""Work for the workers of `test_data_prepare.py`; apart from it, so that they need not import all that it does."""

import os
import signal
from pathlib import Path


def work(job: tuple[str, Path]) -> dict[str, int]:
    """Do what the job's name says; the folder remembers."""
    kind, folder = job
    if kind == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "dies once" and not (folder / "died").exists():
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "full":
        raise OSError("no room")
    return {"letters": len(kind)}
