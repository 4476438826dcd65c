"""`osmnet train STAGE`: from prepared clips to a model folder, one stage at a time, in this order (docs/training.md).

- face-model: mean face, identity and expression bases (seconds)
- motion: motion space and audio motion encoder (minutes)
- expression: expression extractor (minutes)
- video: video generator on mouth windows (hours; goes on where it stopped)
- export: a folder that `OSMNetPipeline.from_pretrained` loads
"""

import argparse
import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any

import torch

STAGES = ("face-model", "motion", "expression", "video", "export")
KINDS = {int: "a whole number", float: "a number"}


def export(model: Path, landmarker: Path, out: Path) -> dict:
    """Put trained components together as a pipeline, in full and in half precision.

    Args:
        model (`Path`): Folder with one folder a component.
        landmarker (`Path`): The `.task` bundle.
        out (`Path`): The folder to make or renew.

    Returns:
        `dict`: Size of each file in bytes.

    Raises:
        ValueError: If a component is missing (says which stage makes it) or not whole, or `out` cannot be written.
    """
    from importlib import import_module

    from osmnet.pipeline import OSMNetPipeline
    from osmnet.training.common import load_component

    components = {}
    for name, path in OSMNetPipeline.components_classes.items():
        module, _, class_name = path.partition(":")
        components[name] = load_component(getattr(import_module(module), class_name), model, name)
    if not landmarker.is_file():
        raise ValueError(f"No face landmarker at '{landmarker}'; build it with scripts/build_landmarker.py.")
    pipe = OSMNetPipeline(**components, face_landmarker=landmarker)
    pipe.save_pretrained(out)
    pipe.to(dtype=torch.float16).save_pretrained(out, variant="fp16")
    return {str(file.relative_to(out)): file.stat().st_size for file in sorted(out.rglob("*")) if file.is_file()}


def main(argv: list[str] | None = None) -> int:
    """Command line of `osmnet train`."""
    parser = argparse.ArgumentParser(
        prog="osmnet train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--data", type=Path, help="folder made by `osmnet prepare`")
    parser.add_argument("--model", type=Path, required=True, help="folder of the components being trained")
    parser.add_argument("--work", type=Path, help="video: checkpoints, log and sheets (default: MODEL/work-video)")
    parser.add_argument("--out", type=Path, help="export: the folder to write")
    parser.add_argument("--landmarker", type=Path, help="export: a .task bundle (default: the one in the package)")
    parser.add_argument("--threads", type=int, help="CPU threads for PyTorch")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE",
        help="a setting of motion, expression or video, e.g. steps=2000; a wrong name lists them all",
    )  # fmt: skip
    args = parser.parse_args(argv)
    if args.stage != "export" and args.data is None:
        raise ValueError(f"{args.stage} needs --data, a folder made by `osmnet prepare`.")
    if args.stage == "export" and args.out is None:
        raise ValueError("export needs --out, the folder to write.")
    if args.stage in ("face-model", "export") and args.set:
        raise ValueError(f"{args.stage} has no settings: leave --set out.")
    if args.threads:
        torch.set_num_threads(args.threads)
    report = _run(args)
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    return 0


def _run(args: argparse.Namespace) -> dict:
    # Each stage imports only what it needs.
    if args.stage == "face-model":
        from osmnet.training import face_model

        return face_model.train(args.data, args.model)
    if args.stage == "motion":
        from osmnet.training import motion

        return motion.train(args.data, args.model, _configured(motion.MotionConfig(), args.set))
    if args.stage == "expression":
        from osmnet.training import expression

        return expression.train(args.data, args.model, _configured(expression.ExpressionConfig(), args.set))
    if args.stage == "video":
        from osmnet.training import video

        work = args.work or args.model / "work-video"
        return video.train(args.data, args.model, _configured(video.VideoConfig(), args.set), work)
    from osmnet.pipeline_utils import packaged_landmarker

    return export(args.model, args.landmarker or packaged_landmarker(), args.out)


def _configured(config: Any, settings: list[str]) -> Any:
    """A stage's settings with some of them changed by `NAME=VALUE`."""
    kinds = {entry.name: type(getattr(config, entry.name)) for entry in dataclasses.fields(config)}
    changes = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if name not in kinds:
            raise ValueError(f"There is no setting '{name}'; there are {', '.join(sorted(kinds))}.")
        if not equals:
            raise ValueError(f"The setting {name} has no value; write {name}=VALUE.")
        try:
            changes[name] = kinds[name](value)
        except ValueError:
            raise ValueError(f"The setting {name} must be {KINDS[kinds[name]]}, not '{value}'.") from None
        lowest = 1 if name in ("steps", "batch_size") else 0
        if not math.isfinite(changes[name]) or changes[name] < lowest:
            raise ValueError(f"The setting {name} is out of its range: '{value}'.")
    return dataclasses.replace(config, **changes)


if __name__ == "__main__":
    raise SystemExit(main())
