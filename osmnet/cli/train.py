"""`osmnet train STAGE`: train a model stage by stage, in this order (docs/training.md).

- face-model: mean face, identity and expression bases (seconds)
- motion: motion space, then audio motion encoder (minutes)
- upper-face: motion space of brows and lids, habits of gaze and blinks (minutes)
- expression: expression extractor (minutes)
- video: video generator (hours)
- export: a folder for `OSMNetPipeline.from_pretrained`

Besides:

- sync: lip-sync metric for `osmnet evaluate`
- finetune: adapt finished weights to one speaker or a few clips (docs/fine_tuning.md)

A stage resumes from its newest checkpoint. Several GPUs: `accelerate launch -m osmnet.training.train STAGE ...`.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping
from importlib import import_module, util
from pathlib import Path

from osmnet.cli.parser import EXIT_INTERRUPTED, EXIT_WRONG_INPUT, Parser
from osmnet.training.stages import STAGES, load_settings, train_stage
from osmnet.utils.threads import set_threads

COMMANDS = ("face-model", *STAGES, "finetune", "export")
PACKAGES = ("accelerate", "tensorboard", "yaml")  # of the extra `train`
PATIENCE_SECONDS = 30.0
WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")  # as Accelerate reads them


def main(argv: list[str] | None = None) -> int:
    """Run `osmnet train`.

    Returns:
        `int`: Exit status: 0, or 130 or 143 after Ctrl-C or SIGTERM, once a checkpoint is saved.

    Raises:
        ValueError: If an argument or its file is invalid; in the main process only, if all processes find the
            same error.
    """
    argv = sys.argv[1:] if argv is None else argv
    main_process = int(os.environ.get("RANK", "0")) == 0  # as `accelerate launch` numbers them
    if launched_alone(os.environ):
        sys.stderr.write(
            "osmnet: `accelerate launch` started one process although --num_processes asks for several; without GPUs "
            "it takes `ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N -m "
            "osmnet.training.train ...`. This one trains alone.\n"
        )
    try:
        if argv[:1] == ["finetune"]:
            _check_packages()
            status = import_module("osmnet.cli.finetune").main(argv[1:]) or 0
        else:
            report = _run(_parser().parse_args(argv), main_process)
            status = 0
            if main_process:
                sys.stdout.write(json.dumps(report, indent=1) + "\n")
    except KeyboardInterrupt as stop:
        if main_process:
            sys.stderr.write(f"\nosmnet: {str(stop) or 'stopped; run the same command again to resume'}.\n")
        return getattr(stop, "status", EXIT_INTERRUPTED)
    except (ValueError, OSError) as error:
        if main_process or _is_of_this_process_alone(error):
            raise
        # The launcher ends all processes with the first one, which must be the one that reports the error.
        time.sleep(PATIENCE_SECONDS)
        return EXIT_WRONG_INPUT
    except RuntimeError as error:
        if not any(name in str(error) for name in ("gloo", "NCCL")):
            raise
        sys.stderr.write("osmnet: Another process of this run has ended, so this one ends, too.\n")
        return EXIT_WRONG_INPUT
    _leave_processes()
    return status


def launched_alone(environment: Mapping[str, str]) -> bool:
    """Whether `accelerate launch` started one process of several requested.

    It does so with `--cpu` or without GPUs, unless given `--multi_gpu`.
    """
    # Accelerate then sets MASTER_PORT, but no world size.
    launched = "ACCELERATE_MIXED_PRECISION" in environment and "MASTER_PORT" in environment
    return launched and not any(name in environment for name in WORLD_SIZES)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="osmnet train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=COMMANDS)
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
    if stage not in STAGES and (arguments.set or arguments.config):
        raise ValueError(f"{stage} has no settings: leave --set and --config out.")
    set_threads(arguments.threads)
    if stage in STAGES:
        return _train(arguments)
    if not main_process:  # one process does it
        return {}
    if stage == "face-model":
        from osmnet.data.dataset import Dataset
        from osmnet.training.osm_net import face_model_stage

        return face_model_stage.train(Dataset.open(arguments.data), model)
    from osmnet.loading.packaged import packaged_landmarker
    from osmnet.training.osm_net.export import export

    return export(model, arguments.landmarker or packaged_landmarker(), arguments.out)


def _train(arguments: argparse.Namespace) -> dict:
    _check_packages()
    from osmnet.data.dataset import Dataset

    stage, sections = arguments.stage, STAGES[arguments.stage].settings
    # `audio-motion.steps=500` is for that section, a name alone for the stage's own; the split is for all of them.
    overrides: dict[str, list[str]] = {section: [] for section in sections}
    for setting in arguments.set:
        head, dot, rest = setting.partition(".")
        if dot and head in sections and "=" not in head:
            overrides[head].append(rest)
        else:
            for section in sections if setting.startswith("split=") else [stage]:
                overrides[section].append(setting)
    configs = load_settings(stage, arguments.config, overrides)
    work = arguments.work or arguments.model / "work" / (stage if len(sections) == 1 else "")
    return train_stage(stage, Dataset.open(arguments.data), arguments.model, configs, work)


def _check_packages() -> None:
    for package in PACKAGES:
        if util.find_spec(package) is None:
            raise ValueError(f"`osmnet train` needs the package '{package}'; pip install 'osmnet[train]'.")


def _is_of_this_process_alone(error: Exception) -> bool:
    """Whether an error arose in this process only."""
    import torch.distributed

    from osmnet.training.core.processes import SharedError

    met = torch.distributed.is_available() and torch.distributed.is_initialized()
    return met and not isinstance(error, SharedError)


def _leave_processes() -> None:
    import torch.distributed

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
