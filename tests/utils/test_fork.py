"""A process forked after use renders like its parent, or says in one sentence why it cannot."""

import os
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here"),
]

# Every child is killed after a while: one that waits for ever fails its test and leaves nothing behind.
PRELUDE = """
import multiprocessing, os, signal, sys, threading
import numpy as np
import torch
from osmnet import OSMNetPipeline
from osmnet.face.landmarker import FaceLandmarker
from osmnet.loading.packaged import packaged_landmarker
from osmnet.media.image import load_portrait
from osmnet.utils.threads import default_workers, in_order

THREADS = 4
torch.set_num_threads(THREADS)
portrait = sys.argv[1]
speech = 0.1 * np.random.default_rng(0).standard_normal(16_000).astype(np.float32)

def render(pipe):
    return pipe(portrait, speech, sampling_rate=16_000, num_videos=2, seed=1, size=64).frames

def in_child(function, seconds=60):
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        signal.alarm(seconds)
        function()
        sys.exit()  # as workers end, with all that is done at exit
    assert os.waitpid(child, 0)[1] == 0, "the child failed or waited for ever"

def on_new_thread(function):
    values = []
    thread = threading.Thread(target=lambda: values.append(function()))
    thread.start()
    thread.join()
    return values[0]
"""

CASES = {
    "pipeline that was warmed up, as by gunicorn --preload": """
pipe = OSMNetPipeline.tiny(speech_encoder=True)
pipe.warm_up()

def work():
    frames = render(pipe)
    in_child(lambda: np.testing.assert_array_equal(render(pipe), frames))  # of a child of a child

in_child(work)
render(pipe)  # the parent goes on
""",
    "pipeline that was used, in processes of multiprocessing": """
pipe = OSMNetPipeline.tiny(speech_encoder=True)
frames = render(pipe)

def work(number):
    signal.alarm(60)
    return np.array_equal(render(pipe), frames)

forking = multiprocessing.get_context("fork")
with forking.Pool(2) as pool:
    assert pool.map_async(work, range(2), chunksize=1).get(120) == [True, True]
""",
    "number of threads": """
large = torch.ones(1000, 1000)
large @ large  # starts OpenMP's threads

def work():
    assert torch.get_num_threads() == 1  # of the thread that forked; those that it had are gone
    assert default_workers() == on_new_thread(torch.get_num_threads) == THREADS
    assert (large @ large == 1000).all() and on_new_thread(lambda: (large @ large == 1000).all())
    assert set(in_order(lambda _: torch.get_num_threads(), range(6))) == {1}
    assert torch.get_num_threads() == 1 and default_workers() == THREADS
    torch.set_num_threads(1)
    assert default_workers() == 1

in_child(work)
assert torch.get_num_threads() == default_workers() == THREADS
""",
    "iterator that the parent had begun": """
results = in_order(lambda job: job, range(100), workers=2)
assert next(results) == 0

def work():
    try:
        next(results)
    except RuntimeError as error:
        assert str(error).startswith("Rendering was begun before this process was forked."), error
    else:
        raise AssertionError("not refused")
    assert list(in_order(lambda job: job, range(4), workers=2)) == [0, 1, 2, 3]

in_child(work)
in_child(lambda: None)  # drops the iterator
assert list(results) == list(range(1, 100))
""",
    "landmarker that the parent had built": """
picture = load_portrait(portrait)
landmarker = FaceLandmarker(packaged_landmarker())
faces = landmarker.detect(picture)

def work():
    try:
        landmarker.detect(picture)
    except RuntimeError as error:
        assert str(error).startswith("This face landmarker was built before the process was forked."), error
    else:
        raise AssertionError("not refused")
    landmarker.close()
    with FaceLandmarker(packaged_landmarker()) as own:
        np.testing.assert_array_equal(own.detect(picture), faces)

in_child(work)
in_child(lambda: None)  # never closes it
np.testing.assert_array_equal(landmarker.detect(picture), faces)
""",
}


@pytest.mark.parametrize("case", CASES)
def test_a_forked_process_can_use(subprocess_environment, repository, case):
    portrait = repository / "examples" / "portrait_astronaut.jpg"
    command = [sys.executable, "-P", "-c", PRELUDE + CASES[case], str(portrait)]
    done = subprocess.run(command, env=subprocess_environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr


def test_stderr_of_a_process_forked_while_it_is_redirected(subprocess_environment):
    code = """
import os, threading
from osmnet.face import landmarker

hidden, forked = threading.Event(), threading.Event()

def hide():
    with landmarker._native_notices_hidden():
        hidden.set()
        forked.wait(0.5)

thread = threading.Thread(target=hide)
thread.start()
hidden.wait()
child = os.fork()
if child == 0:
    os.write(2, b"heard")
    os._exit(0)
forked.set()
thread.join()
os.waitpid(child, 0)
"""
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, env=subprocess_environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "heard")
