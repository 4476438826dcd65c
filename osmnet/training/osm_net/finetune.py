"""`osmnet train finetune`: adapt a model to a few clips."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tqdm import tqdm

from osmnet.data.dataset import Clip, Dataset
from osmnet.evaluation.protocol import ClipResult, MetricNetworks, evaluate_clip
from osmnet.face.morphable import FaceModel
from osmnet.pipelines.osm_net.pipeline_osm_net import OSMNetPipeline
from osmnet.training.core.config import StageConfig, load_config
from osmnet.training.core.processes import join_processes, on_main
from osmnet.training.osm_net import finetune_report
from osmnet.training.osm_net import lip_amplitude as lips
from osmnet.training.osm_net.export import export
from osmnet.training.osm_net.finetune_card import find_card, write_card
from osmnet.training.osm_net.pose_clip import evenly
from osmnet.training.osm_net.speech_clip import encoded_clip
from osmnet.training.osm_net.trained_components import COMPONENTS, load_component, load_components, speech_encoder_for
from osmnet.training.stages import SECTIONS, STAGES, load_settings, train_stage
from osmnet.utils.files import only_run_in

MARKS = "fine-tuning"  # around the table of a page, see `osmnet/utils/marked.py`

MEASURED_BY = {  # the figure that decides whether a stage is kept, and whether higher is better
    "motion": ("KL(w_m ‖ w_a)", False),
    "expression": ("correlation of mouth opening + width", True),
    "video": ("L1 inside of the mouth", False),
}


@dataclass(frozen=True)
class FinetuneConfig:
    """Settings of section `finetune`; each stage has its own section.

    Args:
        stages (`tuple[str, ...]`): Any of motion, expression and video.
        split (`str`): `"clip"` holds out every fifth clip (one person), `"speaker"` one speaker in eight.
        evaluate_clips (`int`): Held-out clips to measure before and after.
        evaluate_seconds (`float`): Seconds of each.

    Raises:
        ValueError: If a stage is unknown, or a number out of range.
    """

    stages: tuple[str, ...] = ("expression", "video")
    split: str = "clip"
    evaluate_clips: int = 3
    evaluate_seconds: float = 6.0

    def __post_init__(self) -> None:
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
    stage_configs: Mapping[str, Mapping[str, StageConfig]],
) -> dict[str, Any]:  # fmt: skip
    """Adapt a model to the clips of a dataset.

    Under `accelerate launch`, all processes train; the main one measures and exports.

    Args:
        dataset (`Dataset`): Made by `osmnet prepare`; at least two clips with speech.
        model (`str`, *optional*): Starting model: a folder or a Hub id; the weights in the package if not given.
        out (`Path`): Folder of the adapted model, its model card, `finetune.json`, `finetune.md` and `finetune.png`.
        work (`Path`): For checkpoints, curves and pictures; a stopped run resumes from there.
        config (`FinetuneConfig`): Settings of the whole.
        stage_configs (`dict[str, dict[str, StageConfig]]`): Settings of each stage by section; `init` and `split` are
            set here.

    Returns:
        `dict`: The content of `finetune.json`, in every process.

    Raises:
        ValueError: If the clips or the model cannot be used, `work` holds another run or an active one, or something
            cannot be written.
    """
    training, held_out = dataset.split(speech=True, by=cast(Any, config.split))
    if {clip.name for clip in training} & {clip.name for clip in held_out}:
        raise ValueError(
            f"No speaker in '{dataset.where}' is held out, so there is nothing to measure by; prepare clips of more "
            "people, or hold out every fifth clip (--set split=clip)."
        )
    processes = join_processes()
    run = _Finetuning(dataset, out, work, config)
    with ExitStack() as held:
        on_main(processes, lambda: held.enter_context(only_run_in(work)))
        # 1. Measure the starting model on held-out clips.
        on_main(processes, lambda: run.begin(model))
        # 2. Train each stage; keep it if its own figure improved.
        for stage in config.stages:
            configs = {
                section: dataclasses.replace(each, init=str(run.before), split=config.split)
                for section, each in stage_configs[stage].items()
            }
            on_main(processes, lambda: run.prepare(stage, configs))  # noqa: B023 (called at once)
            train_stage(stage, dataset, run.trained, configs, work / stage)
            on_main(processes, lambda: run.decide(stage, configs))  # noqa: B023
        # 3. Export, measure again, report.
        return on_main(processes, run.report)


class _Finetuning:
    """The main process's part of a run."""

    def __init__(self, dataset: Dataset, out: Path, work: Path, config: FinetuneConfig):
        self.dataset, self.out, self.work, self.config = dataset, out, work, config
        self.before, self.trained = work / "before", work / "model"
        self.stages: dict[str, dict[str, Any]] = {}
        self.measured: dict[str, list[ClipResult]] = {}

    def begin(self, model: str | None) -> None:
        pipe = OSMNetPipeline.from_pretrained(model)
        self.model, self.name, self.card = model, pipe.name, find_card(model)
        pipe.save_pretrained(self.before)
        self.clips = evenly(self._split()[1], self.config.evaluate_clips)
        self.metric_networks = MetricNetworks.load()
        self._measure(pipe, "before")
        for component in pipe.components:
            self._reset(component)

    def prepare(self, stage: str, configs: Mapping[str, StageConfig]) -> None:
        for component in COMPONENTS[stage]:
            self._reset(component)  # a stopped run may have left its own; its checkpoint has them, too
        self.figure = self._figure(stage, configs)

    def decide(self, stage: str, configs: Mapping[str, StageConfig]) -> None:
        after = self._figure(stage, configs)
        figure, higher = MEASURED_BY[stage]
        kept = after > self.figure if higher else after < self.figure
        if not kept:
            for component in COMPONENTS[stage]:
                self._reset(component)
        self.stages[stage] = {
            "steps": list(configs.values())[-1].steps, "figure": figure, "better": "↑" if higher else "↓",
            "before": self.figure, "after": after, "kept": kept,
        }  # fmt: skip

    def report(self) -> dict[str, Any]:
        export(self.trained, self.before / "face_landmarker.task", self.out)
        self._measure(OSMNetPipeline.from_pretrained(self.out), "after")
        report = {
            "model": self.name,
            "dataset": self.dataset.where,
            "held_out": [result.name for result in self.measured["after"]],
            "seconds": self.config.evaluate_seconds,
            "judge": "osmnet SyncJudge" if self.metric_networks.sync is not None else None,
            "stages": self.stages,
            "figures": finetune_report.compare(self.measured["before"], self.measured["after"]),
        }
        finetune_report.write(report, self.measured, self.out)
        training, held_out = self._split()
        write_card(self.out, report, self.model, self.card, training, held_out)
        return report

    def _split(self) -> tuple[list[Clip], list[Clip]]:
        return self.dataset.split(speech=True, by=cast(Any, self.config.split))

    def _reset(self, component: str) -> None:
        target = self.trained / component
        try:
            shutil.copytree(self.before / component, target, dirs_exist_ok=True)
        except (OSError, shutil.Error) as error:
            raise ValueError(f"'{target}' cannot be written ({error}); free space, or give another --work.") from error

    def _measure(self, pipe: OSMNetPipeline, when: str) -> None:
        results, reason = [], ""
        for clip in tqdm(self.clips, desc=f"evaluation {when}", unit="clip", leave=False):
            try:
                results.append(
                    evaluate_clip(pipe, clip, self.metric_networks, self.config.evaluate_seconds, with_floors=False)
                )
            except (ValueError, OSError) as error:
                reason = str(error)
                tqdm.write(f"{clip.name}: not measured, {reason}", file=sys.stderr)
        if not results:
            raise ValueError(f"None of the held-out clips can be measured; {self.clips[-1].name}: {reason}")
        self.measured[when] = results

    def _figure(self, stage: str, configs: Mapping[str, Any]) -> float:
        dataset, model, config = self.dataset, self.trained, configs[stage]
        networks = load_components(model, COMPONENTS[stage])
        if stage == "expression":
            # Not the stage's own `validate`: that measures the clips by which it chose its best step.
            face_model = load_component(FaceModel, model, "face_model")
            held_out = self._split()[1]
            encoder = speech_encoder_for(networks["expression_extractor"], model)
            speech_clips = (encoded_clip(clip, face_model, encoder) for clip in held_out)
            result = lips.measure(networks["expression_extractor"], face_model, speech_clips)
            return result["opening"] + result["width"]
        if stage == "video":
            from osmnet.training.osm_net.video_stage import VideoStage

            measuring = VideoStage(config, dataset, model, self.work / stage)
            error = measuring.validate(networks)["l1"]
            measuring.finish(networks)  # deletes its pictures
            return error
        from osmnet.training.osm_net.audio_motion_stage import AudioMotionStage

        return AudioMotionStage(configs["audio-motion"], dataset, model, rescale=False).validate(networks)["kl"]


def load_configs(path_or_name: str, settings: list[str]) -> tuple[FinetuneConfig, dict[str, dict[str, StageConfig]]]:
    """Read the settings of fine-tuning and its stages.

    Args:
        path_or_name (`str`): A YAML file, or the name of one in the package.
        settings (`list[str]`): `NAME=VALUE` of section `finetune`, or `SECTION.NAME=VALUE` of a stage's.

    Returns:
        `tuple[FinetuneConfig, dict[str, dict[str, StageConfig]]]`: For each stage the settings of its sections.

    Raises:
        ValueError: If a file, section, setting or value is wrong.
    """
    sections = [section for stage in MEASURED_BY for section in STAGES[stage].settings]
    overrides: dict[str, list[str]] = {section: [] for section in ("finetune", *sections)}
    for setting in settings:
        head, dot, rest = setting.partition(".")
        if dot and head in sections and "=" not in head:
            overrides[head].append(rest)
        else:
            overrides["finetune"].append(setting)
    kind = cast(Any, FinetuneConfig)
    config: FinetuneConfig = load_config(path_or_name, kind, "finetune", overrides["finetune"], SECTIONS)
    return config, {stage: load_settings(stage, path_or_name, overrides) for stage in config.stages}
