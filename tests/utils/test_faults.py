"""A full or broken disk, whatever is being written: see `tests/support/faults.py`."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.support import faults

needs_compiler = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None, reason="calls are watched by a library in C, on Linux"
)


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    return faults.build(tmp_path_factory.mktemp("faults"))


def wrong(scenarios: str, how: str, library: Path, environment: dict[str, str], root: Path) -> dict:
    """What is wrong after faults, by scenario."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # where syncing takes no time
    with TemporaryDirectory(dir=memory) as folder:
        command = [sys.executable, "-W", "ignore", "-m", "tests.support.faults", scenarios, folder, how]
        environment = environment | {"LD_PRELOAD": str(library)}
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout)


@needs_compiler
@pytest.mark.integration
@pytest.mark.parametrize("scenarios", ["takes,parts,key", "checkpoint,model,dataset"])
def test_whatever_write_fails_files_stay_whole(scenarios, library, subprocess_environment, repository):
    found = wrong(scenarios, "quickly", library, subprocess_environment, repository)
    assert found == dict.fromkeys(scenarios.split(","), [])


@needs_compiler
@pytest.mark.slow
def test_each_kind_of_write_fails_on_a_full_and_on_a_broken_disk(library, subprocess_environment, repository):
    found = wrong(",".join(faults.SCENARIOS), "thoroughly", library, subprocess_environment, repository)
    assert found == dict.fromkeys(faults.SCENARIOS, [])


def test_a_write_that_nobody_syncs_is_seen():
    part, name = "/.a.1234.part", "/a"
    good = [("write", part), ("fsync", part), ("rename", f"{part}\t{name}"), ("fsync", "/")]
    assert faults.not_synced(good) == []
    for missing in (1, 3):
        assert faults.not_synced(good[:missing] + good[missing + 1 :])
    assert faults.not_synced([good[1], good[0], *good[2:]])  # synced too early
