"""`osmnet train finetune`: adapt finished weights to one speaker or a few clips, and say what that changed.

1. Every fifth clip is held out; the model given is measured on these clips by the protocol of `osmnet evaluate`.
2. The stages named in the configuration go on from that model, with small steps.
3. After each stage, its own figure on the held-out clips decides: if it fell, the components from before stay.
4. The result is exported, measured again, and reported: what got better, and what got worse.

docs/fine_tuning.md starts from raw clips.
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tqdm import tqdm

from osmnet.data.dataset import Clip, Dataset
from osmnet.evaluation.protocol import ClipResult, MetricNetworks, evaluate_clip
from osmnet.face.morphable import FaceModel
from osmnet.pipelines.osm_net.pipeline_osm_net import OSMNetPipeline
from osmnet.training.core.config import SETTINGS, StageConfig, load_config
from osmnet.training.osm_net import finetune_report
from osmnet.training.osm_net import lip_amplitude as lips
from osmnet.training.osm_net.export import export
from osmnet.training.osm_net.pose_clip import evenly
from osmnet.training.osm_net.speech_clip import heard_clip
from osmnet.training.osm_net.trained_components import COMPONENTS, load_component, load_components, speech_encoder_for
from osmnet.training.stages import stage_module
from osmnet.utils.files import only_run_in

MARKS = "fine-tuning"  # around the table of a page, see `osmnet/utils/marked.py`

MEASURED_BY = {  # the figure by which each stage is judged, and whether higher is better
    "motion": ("KL(w_m ‖ w_a)", False),
    "expression": ("correlation of mouth opening + width", True),
    "video": ("L1 inside of the mouth", False),
}


@dataclass(frozen=True)
class FinetuneConfig:
    """Settings of the whole, section `finetune`; each stage has a section of its own.

    Args:
        stages (`tuple[str, ...]`): Which, of motion, expression and video.
        split (`str`): `"clip"` holds out every fifth clip (one person), `"speaker"` one speaker in eight.
        evaluate_clips (`int`): How many of the held-out clips are rendered and measured before and after.
        evaluate_seconds (`float`): How much of each.

    Raises:
        ValueError: If a stage is unknown, or a number out of its range.
    """

    stages: tuple[str, ...] = ("expression", "video")
    split: str = "clip"
    evaluate_clips: int = 3
    evaluate_seconds: float = 6.0

    def __post_init__(self) -> None:
        """Refuse what no run can use."""
        known = ", ".join(MEASURED_BY)
        for stage in self.stages:
            if stage not in MEASURED_BY:
                raise ValueError(f"stages may name {known}, not '{stage}'.")
        if not self.stages:
            raise ValueError(f"stages must name at least one of {known}.")
        if self.split not in ("clip", "speaker"):
            raise ValueError(f"split must be clip or speaker, not '{self.split}'.")
        if self.evaluate_clips < 1 or not 1 <= self.evaluate_seconds <= 60:
            raise ValueError("evaluate_clips must be at least 1, and evaluate_seconds from 1 to 60.")


def finetune(
    dataset: Dataset, model: str | None, out: Path, work: Path, config: FinetuneConfig,
    stage_configs: dict[str, list[StageConfig]],
) -> dict[str, Any]:  # fmt: skip
    """Adapt a model to the clips of a dataset.

    Args:
        dataset (`Dataset`): Made by `osmnet prepare`; at least two clips with speech.
        model (`str`, *optional*): What to start from: a folder or a Hub id; the weights in the package if not given.
        out (`Path`): Folder of the adapted model, which `OSMNetPipeline.from_pretrained` loads; also receives
            `finetune.json`, `finetune.md` and `finetune.png`.
        work (`Path`): For checkpoints, curves and pictures; a run that was stopped goes on from there.
        config (`FinetuneConfig`): Settings of the whole.
        stage_configs (`dict[str, list[StageConfig]]`): Settings of each stage of `config.stages`, in the order of its
            sections; `init` and `split` are set here.

    Returns:
        `dict`: What `finetune.json` says.

    Raises:
        ValueError: If the clips or the model cannot be used, `work` is of a run with others or another run is at work
            in it, or something cannot be written.
    """
    training, held_out = dataset.split(speech=True, by=cast(Any, config.split))
    if {clip.name for clip in training} & {clip.name for clip in held_out}:
        raise ValueError(
            f"No speaker in '{dataset.where}' is held out, so there is nothing to judge by; prepare clips of more "
            "people, or hold out every fifth clip (--set split=clip)."
        )
    pipe = OSMNetPipeline.from_pretrained(model)
    with only_run_in(work):
        return _finetune(dataset, evenly(held_out, config.evaluate_clips), pipe, out, work, config, stage_configs)


def _finetune(
    dataset: Dataset, clips: list[Clip], pipe: OSMNetPipeline, out: Path, work: Path, config: FinetuneConfig,
    stage_configs: dict[str, list[StageConfig]],
) -> dict[str, Any]:  # fmt: skip
    before, trained = work / "before", work / "model"
    name = pipe.name
    pipe.save_pretrained(before)
    networks = MetricNetworks.load()
    measured = {"before": _measure(pipe, clips, networks, config.evaluate_seconds, "before")}
    for component in pipe.components:
        _copy(before / component, trained / component)

    stages = {}
    for stage in config.stages:
        module = stage_module(stage)
        settings = [dataclasses.replace(each, init=str(before), split=config.split) for each in stage_configs[stage]]
        for component in COMPONENTS[stage]:
            _copy(before / component, trained / component)  # of a run that was stopped: its checkpoint knows better
        figure_before = _figure(stage, dataset, trained, settings, work / stage)
        module.train(dataset, trained, settings[0], work / stage, *settings[1:])
        figure_after = _figure(stage, dataset, trained, settings, work / stage)
        figure, higher = MEASURED_BY[stage]
        kept = figure_after > figure_before if higher else figure_after < figure_before
        if not kept:
            for component in COMPONENTS[stage]:
                _copy(before / component, trained / component)
        stages[stage] = {
            "steps": settings[-1].steps, "figure": figure, "better": "↑" if higher else "↓",
            "before": figure_before, "after": figure_after, "kept": kept,
        }  # fmt: skip

    export(trained, before / "face_landmarker.task", out)
    after = OSMNetPipeline.from_pretrained(out)
    measured["after"] = _measure(after, clips, networks, config.evaluate_seconds, "after")
    report = {
        "model": name,
        "dataset": dataset.where,
        "held_out": [result.name for result in measured["after"]],
        "seconds": config.evaluate_seconds,
        "judge": "osmnet SyncJudge" if networks.sync is not None else None,
        "stages": stages,
        "figures": finetune_report.compare(measured["before"], measured["after"]),
    }
    finetune_report.write(report, measured, out)
    return report


def _copy(source: Path, target: Path) -> None:
    """Put one component in place of another."""
    try:
        shutil.copytree(source, target, dirs_exist_ok=True)
    except (OSError, shutil.Error) as error:
        raise ValueError(f"'{target}' cannot be written ({error}); free space, or give another --work.") from error


def _measure(
    pipe: OSMNetPipeline, clips: list[Clip], networks: MetricNetworks, seconds: float, when: str
) -> list[ClipResult]:
    """Results of the protocol for the clips that can be measured."""
    results, reason = [], ""
    for clip in tqdm(clips, desc=f"evaluation {when}", unit="clip", leave=False):
        try:
            results.append(evaluate_clip(pipe, clip, networks, seconds))
        except (ValueError, OSError) as error:
            reason = str(error)
            tqdm.write(f"{clip.name}: not measured, {reason}", file=sys.stderr)
    if not results:
        raise ValueError(f"None of the held-out clips can be measured; {clips[-1].name}: {reason}")
    return results


def _figure(stage: str, dataset: Dataset, model: Path, configs: list[Any], work: Path) -> float:
    """The stage's own figure on held-out clips, see `MEASURED_BY`."""
    networks = load_components(model, COMPONENTS[stage])
    if stage == "expression":
        # Not the stage's own `validate`: that measures the clips by which it chose its best step.
        face_model = load_component(FaceModel, model, "face_model")
        held_out = dataset.split(speech=True, by=configs[0].split)[1]
        encoder = speech_encoder_for(networks["expression_extractor"], model)
        speech_clips = (heard_clip(clip, face_model, encoder) for clip in held_out)
        result = lips.measure(networks["expression_extractor"], face_model, speech_clips)
        return result["opening"] + result["width"]
    if stage == "video":
        from osmnet.training.osm_net.video_stage import VideoStage

        judge = VideoStage(configs[0], dataset, model, work)
        error = judge.validate(networks)["l1"]
        judge.finish(networks)  # deletes its pictures
        return error
    from osmnet.training.osm_net.audio_motion_stage import AudioMotionStage

    return AudioMotionStage(configs[1], dataset, model, rescale=False).validate(networks)["kl"]


def load_configs(path_or_name: str, settings: list[str]) -> tuple[FinetuneConfig, dict[str, list[StageConfig]]]:
    """Read the settings of the whole and of each of its stages.

    Args:
        path_or_name (`str`): A YAML file, or the name of one in the package.
        settings (`list[str]`): `NAME=VALUE` of section `finetune`, or `SECTION.NAME=VALUE` of a stage's.

    Returns:
        `tuple[FinetuneConfig, dict[str, list[StageConfig]]]`: For each stage the settings of its sections.

    Raises:
        ValueError: If a file, section, setting or value is wrong.
    """
    sections = [section for stage in MEASURED_BY for section in SETTINGS[stage]]
    parted: dict[str, list[str]] = {section: [] for section in ("finetune", *sections)}
    for setting in settings:
        head, dot, rest = setting.partition(".")
        if dot and head in sections and "=" not in head:
            parted[head].append(rest)
        else:
            parted["finetune"].append(setting)
    config: FinetuneConfig = load_config(path_or_name, cast(Any, FinetuneConfig), "finetune", parted["finetune"])
    stage_configs = {}
    for stage in config.stages:
        module = stage_module(stage)
        stage_configs[stage] = [
            load_config(path_or_name, getattr(module, name), section, parted[section])
            for section, name in SETTINGS[stage].items()
        ]
    return config, stage_configs
