"""Settings of training and preparing: YAML files, `--set NAME=VALUE`, tables of videos."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.case import Case
from tests.fuzz.mutate import mutate_bytes
from tests.fuzz.seeds import contents

STAGES = ("motion", "expression", "video", "sync")
VALUES = (
    "nan", "inf", "-1", "1e999", "9" * 5000, "''", "[]", "{}", "null", "true", "x", "[1, 2, x]", "{a: 1}",
    "2020-01-01",
    "!!python/object:os.system {}", "&a [*a]", "0x1f", "1_000", "~", "'\\0'", "é", "1.5", "1e400", "[[[[]]]]",
    "!!binary aGk=", "!!set {a, b}", "-0", ".inf", ".nan", "12:30:45", "*x", "<<: {a: 1}",
)  # fmt: skip
BOMB = b"a: &a [x, x, x, x, x, x, x, x, x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (98 + k, 98 + k, b", ".join([b"*%c" % (97 + k)] * 9)) for k in range(8)
)


def make(rng: Random, seeds: Path) -> Case:
    """Make a case."""
    files = contents(seeds / "settings")
    name = rng.choice(list(files))
    data = BOMB if rng.random() < 0.01 else _edited(rng, files[name])
    if name.endswith(".csv"):
        return Case("settings", "table", {name: data})
    if name.startswith("ablation"):
        return Case("settings", "ablation", {name: data})
    stage = rng.choice(STAGES)
    setting = rng.choice(
        ("steps", "weights.g", "learning_rate", "schedule", "split", "weights", "", "x.y", "=", "seed")
    )
    overrides = [f"{setting}={rng.choice(VALUES)}"] * (rng.random() < 0.4)
    return Case("settings", "config", {name: data}, arguments={"stage": repr(stage), "overrides": repr(overrides)})


def _edited(rng: Random, data: bytes) -> bytes:
    lines = data.split(b"\n")
    places = [k for k, line in enumerate(lines) if b": " in line]
    if rng.random() < 0.3 or not places:
        return mutate_bytes(rng, data)
    for _ in range(rng.choice((1, 1, 3))):
        place = rng.choice(places)
        name, _, _ = lines[place].partition(b": ")
        lines[place] = name + b": " + rng.choice(VALUES).encode()
    return b"\n".join(lines)


def _file(folder: Path) -> Path:
    return next(path for path in folder.iterdir() if path.is_file())


def config(folder: Path, stage: str, overrides: list[str]) -> Any:
    """Read the settings of a stage."""
    from osmnet.training.stages import load_settings

    return load_settings(stage, str(_file(folder)), {stage: overrides})


def table(folder: Path) -> Any:
    """Read a table of known facts."""
    from osmnet.data.prepare import read_table

    return read_table(_file(folder))


def ablation(folder: Path) -> Any:
    """Read the settings of an ablation."""
    from osmnet.training.osm_net.ablation import load_ablation

    return load_ablation(str(_file(folder)))


TARGETS = {"config": config, "table": table, "ablation": ablation}
