"""Model folders: configurations, weights and landmarkers of strangers."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.case import Case
from tests.fuzz.mutate import NUMBERS, mutate_bytes, mutate_json
from tests.fuzz.seeds import contents

WEIGHTS, LANDMARKER = "diffusion_pytorch_model.safetensors", "face_landmarker.task"
FLOATS = (b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\x00\x00\x80\xff", b"\xff\xff\x7f\x7f", b"\x01\x00\x00\x00")


def make(rng: Random, seeds: Path) -> Case:
    """Make a case."""
    files = contents(seeds / "model")
    name = rng.choices(list(files), [0.3 if each == LANDMARKER else 1 for each in files])[0]
    data: bytes | None = files[name]
    if rng.random() < 0.04:
        data = None
    elif name.endswith(".json"):
        data = mutate_json(rng, json.loads(files[name]))
    elif name == LANDMARKER:
        data = mutate_bytes(rng, files[name][:10_000])
    else:
        data = _weights(rng, files[name], files[rng.choice([each for each in files if each.endswith(WEIGHTS)])])
    target = rng.choice(("pipeline", "family", "component", "component"))
    component = name.split("/")[0] if "/" in name else "motion_space"
    return Case("models", target, {name: data}, "model", {"component": repr(component)})


def _weights(rng: Random, data: bytes, other: bytes) -> bytes:
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    edit = rng.random()
    if edit < 0.35:  # NaN, infinity and other numbers in the tensors
        for _ in range(rng.choice((1, 1, 3))):
            place = rng.randrange(max(len(body) // 4, 1)) * 4
            body = body[:place] + rng.choice(FLOATS) + body[place + 4 :]
        return data[: 8 + length] + body
    if edit < 0.75:
        name = rng.choice(list(header))
        if rng.random() < 0.5 and isinstance(header[name].get("shape"), list):
            key = rng.choice(("shape", "data_offsets", "dtype"))
            new = {"shape": [rng.choice(NUMBERS) for _ in range(rng.randrange(5))],
                   "data_offsets": [rng.choice(NUMBERS), rng.choice(NUMBERS)],
                   "dtype": rng.choice(("F64", "F16", "BF16", "I64", "BOOL", "F8_E4M3", "X", 3))}[key]  # fmt: skip
            header[name] = {**header[name], key: new}
            text = json.dumps(header).encode()
        else:
            text = mutate_json(rng, header)
        size = len(text) if rng.random() < 0.9 else rng.choice(NUMBERS)
        return size.to_bytes(8, "little") + text + body
    return mutate_bytes(rng, data, other)


def pipeline(folder: Path, component: str) -> Any:
    """Load the folder as a pipeline."""
    from osmnet.pipelines.osm_net.pipeline_osm_net import OSMNetPipeline

    return OSMNetPipeline.from_pretrained(folder)


def family(folder: Path, component: str) -> Any:
    """Load the folder as a pipeline of any family, in another dtype."""
    import torch

    from osmnet.pipelines.talking_head import TalkingHeadPipeline

    return TalkingHeadPipeline.from_pretrained(folder, dtype=torch.bfloat16)


def component(folder: Path, component: str) -> Any:
    """Load one network of it."""
    from importlib import import_module

    from osmnet.pipelines.osm_net.pipeline_osm_net import OSMNetPipeline

    module, _, name = OSMNetPipeline.components_classes[component].partition(":")
    return getattr(import_module(module), name).from_pretrained(folder / component)


TARGETS = {"pipeline": pipeline, "family": family, "component": component}
