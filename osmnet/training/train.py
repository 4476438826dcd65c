"""`osmnet train STAGE`: from prepared clips to a model folder, one stage at a time, in this order.

    face-model   mean face, identity and expression bases            (seconds)
    motion       motion space and audio motion encoder               (minutes)
    expression   expression extractor                                (minutes)
    video        video generator on mouth windows                    (hours; goes on where it stopped)
    export       a folder that `OSMNetPipeline.from_pretrained` loads
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import torch

STAGES = ("face-model", "motion", "expression", "video", "export")


def export(model: Path, landmarker: Path, out: Path) -> dict:
    """Put trained components together as a pipeline, in full and in half precision.

    Args:
        model (`Path`): Folder with one folder a component.
        landmarker (`Path`): The `.task` bundle.
        out (`Path`): The folder to make or renew.

    Returns:
        `dict`: Size of each file in bytes.
    """
    from importlib import import_module

    from osmnet.pipeline import OSMNetPipeline

    components = {}
    for name, path in OSMNetPipeline.components_classes.items():
        module, _, class_name = path.partition(":")
        components[name] = getattr(import_module(module), class_name).from_pretrained(model / name)
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
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the stage, e.g. steps=2000"
    )
    args = parser.parse_args(argv)
    if args.stage != "export" and args.data is None:
        parser.error(f"{args.stage} needs --data, a folder made by `osmnet prepare`.")
    if args.stage == "export" and args.out is None:
        parser.error("export needs --out, the folder to write.")
    if args.threads:
        torch.set_num_threads(args.threads)
    report = _run(args)
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    return 0


def _run(args: argparse.Namespace) -> dict:
    if args.stage == "face-model":
        from osmnet.training.face_model import train

        return train(args.data, args.model)
    if args.stage == "motion":
        from osmnet.training.motion import MotionConfig, train

        return train(args.data, args.model, _configured(MotionConfig(), args.set))
    if args.stage == "expression":
        from osmnet.training.expression import ExpressionConfig, train

        return train(args.data, args.model, _configured(ExpressionConfig(), args.set))
    if args.stage == "video":
        from osmnet.training.video import VideoConfig, train

        return train(args.data, args.model, _configured(VideoConfig(), args.set), args.work or args.model / "work-video")
    from osmnet.pipeline_utils import packaged_landmarker

    return export(args.model, args.landmarker or packaged_landmarker(), args.out)


def _configured(config: object, settings: list[str]) -> object:
    """A stage's settings with some of them changed by `NAME=VALUE`."""
    kinds = {entry.name: type(getattr(config, entry.name)) for entry in dataclasses.fields(config)}
    changes = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        if name not in kinds:
            raise ValueError(f"There is no setting '{name}'; there are {', '.join(sorted(kinds))}.")
        try:
            changes[name] = kinds[name](value)
        except ValueError:
            raise ValueError(f"The setting {name} must be a {kinds[name].__name__}, not '{value}'.") from None
    return dataclasses.replace(config, **changes)


if __name__ == "__main__":
    raise SystemExit(main())
