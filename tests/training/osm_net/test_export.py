"""Export: trained components as a pipeline, in full and half precision."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from osmnet.cli import train
from osmnet.loading.model import WEIGHTS_NAME
from osmnet.pipelines.osm_net.pipeline_osm_net import OSMNetPipeline


@pytest.fixture(scope="module")
def components(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder as the stages leave it."""
    folder = tmp_path_factory.mktemp("components")
    for name in OSMNetPipeline.components_classes.keys() - OSMNetPipeline.optional_components:
        shutil.copytree(tiny_folder / name, folder / name)
    return folder


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
