"""Run jobs in parallel on local processes or a Ray cluster; a job whose worker dies is retried once."""

import logging
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")
KILLED = "the worker was killed each time while working on it (not enough memory?)"
ATTEMPTS_ALONE = 2  # of each job that ran when a worker died, since any of them may have killed it
# One job a core: more threads would only take turns.
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


class WorkerKilled(RuntimeError):
    """Replaces the result of a job whose workers died."""


def on_processes(
    jobs: Sequence[Job], function: Callable[[Job], Result], workers: int
) -> Iterator[tuple[Job, Result | WorkerKilled]]:
    """Run jobs on local processes.

    Args:
        jobs (sequence): Arguments of `function`.
        function (`Callable`): Module-level function, as new processes import it.
        workers (`int`): Processes.

    Yields:
        `tuple`: A job and its result, in the order in which they finish.

    Raises:
        Exception: Whatever `function` raises; no further jobs are started.
    """
    waiting = deque(jobs)
    while waiting:
        running: dict[Future[Result], Job] = {}
        suspects: list[Job] = []
        with _pool(min(workers, len(waiting))) as pool:
            try:
                while (waiting or running) and not suspects:
                    # Submit only what can run, so that a dead worker was killed by one of these.
                    while waiting and len(running) < workers:
                        running[pool.submit(function, waiting[0])] = waiting[0]
                        waiting.popleft()
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        job = running.pop(future)
                        if isinstance(future.exception(), BrokenProcessPool):
                            suspects.append(job)
                        else:
                            yield job, future.result()
            except BrokenProcessPool:  # raised by submit
                pass
            if suspects or running:
                for future, job in running.items():
                    if future.exception() is None:
                        yield job, future.result()
                    else:
                        suspects.append(job)
        for job in suspects:
            yield job, _alone(job, function)


def _alone(job: Job, function: Callable[[Job], Result]) -> Result | WorkerKilled:
    for _ in range(ATTEMPTS_ALONE):
        with _pool(1) as pool:
            try:
                return pool.submit(function, job).result()
            except BrokenProcessPool:
                continue
    return WorkerKilled(KILLED)


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    # Spawned, not forked: OpenCV's and MediaPipe's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker) as pool:
        try:
            yield pool
        except BaseException as error:
            processes = list(pool._processes.values())
            pool.shutdown(wait=False, cancel_futures=True)
            if not isinstance(error, Exception):  # Ctrl-C or SIGTERM: do not wait for the videos at work
                for process in processes:
                    process.terminate()
            raise


def _begin_worker() -> None:
    os.environ |= dict.fromkeys(_ONE_THREAD, "1")
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # on Ctrl-C, end without a traceback
    parent = multiprocessing.parent_process()
    if parent is not None:  # a worker whose run was killed would wait forever

        def leave() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=leave, daemon=True).start()


def usable_cpus() -> int:
    """Count the CPUs available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def on_ray(
    jobs: Sequence[Job], function: Callable[[Job], Result], address: str
) -> Iterator[tuple[Job, Result | WorkerKilled]]:
    """Run jobs on a Ray cluster with a shared file system.

    Args:
        jobs (sequence): As of `on_processes`.
        function (`Callable`): As of `on_processes`.
        address (`str`): `HOST:PORT` of the cluster, `auto`, or `local` for this machine alone.

    Yields:
        `tuple`: As `on_processes`.

    Raises:
        ValueError: If Ray is not installed or the cluster cannot be reached.
        Exception: As `on_processes`.
    """
    try:
        import ray
        from ray.exceptions import RayError, RayTaskError
    except ImportError as error:
        raise ValueError("--ray needs the package 'ray'; install osmnet with its extra 'scale'.") from error
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"There is no Ray cluster at '{address}' ({reason}); start one with `ray start`.") from error

    try:
        # Retried here: for any `max_retries` above 0, Ray retries out-of-memory tasks `task_oom_retries` times.
        remote = ray.remote(num_cpus=1, max_retries=0)(function)
        waiting = deque((job, 1) for job in jobs)
        running: dict[Any, tuple[Job, int]] = {}
        slots = max(int(ray.cluster_resources().get("CPU", 1)), 1)
        while waiting or running:
            while waiting and len(running) < 2 * slots:
                job, attempt = waiting.popleft()
                running[remote.remote(job)] = job, attempt
            done, _ = ray.wait(list(running), num_returns=1)
            job, attempt = running.pop(done[0])
            try:
                yield job, ray.get(done[0])
            except RayTaskError as error:
                raise error.cause if isinstance(getattr(error, "cause", None), Exception) else error from None
            except RayError:  # the worker or its node is gone
                if attempt == 1:
                    waiting.append((job, 2))
                else:
                    yield job, WorkerKilled(KILLED)
    finally:
        ray.shutdown()
