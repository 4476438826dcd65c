"""The training stages by name: which module trains each."""

from importlib import import_module
from types import ModuleType

MODULES = {
    "motion": "osmnet.training.osm_net.motion_stage",
    "expression": "osmnet.training.osm_net.expression_stage",
    "video": "osmnet.training.osm_net.video_stage",
    "sync": "osmnet.training.sync_judge",
}


def stage_module(stage: str) -> ModuleType:
    """Import the module that trains a stage: its settings classes and its `train`.

    Args:
        stage (`str`): Name of the stage, as `osmnet train` takes it.
    """
    return import_module(MODULES[stage])
