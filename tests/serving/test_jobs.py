"""Jobs: progress, results, stopping."""

import threading

import pytest

from osmnet.serving.jobs import FILES, PICTURES, PORTRAIT, SPEECH, Job, Step, in_background


def step_at(done, seconds_left):
    return Step(PICTURES, done, seconds_left) if done < 1 else Step(FILES)


def test_a_job_yields_its_steps_and_keeps_its_result():
    def work():
        yield Step(PORTRAIT)
        yield Step(SPEECH)
        return "made"

    job = Job(work())
    assert [step.index for step in job] == [PORTRAIT, SPEECH]
    assert job.result() == job.result() == "made"
    assert list(job) == []
    assert Job(work()).result() == "made"


def test_a_job_that_is_left_is_stopped():
    closed = []

    def work():
        try:
            yield Step(PORTRAIT)
            yield Step(SPEECH)
        finally:
            closed.append(True)

    with Job(work()) as job:
        next(iter(job))
    assert closed == [True]
    with pytest.raises(RuntimeError, match="without a result"):
        job.result()


def test_an_error_of_the_work_is_raised():
    def work():
        yield Step(PORTRAIT)
        raise ValueError("broken")

    job = Job(work())
    with pytest.raises(ValueError, match="broken"):
        job.result()
    with pytest.raises(RuntimeError, match="without a result"):
        job.result()


def test_background_work_reports_progress_and_returns_its_result():
    reported = threading.Event()

    def work(tell):
        tell(1, 2)
        reported.wait(10)
        tell(2, 2)
        return threading.current_thread().name

    job = Job(in_background(work, step_at))
    steps = []
    for step in job:
        steps.append(step)
        if step.done == 0.5:
            reported.set()
    assert Step(PICTURES, 0.5) in steps
    assert [step.index for step in steps] == sorted(step.index for step in steps)
    assert job.result() == "job"


def test_background_work_stops_at_its_next_report():
    stopped, ended = threading.Event(), threading.Event()

    def work(tell):
        tell(0, 2)
        assert stopped.wait(10)
        try:
            while True:  # until it is stopped
                tell(1, 2)
        finally:
            ended.set()

    job = Job(in_background(work, step_at))
    next(iter(job))
    threading.Timer(0.1, stopped.set).start()
    job.stop()
    assert ended.is_set()


def test_an_error_of_background_work_is_raised():
    def work(tell):
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        Job(in_background(work, step_at)).result()
