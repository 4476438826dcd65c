"""Settings of the stages, from YAML files and `--set NAME=VALUE`."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from osmnet.utils.checks import reason, short

CHOICES = {
    "schedule": ("cosine", "constant", "paper"),
    "mixed_precision": ("no", "bf16", "fp16"),
    "split": ("speaker", "clip"),
}
# Settings that may differ on resume. No step depends on them but for `steps`, where the run and the cosine end: people
# want longer runs. The weights that `init` names are compared by their fingerprint.
FREE_SETTINGS = ("steps", "validate_every", "sample_every", "checkpoint_every", "keep_checkpoints", "workers", "init")
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
PAPER_DROP_STEP, PAPER_DROP = 300_000, 0.2  # the papers' schedule: the rate is a fifth after 300k steps


@dataclass(frozen=True)
class StageConfig:
    """Settings of every stage, which may override the defaults.

    Args:
        steps (`int`): Optimizer steps.
        batch_size (`int`): Examples per batch and process.
        learning_rate (`float`): Peak rate of Adam.
        schedule (`str`): `"cosine"` falls to `floor` at the last step, `"constant"`, or `"paper"`: a fifth after
            300,000 steps.
        floor (`float`): Final share of the rate with a cosine.
        warm_up (`int`): Steps of linear warm-up.
        weight_decay (`float`): AdamW's; 0 makes it Adam.
        beta1 (`float`): Adam's first decay.
        beta2 (`float`): Adam's second decay.
        clip_norm (`float`): Largest norm of the networks' gradient; 0 does not clip.
        ema (`float`): Decay of the averaged weights; 0 saves the weights themselves.
        gradient_accumulation (`int`): Batches per optimizer step.
        mixed_precision (`str`): `"no"`, `"bf16"` or `"fp16"`.
        seed (`int`): Seed of weights, batches and dropout.
        workers (`int`): Loader processes; 0 makes batches in the training process.
        pool_clips (`int`): Clips in memory at a time.
        pool_turnover (`int`): Steps after which one of them is replaced.
        validate_every (`int`): Steps between validations; 0 validates at the end only.
        sample_every (`int`): Steps between pictures; 0 draws them at the end only.
        checkpoint_every (`int`): Steps between checkpoints; 0 writes one at the end only.
        keep_checkpoints (`int`): Checkpoints that stay.
        init (`str`): Starting weights: `""` for random ones, `"packaged"`, a folder or a Hub id.
        split (`str`): `"speaker"` holds one speaker in eight out, `"clip"` every fifth clip (one person).
        weights (`dict[str, float]`): Weight of each loss in the sum. The defaults name all losses; those of weight 0
            are logged only.

    Raises:
        ValueError: If a value is out of range.
    """

    steps: int = 1000
    batch_size: int = 16
    learning_rate: float = 1e-4
    schedule: str = "cosine"
    floor: float = 0.0
    warm_up: int = 0
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    clip_norm: float = 0.0
    ema: float = 0.0
    gradient_accumulation: int = 1
    mixed_precision: str = "no"
    seed: int = 0
    workers: int = 0
    pool_clips: int = 512
    pool_turnover: int = 50
    validate_every: int = 500
    sample_every: int = 1000
    checkpoint_every: int = 500
    keep_checkpoints: int = 2
    init: str = ""
    split: str = "speaker"
    weights: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Validate."""
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, not {short(getattr(self, name))}.")
        numbers = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self)}
        numbers |= {f"weights.{name}": value for name, value in self.weights.items()}
        for name, value in numbers.items():
            if isinstance(value, (int, float)) and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be a finite number of at least 0, not {short(value)}.")
        counts = "steps", "batch_size", "gradient_accumulation", "keep_checkpoints", "pool_clips", "pool_turnover"
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}.")
        for name in ("ema", "beta1", "beta2"):
            if getattr(self, name) >= 1:
                raise ValueError(f"{name} must be below 1, not {getattr(self, name)}.")

    def rate(self, step: int) -> float:
        """Compute the learning rate of a step, from 0."""
        rate = self.learning_rate * min(1, (step + 1) / max(self.warm_up, 1))
        if self.schedule == "cosine":
            rate *= self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * min(step / self.steps, 1)))
        elif self.schedule == "paper" and step >= PAPER_DROP_STEP:
            rate *= PAPER_DROP
        return rate


Config = TypeVar("Config", bound=StageConfig)


def load_config(
    path_or_name: str | None,
    stage_config: type[Config],
    section: str,
    overrides: list[str],
    sections: Collection[str] = (),
) -> Config:
    """Read the settings of a stage.

    Args:
        path_or_name (`str`, *optional*): A YAML file, or the name of one in the package (`"tiny"`). Not given, or
            without `section`: the defaults.
        stage_config (`type`): Dataclass of the settings.
        section (`str`): Section of the file.
        overrides (`list[str]`): `NAME=VALUE` or `weights.LOSS=VALUE`; they override the file.
        sections (`Collection[str]`): Sections that a file may have; empty allows any.

    Returns:
        `StageConfig`: An instance of `stage_config`.

    Raises:
        ValueError: If the file cannot be read, or a section, setting, loss or value is wrong.
    """
    defaults = stage_config()
    values: dict[str, Any] = {}
    if path_or_name is not None:
        file = find_config(path_or_name)
        for name, value in (_read_yaml(file, sections).get(section) or {}).items():
            _take(values, defaults, str(name), value, f"'{file}', section '{section}'")
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals:
            raise ValueError(f"The setting {name} has no value; write {name}=VALUE.")
        _take(values, defaults, name.strip(), text.strip(), "--set")
    try:
        return dataclasses.replace(defaults, **values)
    except ValueError as error:
        raise ValueError(f"The settings of {section} do not work: {error}") from None


def find_config(path_or_name: str) -> Path:
    """Find a file by path or by packaged name."""
    path = Path(path_or_name)
    if path.is_file():
        return path
    package = Path(__file__).resolve().parents[2]
    folders = [folder / "configs" for folder in (package, package.parent) if (folder / "configs").is_dir()]
    names = sorted(file.stem for folder in folders[:1] for file in folder.glob("*.yaml"))
    if path_or_name in names:
        return folders[0] / f"{path_or_name}.yaml"
    raise ValueError(
        f"There is no configuration '{path_or_name}'; give a YAML file, or one of {', '.join(names) or 'none here'}."
    )


def _read_yaml(file: Path, known: Collection[str]) -> dict[str, dict]:
    import yaml  # only training needs it

    try:
        sections = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"'{file}' is not valid YAML ({reason(error)}). Fix the file.") from None
    if not isinstance(sections, dict) or not all(isinstance(each, dict | None) for each in sections.values()):
        raise ValueError(f"'{file}' must hold one section a stage, each with lines 'name: value'.")
    for section in sections:
        if known and section not in known:
            raise ValueError(f"'{file}' has the unknown section '{section}'; there are {', '.join(known)}.")
    return sections


def _take(values: dict[str, Any], defaults: StageConfig, name: str, value: Any, where: str) -> None:
    kinds = typing.get_type_hints(type(defaults))
    name, _, loss = name.partition(".")
    if name not in kinds:
        raise ValueError(f"There is no setting '{name}' ({where}); there are {', '.join(sorted(kinds))}.")
    if name != "weights":
        if loss:
            raise ValueError(f"The setting {name} has no parts ({where}); only weights has: weights.LOSS=VALUE.")
        values[name] = _converted(name, value, kinds[name], where)
        return
    weights = values.setdefault("weights", dict(defaults.weights))
    if loss:
        value = {loss: value}
    if not isinstance(value, dict):
        raise ValueError(f"weights must name losses ({where}): weights.LOSS=VALUE, or lines 'LOSS: VALUE' in a file.")
    for each, number in value.items():
        if each not in weights:
            known = ", ".join(sorted(weights)) or "none"
            raise ValueError(f"There is no loss '{each}' to weigh ({where}); there are {known}.")
        weights[each] = _converted(f"weights.{each}", number, float, where)


def _converted(name: str, value: Any, kind: Any, where: str) -> Any:
    if typing.get_origin(kind) is tuple:  # tuple[int, ...]: a YAML list, or 1,2,3
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, list):
            raise ValueError(f"The setting {name} must be a list, not {short(value)} ({where}).")
        return tuple(_converted(name, part, typing.get_args(kind)[0], where) for part in parts)
    if isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool):
        return value
    try:
        if kind is bool:
            return {"true": True, "false": False}[str(value).lower()]
        # YAML reads 1e-4 as text. A number is no text, a fraction no whole number, and true no number.
        if kind is float and isinstance(value, (int, str)) and not isinstance(value, bool):
            return float(value)
        if kind is int and isinstance(value, str):
            return int(value)
    except (KeyError, ValueError):
        pass
    raise ValueError(f"The setting {name} must be {KINDS[kind]}, not {short(value)} ({where}).")
