"""Several processes of one run: two on one CPU, by `accelerate launch` and gloo."""

import json
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from osmnet.training.core import processes
from osmnet.training.core.checkpoint import newest_checkpoint
from osmnet.training.core.processes import join_processes
from tests.support import toy_stage
from tests.support.launch import kill_all, two_processes
from tests.support.toy_stage import ToyConfig, log_of, made, run, same, trained


@pytest.mark.integration
def test_two_processes_average_their_gradients(
    tmp_path: Path, subprocess_environment: dict[str, str], capsys: pytest.CaptureFixture[str]
):
    settings = {"dropout": 0.0, "steps": 3, "clip_norm": 0.1, "schedule": "constant"}
    launch, environment = two_processes(subprocess_environment)
    done = subprocess.run(
        [*launch, toy_stage.__file__, str(tmp_path / "two"), json.dumps(settings | {"gradient_accumulation": 2})],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    reports = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(reports) == 2 and reports[0] == reports[1]
    run(tmp_path / "one", ToyConfig(gradient_accumulation=4, **settings))
    one, two = trained(tmp_path / "one"), trained(tmp_path / "two")
    for name in one:
        if not name.endswith("calls"):
            torch.testing.assert_close(two[name], one[name], rtol=0, atol=1e-5)
    # Both processes' losses are in the log, and each has random numbers of its own.
    for first, second in zip(log_of(tmp_path / "one"), log_of(tmp_path / "two"), strict=True):
        assert first == pytest.approx(second, abs=1e-5)
    folder = newest_checkpoint(tmp_path / "two" / "work")[0].folder
    states = [(folder / f"random_states_{rank}.pkl").read_bytes() for rank in range(2)]
    assert states[0] != states[1]
    capsys.readouterr()
    run(tmp_path / "two", ToyConfig(**{**settings, "steps": 4, "gradient_accumulation": 2}))
    assert "began with 2 process(es) and resumes with 1" in capsys.readouterr().err


@pytest.mark.integration
def test_two_killed_processes_resume_as_if_uninterrupted(tmp_path: Path, subprocess_environment: dict[str, str]):
    launch, environment = two_processes(subprocess_environment)
    command = lambda name: [*launch, toy_stage.__file__, str(tmp_path / name), '{"steps": 20}']  # noqa: E731
    to_the_end = lambda name: subprocess.run(  # noqa: E731
        command(name), env=environment, capture_output=True, text=True, timeout=300
    )
    done = to_the_end("whole")
    assert done.returncode == 0, done.stderr
    environment["TOY_PAUSE"] = "0.1"
    child = subprocess.Popen(command("killed"), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    work, deadline = tmp_path / "killed" / "work", time.monotonic() + 120
    while not (work / "checkpoint-000006").is_dir() and time.monotonic() < deadline and child.poll() is None:
        time.sleep(0.01)
    kill_all(child)
    assert 6 <= newest_checkpoint(work)[0].step < 20
    environment["TOY_PAUSE"] = "0"
    done = to_the_end("killed")
    assert done.returncode == 0, done.stderr
    assert same(trained(tmp_path / "killed"), trained(tmp_path / "whole"))
    assert same(made(tmp_path / "killed"), made(tmp_path / "whole"))
    assert log_of(tmp_path / "killed") == log_of(tmp_path / "whole")


@pytest.mark.integration
def test_all_processes_end_when_one_fails(tmp_path: Path, subprocess_environment: dict[str, str]):
    launch, environment = two_processes(subprocess_environment)
    done = subprocess.run(
        [*launch, toy_stage.__file__, str(tmp_path), json.dumps({"steps": 20})],
        env={**environment, "TOY_DAMAGE": "[1, 5]"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode != 0 and "Clip 'ann' is damaged; prepare it again." in done.stderr
    assert newest_checkpoint(tmp_path / "work")[0].step == 4


def test_processes_without_a_device_are_refused(monkeypatch: pytest.MonkeyPatch):
    """`accelerate launch --multi_gpu` without GPUs starts processes that do not know of each other."""
    monkeypatch.setattr(processes, "PartialState", lambda *_, **__: SimpleNamespace(num_processes=1))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="2 processes were launched, .* put ACCELERATE_USE_CPU=true before"):
        join_processes()
