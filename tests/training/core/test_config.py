"""Settings: YAML, overrides, and what is said of wrong ones."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from osmnet.training.core.config import StageConfig, find_config, load_config
from osmnet.training.stages import SECTIONS, STAGES, load_settings, settings_classes


@dataclass(frozen=True)
class Settings(StageConfig):
    frames: int = 64
    mirror: bool = True
    pitch: tuple[float, float] = (0.9, 1.1)
    weights: dict[str, float] = field(default_factory=lambda: {"l1": 1.0, "kl": 0.5})


def load(text: str, tmp_path: Path, *overrides: str) -> Settings:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    return load_config(str(file), Settings, "motion", list(overrides), SECTIONS)


def test_file_then_overrides_change_what_they_name_and_nothing_else(tmp_path: Path):
    text = "video: {steps: 3}\nmotion: {steps: 7, learning_rate: 1e-4, weights: {kl: 2}, pitch: [0.5, 2]}"
    config = load(text, tmp_path, "steps=9", "mirror=false", "weights.l1=0", "init=packaged")
    assert config == Settings(
        steps=9, learning_rate=1e-4, weights={"l1": 0.0, "kl": 2.0}, pitch=(0.5, 2.0), mirror=False, init="packaged"
    )
    assert load("", tmp_path, "pitch=1,1.5") == Settings(pitch=(1.0, 1.5))
    assert load_config(None, Settings, "motion", []) == Settings()
    assert load("motion:\n", tmp_path) == Settings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("moton: {steps: 3}", "unknown section 'moton'; there are motion, audio-motion, upper-face"),
        ("motion: {stepps: 3}", "no setting 'stepps' .*section 'motion'.*; there are batch_size, beta1"),
        ("motion: {steps: many}", "steps must be a whole number, not 'many'"),
        ("motion: {steps: 1.5}", "steps must be a whole number, not 1.5"),
        ("motion: {steps: true}", "steps must be a whole number, not True"),
        ("motion: {learning_rate: true}", "learning_rate must be a number"),
        ("motion: {mirror: 1}", "mirror must be true or false"),
        ("motion: {init: 3}", "init must be a text"),
        ("motion: {pitch: 3}", "pitch must be a list"),
        ("motion: {weights: {style: 3}}", "no loss 'style' to weigh .*; there are kl, l1"),
        ("motion: {weights: 3}", "weights must name losses"),
        ("motion: [steps]", "one section a stage"),
        ("steps: 3", "one section a stage"),
        ("motion: {steps: 3", "is not valid YAML .* Fix the file"),
    ],
)
def test_mistakes_in_a_file_are_named(tmp_path: Path, text: str, message: str):
    with pytest.raises(ValueError, match=message):
        load(text, tmp_path)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("speed=3", "no setting 'speed' .--set.; there are"),
        ("steps", "steps has no value; write steps=VALUE"),
        ("steps=", "steps must be a whole number, not ''"),
        ("steps=0", "steps must be at least 1, not 0"),
        ("ema=nan", "ema must be a finite number"),
        ("ema=1", "ema must be below 1"),
        ("learning_rate=-1", "learning_rate must be a finite number of at least 0"),
        ("weights.kl=inf", "weights.kl must be a finite number"),
        ("weights.kl=much", "weights.kl must be a number"),
        ("weights=3", "weights must name losses"),
        ("steps.kl=3", "steps has no parts"),
        ("schedule=linear", "schedule must be one of cosine, constant, paper, not 'linear'"),
        ("mixed_precision=fp8", "mixed_precision must be one of no, bf16, fp16"),
        ("split=person", "split must be one of speaker, clip"),
    ],
)
def test_wrong_overrides_are_named(setting: str, message: str):
    with pytest.raises(ValueError, match=message):
        load_config(None, Settings, "motion", [setting])


def test_schedules():
    cosine = Settings(steps=100, learning_rate=1.0, warm_up=10, floor=0.2)
    assert cosine.rate(0) == pytest.approx(0.1)
    assert cosine.rate(50) == pytest.approx(0.2 + 0.8 * 0.5)  # half-way down to the floor
    assert cosine.rate(100) == pytest.approx(0.2)
    assert Settings(schedule="constant", learning_rate=0.3).rate(999) == 0.3
    paper = Settings(schedule="paper", learning_rate=1e-4)
    assert paper.rate(299_999) == 1e-4 and paper.rate(300_000) == pytest.approx(2e-5)


def test_configurations_are_found_by_name(repository: Path):
    assert find_config("tiny").read_text() == (repository / "configs" / "tiny.yaml").read_text()
    assert find_config(str(repository / "configs" / "paper.yaml")) == repository / "configs" / "paper.yaml"
    with pytest.raises(ValueError, match="no configuration 'huge'; give a YAML file, or one of .*default, .*tiny"):
        find_config("huge")


@pytest.mark.parametrize("name", ["default", "paper", "tiny"])
def test_packaged_configurations_load_for_every_stage(name: str):
    sections = yaml.safe_load(find_config(name).read_text())
    for stage in STAGES:
        for section, loaded in load_settings(stage, name, {}).items():
            kind = settings_classes(stage)[section]
            assert isinstance(loaded, kind)
            if name == "tiny":
                assert loaded.steps <= 3 and loaded.workers == 0
            if name == "default":  # a file to copy: it shows the defaults, and leaves no setting of a stage out
                assert loaded == kind()
                own = {e.name for e in dataclasses.fields(kind)} - {e.name for e in dataclasses.fields(StageConfig)}
                assert {name for name in own if not name.startswith("sound_")} <= set(sections[section])


def test_overrides_go_to_their_section():
    configs = load_settings("motion", None, {"audio-motion": ["steps=7"]})
    assert list(configs) == ["motion", "audio-motion"]
    assert (
        configs["audio-motion"].steps == 7 and configs["motion"].steps == settings_classes("motion")["motion"]().steps
    )
