"""Stopping and resuming: bit-equal results, whole checkpoints, and refusals; on a toy stage."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from osmnet.training.core import checkpoint as checkpoints
from osmnet.training.core.checkpoint import newest_checkpoint, save_checkpoint
from osmnet.training.core.processes import Stopped
from osmnet.training.core.state import DISCRIMINATOR_OPTIMIZER, RunState
from tests.support import toy_stage
from tests.support.toy_stage import Toy, ToyConfig, ToyStage, log_of, made, run, same, trained

pytestmark = pytest.mark.integration


def test_a_killed_run_resumes_as_if_uninterrupted(
    tmp_path: Path, plain: tuple[Path, dict[str, float]], subprocess_environment: dict[str, str]
):
    child = subprocess.Popen(
        [sys.executable, toy_stage.__file__, str(tmp_path), json.dumps({"steps": 40})],
        env={**subprocess_environment, "TOY_PAUSE": "0.05"}, stderr=subprocess.PIPE,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while newest_checkpoint_number(tmp_path / "work") < 4 and time.monotonic() < deadline and child.poll() is None:
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.3))
    child.kill()
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    assert 4 <= newest_checkpoint_number(tmp_path / "work") < 40
    folder, report = plain
    assert run(tmp_path, ToyConfig(steps=40)) == report
    assert same(made(tmp_path), made(folder)) and same(trained(tmp_path), trained(folder))
    assert log_of(tmp_path) == log_of(folder)


def newest_checkpoint_number(work: Path) -> int:
    return max((int(folder.name[-6:]) for folder in work.glob("checkpoint-*")), default=0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_told_to_stop_saves_first(
    tmp_path: Path, plain: tuple[Path, dict[str, float]], number: signal.Signals
):
    class Stopping(ToyStage):
        def begin_step(self, step):
            super().begin_step(step)
            if step == 12:
                os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(Stopped, match="stopped after step 13; run the same command again") as stopped:
        run(tmp_path, ToyConfig(steps=40), Stopping)
    assert stopped.value.status == 128 + number
    assert signal.getsignal(number) is before
    assert newest_checkpoint(tmp_path / "work")[0].step == 13
    # Loader processes make the same batches, and more frequent validations change nothing.
    folder, _ = plain
    run(tmp_path, ToyConfig(steps=40, workers=2, validate_every=7, checkpoint_every=0, keep_checkpoints=5))
    assert same(trained(tmp_path), trained(folder))


@pytest.mark.parametrize("moment", ["the folder is made", "the tensors are written", "it is renamed", "old ones go"])
def test_a_kill_while_saving_leaves_the_last_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
):
    class Killed(BaseException):
        pass

    def killed(*_, **__):
        raise Killed

    settings = {"schedule": "constant", "validate_every": 1}
    run(tmp_path, ToyConfig(steps=4, **settings))  # checkpoints 2 and 4
    before = {folder.name for folder in (tmp_path / "work").glob("checkpoint-*")}
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.shutil, "rmtree", lambda *_, **__: None)  # nor is anything tidied up
        if moment == "the folder is made":
            patch.setattr(checkpoints.Accelerator, "save_state", killed)
        elif moment == "the tensors are written":
            patch.setattr("accelerate.accelerator.save_accelerator_state", killed)
        elif moment == "it is renamed":
            patch.setattr(checkpoints.Path, "rename", killed)
        else:
            patch.setattr(checkpoints.shutil, "rmtree", lambda folder, **_: _is_old(folder) and killed())
        with pytest.raises(Killed):
            run(tmp_path, ToyConfig(steps=8, **settings))
    newest, remarks = newest_checkpoint(tmp_path / "work")
    assert not remarks and newest.step == (6 if moment == "old ones go" else 4)
    assert before <= {folder.name for folder in (tmp_path / "work").glob("checkpoint-*")}
    assert not list((tmp_path / "work").glob(".saving-*"))
    run(tmp_path, ToyConfig(steps=8, **settings))
    run(tmp_path / "uninterrupted", ToyConfig(steps=8, **settings))
    assert same(trained(tmp_path), trained(tmp_path / "uninterrupted"))
    assert same(made(tmp_path), made(tmp_path / "uninterrupted"))


def _is_old(folder: Path) -> bool:
    return folder.name == "checkpoint-000002"


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = ToyConfig(steps=20, keep_checkpoints=3, schedule="constant")
    run(tmp_path, config)
    work = tmp_path / "work"
    for name, file in (("checkpoint-000020", "model.safetensors"), ("checkpoint-000018", "config.json")):
        content = bytearray((work / name / file).read_bytes())
        content[len(content) // 2] ^= 1  # one bit
        (work / name / file).write_bytes(content[: -1 if file == "config.json" else None])
    for folder in (work, tmp_path / "model" / "toy"):
        (folder / ".saving-abc").mkdir()  # of a run that was killed
    capsys.readouterr()
    run(tmp_path, config)
    messages = capsys.readouterr().err
    assert "checkpoint-000020' is damaged (model.safetensors has another checksum)" in messages
    assert "checkpoint-000018' is damaged" in messages and "resuming from" in messages
    assert not list(tmp_path.rglob(".saving-*"))
    run(tmp_path / "again", config)
    assert same(trained(tmp_path), trained(tmp_path / "again"))
    for folder in work.glob("checkpoint-*"):
        (folder / "optimizer.bin").unlink()
    checkpoint, remarks = newest_checkpoint(work)
    assert checkpoint is None and len(remarks) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 0.5}, r"has learning_rate=0.01, not 0.5; set it alike, or give another folder with --work"),
        ({"weights": {"l2": 2.0, "g": 0.1, "watched": 0.0}}, r"has weights.l2=1.0, not 2.0"),
        ({"gradient_accumulation": 3}, "has gradient_accumulation=1, not 3"),
    ],
)
def test_a_run_of_other_settings_is_refused(plain: tuple[Path, dict[str, float]], settings: dict, message: str):
    before = sorted((plain[0] / "work").rglob("*"))
    with pytest.raises(ValueError, match=message):
        run(plain[0], ToyConfig(steps=40, **settings))
    assert sorted((plain[0] / "work").rglob("*")) == before


def test_a_run_of_another_stage_network_or_version_is_refused(plain: tuple[Path, dict[str, float]], tmp_path: Path):
    class Other(ToyStage):
        name = "other"

    class Wider(ToyStage):
        def __init__(self, config):
            super().__init__(config)
            self.networks["toy"] = self.objective.toy = Wide()

    class Wide(Toy):
        def __init__(self):
            super().__init__()
            self.extra = nn.Linear(2, 2)

    class Elsewhere(ToyStage):
        made_for = {"face": "another"}

    with pytest.raises(ValueError, match="belongs to another face; delete it to train anew"):
        run(plain[0], ToyConfig(steps=40), Elsewhere)
    with pytest.raises(ValueError, match="has stage=toy, not other"):
        run(plain[0], ToyConfig(steps=40), Other)
    with pytest.raises(ValueError, match="networks of another shape .*toy/extra.bias"):
        run(plain[0], ToyConfig(steps=40), Wider)
    old = shutil.copytree(plain[0], tmp_path / "old")
    for file in (old / "work").glob("checkpoint-*/config.json"):
        about = json.loads(file.read_text())
        del about["progress"]  # which earlier versions had elsewhere
        file.write_text(json.dumps(about))
    with pytest.raises(ValueError, match="is of an earlier version of osmnet; finish it with that version, or give"):
        run(old, ToyConfig(steps=40))


@pytest.mark.parametrize("room", [100, 4000])  # bytes: too little for the first file; for a later one
def test_a_full_disk_leaves_the_older_checkpoint(tmp_path: Path, room: int):
    AcceleratorState._reset_state()
    accelerator, stage = Accelerator(), ToyStage(ToyConfig())
    RunState(stage, stage.config, accelerator)
    save_checkpoint(accelerator, tmp_path, 1, {}, keep=1)
    sizes = [file.stat().st_size for file in (tmp_path / "checkpoint-000001").iterdir()]
    assert min(sizes) < 4000 < max(sizes)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))  # the system refuses to write more
    try:
        with pytest.raises(ValueError, match="Cannot save a checkpoint of step 2 .*free some .*checkpoint-000001"):
            save_checkpoint(accelerator, tmp_path, 2, {}, keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-000001"]
    checkpoint, remarks = newest_checkpoint(tmp_path)
    assert checkpoint.step == 1 and not remarks and checkpoint.tensors()


@pytest.mark.parametrize("file", ["optimizer.bin", DISCRIMINATOR_OPTIMIZER, "random_states_0.pkl"])
def test_a_checkpoint_never_runs_code(tmp_path: Path, file: str):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "trapped"),))

    run(tmp_path, ToyConfig(steps=2, validate_every=0))
    folder = newest_checkpoint(tmp_path / "work")[0].folder
    torch.save({"state": Trap(), "random_state": Trap()}, folder / file)
    about = json.loads((folder / "config.json").read_text())
    about["files"][file] = checkpoints._checksum(folder / file)  # whoever forges a file forges its checksum
    (folder / "config.json").write_text(json.dumps(about))
    message = (
        "random states in .* cannot be read" if file.startswith("random") else "cannot be restored .*[Ww]eights.only"
    )
    with pytest.raises(ValueError, match=f"{message}.*; delete this folder to resume") as caught:
        run(tmp_path, ToyConfig(steps=4))
    assert not (tmp_path / "trapped").exists() and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda about: [], lambda about: about | {"step": 9}, lambda about: about | {"step": "2"},
        lambda about: about | {"files": []}, lambda about: about | {"files": {"../model.safetensors": [1, 1]}},
        lambda about: about | {"files": {".": [1, 1]}}, lambda about: about | {"settings": 1},
        lambda about: about | {"progress": []},
        lambda about: about | {"progress": about["progress"] | {"losses": [1]}},
        lambda about: about | {"progress": about["progress"] | {"best": {"score": "1"}}},
        lambda about: about | {"progress": about["progress"] | {"best": {"validation": 1}}},
        lambda about: about | {"processes": None}, lambda about: about | {"deep": json.loads("[" * 99 + "]" * 99)},
        lambda about: about | {"long": "x" * 2**20},
    ],
)  # fmt: skip
def test_a_strange_checkpoint_is_skipped_in_one_sentence(plain: tuple[Path, dict[str, float]], change, tmp_path: Path):
    kept = newest_checkpoint(plain[0] / "work")[0].folder
    folder = shutil.copytree(kept, tmp_path / kept.name)
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(change(about)))
    checkpoint, (remark,) = newest_checkpoint(tmp_path)
    assert checkpoint is None and f"'{folder}' is damaged (" in remark and "\n" not in remark and len(remark) < 500
