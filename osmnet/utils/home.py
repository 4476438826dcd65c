"""Users without a home folder, as in some containers."""

import atexit
import os
import shutil
import tempfile
from contextlib import suppress

_PREFIX = "osmnet-no-home-"


def has_home() -> bool:
    """Whether the system knows a home folder of this user."""
    return os.path.expanduser("~") != "~"


def lend_caches() -> None:
    """Give libraries a cache folder that lasts as long as this process, if there is no home folder.

    Numba would otherwise write to a folder `~` in the working folder, and librosa cannot be imported.
    """
    missing = [name for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME") if not os.environ.get(name)]
    if has_home() or not missing:
        return
    with suppress(OSError):  # no temporary folder either
        folder = tempfile.mkdtemp(prefix=_PREFIX)
        os.environ |= dict.fromkeys(missing, folder)
        atexit.register(_remove, folder, os.getpid())


def is_lent(folder: str) -> bool:
    """Whether a cache folder is from `lend_caches`."""
    return os.path.basename(folder).startswith(_PREFIX)


def _remove(folder: str, process: int) -> None:
    if os.getpid() == process:  # not a fork
        shutil.rmtree(folder, ignore_errors=True)
