"""`osmnet prepare`: turn raw videos into a dataset."""

import sys
from dataclasses import fields
from pathlib import Path

from osmnet.cli.parser import EXIT_INTERRUPTED, Parser
from osmnet.cli.signals import sigterm_as_ctrl_c
from osmnet.data.cluster import usable_cpus
from osmnet.data.prepare import find_videos, key_of, prepare, read_table
from osmnet.data.report import REPORT, dropped_text
from osmnet.data.segments import Options
from osmnet.media.audio import FPS

_OPTION_HELP = {
    "max_seconds": "longer stretches are split into equal pieces",
    "min_seconds": "shorter stretches are dropped",
    "min_face": "least height of a face, in pixels of the video",
    "min_sharpness": "least sharpness of the face; a blurred one has less than 1",
    "max_turn": "degrees by which a face may be turned in more than half of the frames",
}


def main(argv: list[str] | None = None) -> int:
    """Run `osmnet prepare`."""
    parser = Parser(prog="osmnet prepare", description="Turn raw videos into a dataset of tracked, cropped clips.")
    parser.add_argument("clips", nargs="+", type=Path, help="videos, or folders of videos")
    parser.add_argument("--out", type=Path, required=True, help="the dataset; run again to resume or to add clips")
    parser.add_argument("--table", type=Path, help="CSV: file and, where known, speech, av_offset_frames, speaker")
    parser.add_argument("--model", type=Path, help="folder of another face model (default: the one in the package)")
    parser.add_argument("--landmarker", type=Path, help="a .task bundle (default: the one in the package)")
    parser.add_argument("--workers", type=int, default=usable_cpus(), help="videos at a time (default: %(default)s)")
    parser.add_argument("--ray", metavar="ADDRESS", help="run on this Ray cluster instead")
    parser.add_argument(
        "--keep-speakers", action="store_true", help="keep speakers apart that are one person by their faces"
    )
    for each in fields(Options):
        parser.add_argument(
            f"--{each.name.replace('_', '-')}", type=type(each.default), default=each.default,
            help=f"{_OPTION_HELP[each.name]} (default: %(default)s)",
        )  # fmt: skip
    args = parser.parse_args(argv)
    from osmnet.loading.packaged import packaged_landmarker, packaged_weights

    if args.workers < 1:
        raise ValueError(f"--workers must be at least 1, not {args.workers}.")
    options = Options(**{each.name: getattr(args, each.name) for each in fields(Options)})
    table = read_table(args.table) if args.table else {}
    videos = find_videos(args.clips)
    model = args.model or packaged_weights()
    landmarker = args.landmarker or packaged_landmarker()
    settings = options, table, args.workers, args.ray, args.keep_speakers
    try:
        with sigterm_as_ctrl_c():
            rows = prepare(videos, args.out, model, landmarker, *settings)
    except KeyboardInterrupt:
        sys.stderr.write("\nosmnet: stopped; finished videos are kept, the same command resumes.\n")
        return EXIT_INTERRUPTED
    kept, given = [row for row in rows if row["status"] == "kept"], {key_of(video) for video in videos}
    report = args.out / REPORT
    sys.stderr.write(dropped_text([row for row in rows if row.get("video") in given], report))
    if not kept:
        raise ValueError(f"No clip could be made ({_count(len(videos), 'video')} given); '{report}' says why.")
    seconds = sum(row["frames"] for row in kept) / FPS
    speech = sum(row.get("speech", False) for row in kept)
    sys.stdout.write(f"{_count(len(kept), 'clip')} ({speech} with speech), {seconds / 60:.1f} minutes; {report}\n")
    return 0


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
