"""Jobs on worker threads whose results come in order, a few ahead of the consumer.

A job is single-threaded inside: jobs side by side keep all processors busy without waiting for one another, and
results do not depend on the number of threads.

A forked child renders, too. GNU OpenMP, with which PyTorch computes on Linux, remembers in the thread that forks the
threads that its parent had, and waits for them in the child for ever. There that thread computes alone; threads that
start later have none to remember, so workers are as many as in the parent.
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
Value = TypeVar("Value")
MAX_WORKERS = 8  # threads; each holds a chunk of frames, and encoding runs beside them
_NAME = "osmnet"
_SETTING_THREADS = threading.Lock()  # PyTorch's number of threads belongs to the process while threads start
_forked_thread: int | None = None  # in a forked child: the thread that forked


def default_workers() -> int:
    """Return how many jobs run side by side: PyTorch's number of threads (`torch.set_num_threads`), at most 8."""
    with _SETTING_THREADS:
        return max(1, min(_num_threads(), MAX_WORKERS))


def _on_new_thread(function: Callable[[], Value]) -> Value:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def _num_threads() -> int:
    """Return PyTorch's number of threads; in the thread that forked, the number that it has on other threads."""
    if threading.get_ident() == _forked_thread:
        return _on_new_thread(torch.get_num_threads)
    return torch.get_num_threads()


def _set_num_threads(count: int) -> None:
    if threading.get_ident() == _forked_thread:
        torch.set_num_threads(1)
        _on_new_thread(lambda: torch.set_num_threads(count))  # the number of threads to come
    else:
        torch.set_num_threads(count)


def _after_fork_in_child() -> None:
    global _forked_thread
    try:
        _forked_thread = threading.get_ident()
        _set_num_threads(_num_threads())
    finally:
        _SETTING_THREADS.release()


if hasattr(os, "register_at_fork"):  # a process forked while threads start would wait for the lock for ever
    os.register_at_fork(
        before=_SETTING_THREADS.acquire,
        after_in_parent=_SETTING_THREADS.release,
        after_in_child=_after_fork_in_child,
    )


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
        RuntimeError: In a forked child, of an iterator that its parent had begun.
    """
    workers = default_workers() if workers is None else workers
    waiting: deque[Future[Result]] = deque()
    pool, process = _pool(workers), os.getpid()
    try:
        for job in jobs:
            waiting.append(pool.submit(function, job))
            if len(waiting) >= workers + ahead:
                yield waiting.popleft().result()
                _check_process(process)
        while waiting:
            yield waiting.popleft().result()
            _check_process(process)
    finally:
        # An abandoned iterator may be collected within one of its own threads, which cannot wait for itself.
        pool.shutdown(wait=not on_worker(), cancel_futures=True)


def _check_process(process: int) -> None:
    if os.getpid() != process:  # the threads at work are the parent's
        raise RuntimeError("This rendering was begun before the process was forked; begin it again in this process.")


def _pool(workers: int) -> ThreadPoolExecutor:
    """Start threads in which PyTorch uses no further threads."""
    with _SETTING_THREADS:
        everywhere = _num_threads()
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
            _set_num_threads(everywhere)
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
    _set_num_threads(count)
