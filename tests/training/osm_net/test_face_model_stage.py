"""The face model stage and its command."""

import json
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from osmnet.cli import train
from osmnet.data.dataset import Dataset
from osmnet.face.morphable import FaceModel
from osmnet.training.osm_net import face_model_stage as face_model
from osmnet.training.osm_net.trained_components import load_component
from tests.support.dummies import FACE_MODEL


@pytest.mark.integration
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


@pytest.mark.integration
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


@pytest.mark.integration
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
