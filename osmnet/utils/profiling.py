"""Where the time of a call goes, stage by stage, over all threads."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

_active: "Profile | None" = None


@dataclass
class Stage:
    """What one stage took.

    Attributes:
        calls (`int`): How often it ran.
        wall (`float`): Seconds from begin to end, added up over all threads.
        cpu (`float`): Seconds of processor time of the threads that ran it (not of threads that they used).
    """

    calls: int = 0
    wall: float = 0.0
    cpu: float = 0.0


class Profile:
    """Collects the time of every `stage` that runs while its block does, in whichever thread.

    A context manager; one at a time in a process. Stages do not overlap within a thread, so their processor times add
    up; on a GPU, work is only counted where its result is waited for.

    Example:
        >>> with Profile() as profile:
        ...     pipe("portrait.jpg", "speech.wav", output_type="lazy").save("out/")
        >>> print(profile.table(frames=250))
    """

    def __init__(self) -> None:
        """Begin with no stage."""
        self.stages: dict[str, Stage] = {}
        self.seconds = 0.0  # of the whole block
        self._lock = threading.Lock()

    def __enter__(self) -> "Profile":
        """Begin to collect."""
        global _active
        if _active is not None:
            raise RuntimeError("Another profile is being taken in this process; end it first.")
        _active = self
        self._begin, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: Any) -> None:
        """End."""
        global _active
        _active, self.seconds = None, time.perf_counter() - self._begin
        # Threads of libraries (of the encoder, above all), and what lies between the stages.
        others = time.process_time() - self._cpu - sum(stage.cpu for stage in self.stages.values())
        self.add("all the rest", self.seconds, max(others, 0.0))

    def add(self, name: str, wall: float, cpu: float) -> None:
        """Count one run of a stage."""
        with self._lock:
            stage = self.stages.setdefault(name, Stage())
            stage.calls, stage.wall, stage.cpu = stage.calls + 1, stage.wall + wall, stage.cpu + cpu

    def as_dict(self, frames: int) -> dict[str, Any]:
        """Put into JSON's types; `frames` is how many were made, of all takes together."""
        stages = {
            name: {"calls": s.calls, "wall_s": s.wall, "cpu_s": s.cpu, "cpu_ms_per_frame": 1000 * s.cpu / frames}
            for name, s in self.stages.items()
        }
        return {"seconds": self.seconds, "frames": frames, "fps": frames / self.seconds, "stages": stages}

    def table(self, frames: int) -> str:
        """Draw as text: a line a stage in the order in which they first ended."""
        total = sum(stage.cpu for stage in self.stages.values()) or 1.0
        lines = [f"{'stage':<18}{'calls':>7}{'wall s':>9}{'cpu s':>9}{'ms/frame':>10}{'share':>7}"]
        for name, s in self.stages.items():
            share = s.cpu / total
            bar = "▇" * round(20 * share)
            figures = f"{s.calls:>7}{s.wall:>9.2f}{s.cpu:>9.2f}{1000 * s.cpu / frames:>10.2f}{share:>7.0%}"
            lines.append(f"{name:<18}{figures} {bar}".rstrip())
        per_frame = 1000 * total / frames
        lines.append(f"{'all':<18}{'':>7}{'':>9}{total:>9.2f}{per_frame:>10.2f}{1:>7.0%}")
        lines.append(f"{frames} frames in {self.seconds:.2f} s: {frames / self.seconds:.1f} a second.")
        return "\n".join(lines)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Count what the block takes towards a stage of the profile that is being taken, if one is."""
    profile = _active
    if profile is None:
        yield
        return
    wall, cpu = time.perf_counter(), time.thread_time()
    try:
        yield
    finally:
        profile.add(name, time.perf_counter() - wall, time.thread_time() - cpu)
