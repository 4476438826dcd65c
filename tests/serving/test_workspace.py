"""Temporary folders of processes that were killed."""

import subprocess
import sys

import pytest

from osmnet.serving.workspace import Workspace, sweep

pytest.importorskip("fcntl", reason="nothing is swept on Windows")
KILLED = """
import os, signal
from osmnet.serving.workspace import Workspace
(Workspace("osmnet-test-").folder / "take.mp4").write_bytes(b"...")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_next_process_removes_what_a_killed_one_left(tmp_path, monkeypatch, subprocess_environment):
    environment = {**subprocess_environment, "TMPDIR": str(tmp_path)}
    assert subprocess.run([sys.executable, "-c", KILLED], env=environment).returncode == -9
    (left,) = tmp_path.glob("osmnet-test-*/take.mp4")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    alive, other = Workspace("osmnet-test-"), Workspace("other-")
    (tmp_path / "osmnet-test-mine").mkdir()  # no workspace: it has no lock
    assert sweep("osmnet-test-") == [left.parent]
    assert not left.parent.exists() and alive.folder.exists() and other.folder.exists()
    alive.remove()
    assert sweep("osmnet-test-") == []
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["osmnet-test-mine", other.folder.name, f"{other.folder.name}.lock"]
    )
    other.remove()
