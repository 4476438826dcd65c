import multiprocessing
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest
import torch

from osmnet.utils import threads as overlap
from osmnet.utils.threads import MAX_WORKERS, default_workers, in_order


def test_results_come_in_the_order_of_the_jobs():
    def slow_first(job: int) -> int:
        time.sleep(0.02 if job % 3 == 0 else 0)
        return job * job

    assert list(in_order(slow_first, range(20), workers=4)) == [job * job for job in range(20)]
    assert list(in_order(slow_first, [], workers=2)) == []


def test_jobs_run_side_by_side():
    together = threading.Barrier(3, timeout=20)  # passes only if three jobs are under way at once
    assert list(in_order(lambda job: together.wait() >= 0, range(6), workers=3)) == [True] * 6


def test_no_more_is_begun_than_may_wait():
    """An endless row of jobs, and nobody who takes what they make."""
    begun = []
    results = in_order(lambda job: begun.append(job) or job, count(), workers=2, ahead=3)
    assert next(results) == 0
    assert settled(begun, 5) == 5  # two at work and three that wait, one of which was taken
    assert [next(results) for _ in range(4)] == [1, 2, 3, 4]
    assert settled(begun, 9) == 9
    results.close()
    assert len(begun) <= 9 and not _workers()


def test_an_error_comes_in_its_turn_and_stops_the_rest():
    begun = []

    def work(job: int) -> int:
        begun.append(job)
        if job == 2:
            raise RuntimeError("no room")
        return job

    results = in_order(work, range(1000), workers=2, ahead=2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(RuntimeError, match="no room"):
        next(results)
    assert len(begun) < 12 and not _workers()


def test_torch_uses_one_thread_in_workers_and_its_own_number_elsewhere():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert set(in_order(lambda _: torch.get_num_threads(), range(8), workers=2)) == {1}
        assert torch.get_num_threads() == 3
        seen = []
        thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert seen == [3]
        assert default_workers() == 3
        torch.set_num_threads(MAX_WORKERS + 5)
        assert default_workers() == MAX_WORKERS
    finally:
        torch.set_num_threads(before)


def settled(begun: list, expected: int) -> int:
    """How many have begun, once that many have, and others would have had the time to."""
    deadline = time.monotonic() + 30
    while len(begun) < expected and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    return len(begun)


def _workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("osmnet_")]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_process_forked_while_threads_begin_can_begin_some(monkeypatch):
    """The fork waits until they have begun, so that it finds PyTorch's number of threads as it was."""
    forking, beginning, before = multiprocessing.get_context("fork"), threading.Event(), default_workers()

    class SlowPool(ThreadPoolExecutor):
        def submit(self, *job):
            if not beginning.is_set():
                beginning.set()
                time.sleep(0.5)
            return super().submit(*job)

    monkeypatch.setattr(overlap, "ThreadPoolExecutor", SlowPool)
    numbers = forking.SimpleQueue()

    def work() -> None:
        numbers.put([default_workers(), *in_order(lambda job: job + 1, range(4), workers=2)])

    with ThreadPoolExecutor(1) as other:
        done = other.submit(lambda: list(in_order(lambda job: job, range(4), workers=2)))
        assert beginning.wait(20)
        process = forking.Process(target=work, daemon=True)
        process.start()
        assert done.result(20) == [0, 1, 2, 3]
    process.join(60)
    assert process.exitcode == 0, "it waits for ever"
    assert numbers.get() == [before, 1, 2, 3, 4]
