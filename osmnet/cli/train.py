"""`osmnet train STAGE`: from a prepared dataset to a model folder, stage by stage, in this order (docs/training.md).

- face-model: mean face, identity and expression bases (seconds)
- motion: motion space, then audio motion encoder (minutes)
- expression: expression extractor (minutes)
- video: video generator (hours)
- export: a folder that `OSMNetPipeline.from_pretrained` loads

and, beside them,

- sync: a judge of lips and sound for `osmnet evaluate`
- finetune: adapt finished weights to one speaker or a few clips (docs/fine_tuning.md)

A stage goes on from its newest checkpoint. Several GPUs: `accelerate launch -m osmnet.cli.train STAGE ...`
(not for finetune, which takes minutes on one).
"""

import argparse
import json
import os
import sys
import time
from importlib import import_module, util
from pathlib import Path

from osmnet.cli.parser import EXIT_INTERRUPTED, EXIT_WRONG_INPUT, Parser
from osmnet.training.core.config import SETTINGS, load_config
from osmnet.training.stages import stage_module
from osmnet.utils.threads import set_threads

STAGES = ("face-model", *SETTINGS, "finetune", "export")
PACKAGES = ("accelerate", "tensorboard", "yaml")  # of the extra `train`
PATIENCE_SECONDS = 30.0


def main(argv: list[str] | None = None) -> int:
    """Command line of `osmnet train`.

    Returns:
        `int`: The exit status: 0, or 130 and 143 after Ctrl-C and SIGTERM, once a checkpoint is saved.

    Raises:
        ValueError: If something is wrong with the arguments or what they name; in the main process only, if all
            processes of a run find it alike.
    """
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["finetune"]:
        _check_packages()
        try:
            return import_module("osmnet.cli.finetune").main(argv[1:]) or 0
        except KeyboardInterrupt as stop:
            sys.stderr.write(f"\nosmnet: {str(stop) or 'stopped; run the same command again to go on'}.\n")
            return getattr(stop, "status", EXIT_INTERRUPTED)
    arguments = _parser().parse_args(argv)
    main_process = int(os.environ.get("RANK", "0")) == 0  # as `accelerate launch` numbers them
    try:
        report = _run(arguments, main_process)
    except KeyboardInterrupt as stop:
        if not hasattr(stop, "status"):
            raise
        if main_process:
            sys.stderr.write(f"osmnet: {stop}.\n")
        return stop.status
    except (ValueError, OSError) as error:
        if main_process or _is_of_this_process_alone(error):
            raise
        # The launcher ends all processes when the first one ends: that must be the one that says what is wrong.
        time.sleep(PATIENCE_SECONDS)
        return EXIT_WRONG_INPUT
    except RuntimeError as error:
        if not any(name in str(error) for name in ("gloo", "NCCL")):
            raise
        sys.stderr.write("osmnet: Another process of this run has ended, so this one ends, too.\n")
        return EXIT_WRONG_INPUT
    if main_process:
        sys.stdout.write(json.dumps(report, indent=1) + "\n")
    _leave_processes()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="osmnet train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--data", help="folder or address of a dataset made by `osmnet prepare`")
    parser.add_argument("--model", type=Path, required=True, help="folder of the components being trained")
    parser.add_argument("--config", help="YAML file with the settings, or one of the package's: tiny, default, paper")
    parser.add_argument("--work", type=Path, help="checkpoints, curves and samples (default: MODEL/work/STAGE)")
    parser.add_argument("--out", type=Path, help="export: the folder to write")
    parser.add_argument("--landmarker", type=Path, help="export: a .task bundle (default: the one in the package)")
    parser.add_argument("--threads", type=int, help="CPU threads for PyTorch")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE",
        help="a setting, e.g. steps=2000, weights.g=0.2, audio-motion.steps=500; a wrong name lists them all",
    )  # fmt: skip
    return parser


def _run(arguments: argparse.Namespace, main_process: bool) -> dict:
    stage, model = arguments.stage, arguments.model
    if stage != "export" and arguments.data is None:
        raise ValueError(f"{stage} needs --data, a dataset made by `osmnet prepare`.")
    if stage == "export" and arguments.out is None:
        raise ValueError("export needs --out, the folder to write.")
    if stage not in SETTINGS and (arguments.set or arguments.config):
        raise ValueError(f"{stage} has no settings: leave --set and --config out.")
    set_threads(arguments.threads)
    if stage in SETTINGS:
        return _train(arguments)
    if not main_process:  # nothing to share: one process does it
        return {}
    if stage == "face-model":
        from osmnet.data.dataset import Dataset
        from osmnet.training.osm_net import face_model_stage as face_model

        return face_model.train(Dataset.open(arguments.data), model)
    from osmnet.loading.packaged import packaged_landmarker
    from osmnet.training.osm_net.export import export

    return export(model, arguments.landmarker or packaged_landmarker(), arguments.out)


def _train(arguments: argparse.Namespace) -> dict:
    _check_packages()
    from osmnet.data.dataset import Dataset

    stage, sections = arguments.stage, SETTINGS[arguments.stage]
    module = stage_module(stage)
    configs = []
    for section, name in sections.items():
        # `audio-motion.steps=500` is for that section, a name alone for the stage's own; who is held out, for both.
        mine = [
            each.removeprefix(f"{section}.") for each in arguments.set
            if _section_of(each, stage) == section or each.startswith("split=")
        ]  # fmt: skip
        configs.append(load_config(arguments.config, getattr(module, name), section, mine))
    # A stage with several sections makes a folder for each.
    work = arguments.work or arguments.model / "work" / (stage if len(sections) == 1 else "")
    return module.train(Dataset.open(arguments.data), arguments.model, configs[0], work, *configs[1:])


def _section_of(setting: str, stage: str) -> str:
    head = setting.partition("=")[0].partition(".")[0]
    return head if head in SETTINGS[stage] else stage


def _check_packages() -> None:
    for package in PACKAGES:
        if util.find_spec(package) is None:
            raise ValueError(f"`osmnet train` needs the package '{package}'; pip install 'osmnet[train]'.")


def _is_of_this_process_alone(error: Exception) -> bool:
    """Whether the main process knows nothing of an error: it came up after the processes had met, and here."""
    import torch.distributed

    from osmnet.training.core.processes import MainProcessError

    met = torch.distributed.is_available() and torch.distributed.is_initialized()
    return met and not isinstance(error, MainProcessError)


def _leave_processes() -> None:
    import torch.distributed

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
