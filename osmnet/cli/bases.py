"""`osmnet bases`: draw learned head motions."""

import math
import sys
from pathlib import Path

from osmnet.cli.argument_checks import check_files, check_model, check_output_folder
from osmnet.cli.parser import Parser
from osmnet.utils.versions import example_files


def main(argv: list[str] | None = None) -> int:
    """Run `osmnet bases`."""
    parser = Parser(
        prog="osmnet bases",
        description="Draw the head motion of each learned basis (bases.png, bases.json), and portraits turned right, "
        "left and to the front by the bases (rotation.png, rotation.json).",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder for the figures")
    parser.add_argument("--model", metavar="FOLDER_OR_ID", help="default: the weights inside the package")
    parser.add_argument("--portrait", type=Path, metavar="FILE", help="face for the bases (default: an example)")
    parser.add_argument("--speech", type=Path, metavar="FILE", help="moves the lips (default: they rest)")
    parser.add_argument("--portraits", type=Path, nargs="+", metavar="FILE", help="faces to turn (default: examples)")
    parser.add_argument(
        "--bases", metavar="4,14,19", help="only these, counted from 0 (default: all); varied: six that differ"
    )
    parser.add_argument(
        "--epsilon", type=float, default=1.0, metavar="RADIUS", help="their distance from the centre (default: 1)"
    )
    parser.add_argument("--video", action="store_true", help="also a video of each: held on the left, swung right")
    parser.add_argument("--jpeg", action="store_true", help="bases.jpg and rotation.jpg, a quarter as large as PNG")
    args = parser.parse_args(argv)
    portraits = args.portraits or example_files("portrait_*.jpg") or ([args.portrait] if args.portrait else [])
    if not portraits:
        raise ValueError("There are no example portraits here; name one with --portrait.")
    check_files([args.portrait, args.speech, *portraits])
    if not 0 < args.epsilon < math.inf:
        raise ValueError(f"--epsilon must be a finite number above 0, not {args.epsilon}.")
    wanted = _numbers(args.bases)
    check_model(args.model)
    check_output_folder(args.out)

    from osmnet.evaluation.figures.bases_figure import draw_bases, draw_rotation
    from osmnet.evaluation.figures.basis_motion import decode_bases, varied
    from osmnet.pipelines.osm_net.pipeline_osm_net import OSMNetPipeline

    pipe = OSMNetPipeline.from_pretrained(args.model)
    bases = decode_bases(pipe, args.epsilon)
    if any(index >= len(bases) for index in wanted):
        raise ValueError(f"There are {len(bases)} bases, 0 to {len(bases) - 1}; --bases names another: {args.bases}.")
    shown = varied(bases) if args.bases == "varied" else [bases[i] for i in wanted] or bases
    source = pipe.encode_source(args.portrait or portraits[0], full_frame=False)
    kind = "jpg" if args.jpeg else "png"
    paths = draw_bases(pipe, shown, source, args.out, args.speech, args.video, args.epsilon, kind)
    paths += draw_rotation(pipe, portraits, args.out, kind)
    sys.stdout.write("".join(f"{path}\n" for path in paths))
    return 0


def _numbers(text: str | None) -> list[int]:
    if text is None or text == "varied":  # all, or chosen after loading
        return []
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise ValueError(f"--bases takes numbers like 4,14,19, or varied, not '{text}'.")
    return list(dict.fromkeys(map(int, parts)))
