"""`osmnet evaluate`: measure a model on held-out clips, or train and compare the variants of an ablation."""

import json
import sys
from pathlib import Path

from osmnet.cli.parser import Parser
from osmnet.evaluation.evaluate import evaluate
from osmnet.utils.files import write_whole
from osmnet.utils.marked import read_marked, write_marked

# Options of `osmnet evaluate` that an ablation's configuration decides, or that say nothing about its table.
_BY_CONFIG = ("split", "split_by", "clips", "inception", "takes", "sampling", "quick")


def main(argv: list[str] | None = None) -> int:
    """Command line of `osmnet evaluate`."""
    parser = Parser(
        prog="osmnet evaluate",
        description="Render held-out clips from their first frame and sound, and compare them with the real ones.",
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
    parser.add_argument("--takes", type=int, default=4, help="takes for the figures of head motion (default: 4)")
    parser.add_argument("--sampling", choices=("span", "ball"), default="span", help="as of `osmnet generate`")
    parser.add_argument("--quick", action="store_true", help="4 seconds of each clip, 2 takes, 1 minute for drift")
    parser.add_argument("--workers", type=int, default=1, help="processes that share the clips (default: 1)")
    parser.add_argument("--device", default="cpu", help="cpu (default), auto, cuda or mps")
    parser.add_argument(
        "--ablate", nargs="?", const="ablation", metavar="CONFIG",
        help="train and compare the variants of a configuration instead (default: Table V, configs/ablation.yaml)",
    )  # fmt: skip
    parser.add_argument("--markdown", action="store_true", help="also write report.md to the standard output")
    parser.add_argument(
        "--page", type=Path, metavar="FILE",
        help="a Markdown file, e.g. a model card, whose tables are made anew; their figures are put beside it",
    )  # fmt: skip
    arguments = parser.parse_args(argv)
    options = vars(arguments)
    show, config, page = options.pop("markdown"), options.pop("ablate"), options.pop("page")
    out: Path = arguments.out
    marks = "evaluation" if config is None else "ablation"
    if page is not None:
        read_marked(page, marks)  # says now whether it has a place for them
    if config is not None:
        fixed = [name for name in _BY_CONFIG if options[name] != parser.get_default(name)]
        if fixed:
            raise ValueError(
                f"With --ablate, --{fixed[0].replace('_', '-')} has no say: the configuration's section evaluation "
                "decides; leave it out."
            )
    if config is None:
        evaluate(**options)
    else:
        from osmnet.training.osm_net.ablation import ablate, load_ablation

        names = ("data", "out", "model", "syncnet", "workers", "device")
        ablate(config=load_ablation(config), **{name: options[name] for name in names})
    name = "report" if config is None else "ablation"
    if page is not None:
        write_marked(page, marks, (out / f"{name}.md").read_text(encoding="utf-8"))
        figures = json.loads((out / f"{name}.json").read_text(encoding="utf-8"))
        figures.get("motion", {}).pop("curves", None)  # three quarters of the file, and only for plots
        write_whole(
            page.with_name(f"{marks}.json"), (json.dumps(figures, indent=1, ensure_ascii=False) + "\n").encode()
        )
    if show:
        sys.stdout.write((out / f"{name}.md").read_text(encoding="utf-8"))
    else:
        sys.stdout.writelines(f"{out / name}.{ending}\n" for ending in ("json", "html", "md"))
    return 0
