"""The page on a Space that lends a GPU for the length of a call, see `lent_gpu/spaces.py`."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from PIL import Image

from osmnet.provenance.verify import verify
from tests.support.dummies import portrait, speech, write_wav

pytestmark = pytest.mark.integration
gradio_client = pytest.importorskip("gradio_client", reason="needs the extra 'demo'")
STAND_IN = Path(__file__).resolve().parents[1] / "support" / "lent_gpu"
PATIENCE = 120  # s; nothing takes so long on an idle machine


@pytest.fixture
def space(tiny_folder, subprocess_environment, repository, tmp_path):
    """The page in a process of its own: its address and the folder for temporary files."""
    # Not within `tmp_path`: PyTorch hands tensors to the forked process through a socket in this folder, and the path
    # of a socket has 107 characters at most; pytest-xdist's folders are too deep.
    temporary = Path(tempfile.mkdtemp(prefix="space-"))
    path = os.pathsep.join([str(STAND_IN), str(repository), subprocess_environment["PYTHONPATH"]])
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    subprocess_environment.pop("GRADIO_TEMP_DIR", None)  # other tests of the page set it in this process
    environment = {
        **subprocess_environment, "PYTHONPATH": path, "SPACES_ZERO_GPU": "true", "TMPDIR": str(temporary),
        "LENT_FOR": str(tmp_path / "lent_for.txt"), "OSMNET_MODEL": str(tiny_folder), "OSMNET_SIZE": "64",
        "GRADIO_SERVER_PORT": str(port), "GRADIO_ANALYTICS_ENABLED": "False", "OSMNET_HOME": str(tmp_path / "home"),
    }  # fmt: skip
    with (tmp_path / "log.txt").open("w") as log:
        page = subprocess.Popen([sys.executable, STAND_IN / "page.py"], env=environment, stdout=log, stderr=log)
    try:
        yield page, f"http://127.0.0.1:{port}/", temporary
    finally:
        page.kill()
        page.wait()
        shutil.rmtree(temporary, ignore_errors=True)


def wait_for(what, page, log: Path):
    """What `what` returns, as soon as it is something."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        assert page.poll() is None, log.read_text()[-4000:]
        if found := what():
            return found
        time.sleep(0.2)
    raise AssertionError(log.read_text()[-4000:])


def test_visitors_get_takes_from_a_gpu_that_is_there_during_their_call_alone(space, tmp_path):
    page, url, temporary = space
    log = tmp_path / "log.txt"

    def client():
        try:
            return gradio_client.Client(url, verbose=False, download_files=tmp_path / "downloads")
        except gradio_client.utils.httpx.ConnectError:
            return None

    client = wait_for(client, page, log)
    Image.fromarray(portrait()).save(tmp_path / "face.png")
    write_wav(tmp_path / "speech.wav", speech(2.0))
    inputs = [gradio_client.handle_file(tmp_path / name) for name in ("face.png", "speech.wav")]
    # The example is rendered beforehand, without a GPU: a fork may not find a thread at work.
    assert len(list(temporary.glob("osmnet-studio-*/example-*/osmnet-take-*.mp4"))) == 4
    job = client.submit(*inputs, num_videos=2, consent=True, api_name="/generate")
    try:
        paths, _ = job.result(timeout=PATIENCE)
    except gradio_client.exceptions.AppError as error:
        raise AssertionError(log.read_text()[-4000:]) from error
    assert all(verify(path).state == "valid" for path in paths[::2]) and len(paths) == 4
    # Twelve seconds to get ready, and 0.15 for each of the 2 × 2 of video.
    assert (tmp_path / "lent_for.txt").read_text().split() == ["13"]
    page.send_signal(signal.SIGTERM)
    page.wait(PATIENCE)
    assert not list(temporary.glob("osmnet-*"))
