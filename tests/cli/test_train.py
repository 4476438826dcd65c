"""`osmnet train`: arguments, several processes, and what it prints."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from osmnet.cli import train
from osmnet.loading.model import WEIGHTS_NAME
from osmnet.training.core.processes import Stopped


@pytest.mark.integration
def test_a_stage_trains_from_the_command_line_and_resumes(
    dataset_folder: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    model = shutil.copytree(tiny_folder, tmp_path / "model")
    arguments = ["motion", "--data", str(dataset_folder), "--model", str(model), "--config", "tiny"]
    sets = ["--set", "steps=3", "--set", "audio-motion.steps=1", "--set", "weights.usage=0"]
    assert train.main([*arguments, *sets]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["motion"]["step"] == 3 and report["audio-motion"]["step"] == 1
    before = load_file(model / "motion_encoder" / WEIGHTS_NAME)
    started = load_file(tiny_folder / "motion_encoder" / WEIGHTS_NAME)
    assert before.keys() == started.keys()
    settings = (model / "work" / "motion" / "config.yaml").read_text()
    assert "usage: 0.0" in settings and "steps: 3" in settings
    split = ["motion", "--data", str(dataset_folder), "--model", str(model), "--config", "tiny", "--set", "split=clip"]
    assert train.main([*split, "--work", str(tmp_path / "work")]) == 0  # holds for both networks of the stage
    assert "split: clip" in (tmp_path / "work" / "audio-motion" / "config.yaml").read_text()
    shutil.copytree(tiny_folder, model, dirs_exist_ok=True)
    capsys.readouterr()
    assert train.main([*arguments, *sets]) == 0
    done = capsys.readouterr()
    assert "resuming from" in done.err and json.loads(done.out)["motion"] == report["motion"]
    with pytest.raises(ValueError, match="has batch_size=16, not 8"):
        train.main([*arguments, *sets, "--set", "batch_size=8"])
    train.main(["face-model", "--data", str(dataset_folder), "--model", str(model)])
    with pytest.raises(ValueError, match="belongs to another face_model; delete it to train anew"):
        train.main([*arguments, *sets])


def test_other_processes_are_silent_about_what_all_find(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(train, "PATIENCE_SECONDS", 0)
    arguments = ["--data", str(dataset_folder), "--model", str(tmp_path / "model")]
    assert train.main(["motion", *arguments]) == 2  # without a face model
    assert train.main(["face-model", *arguments]) == 0  # the main process does it
    assert not (tmp_path / "model").exists() and capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("stop", "status", "sentence"),
    [
        (Stopped("stopped after step 7; run the same command again to resume", 15), 143, "stopped after step 7; run"),
        (Stopped("stopped after step 7; run the same command again to resume", 2), 130, "stopped after step 7; run"),
        (KeyboardInterrupt(), 130, "stopped; run"),
    ],
)
@pytest.mark.parametrize("stage", ["video", "finetune"])
def test_a_stopped_run_says_how_to_resume(
    stop, status, sentence, stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def stopped(*_: object) -> dict:
        raise stop

    monkeypatch.setattr(train, "_run", stopped)
    monkeypatch.setattr("osmnet.cli.finetune.main", stopped)
    assert train.main([stage, "--model", str(tmp_path)]) == status
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err == f"\nosmnet: {sentence} the same command again to resume.\n"


@pytest.mark.integration
def test_module_says_one_sentence_and_exits_with_2(tmp_path: Path, subprocess_environment: dict[str, str]):
    command = [sys.executable, "-m", "osmnet.training.train", "video", "--data", "nowhere", "--model", str(tmp_path)]
    done = subprocess.run(command, env=subprocess_environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("osmnet: 'nowhere' is not a prepared dataset")
    assert len(done.stderr.splitlines()) == 1


# A launcher that starts one process instead of several

SIMPLE = {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_USE_CPU": "True"}


@pytest.mark.parametrize(
    ("environment", "alone"),
    [
        ({}, False),  # `osmnet train`
        (SIMPLE, False),  # `accelerate launch --cpu --num_processes 1`
        (SIMPLE | {"MASTER_PORT": "29500"}, True),  # `accelerate launch --cpu --num_processes 2`
        (SIMPLE | {"MASTER_PORT": "29500", "WORLD_SIZE": "2", "RANK": "0"}, False),  # `... --multi_gpu`
        (SIMPLE | {"MASTER_PORT": "29500", "PMI_SIZE": "2"}, False),  # by MPI
        ({"MASTER_PORT": "29500"}, False),  # of a cluster, without Accelerate
    ],
)
def test_one_process_instead_of_several_is_noticed(environment: dict[str, str], alone: bool):
    assert train.launched_alone(environment) is alone


@pytest.mark.integration
def test_a_launcher_that_starts_one_process_instead_of_several_is_reported(
    tmp_path: Path, subprocess_environment: dict[str, str]
):
    """`--cpu` makes Accelerate ignore `--num_processes`."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "-m"]
    done = subprocess.run(
        [*launch, "osmnet.training.train", "finetune", "--data", "nowhere", "--out", str(tmp_path / "out")],
        env=subprocess_environment, cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    sentences = [line for line in done.stderr.splitlines() if "accelerate launch` started one process" in line]
    assert len(sentences) == 1
    assert "`ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N -m osmnet" in sentences[0]
    assert "'nowhere' is not a prepared dataset" in done.stderr  # it continues alone


# Wrong arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["motion"], "motion needs --data"),
        (["export"], "export needs --out"),
        (["face-model", "--data", "x", "--set", "a=1"], "face-model has no settings"),
        (["face-model", "--data", "x", "--config", "tiny"], "face-model has no settings"),
        (["export", "--out", "x", "--threads", "0"], "--threads must be at least 1"),
        (["motion", "--data", "x", "--set", "audio-motion.stepps=1"], "no setting 'stepps'"),
        (["motion", "--data", "x", "--set", "audio-motion.batch_size=0"], "batch_size must be at least 1"),
        (["motion", "--data", "x", "--config", "nowhere.yaml"], "no configuration 'nowhere.yaml'"),
        (["motion", "--data", "nowhere"], "'nowhere' is not a prepared dataset"),
        (["face-model", "--data", "nowhere"], "'nowhere' is not a prepared dataset"),
    ],
)
def test_wrong_arguments_are_named(arguments: list[str], message: str, tmp_path: Path):
    with pytest.raises(ValueError, match=message):
        train.main([*arguments, "--model", str(tmp_path)])


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(train.util, "find_spec", lambda name: None if name == "tensorboard" else object())
    with pytest.raises(ValueError, match=r"needs the package 'tensorboard'; pip install 'osmnet\[train\]'"):
        train.main(["motion", "--data", "x", "--model", str(tmp_path)])


def test_missing_stages_are_named(dataset_folder: Path, tmp_path: Path):
    for stage in ("motion", "expression", "video"):
        with pytest.raises(ValueError, match="has no face_model; make it with `osmnet train face-model"):
            train.main([stage, "--data", str(dataset_folder), "--model", str(tmp_path)])
