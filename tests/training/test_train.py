"""The command line of training, the face model stage and the export."""

import json
import shutil
import subprocess
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from osmnet.cli import train
from osmnet.data.dataset import Dataset
from osmnet.face.morphable import FaceModel
from osmnet.loading.model import WEIGHTS_NAME
from osmnet.pipelines.osm_net.pipeline_osm_net import OSMNetPipeline
from osmnet.training.core.processes import Stopped
from osmnet.training.osm_net import face_model_stage as face_model
from osmnet.training.osm_net.trained_components import load_component
from tests.support.dummies import FACE_MODEL


@pytest.fixture(scope="module")
def components(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder as the stages leave it."""
    folder = tmp_path_factory.mktemp("components")
    for name in OSMNetPipeline.components_classes.keys() - OSMNetPipeline.optional_components:
        shutil.copytree(tiny_folder / name, folder / name)
    return folder


# The face model


def test_face_model_stage_reports_and_saves(dataset_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert train.main(["face-model", "--data", str(dataset_folder), "--model", str(tmp_path)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["clips"] == 3
    assert 0.9 < report["expression_variance"] <= 1.001 and 0.9 < report["identity_variance"] <= 1.001
    model = load_component(FaceModel, tmp_path, "face_model")
    landmarks = Dataset.open(dataset_folder).clips()[0].landmarks_px()
    fit = model.fit_track(landmarks, 320)
    with torch.no_grad():
        shape = model(torch.from_numpy(fit.identity), torch.from_numpy(fit.expression)).numpy()
    rebuilt = fit.similarity.place(shape)
    assert np.abs(rebuilt - landmarks)[..., :2].mean() < 0.5  # pixels


def test_face_model_holds_one_track_at_a_time():
    class Tracks(Sequence):
        def __len__(self):
            return 6

        def __getitem__(self, index):
            if index >= len(self):
                raise IndexError
            alive[0] = max(alive[0], sum(reference() is not None for reference in references))
            rng = np.random.default_rng(index)
            track = mean * 200 + rng.normal(size=(20, 478, 3)) * np.linspace(1, 3, 20)[:, None, None]
            references.append(weakref.ref(track))
            return track

    mean = FaceModel.from_pretrained(FACE_MODEL).array("mean_shape")
    alive, references = [0], []
    model, _ = face_model.fit_face_model(Tracks(), identity_dim=4, expression_dim=5)
    assert len(references) == 12 and alive[0] <= 1
    # The components are those of all mirrored samples at once, largest first, and orthogonal.
    basis = model.array("expression_basis").reshape(5, -1)
    sizes = np.linalg.norm(basis, axis=1)
    assert (np.diff(sizes) <= 0).all()
    np.testing.assert_allclose(basis @ basis.T, np.diag(sizes**2), atol=1e-4 * sizes[0] ** 2)


def test_face_model_takes_clips_evenly_from_a_large_dataset(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    read = []
    dataset = Dataset.open(dataset_folder)
    landmarks_px = type(dataset.clips()[0]).landmarks_px
    monkeypatch.setattr(
        type(dataset.clips()[0]), "landmarks_px", lambda clip: read.append(clip.name) or landmarks_px(clip)
    )
    monkeypatch.setattr(face_model, "MAX_CLIPS", 2)
    assert face_model.train(dataset, tmp_path)["clips"] == 2
    assert set(read) == {"ann-voice", "opentalker-face-1"}  # the first and the last


# A trained stage


def test_a_stage_trains_from_the_command_line_and_goes_on(
    dataset_folder: Path, components: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    model = shutil.copytree(components, tmp_path / "model")
    arguments = ["motion", "--data", str(dataset_folder), "--model", str(model), "--config", "tiny"]
    sets = ["--set", "steps=3", "--set", "audio-motion.steps=1", "--set", "weights.usage=0"]
    assert train.main([*arguments, *sets]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["motion"]["step"] == 3 and report["audio-motion"]["step"] == 1
    before = load_file(model / "motion_encoder" / WEIGHTS_NAME)
    started = load_file(components / "motion_encoder" / WEIGHTS_NAME)
    assert before.keys() == started.keys()
    settings = (model / "work" / "motion" / "config.yaml").read_text()
    assert "usage: 0.0" in settings and "steps: 3" in settings
    split = ["motion", "--data", str(dataset_folder), "--model", str(model), "--config", "tiny", "--set", "split=clip"]
    assert train.main([*split, "--work", str(tmp_path / "work")]) == 0  # holds for both networks of the stage
    assert "split: clip" in (tmp_path / "work" / "audio-motion" / "config.yaml").read_text()
    shutil.copytree(components, model, dirs_exist_ok=True)
    capsys.readouterr()
    assert train.main([*arguments, *sets]) == 0
    done = capsys.readouterr()
    assert "going on from" in done.err and json.loads(done.out)["motion"] == report["motion"]
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


def test_a_stopped_run_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def stop(*_: object) -> dict:
        raise Stopped("stopped after step 7; run the same command again to go on", 15)

    monkeypatch.setattr(train, "_run", stop)
    assert train.main(["video", "--model", str(tmp_path)]) == 143
    said = capsys.readouterr()
    assert said.out == "" and said.err == "osmnet: stopped after step 7; run the same command again to go on.\n"


def test_module_says_one_sentence_and_exits_with_2(tmp_path: Path, subprocess_environment: dict[str, str]):
    command = [sys.executable, "-m", "osmnet.training.train", "video", "--data", "nowhere", "--model", str(tmp_path)]
    done = subprocess.run(command, env=subprocess_environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("osmnet: 'nowhere' is not a prepared dataset")
    assert len(done.stderr.splitlines()) == 1


# Export


def test_export_loads_in_full_and_half_precision(components: Path, tmp_path: Path):
    assert train.main(["export", "--model", str(components), "--out", str(tmp_path / "out")]) == 0
    pipe = OSMNetPipeline.from_pretrained(tmp_path / "out")
    half = OSMNetPipeline.from_pretrained(tmp_path / "out", variant="fp16", dtype=torch.float16)
    assert half.dtype == torch.float16 and pipe.dtype == torch.float32
    for name, network in pipe.components.items():
        trained = load_file(components / name / WEIGHTS_NAME)
        assert all(torch.equal(tensor, trained[key]) for key, tensor in network.state_dict().items())
        for key, tensor in half.components[name].state_dict().items():
            torch.testing.assert_close(tensor.float(), trained[key], rtol=2e-3, atol=2e-4)


def test_export_names_the_stage_that_is_missing(components: Path, tmp_path: Path):
    model = shutil.copytree(components, tmp_path / "model")
    shutil.rmtree(model / "motion_space")
    with pytest.raises(ValueError, match="no motion_space; make it with `osmnet train motion"):
        train.main(["export", "--model", str(model), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


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
