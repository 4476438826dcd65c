"""Registry of the training stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from osmnet.data.dataset import Dataset
    from osmnet.training.core.config import StageConfig


@dataclass(frozen=True)
class StageEntry:
    """Module and settings of a stage.

    Attributes:
        module (`str`): Module with the settings classes and `train`, see `train_stage`.
        settings (`dict[str, str]`): Settings class by section of a file; the first is the stage's own.
    """

    module: str
    settings: dict[str, str]


STAGES = {
    "motion": StageEntry(
        "osmnet.training.osm_net.motion_stage", {"motion": "MotionConfig", "audio-motion": "AudioMotionConfig"}
    ),
    "upper-face": StageEntry("osmnet.training.osm_net.upper_face_stage", {"upper-face": "UpperFaceConfig"}),
    "expression": StageEntry("osmnet.training.osm_net.expression_stage", {"expression": "ExpressionConfig"}),
    "video": StageEntry("osmnet.training.osm_net.video_stage", {"video": "VideoConfig"}),
    "sync": StageEntry("osmnet.training.sync_judge", {"sync": "SyncConfig"}),
}
SECTIONS = (*(section for entry in STAGES.values() for section in entry.settings), "finetune")


def settings_classes(stage: str) -> dict[str, type[StageConfig]]:
    """Return the settings class of each section."""
    entry = STAGES[stage]
    module = import_module(entry.module)
    return {section: getattr(module, name) for section, name in entry.settings.items()}


def load_settings(
    stage: str, path_or_name: str | None, overrides: Mapping[str, Sequence[str]]
) -> dict[str, StageConfig]:
    """Read the settings of a stage, see `load_config`.

    Args:
        stage (`str`): Name of the stage.
        path_or_name (`str`, *optional*): A YAML file, or the name of one in the package.
        overrides (`dict[str, list[str]]`): `NAME=VALUE` by section.

    Returns:
        `dict[str, StageConfig]`: By section.
    """
    from osmnet.training.core.config import load_config

    return {
        section: load_config(path_or_name, kind, section, list(overrides.get(section, ())), SECTIONS)
        for section, kind in settings_classes(stage).items()
    }


def train_stage(
    stage: str, dataset: Dataset, model: Path, configs: Mapping[str, StageConfig], work: Path
) -> dict[str, Any]:
    """Train or resume a stage.

    Args:
        stage (`str`): Name of the stage.
        dataset (`Dataset`): Made by `osmnet prepare`.
        model (`Path`): Model folder with the components of earlier stages; receives those of this one.
        configs (`dict[str, StageConfig]`): Settings by section, from `load_settings`.
        work (`Path`): Checkpoints, logs and pictures; a stage of several sections makes a folder for each.

    Returns:
        `dict`: The trainer's report, see `fit`; of several sections, each one's.

    Raises:
        ValueError: If no clip can be used, an earlier stage is missing, or `work` belongs to another run.
    """
    first, *others = configs.values()
    return import_module(STAGES[stage].module).train(dataset, model, first, work, *others)
