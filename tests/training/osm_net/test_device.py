"""Stages compute on the device of their batch and networks, on a pretended GPU as on the CPU."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from osmnet.data.dataset import Dataset
from osmnet.training.core.stage import Stage
from osmnet.training.osm_net.audio_motion_stage import AudioMotionConfig, AudioMotionStage
from osmnet.training.osm_net.expression_stage import ExpressionConfig, ExpressionStage
from osmnet.training.osm_net.motion_stage import MotionConfig, MotionStage
from osmnet.training.osm_net.perceptual import VGG19
from osmnet.training.osm_net.upper_face_stage import UpperFaceConfig, UpperFaceStage
from osmnet.training.osm_net.video_stage import VideoConfig, VideoStage
from osmnet.training.sync_judge import SyncConfig, SyncLosses, SyncStage
from tests.support.dummies import FACE_MODEL
from tests.support.far_device import FAR, far_device, to_far

VIDEO = {"batch_size": 2, "image_size": 32, "window": 3, "base_channels": 4, "min_size": 64, "adversarial_from": 0}


@pytest.fixture(scope="module")
def model(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "model"
    shutil.copytree(tiny_folder, folder)
    shutil.rmtree(folder / "face_model")
    shutil.copytree(FACE_MODEL, folder / "face_model")
    return folder


def made(kind: str, dataset: Dataset, model: Path, work: Path) -> Stage:
    if kind == "motion":
        config = MotionConfig(steps=1, batch_size=8, motion_dim=16, num_bases=6, hidden_dim=16)
        return MotionStage(config, dataset, model)
    if kind == "audio-motion":
        return AudioMotionStage(AudioMotionConfig(steps=1, batch_size=8, hidden_dim=16), dataset, model)
    if kind == "expression":
        config = ExpressionConfig(steps=1, batch_size=2, frames=24, hidden_dim=16, context_layers=1)
        return ExpressionStage(config, dataset, model)
    if kind == "upper-face":
        config = UpperFaceConfig(steps=1, batch_size=8, motion_dim=16, num_bases=6, hidden_dim=16)
        return UpperFaceStage(config, dataset, model)
    if kind == "sync":
        return SyncStage(SyncConfig(steps=1, batch_size=2, hidden_dim=16, embedding_dim=8, frames=25), dataset)
    driving = ("measured",) if kind == "mesh" else ("motion", "center")
    stage = VideoStage(VideoConfig(geometry=kind, driving=driving, **VIDEO), dataset, model, work)
    stage.objective.vgg = VGG19()
    return stage


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["motion", "audio-motion", "upper-face", "expression", "mesh", "none", "sync"])
def test_a_stage_computes_where_its_networks_are(kind: str, dataset_folder: Path, model: Path, tmp_path: Path):
    stage = made(kind, Dataset.open(dataset_folder), model, tmp_path)
    stage.begin_step(0)
    batch = stage.batch(0, 0, 1, 0)
    with torch.no_grad():
        torch.manual_seed(0)
        expected = dict(stage.objective(batch)) | (dict(stage.adversary(batch)) if stage.adversary else {})
    with far_device() as device:
        for module in (stage.objective, stage.adversary, *stage.networks.values()):
            if module is not None:
                to_far(module)
        torch.manual_seed(0)
        far = {name: value.to(device) for name, value in batch.items()}
        losses = dict(stage.objective(far)) | (dict(stage.adversary(far)) if stage.adversary else {})
        for name, loss in losses.items():
            assert loss.device == FAR
            torch.testing.assert_close(loss.cpu(), expected[name])
        for network in stage.networks.values():
            network.eval()
        assert stage.validate(stage.networks)
        for picture in stage.figures(stage.networks).values():
            assert picture.ndim == 3
        stage.finish(stage.networks)
    assert losses.keys() == expected.keys()


def test_sixteen_bits_do_not_blur_the_similarities_of_sync():
    class Given(nn.Module):
        frames = 5

        def forward(self, lips, mel):
            return lips, mel

    torch.manual_seed(0)
    objective = SyncLosses(Given(), frames=25)
    lips, mel = F.normalize(torch.randn(2, 2, 21, 8), dim=-1)
    expected = objective({"lips": lips, "mel": mel})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(objective({"lips": lips, "mel": mel}), expected)
