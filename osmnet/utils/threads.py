"""Jobs on worker threads whose results come in order, a few ahead of the consumer.

A job is single-threaded inside: jobs side by side keep all processors busy without waiting for one another, and
results do not depend on the number of threads.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Job = TypeVar("Job")
Result = TypeVar("Result")
MAX_WORKERS = 8  # threads; each holds a chunk of frames, and encoding runs beside them
_NAME = "osmnet"
_SETTING_THREADS = threading.Lock()  # PyTorch's number of threads belongs to the process while threads start
if hasattr(os, "register_at_fork"):  # a process forked meanwhile would wait for the lock for ever
    os.register_at_fork(
        before=_SETTING_THREADS.acquire,
        after_in_parent=_SETTING_THREADS.release,
        after_in_child=_SETTING_THREADS.release,
    )


def default_workers() -> int:
    """Return how many jobs run side by side: PyTorch's number of threads (`torch.set_num_threads`), at most 8."""
    with _SETTING_THREADS:
        return max(1, min(torch.get_num_threads(), MAX_WORKERS))


def on_worker() -> bool:
    """Whether this is a worker thread."""
    return threading.current_thread().name.startswith(_NAME)


def in_order(
    function: Callable[[Job], Result], jobs: Iterable[Job], workers: int | None = None, ahead: int = 2
) -> Generator[Result]:
    """Run jobs on worker threads and yield their results in the order of the jobs.

    Args:
        function (`Callable`): Does a job.
        jobs (iterable): Taken one by one as there is room, so it may be endless.
        workers (`int`, *optional*): Number of threads; `default_workers()` if not given.
        ahead (`int`): Number of results that may wait for the consumer before jobs stop starting.

    Yields:
        Results of `function`.

    Raises:
        Exception: Raised by `function`, in its job's turn. Jobs that have not begun are dropped then, as they are when
            the iterator is closed; running ones are waited for.
    """
    workers = default_workers() if workers is None else workers
    waiting: deque[Future[Result]] = deque()
    pool = _pool(workers)
    try:
        for job in jobs:
            waiting.append(pool.submit(function, job))
            if len(waiting) >= workers + ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        # An abandoned iterator may be collected within one of its own threads, which cannot wait for itself.
        pool.shutdown(wait=not on_worker(), cancel_futures=True)


def _pool(workers: int) -> ThreadPoolExecutor:
    """Start threads in which PyTorch uses no further threads."""
    with _SETTING_THREADS:
        everywhere = torch.get_num_threads()
        pool = ThreadPoolExecutor(workers, thread_name_prefix=_NAME)
        all_here = threading.Barrier(workers)

        def begin() -> None:
            torch.get_num_threads()  # gives this thread the process's number, once, ...
            torch.set_num_threads(1)  # ... and this its own, but also that of threads to come, hence the reset below
            all_here.wait()

        try:
            for begun in [pool.submit(begin) for _ in range(workers)]:
                begun.result()
        except BaseException:  # started threads would wait for the others for ever
            all_here.abort()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        finally:
            torch.set_num_threads(everywhere)
        return pool


def set_threads(count: int | None) -> None:
    """Set PyTorch's number of CPU threads; `None` leaves it.

    Raises:
        ValueError: If `count` is below 1.
    """
    if count is None:
        return
    if count < 1:
        raise ValueError(f"--threads must be at least 1, not {count}.")
    import torch

    torch.set_num_threads(count)
