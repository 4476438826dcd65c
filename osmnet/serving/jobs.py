"""`Job`: work with progress that can be stopped."""

import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Generic, Self, TypeVar

POLL_SECONDS = 0.2  # s; between reports, and until a stop is noticed
STEPS = ("Portrait", "Speech", "Movement", "Pictures", "Files")
PORTRAIT, SPEECH, MOVEMENT, PICTURES, FILES = range(len(STEPS))
Result = TypeVar("Result")
Tell = Callable[[int, int], None]


@dataclass(frozen=True)
class Step:
    """Progress of a job.

    Attributes:
        index (`int`): Index in `STEPS` of the current step.
        done (`float`, *optional*): Share of this step that is done, 0 to 1.
        seconds_left (`float`, *optional*): Estimated time until the job is done, s.
    """

    index: int
    done: float | None = None
    seconds_left: float | None = None


class Job(Generic[Result]):
    """Work that reports its progress while iterated.

    Leaving a `with` block stops it.

    Args:
        work (generator): Yields steps and returns the result.

    Example:
        >>> with studio.render(draft, folder) as job:
        ...     for step in job:
        ...         print(STEPS[step.index], step.done)
        ...     takes = job.result()
    """

    def __init__(self, work: Generator[Step, None, Result]):
        self._results: list[Result] = []
        self._steps = self._collect(work)

    def _collect(self, work: Generator[Step, None, Result]) -> Generator[Step]:
        self._results.append((yield from work))

    def __iter__(self) -> Iterator[Step]:
        return self._steps

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def result(self) -> Result:
        """Finish the work and return its result.

        Raises:
            RuntimeError: If the job was stopped or has failed before.
        """
        for _ in self._steps:
            pass
        if not self._results:
            raise RuntimeError("The job ended without a result; start another one.")
        return self._results[0]

    def stop(self) -> None:
        """Stop the work and wait until it has stopped."""
        self._steps.close()


class _StoppedError(Exception):
    """Ends the thread of a stopped job."""


def in_background(
    work: Callable[[Tell], Result], step_at: Callable[[float, float | None], Step]
) -> Generator[Step, None, Result]:
    """Do work in a thread; closing the generator stops it.

    Args:
        work (`Callable`): Called with `tell(done, total)`, which it must call as it advances; when the job is stopped,
            `tell` raises.
        step_at (`Callable`): Makes a step from the share done and the estimated seconds left.

    Yields:
        `Step`: Several a second.

    Returns:
        Result of `work`.

    Raises:
        Exception: Any exception of `work`.
    """
    told: SimpleQueue[tuple[int, int]] = SimpleQueue()
    stopped = threading.Event()
    results: list[Result] = []
    errors: list[BaseException] = []

    def tell(done: int, total: int) -> None:
        if stopped.is_set():
            raise _StoppedError
        told.put((done, total))

    def run() -> None:
        try:
            results.append(work(tell))
        except BaseException as error:  # raised again in the thread that waits
            errors.append(error)

    thread = threading.Thread(target=run, name="job")
    began, done, total = time.monotonic(), 0, 1
    thread.start()
    try:
        while thread.is_alive():
            with suppress(Empty):
                done, total = told.get(timeout=POLL_SECONDS)
                while True:  # only the latest counts
                    done, total = told.get_nowait()
            spent = time.monotonic() - began
            yield step_at(done / total, spent * (total - done) / done if done and spent > 1 else None)
            thread.join(POLL_SECONDS / 2)
    finally:
        stopped.set()
        thread.join()
    if errors:
        raise errors[0]
    return results[0]
