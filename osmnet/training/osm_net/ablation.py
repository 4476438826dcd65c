"""`osmnet evaluate --ablate`: variants trained and measured alike."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, Literal

import yaml

from osmnet.data.dataset import Dataset
from osmnet.evaluation.evaluate import evaluate
from osmnet.evaluation.evaluation_report import number as formatted
from osmnet.evaluation.summary import METRICS, Metric
from osmnet.pipelines.osm_net.pipeline_osm_net import OSMNetPipeline
from osmnet.training.core.config import find_config
from osmnet.training.osm_net.trained_components import COMPONENTS
from osmnet.training.stages import STAGES as ENTRIES
from osmnet.training.stages import load_settings, train_stage
from osmnet.utils.checks import reason
from osmnet.utils.files import make_folder, write_whole

STAGES = ("motion", "expression", "video")  # in the order in which they are trained
FULL = "full"
# Method and metric: Table V's three (LSE-C only with SyncNet's weights), then more telling ones. The last one measures
# the video generator alone: with ε = 0, pictures differ from the real ones mostly by the head's position.
COLUMNS = (
    ("ours", "ssim"), ("ours", "lmd_mouth_px"), ("ours", "lse_c"), ("ours", "judge_confidence"), ("ours", "lmd_lips"),
    ("ours", "opening_correlation"), ("oracle", "ssim_face"),
)  # fmt: skip
TRUE_MOTION = {"ours": "", "oracle": ", true motion"}
MOTION = (("jerk_ratio", "jerk, of real", "→ 1"), ("spread_ratio", "spread, of real", "→ 1"),
          ("pairwise", "between takes [°]", "↑"))  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """A row of the table.

    Attributes:
        name (`str`): Folder and key.
        title (`str`): Label in the table.
        sampling (`str`): `"span"` or `"ball"`.
        changes (`dict[str, dict]`): Section to the settings that differ from the shared ones; the stages of these
            sections are trained anew, the others taken from the full model.
    """

    name: str
    title: str
    sampling: str = "span"
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def stages(self) -> list[str]:
        """Stages trained for this variant only."""
        return [stage for stage in STAGES if ENTRIES[stage].settings.keys() & self.changes.keys()]


@dataclass(frozen=True)
class AblationConfig:
    """Variants, their training and evaluation.

    Attributes:
        shared (`dict[str, dict]`): Section to the settings of all variants, i.e. the budget.
        variants (`tuple[Variant, ...]`): The rows; the first is `full`.
        clips (`int`): Held-out clips to render.
        quick (`bool`): Only the first four seconds of each.
        takes (`int`): Takes of each clip for the figures of head motion.
        split (`str`): As in `StageConfig`.
    """

    shared: dict[str, dict[str, Any]]
    variants: tuple[Variant, ...]
    clips: int = 6
    quick: bool = True
    takes: int = 2
    split: Literal["speaker", "clip"] = "speaker"


def load_ablation(path_or_name: str) -> AblationConfig:
    """Read a file like `configs/ablation.yaml`.

    Args:
        path_or_name (`str`): A YAML file, or the name of one in the package.

    Returns:
        `AblationConfig`: Checked, except for the settings of the stages, which `ablate` checks first.

    Raises:
        ValueError: If it cannot be read or has an unknown name.
    """
    path = find_config(path_or_name)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"'{path}' is not valid YAML ({reason(error)}). Fix the file.") from None
    if not _has_sections(content):
        raise ValueError(
            f"'{path}' must hold the sections evaluation, shared and variants; see configs/ablation.yaml."
        )
    known = {section for stage in STAGES for section in ENTRIES[stage].settings}
    variants = []
    for name, entry in content["variants"].items():
        entry = dict(entry or {})
        variant = Variant(str(name), str(entry.pop("title", name)), str(entry.pop("sampling", "span")), entry)
        variants.append(variant)
    for where, sections in [("shared", content["shared"]), *((each.name, each.changes) for each in variants)]:
        for section, settings in sections.items():
            if section not in known or not isinstance(settings, dict):
                raise ValueError(f"'{path}', {where}: '{section}' is not a section of {', '.join(sorted(known))}.")
    if not variants or variants[0].name != FULL or variants[0].changes:
        raise ValueError(f"'{path}' must begin its variants with '{FULL}', which changes nothing.")
    if any(variant.sampling not in ("span", "ball") for variant in variants):
        raise ValueError(f"'{path}': sampling must be span or ball.")
    evaluation = content.get("evaluation") or {}
    defaults = {entry.name: entry.default for entry in dataclasses.fields(AblationConfig)[2:]}
    for name, value in evaluation.items():
        if name not in defaults or type(value) is not type(defaults[name]):
            expected = ", ".join(f"{name}: {default}" for name, default in defaults.items()).lower()
            raise ValueError(f"'{path}': evaluation takes {expected}; not {name}: {value}.")
    if evaluation.get("split", "speaker") not in ("speaker", "clip"):
        raise ValueError(f"'{path}': split must be speaker or clip.")
    return AblationConfig(content["shared"], tuple(variants), **evaluation)


def _has_sections(content: Any) -> bool:
    """Whether the parts of a file are of the right types."""
    if not isinstance(content, dict) or not isinstance(content.get("evaluation"), dict | None):
        return False
    shared, variants = content.get("shared"), content.get("variants")
    if not isinstance(shared, dict) or not isinstance(variants, dict):
        return False
    return all(isinstance(entry, dict | None) for entry in variants.values())


def ablate(
    data: str | Path, out: Path, config: AblationConfig, *, model: str | None = None, **options: Any
) -> dict[str, Any]:
    """Train and measure the unfinished variants, and write the table.

    Args:
        data (`str` or `Path`): Made by `osmnet prepare`.
        out (`Path`): Receives `ablation.json`, `.md` and `.html`, and `variants/NAME` with each variant's model and
            report; finished ones are reused.
        config (`AblationConfig`): Variants and budget.
        model (`str`, *optional*): Model with the face model of all variants; the weights in the package by default.
        **options: For `evaluate`: `syncnet`, `workers`, `device`, `progress`.

    Returns:
        `dict`: The content of `ablation.json`.

    Raises:
        ValueError: If a setting is wrong, a clip cannot be used, or something cannot be written.
    """
    dataset, out = Dataset.open(data), Path(out)
    settings = {variant.name: _stage_configs(config, variant) for variant in config.variants}  # all checked first
    dataset.split(speech=True, by=config.split)  # refuses now a dataset with nothing to train on
    base = OSMNetPipeline.from_pretrained(model)
    rows = []
    for number, variant in enumerate(config.variants, start=1):
        sys.stderr.write(f"osmnet: variant {number} of {len(config.variants)}: {variant.title}\n")
        folder = out / "variants" / variant.name
        _train(dataset, base, variant, settings[variant.name], folder, out / "variants" / FULL / "model")
        report = _evaluated(data, folder / "report", folder / "model", variant, config, options)
        rows.append(_row(variant, settings[variant.name], report))
        result = _result(data, config, rows)
        _write(out, result)  # after every row, as a preview of a long run
    return result


def _stage_configs(config: AblationConfig, variant: Variant) -> dict[str, dict[str, Any]]:
    configs = {}
    for stage in STAGES:
        overrides = {}
        for section in ENTRIES[stage].settings:
            merged = _flat(config.shared.get(section, {})) | _flat(variant.changes.get(section, {}))
            overrides[section] = [f"{key}={_text(value)}" for key, value in merged.items()]
        try:
            settings = load_settings(stage, None, overrides)
        except ValueError as error:
            raise ValueError(f"Variant '{variant.name}', {stage}: {error}") from None
        configs[stage] = {name: dataclasses.replace(each, split=config.split) for name, each in settings.items()}
    return configs


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    weights = {f"weights.{name}": value for name, value in (settings.get("weights") or {}).items()}
    return {name: value for name, value in settings.items() if name != "weights"} | weights


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _train(
    dataset: Any, base: Any, variant: Variant, configs: dict[str, dict[str, Any]], folder: Path, full: Path
) -> None:
    model, training = folder / "model", folder / "training"
    done = folder / "trained.json"
    wanted = _described(variant, configs)
    if done.is_file():
        if json.loads(done.read_text(encoding="utf-8")) != wanted:
            raise ValueError(
                f"'{folder}' holds this variant with other settings; move it away, or give another --out."
            )
        return
    base.save_pretrained(training)  # face model, landmarker, and components that are not trained
    for stage in STAGES:
        if variant.name == FULL or stage in variant.stages:
            train_stage(stage, dataset, training, configs[stage], folder / "work" / stage)
        else:
            for component in COMPONENTS[stage]:
                shutil.copytree(full / component, training / component, dirs_exist_ok=True)
    shutil.rmtree(model, ignore_errors=True)
    training.replace(model)
    _save(done, json.dumps(wanted, indent=1) + "\n")


def _described(variant: Variant, configs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    trained = list(STAGES) if variant.name == FULL else variant.stages
    described = {stage: [dataclasses.asdict(config) for config in configs[stage].values()] for stage in trained}
    return json.loads(json.dumps(described))


def _evaluated(
    data: str | Path, out: Path, model: Path, variant: Variant, config: AblationConfig, options: dict[str, Any]
) -> dict[str, Any]:
    """Measure a variant, or read its report."""
    wanted: dict[str, Any] = {
        "takes": config.takes, "sampling": variant.sampling, "quick": config.quick, "clips": config.clips,
        "split_by": config.split,
    }  # fmt: skip
    asked = {**wanted, "syncnet": str(options.get("syncnet") or "")}  # with it, there are more figures
    kept = out / "ablation.json"  # written after the report, which is whole then
    if kept.is_file() and json.loads(kept.read_text(encoding="utf-8")) == asked:
        return json.loads((out / "report.json").read_text(encoding="utf-8"))
    report = evaluate(data, out, model=model, **wanted, **options)
    _save(kept, json.dumps(asked) + "\n")
    return report


def _row(variant: Variant, configs: dict[str, dict[str, Any]], report: dict[str, Any]) -> dict[str, Any]:
    means = report["mean_by_length"]
    sampled: dict[str, float] = next(
        (row for row in report["motion"].get("by_epsilon", []) if row["epsilon"] == 1.0), {}
    )
    trained = list(STAGES) if variant.name == FULL else variant.stages
    return {
        "variant": variant.name,
        "title": variant.title,
        "changes": variant.changes | ({"sampling": variant.sampling} if variant.sampling != "span" else {}),
        "steps": {stage: [config.steps for config in configs[stage].values()] for stage in trained},
        "metrics": {
            f"{method}.{name}": means[method][name] for method, name in COLUMNS if means[method].get(name) is not None
        },
        "motion": {name: sampled[name] for name, _, _ in MOTION if sampled.get(name) is not None},
        "clips": len(report["clips"]),
    }


def _result(data: str | Path, config: AblationConfig, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "format": "osmnet-ablation",
        "version": 1,
        "data": str(data) if "://" in str(data) else Path(data).resolve().name,
        "budget": rows[0]["steps"],
        "shared": config.shared,
        "evaluation": {"clips": rows[0]["clips"], "quick": config.quick, "takes": config.takes},
        "rows": rows,
        "missing": [variant.name for variant in config.variants[len(rows) :]],
    }


def _table(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    metrics: dict[str, Metric] = {metric.name: metric for metric in METRICS}
    shown = [
        (f"{method}.{name}", f"{metrics[name].label}{TRUE_MOTION[method]} {metrics[name].arrow}", metrics[name].digits)
        for method, name in COLUMNS
        if any(f"{method}.{name}" in row["metrics"] for row in result["rows"])
    ]
    head = ["", *(label for _, label, _ in shown)]
    head += [f"{label} {arrow}" for _, label, arrow in MOTION]
    lines = []
    for row in result["rows"]:
        cells = [formatted(row["metrics"].get(key), digits) for key, _, digits in shown]
        lines.append([row["title"], *cells, *(formatted(row["motion"].get(name), 2) for name, _, _ in MOTION)])
    return head, lines


def _notes(result: dict[str, Any]) -> list[str]:
    budget = ", ".join(f"{stage} {' + '.join(map(str, steps))}" for stage, steps in result["budget"].items())
    evaluation = result["evaluation"]
    clips = f"{evaluation['clips']} held-out clip{'s' * (evaluation['clips'] > 1)}"
    clips = f"the first four seconds of {clips}" if evaluation["quick"] else clips
    notes = [
        f"Every row was trained with the same small budget (steps: {budget}); stages that a row does not change are "
        "those of the full model. Such short training ranks the choices; it does not reach the paper's figures.",
        f"Pictures, lips and sync: {clips}, source = first frame, ε = 0. Head "
        f"motion: {evaluation['takes']} takes at ε = 1, against real heads. Sync by osmnet's own judge is on its own "
        "scale; LSE-C is there when SyncNet's weights are given.",
    ]
    if result["missing"]:
        notes.append(f"Not done yet: {', '.join(result['missing'])}.")
    return notes


def _write(out: Path, result: dict[str, Any]) -> None:
    head, lines = _table(result)
    markdown = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    markdown += ["| " + " | ".join(line) + " |" for line in lines]
    markdown += [line for note in _notes(result) for line in ("", note)]
    row = lambda cells, tag: "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"  # noqa: E731
    html = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Ablation</title>",
        "<style>body{font:15px/1.5 system-ui;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#1c2330}"
        "table{border-collapse:collapse}th,td{padding:.4rem .7rem;border-bottom:1px solid #e3e7ed;text-align:right}"
        "th:first-child,td:first-child{text-align:left}p{color:#6b7484;max-width:50rem}</style>",
        f"<h1>Ablation</h1><table>{row(head, 'th')}{''.join(row(line, 'td') for line in lines)}</table>",
        *(f"<p>{escape(note)}</p>" for note in _notes(result)),
    ]
    _save(out / "ablation.json", json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    _save(out / "ablation.md", "\n".join(markdown) + "\n")
    _save(out / "ablation.html", "\n".join(html) + "\n")


def _save(path: Path, text: str) -> None:
    make_folder(path.parent)
    write_whole(path, text.encode())
