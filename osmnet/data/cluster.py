"""Many jobs at a time: on the processes of this machine, or on a Ray cluster.

A worker that is killed (most often for want of memory) takes nothing with it but its job, which is tried again.
"""

import logging
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")
KILLED = "the worker was killed each time while working on it (not enough memory?)"
# Side by side one cannot tell whose job killed a worker, nor whether the other had begun: alone one can.
ATTEMPTS_ALONE = 2
# One job a core: more threads inside a job would only take turns.
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


class WorkerKilled(RuntimeError):
    """What takes the place of a result where workers died of a job again and again."""


def on_processes(
    jobs: Sequence[Job], function: Callable[[Job], Result], workers: int
) -> Iterator[tuple[Job, Result | WorkerKilled]]:
    """Run jobs on processes of this machine.

    Args:
        jobs (sequence): What to do.
        function (`Callable`): Does it; of a module, since it is named to new processes.
        workers (`int`): Processes.

    Yields:
        `tuple`: A job and its result, in the order in which they end.

    Raises:
        Exception: What `function` raises; the other jobs are not begun.
    """
    waiting = deque(jobs)
    while waiting:
        running: dict[Future[Result], Job] = {}
        suspects: list[Job] = []
        with _pool(min(workers, len(waiting))) as pool:
            try:
                while (waiting or running) and not suspects:
                    # No more are handed out than can run, so that those at hand are all that may have killed a worker.
                    while waiting and len(running) < workers:
                        running[pool.submit(function, waiting[0])] = waiting[0]
                        waiting.popleft()
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        job = running.pop(future)
                        if isinstance(future.exception(), BrokenProcessPool):
                            suspects.append(job)
                        else:
                            yield job, future.result()
            except BrokenProcessPool:  # by handing out
                pass
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
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


def _pool(workers: int) -> ProcessPoolExecutor:
    # Spawned, not forked: OpenCV's and MediaPipe's threads do not survive a fork.
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_begin_worker)


def _begin_worker() -> None:
    os.environ |= dict.fromkeys(_ONE_THREAD, "1")
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches workers, too: they end without a traceback each
    parent = multiprocessing.parent_process()
    if parent is not None:  # a worker whose run was killed would wait for work for ever

        def leave() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=leave, daemon=True).start()


def usable_cpus() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def on_ray(
    jobs: Sequence[Job], function: Callable[[Job], Result], address: str
) -> Iterator[tuple[Job, Result | WorkerKilled]]:
    """Run jobs on a Ray cluster; every node must have osmnet and see the same files under the same paths.

    Args:
        jobs (sequence): What to do.
        function (`Callable`): Does it.
        address (`str`): Of the cluster: `HOST:PORT`, `auto`, or `local` for one of this machine alone.

    Yields:
        `tuple`: A job and its result, in the order in which they end.

    Raises:
        ValueError: If Ray is not installed or the cluster cannot be reached.
        Exception: What `function` raises; the other jobs are not begun.
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
