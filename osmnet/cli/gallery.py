"""`osmnet gallery`: draw a page of frame sheets."""

import shlex
import sys
from pathlib import Path

from osmnet.cli.argument_checks import check_files, check_model, check_output_folder
from osmnet.cli.parser import Parser
from osmnet.utils.versions import example_files


def main(argv: list[str] | None = None) -> int:
    """Run `osmnet gallery`."""
    parser = Parser(
        prog="osmnet gallery",
        description="Draw what the weights do as sheets of frames with curves: takes, ε, mouths, strength, blinks, "
        "turns, still heads and whole pictures; and a page that shows them.",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="PAGE.md", help="the page; pictures go into a folder of its name"
    )
    parser.add_argument("--portraits", type=Path, nargs="+", metavar="FILE", help="default: the example portraits")
    parser.add_argument("--speech", type=Path, nargs="+", metavar="FILE", help="default: the example recordings")
    parser.add_argument("--model", metavar="FOLDER_OR_ID", help="default: the weights inside the package")
    parser.add_argument("--seed", type=int, default=7, help="seed of all takes (default: 7)")
    args = parser.parse_args(argv)
    portraits, recordings = args.portraits or example_files("portrait_*.jpg"), args.speech or example_files("speech_*")
    if not portraits or not recordings:
        raise ValueError("There are no example files here; name some with --portraits and --speech.")
    check_files([*portraits, *recordings])
    if args.out.suffix != ".md":
        raise ValueError(f"The page '{args.out}' must be a Markdown file; give it a name that ends in .md.")
    check_model(args.model)
    check_output_folder(args.out.parent)

    from osmnet.evaluation.figures.gallery_page import make_gallery, shown_path
    from osmnet.pipelines.osm_net.pipeline_osm_net import OSMNetPipeline

    pipe = OSMNetPipeline.from_pretrained(args.model)
    model = None if args.model is None else (Path(args.model).name if Path(args.model).is_dir() else args.model)
    given = [("--portraits", args.portraits), ("--speech", args.speech)]
    options = [f"{name} {' '.join(shlex.quote(shown_path(path)) for path in paths)}" for name, paths in given if paths]
    options += [f"--model {shlex.quote(model)}"] if model else []
    options += [f"--seed {args.seed}"] if args.seed != 7 else []
    command = " ".join(["osmnet gallery", "--out", shlex.quote(shown_path(args.out)), *options])
    paths = make_gallery(pipe, portraits, recordings, args.out, seed=args.seed, command=command, model=model)
    sys.stdout.write("".join(f"{path}\n" for path in paths))
    return 0
