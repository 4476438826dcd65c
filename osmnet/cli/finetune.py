"""`osmnet train finetune`: adapt weights to one speaker or a few clips.

docs/fine_tuning.md starts from raw clips. Several GPUs: `accelerate launch -m osmnet.training.train finetune ...`.
"""

import argparse
import os
import sys
from pathlib import Path

from osmnet.cli.parser import Parser
from osmnet.data.dataset import Dataset
from osmnet.training.osm_net import finetune_report
from osmnet.training.osm_net.finetune import MARKS, finetune, load_configs
from osmnet.utils.marked import read_marked, write_marked
from osmnet.utils.threads import set_threads


def main(argv: list[str] | None = None) -> int:
    """Run `osmnet train finetune`."""
    parser = Parser(
        prog="osmnet train finetune", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="folder or address of a dataset made by `osmnet prepare`")
    parser.add_argument("--out", type=Path, required=True, help="folder of the adapted model and the report")
    parser.add_argument("--model", help="starting model: a folder or a Hub id (default: the package's weights)")
    parser.add_argument("--config", default="finetune", help="YAML file with the settings (default: the package's)")
    parser.add_argument("--work", type=Path, help="checkpoints, curves and samples (default: OUT/work)")
    parser.add_argument("--threads", type=int, help="CPU threads for PyTorch")
    parser.add_argument("--page", type=Path, metavar="FILE", help="a Markdown file whose table is updated")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE",
        help="a setting: stages=expression, expression.steps=100, video.weights.rec=2",
    )  # fmt: skip
    arguments = parser.parse_args(argv)
    set_threads(arguments.threads)
    if arguments.out.is_file():
        raise ValueError(f"'{arguments.out}' is a file; --out must be a folder.")
    if arguments.page is not None:
        read_marked(arguments.page, MARKS)  # refuses now a page without a place for the table
    config, stage_configs = load_configs(arguments.config, arguments.set)
    work = arguments.work or arguments.out / "work"
    report = finetune(Dataset.open(arguments.data), arguments.model, arguments.out, work, config, stage_configs)
    if int(os.environ.get("RANK", "0")) > 0:  # as `accelerate launch` numbers the processes
        return 0
    sys.stdout.write(finetune_report.text(report))
    if arguments.page is not None:
        write_marked(arguments.page, MARKS, finetune_report.table(report))
    sys.stderr.write(
        f"osmnet: {arguments.out / 'finetune.json'} holds all of this. `osmnet push NAME/MODEL --model "
        f"{arguments.out}` shows what it would send to the Hub.\n"
    )
    return 0
