"""Temporary folders of processes that were killed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from osmnet.serving.workspace import Workspace, sweep

fcntl = pytest.importorskip("fcntl", reason="nothing is swept on Windows")
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


def test_a_forked_process_leaves_the_folder_of_its_parent(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    workspace = Workspace("osmnet-test-")
    if (child := os.fork()) == 0:
        workspace.remove()
        os._exit(0)
    os.waitpid(child, 0)
    assert workspace.folder.is_dir() and sweep("osmnet-test-") == []
    workspace.remove()
    assert not workspace.folder.exists()


def test_a_lock_that_is_swept_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    lock, swept = fcntl.flock, []

    def late(file, operation):
        if not swept and operation == fcntl.LOCK_EX:
            swept.append(file.name)
            Path(file.name).unlink()
        lock(file, operation)

    monkeypatch.setattr("fcntl.flock", late)
    workspace = Workspace("osmnet-test-")
    assert swept and [path.name for path in tmp_path.glob("*.lock")] == [f"{workspace.folder.name}.lock"]
    workspace.remove()
