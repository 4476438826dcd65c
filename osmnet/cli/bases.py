"""`osmnet bases`: draw what the learned motion bases do."""

import sys
from pathlib import Path

from osmnet.cli.parser import Parser
from osmnet.utils.versions import example_files


def main(argv: list[str] | None = None) -> int:
    """Command line of `osmnet bases`."""
    parser = Parser(
        prog="osmnet bases",
        description="Draw what the learned motion bases do (bases.png, bases.json), and portraits turned right, left "
        "and to the front by them (rotation.png, rotation.json).",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the figures go")
    parser.add_argument("--model", metavar="FOLDER_OR_ID", help="default: the weights inside the package")
    parser.add_argument("--portrait", type=Path, metavar="FILE", help="face for the bases (default: an example)")
    parser.add_argument("--speech", type=Path, metavar="FILE", help="moves the lips (default: they rest)")
    parser.add_argument("--portraits", type=Path, nargs="+", metavar="FILE", help="faces to turn (default: examples)")
    parser.add_argument(
        "--bases", metavar="4,14,19", help="only these, counted from 0 (default: all); varied: six that differ"
    )
    parser.add_argument(
        "--epsilon", type=float, default=1.0, metavar="RADIUS", help="how far from the centre they are shown (1)"
    )
    parser.add_argument("--video", action="store_true", help="also a video of each: held on the left, swung right")
    parser.add_argument("--jpeg", action="store_true", help="bases.jpg and rotation.jpg, a quarter as large as PNG")
    args = parser.parse_args(argv)
    portraits = args.portraits or example_files("portrait_*.jpg") or ([args.portrait] if args.portrait else [])
    if not portraits:
        raise ValueError("There are no example portraits here; name one with --portrait.")
    for path in filter(None, [args.portrait, args.speech, *portraits]):
        if not path.is_file():
            raise ValueError(f"There is no file '{path}'; check the path.")

    from osmnet.evaluation.figures import bases_figure
    from osmnet.evaluation.figures.bases import decode_bases, varied
    from osmnet.pipelines.osm_net.pipeline_osm_net import OSMNetPipeline

    pipe = OSMNetPipeline.from_pretrained(args.model)
    bases = decode_bases(pipe, args.epsilon)
    shown = varied(bases) if args.bases == "varied" else [bases[i] for i in _indices(args.bases, len(bases))]
    source = pipe.encode_source(args.portrait or portraits[0], full_frame=False)
    kind = "jpg" if args.jpeg else "png"
    paths = bases_figure.draw_bases(pipe, shown, source, args.out, args.speech, args.video, args.epsilon, kind)
    paths += bases_figure.draw_rotation(pipe, portraits, args.out, kind)
    sys.stdout.write("".join(f"{path}\n" for path in paths))
    return 0


def _indices(text: str | None, count: int) -> list[int]:
    if text is None:
        return list(range(count))
    try:
        indices = [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--bases takes numbers like 4,14,19, not '{text}'.") from None
    if any(not 0 <= index < count for index in indices):
        raise ValueError(f"There are {count} bases, counted from 0 to {count - 1}; --bases names another: {text}.")
    return list(dict.fromkeys(indices))
