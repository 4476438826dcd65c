"""Memory available to this process."""

from contextlib import suppress
from pathlib import Path

LIMIT, USED = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")  # of a container (cgroup v2)


def available_bytes() -> int:
    """Return the bytes left on the machine, or in its container."""
    import psutil

    available = int(psutil.virtual_memory().available)
    with suppress(OSError, ValueError):  # no container, or "max"
        available = min(available, int(LIMIT.read_text()) - int(USED.read_text()))
    return available


def readable_size(count: float) -> str:
    """Format a number of bytes, as in "1.3 GB"."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
