"""`osmnet generate`: make talking-head videos from a portrait and a recording of speech.

Arguments are checked before anything heavy is imported: a wrong one is refused at once.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import secrets
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from osmnet.cli.parser import EXIT_INTERRUPTED, Parser, add_model
from osmnet.pipelines.limits import MAX_EPSILON, MAX_OFFSET_DEG, MAX_SCALE, MAX_SIZE, MAX_VIDEOS, MIN_SIZE
from osmnet.takes.unfinished import unfinished_records
from osmnet.utils.files import write_whole

if TYPE_CHECKING:
    import torch

    from osmnet.pipelines.osm_net.pipeline_osm_net import OSMNetPipeline
    from osmnet.takes.output import OSMNetPipelineOutput

NUM_VIDEOS = 4


def _number(low: float, high: float, whole: bool = False) -> Callable[[str], float | int]:
    """Make an argparse type for a number from `low` to `high`, both included."""

    def parse(text: str) -> float | int:
        expected = f"{'a whole number' if whole else 'a number'} from {low:g} to {high:g}"
        try:
            value = int(text) if whole else float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"'{text}' is not {expected}") from None
        if not low <= value <= high:  # false for NaN, too
            raise argparse.ArgumentTypeError(f"{text} is not {expected}")
        return value

    return parse


def _radius(text: str) -> float:
    """Parse ε; people will try what is not in its range, so it has sentences of its own."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number") from None
    if not math.isfinite(value) or value < 0:
        raise argparse.ArgumentTypeError(f"{text} is not a finite number of at least 0 (1 is the usual radius)")
    if value > MAX_EPSILON:
        raise argparse.ArgumentTypeError(f"{text} is more than {MAX_EPSILON:g} (1 is the usual radius)")
    return value


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"'{text}' is not auto, cpu, mps, cuda or cuda:NUMBER")
    return text


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of `osmnet generate`."""
    generate = Parser(
        prog="osmnet generate",
        description="Make talking-head videos: take-1.mp4, take-2.mp4, ... with take-1.json, ... and sheet.png.",
    )
    generate.add_argument("portrait", type=Path, metavar="PORTRAIT", help="a picture with a face")
    generate.add_argument("speech", type=Path, metavar="SPEECH", help="a recording of speech, or a video that has one")
    generate.add_argument(
        "--output", "-o", type=Path, default=Path("out"), metavar="FOLDER", help="default: %(default)s/"
    )

    takes = generate.add_argument_group("takes")
    takes.add_argument(
        "--num-videos",
        "-n",
        type=_number(1, MAX_VIDEOS, whole=True),
        default=None,
        metavar="N",
        help=f"how many takes, {NUM_VIDEOS} by default",
    )
    takes.add_argument(
        "--epsilon",
        "-e",
        type=_radius,
        default=1.0,
        metavar="RADIUS",
        help="how far motion may be from the most likely one: 0 makes all takes alike, 1 is the default",
    )
    takes.add_argument(
        "--seed",
        type=_number(0, 2**63 - 1, whole=True),
        metavar="SEED",
        help="the same seed gives the same videos (default: a new one, which is printed)",
    )
    takes.add_argument(
        "--take-seed",
        type=_number(0, 2**63 - 1, whole=True),
        metavar="SEED",
        help="make one take again: the take_seed of its JSON file, with the other options as they were "
        "(instead of --seed and --num-videos)",
    )
    takes.add_argument(
        "--near",
        type=_number(0, 2**63 - 1, whole=True),
        action="append",
        default=[],
        metavar="SEED",
        help="more takes like one: its take_seed (before it, each by a --near of its own, the seeds in its own near)",
    )
    takes.add_argument(
        "--sampling",
        choices=("span", "ball"),
        default="span",
        help="span (default): towards other learned motions; ball: in any direction of the feature space",
    )
    takes.add_argument(
        "--resume",
        action="store_true",
        help="go on where the same command was stopped in this folder (takes of over a minute are kept in parts)",
    )
    takes.add_argument("--no-sheet", action="store_true", help="make no sheet.png, which shows the takes together")

    motion = generate.add_argument_group("motion")
    scale = _number(0, MAX_SCALE)
    turn = _number(-MAX_OFFSET_DEG, MAX_OFFSET_DEG)
    motion.add_argument(
        "--motion-scale", type=scale, default=1.0, metavar="X", help="multiplies the head movement, 1 by default"
    )
    motion.add_argument("--expression-scale", type=scale, default=1.0, metavar="X", help="multiplies the expression")
    motion.add_argument("--still", action="store_true", help="keep the head still; only the face moves")
    motion.add_argument("--no-blink", action="store_true", help="do not blink")
    motion.add_argument("--yaw", type=turn, default=0.0, metavar="DEGREES", help="turn the head for the whole video")
    motion.add_argument("--pitch", type=turn, default=0.0, metavar="DEGREES", help="raise or lower the chin likewise")
    motion.add_argument("--roll", type=turn, default=0.0, metavar="DEGREES", help="tilt the head likewise")
    motion.add_argument("--head-motion", type=Path, metavar="VIDEO", help="take the head movement from this video")

    picture = generate.add_argument_group("picture")
    picture.add_argument("--crop", action="store_true", help="only the square around the head, not the full picture")
    picture.add_argument(
        "--size", type=_number(MIN_SIZE, MAX_SIZE, whole=True), metavar="PIXELS", help="side of that square"
    )
    picture.add_argument("--face", type=_number(1, 100, whole=True), metavar="N", help="which face: 1 is the largest")

    marks = generate.add_argument_group("marks")
    marks.add_argument(
        "--consent", action="store_const", const=True, help="you declare that the people seen and heard have agreed"
    )
    marks.add_argument(
        "--no-label", action="store_true", help='leave out the "AI-generated" in a corner of the frames'
    )

    weights = generate.add_argument_group("weights")
    add_model(weights)
    weights.add_argument("--variant", metavar="NAME", help="e.g. fp16: load the files of this variant")
    weights.add_argument(
        "--device", type=_device, default="auto", help="auto (default), cpu, mps, cuda or cuda:NUMBER"
    )
    weights.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="of the network that paints; auto (default) takes the fastest of this machine",
    )
    generate.add_argument("--profile", action="store_true", help="print the time of each span and write profile.json")
    generate.add_argument("--debug", action="store_true", help="show where in the code an error arose")

    return generate


def _check_file(path: Path, role: str, kind: str) -> None:
    """Refuse a path at which there is no file that can be read."""
    if path.is_dir():
        raise ValueError(f"The {role} '{path}' is a folder; name {kind}.")
    if path.exists() and not path.is_file():
        raise ValueError(f"The {role} '{path}' is not a regular file; name {kind}.")
    if not path.is_file():
        raise ValueError(f"There is no {role} at '{path}'; check the path.")
    if not os.access(path, os.R_OK):
        raise ValueError(f"The {role} '{path}' cannot be read; check its permissions.")


def _check_output(folder: Path) -> None:
    """Refuse an output folder that could not be made or written to; nothing is made yet."""
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise ValueError(f"The output folder '{folder}' cannot be made because '{existing}' is a file; name another.")
    if not os.access(existing, os.W_OK):
        raise ValueError(f"The output folder '{folder}' cannot be written to; name another or change permissions.")


def _generate(arguments: argparse.Namespace) -> int:
    _check_file(arguments.portrait, "portrait", "a picture file")
    _check_file(arguments.speech, "speech", "an audio or video file")
    if arguments.head_motion is not None:
        _check_file(arguments.head_motion, "head-motion video", "a video file")
        if arguments.still:
            raise ValueError("--still and --head-motion exclude each other; leave one out.")
    if arguments.size is not None and not arguments.crop:
        raise ValueError("--size is the side of the square around the head; add --crop, or leave --size out.")
    if arguments.take_seed is not None and arguments.seed is not None:
        raise ValueError("--take-seed makes one take again and --seed a series of them; leave one out.")
    if arguments.take_seed is not None and arguments.num_videos is not None:
        raise ValueError("--take-seed makes one take again; leave --num-videos out.")
    _check_output(arguments.output)

    # 1. Heavy imports only now: wrong arguments above are refused in a moment.
    import torch

    from osmnet.pipelines.osm_net.pipeline_osm_net import OSMNetPipeline
    from osmnet.utils.profiling import Profile

    pipe = OSMNetPipeline.from_pretrained(
        arguments.model, revision=arguments.revision, variant=arguments.variant, device_map=arguments.device
    )

    pipe.precision = arguments.precision

    # 2. A seed is always known, so that every video can be made again.
    seed = arguments.seed
    unfinished = unfinished_records(arguments.output)
    if seed is None and arguments.resume and unfinished:
        seed = unfinished[0].get("seed")
    if seed is None:
        seed = secrets.randbelow(2**31)
    num_videos = NUM_VIDEOS if arguments.num_videos is None else arguments.num_videos
    generator: torch.Generator | list[torch.Generator] = torch.Generator().manual_seed(seed)
    if arguments.take_seed is not None:
        num_videos, generator = 1, [torch.Generator().manual_seed(arguments.take_seed)]

    with ExitStack() as stack:
        profile = stack.enter_context(Profile()) if arguments.profile else None
        output, paths = _make(arguments, pipe, num_videos, generator, seed)
    if profile is not None:
        frames = output.motion.num_videos * output.motion.speech.num_frames
        sys.stderr.write(f"{profile.table(frames)}\n")
        paths.append(arguments.output / "profile.json")
        write_whole(paths[-1], (json.dumps(profile.as_dict(frames), indent=1) + "\n").encode())
    for path in paths:
        sys.stdout.write(f"{path}\n")
    return 0


def _make(
    arguments: argparse.Namespace,
    pipe: OSMNetPipeline,
    num_videos: int,
    generator: torch.Generator | list[torch.Generator],
    seed: int,
) -> tuple[OSMNetPipelineOutput, list[Path]]:
    """Make the takes and say meanwhile what there is to say; returns them and the files."""
    from tqdm import tqdm

    # 3. Encode and sample; nothing is rendered or written yet.
    with warnings.catch_warnings():
        if not arguments.debug:
            warnings.simplefilter("ignore")  # they come with a line of code; what matters is said below
        output = pipe(
            arguments.portrait,
            arguments.speech,
            num_videos=num_videos,
            epsilon=arguments.epsilon,
            generator=generator,
            sampling=arguments.sampling,
            full_frame=not arguments.crop,
            size=arguments.size,
            face=None if arguments.face is None else arguments.face - 1,
            motion_scale=arguments.motion_scale,
            expression_scale=arguments.expression_scale,
            near=arguments.near,
            still=arguments.still,
            blink=not arguments.no_blink,
            yaw=math.radians(arguments.yaw),
            pitch=math.radians(arguments.pitch),
            roll=math.radians(arguments.roll),
            head_motion=arguments.head_motion,
            output_type="lazy",
        )
    if arguments.seed is None and arguments.take_seed is None:  # said only now: a wrong input above gets one sentence
        sys.stderr.write(f"osmnet: The same command with --seed {seed} makes these videos again.\n")
    if output.motion.speech.activity.max() < 0.5:
        sys.stderr.write("osmnet: No speech was heard in the recording (steady noise?); the mouth stays at rest.\n")
    if arguments.face is None and output.source.num_faces > 1:
        count = output.source.num_faces
        sys.stderr.write(f"osmnet: The portrait shows {count} faces; the largest is taken (--face N takes another).\n")

    # 4. Render straight into the files.
    with tqdm(desc="rendering", unit="frame", file=sys.stderr, dynamic_ncols=True) as bar:

        def show(done_frames: int, total_frames: int) -> None:
            if bar.total is None:  # the first call tells what was there before
                bar.reset(total_frames)
                bar.initial = bar.n = done_frames
                if done_frames:
                    bar.write(f"osmnet: {done_frames} of {total_frames} frames were there already.", file=sys.stderr)
                elif arguments.resume:
                    bar.write("osmnet: There is nothing to go on with; begun anew.", file=sys.stderr)
            bar.update(done_frames - bar.n)
            if done_frames == total_frames:
                bar.set_description("finishing files")

        paths = output.save(
            arguments.output, sheet=not arguments.no_sheet, progress=show, resume=arguments.resume,
            label=not arguments.no_label, consent=arguments.consent,
        )  # fmt: skip
    return output, paths


def main(argv: list[str] | None = None) -> int:
    """Command line of `osmnet generate`."""
    arguments = build_parser().parse_args(argv)
    # SIGTERM is handled as Ctrl-C is: half-written files are removed, finished ones stay.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _generate(arguments)
    except KeyboardInterrupt:
        kept = "; what is finished is kept, --resume goes on with it" if unfinished_records(arguments.output) else ""
        sys.stderr.write(f"\nosmnet: stopped{kept}.\n")
        return EXIT_INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)
