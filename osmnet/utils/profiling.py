"""Wall-clock and CPU time by named spans, over all threads."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

_active: "Profile | None" = None


@dataclass
class Span:
    """Totals of one span.

    Attributes:
        calls (`int`): Number of runs.
        wall (`float`): Wall-clock time in seconds, summed over all threads.
        cpu (`float`): CPU time in seconds of the threads that ran it, without threads of libraries.
    """

    calls: int = 0
    wall: float = 0.0
    cpu: float = 0.0


class Profile:
    """Collect the time of every `span` in a `with` block, over all threads.

    One at a time in a process; spans do not nest. GPU work counts where its result is awaited.

    Example:
        >>> with Profile() as profile:
        ...     pipe("portrait.jpg", "speech.wav", output_type="lazy").save("out/")
        >>> print(profile.table(frames=250))
    """

    def __init__(self) -> None:
        self.spans: dict[str, Span] = {}
        self.seconds = 0.0  # of the whole block
        self._lock = threading.Lock()

    def __enter__(self) -> "Profile":
        global _active
        if _active is not None:
            raise RuntimeError("Another profile is being taken in this process; end it first.")
        _active = self
        self._begin, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: Any) -> None:
        global _active
        _active, self.seconds = None, time.perf_counter() - self._begin
        # Threads of libraries (most of all of the video encoder), and code between the spans.
        others = time.process_time() - self._cpu - sum(span.cpu for span in self.spans.values())
        self.add("all the rest", self.seconds, max(others, 0.0))

    def add(self, name: str, wall: float, cpu: float) -> None:
        """Count one run of a span."""
        with self._lock:
            entry = self.spans.setdefault(name, Span())
            entry.calls, entry.wall, entry.cpu = entry.calls + 1, entry.wall + wall, entry.cpu + cpu

    def as_dict(self, frames: int) -> dict[str, Any]:
        """Convert to JSON types; `frames` counts all takes."""
        spans = {
            name: {"calls": s.calls, "wall_s": s.wall, "cpu_s": s.cpu, "cpu_ms_per_frame": 1000 * s.cpu / frames}
            for name, s in self.spans.items()
        }
        return {"seconds": self.seconds, "frames": frames, "fps": frames / self.seconds, "spans": spans}

    def table(self, frames: int) -> str:
        """Format as text, one line a span."""
        total = sum(span.cpu for span in self.spans.values()) or 1.0
        lines = [f"{'span':<18}{'calls':>7}{'wall s':>9}{'cpu s':>9}{'ms/frame':>10}{'share':>7}"]
        for name, s in self.spans.items():
            share = s.cpu / total
            bar = "▇" * round(20 * share)
            figures = f"{s.calls:>7}{s.wall:>9.2f}{s.cpu:>9.2f}{1000 * s.cpu / frames:>10.2f}{share:>7.0%}"
            lines.append(f"{name:<18}{figures} {bar}".rstrip())
        per_frame = 1000 * total / frames
        lines.append(f"{'all':<18}{'':>7}{'':>9}{total:>9.2f}{per_frame:>10.2f}{1:>7.0%}")
        lines.append(f"{frames} frames in {self.seconds:.2f} s: {frames / self.seconds:.1f} a second.")
        return "\n".join(lines)


@contextmanager
def span(name: str) -> Iterator[None]:
    """Time a block as a span of the active profile, if any."""
    profile = _active
    if profile is None:
        yield
        return
    wall, cpu = time.perf_counter(), time.thread_time()
    try:
        yield
    finally:
        profile.add(name, time.perf_counter() - wall, time.thread_time() - cpu)
