"""`osmnet evaluate`: measure a model on held-out clips, or compare ablations."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from osmnet.cli.argument_checks import check_dataset, check_files, check_model, check_output_folder
from osmnet.cli.parser import Parser
from osmnet.evaluation.settings import MAX_TAKES, QUICK_MINUTES, QUICK_SECONDS, QUICK_TAKES, check_counts
from osmnet.utils.files import write_whole
from osmnet.utils.marked import read_marked, write_marked

# Arguments that --ablate rejects: its configuration sets them, or its table does not use them.
_BY_CONFIG = ("split", "split_by", "clips", "inception", "takes", "sampling", "quick")
_OF_ABLATION = ("data", "out", "model", "syncnet", "workers", "device")


def build_parser() -> Parser:
    """Build the parser of `osmnet evaluate`."""
    parser = Parser(
        prog="osmnet evaluate",
        description="Render held-out clips from their first frame and sound, and compare them with the real ones. All "
        "arguments are checked first; the expected time is shown after the first clip.",
    )
    parser.add_argument("--data", required=True, metavar="DATASET", help="made by `osmnet prepare`: folder or address")
    parser.add_argument("--out", required=True, type=Path, metavar="REPORT", help="folder for report.json, .html, .md")
    parser.add_argument("--model", metavar="FOLDER_OR_ID", help="default: the weights inside the package")
    parser.add_argument(
        "--split", choices=("held-out", "all", "train"), default="held-out", help="clips to render (default: held-out)"
    )
    parser.add_argument(
        "--split-by", choices=("speaker", "clip"), default="speaker", help="what is held out (default: speakers)"
    )
    parser.add_argument("--clips", type=int, metavar="N", help="only N of them")
    parser.add_argument(
        "--syncnet", type=Path, metavar="FILE", help="SyncNet's published weights, for LSE-C and LSE-D"
    )
    parser.add_argument("--inception", type=Path, metavar="FILE", help="Inception weights, for FID")
    parser.add_argument(
        "--takes", type=int, default=4, help=f"takes for the figures of head motion, 2 to {MAX_TAKES} (default: 4)"
    )
    parser.add_argument("--sampling", choices=("span", "ball"), default="span", help="as for `osmnet generate`")
    parser.add_argument(
        "--quick", action="store_true",
        help=f"{QUICK_SECONDS:g} seconds of each clip, {QUICK_TAKES} takes, {QUICK_MINUTES:g} minute for drift",
    )  # fmt: skip
    parser.add_argument("--workers", type=int, default=1, help="processes that share the clips (default: 1)")
    parser.add_argument("--device", default="cpu", help="cpu (default), auto, cuda or mps")
    parser.add_argument(
        "--ablate", nargs="?", const="ablation", metavar="CONFIG",
        help="train and compare the variants of a configuration instead (default: Table V, configs/ablation.yaml)",
    )  # fmt: skip
    parser.add_argument("--markdown", action="store_true", help="print the tables in place of the files' names")
    parser.add_argument(
        "--page", type=Path, metavar="FILE",
        help="a Markdown file, e.g. a model card, whose tables are replaced; their figures go into a JSON file beside "
        "it",
    )  # fmt: skip
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run `osmnet evaluate`."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    options = vars(arguments)
    show, config, page = options.pop("markdown"), options.pop("ablate"), options.pop("page")
    name, marks = ("report", "evaluation") if config is None else ("ablation", "ablation")
    if page is not None:
        read_marked(page, marks)  # refuses a page without a place for the tables
    _check(arguments, parser, config is not None)
    if config is None:
        from osmnet.evaluation.evaluate import evaluate

        evaluate(**options)
    else:
        from osmnet.training.osm_net.ablation import ablate, load_ablation

        ablate(config=load_ablation(config), **{option: options[option] for option in _OF_ABLATION})
    table = (arguments.out / f"{name}.md").read_text(encoding="utf-8")
    if page is not None:
        write_marked(page, marks, table)
        figures = json.loads((arguments.out / f"{name}.json").read_text(encoding="utf-8"))
        _write_figures(page.with_name(f"{marks}.json"), figures)
    if show:
        sys.stdout.write(table)
    else:
        sys.stdout.writelines(f"{arguments.out / name}.{ending}\n" for ending in ("json", "html", "md"))
    return 0


def _check(arguments: argparse.Namespace, parser: Parser, is_ablation: bool) -> None:
    fixed = [name for name in _BY_CONFIG if getattr(arguments, name) != parser.get_default(name)]
    if is_ablation and fixed:
        raise ValueError(
            f"With --ablate, --{fixed[0].replace('_', '-')} has no effect: the configuration's section evaluation "
            "decides; leave it out."
        )
    check_counts(arguments.workers, arguments.takes, arguments.clips)
    check_dataset(arguments.data)
    check_model(arguments.model)
    check_files([arguments.syncnet, arguments.inception])
    check_output_folder(arguments.out)


def _write_figures(path: Path, figures: dict[str, Any]) -> None:
    figures.get("motion", {}).pop("curves", None)  # three quarters of the file, and only needed for plots
    write_whole(path, (json.dumps(figures, indent=1, ensure_ascii=False) + "\n").encode())
