"""`osmnet generate`: make talking-head videos from a portrait and speech.

Arguments are checked before heavy imports.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import secrets
import sys
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from osmnet.cli.parser import EXIT_INTERRUPTED, Parser, add_model
from osmnet.cli.signals import sigterm_as_ctrl_c
from osmnet.pipelines.options import MAX_EPSILON, MAX_SEED, NUM_VIDEOS, MotionOptions, PictureOptions, is_seed
from osmnet.takes.files import ANIMATIONS, TakeFiles, free_folder
from osmnet.takes.unfinished import unfinished_records
from osmnet.utils.files import write_whole

if TYPE_CHECKING:
    from osmnet.pipelines.talking_head import TalkingHeadPipeline
    from osmnet.takes.output import TalkingHeadOutput


OUTPUT = Path("out")
SHORT = {"num_videos": "-n", "epsilon": "-e"}
# Options that the command line spells differently: faces count from 1, booleans become --no-blink and --crop.
OWN_SPELLING = ("blink", "full_frame", "face")


def _number(low: float, high: float, whole: bool = False) -> Callable[[str], float | int]:
    """Make an argparse type for numbers from `low` to `high`, inclusive."""

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


def _add_option(group: argparse._ActionsContainer, each: Field[Any]) -> None:
    about, names = (
        each.metadata,
        [f"--{each.name.replace('_', '-')}", *([SHORT[each.name]] if each.name in SHORT else [])],
    )
    text = about["help"].replace("`", "")
    if isinstance(each.default, bool):
        group.add_argument(*names, action="store_true", help=text)
    elif about["choices"]:
        group.add_argument(*names, choices=about["choices"], default=each.default, help=text)
    elif each.name == "near":
        group.add_argument(*names, type=_number(0, MAX_SEED, whole=True), action="append", default=[], metavar="SEED",
                           help=f"{text}, each with a --near of its own")  # fmt: skip
    elif about["low"] is None:
        group.add_argument(*names, type=Path, metavar=about["metavar"], help=text)
    else:
        parse = _radius if each.name == "epsilon" else _number(about["low"], about["high"], about["whole"])
        default = NUM_VIDEOS if each.name == "num_videos" else each.default
        known = f" (default: {default:g})" if default is not None else ""
        group.add_argument(
            *names, type=parse, default=None if each.name == "num_videos" else default, metavar=about["metavar"],
            help=text + known,
        )  # fmt: skip


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of `osmnet generate`."""
    generate = Parser(
        prog="osmnet generate",
        description="Make talking-head videos: take-1.mp4, take-2.mp4, ... with take-1.json, ... and sheet.png.",
    )
    generate.add_argument("portrait", type=Path, metavar="PORTRAIT", help="a picture with a face")
    generate.add_argument("speech", type=Path, metavar="SPEECH", help="a recording of speech, or a video that has one")

    files = generate.add_argument_group("files")
    files.add_argument(
        "--output", "-o", type=Path, metavar="PATH",
        help=f"a folder, or with one take a file.mp4 (default: {OUTPUT}/, or {OUTPUT}-2/ ... if it holds takes)",
    )  # fmt: skip
    files.add_argument("--overwrite", action="store_true", help="replace the takes that are there")
    files.add_argument(
        "--resume", action="store_true",
        help="resume the same command where it was stopped (takes longer than a minute are kept in parts)",
    )  # fmt: skip
    files.add_argument("--no-sheet", action="store_true", help="make no sheet.png, which shows the takes together")
    files.add_argument(
        "--animation", nargs="?", const="webp", choices=ANIMATIONS,
        help="also write the first seconds of each take as an animated webp (default) or gif",
    )  # fmt: skip
    files.add_argument(
        "--consent", action="store_const", const=True, help="you declare that the people seen and heard have agreed"
    )
    files.add_argument(
        "--no-label", action="store_true", help='leave out the "AI-generated" in a corner of the frames'
    )

    takes = generate.add_argument_group("takes and motion")
    takes.add_argument(
        "--seed", type=_number(0, MAX_SEED, whole=True), metavar="SEED",
        help="the same seed gives the same videos (default: a new one, which is printed)",
    )  # fmt: skip
    takes.add_argument(
        "--take-seed", type=_number(0, MAX_SEED, whole=True), metavar="SEED",
        help="make one take again: the take_seed of its JSON file, with the other options as they were (instead of "
        "--seed and --num-videos)",
    )  # fmt: skip
    for each in fields(MotionOptions):
        if each.name not in OWN_SPELLING:
            _add_option(takes, each)
    takes.add_argument("--no-blink", action="store_true", help="do not blink")

    picture = generate.add_argument_group("picture")
    picture.add_argument("--crop", action="store_true", help="only the square around the head, not the whole picture")
    for each in fields(PictureOptions):
        if each.name not in OWN_SPELLING:
            _add_option(picture, each)
    picture.add_argument("--face", type=_number(1, 100, whole=True), metavar="N", help="which face: 1 is the largest")

    weights = generate.add_argument_group("weights and device")
    add_model(weights)
    weights.add_argument("--variant", metavar="NAME", help="e.g. fp16: load the files of this variant")
    weights.add_argument(
        "--device", type=_device, default="auto", help="auto (default), cpu, mps, cuda or cuda:NUMBER"
    )
    weights.add_argument(
        "--precision", choices=("auto", "float32", "bfloat16", "float16"), default="auto",
        help="of the network that paints; auto (default) takes the fastest on this machine",
    )  # fmt: skip
    weights.add_argument(
        "--profile", action="store_true", help="print how long each step took, and write profile.json into the folder"
    )
    generate.add_argument("--debug", action="store_true", help="show where in the code an error arose")
    return generate


def motion_options(arguments: argparse.Namespace) -> MotionOptions:
    """Build motion options from arguments."""
    given = {each.name: getattr(arguments, each.name) for each in fields(MotionOptions) if each.name != "blink"}
    if arguments.num_videos is None:
        given["num_videos"] = 1 if arguments.take_seed is not None else NUM_VIDEOS
    return MotionOptions(**given, blink=not arguments.no_blink)


def picture_options(arguments: argparse.Namespace) -> PictureOptions:
    """Build picture options from arguments."""
    face = None if arguments.face is None else arguments.face - 1
    return PictureOptions(full_frame=False if arguments.crop else None, size=arguments.size, face=face)


def _check_file(path: Path, role: str, kind: str) -> None:
    if path.is_dir():
        raise ValueError(f"The {role} '{path}' is a folder; name {kind}.")
    if path.exists() and not path.is_file():
        raise ValueError(f"The {role} '{path}' is not a regular file; name {kind}.")
    if not path.is_file():
        raise ValueError(f"There is no {role} at '{path}'; check the path.")
    if not os.access(path, os.R_OK):
        raise ValueError(f"The {role} '{path}' cannot be read; check its permissions.")


def _check_output(folder: Path) -> None:
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise ValueError(f"The output folder '{folder}' cannot be made because '{existing}' is a file; name another.")
    if not os.access(existing, os.W_OK):
        raise ValueError(f"The output folder '{folder}' cannot be written to; name another or change permissions.")


def _choose_output(arguments: argparse.Namespace, count: int) -> Path:
    """Choose the output path without replacing takes, unless asked to."""
    path = OUTPUT if arguments.output is None else arguments.output
    if path.suffix.lower() == ".mp4" and count > 1:
        raise ValueError(f"'{path}' is one file, and there are {count} takes; add --num-videos 1, or name a folder.")
    files = TakeFiles(path, count)
    _check_output(files.folder)
    if files.is_file and path.is_dir():
        raise ValueError(f"'{path}' is a folder; name a file.")
    existing = files.existing()
    if not existing or arguments.overwrite or (arguments.resume and unfinished_records(files.folder)):
        return path
    if arguments.output is None:
        return free_folder(path)
    resume = "--resume to complete them, " if unfinished_records(files.folder) else ""
    other = path.with_stem(f"{path.stem}-2") if files.is_file else free_folder(path)
    there = f"There is a file '{path}' already" if files.is_file else f"The folder '{path}' holds takes already"
    if sys.stdin.isatty() and sys.stderr.isatty():
        sys.stderr.write(f"osmnet: {there}. Replace? [y/N] ('N' uses '{other}') ")
        arguments.overwrite = sys.stdin.readline().strip().lower() in ("y", "yes")
        return path if arguments.overwrite else other
    raise ValueError(f"{there}; add {resume}--overwrite to replace, or name another, such as '{other}'.")


def _generate(arguments: argparse.Namespace) -> int:
    # 1. Check the arguments before any heavy import.
    _check_file(arguments.portrait, "portrait", "a picture file")
    _check_file(arguments.speech, "speech", "an audio or video file")
    if arguments.head_motion is not None:
        _check_file(arguments.head_motion, "head-motion video", "a video file")
    if arguments.take_seed is not None and arguments.seed is not None:
        raise ValueError("--take-seed makes one take again and --seed a series of them; leave one out.")
    if arguments.take_seed is not None and arguments.num_videos is not None:
        raise ValueError("--take-seed makes one take again; leave --num-videos out.")
    motion, picture = motion_options(arguments), picture_options(arguments)
    _check_key()
    arguments.output = _choose_output(arguments, motion.num_videos)

    # 2. Load the model.
    from osmnet.pipelines.talking_head import TalkingHeadPipeline
    from osmnet.utils.profiling import Profile

    pipe = TalkingHeadPipeline.from_pretrained(
        arguments.model, revision=arguments.revision, variant=arguments.variant, device_map=arguments.device
    )
    pipe.precision = arguments.precision

    # 3. Make the takes with a known seed, so that each can be reproduced.
    with ExitStack() as stack:
        profile = stack.enter_context(Profile()) if arguments.profile else None
        output, paths = _make(arguments, pipe, motion, picture)
    if profile is not None:
        frames = len(output) * output.num_frames
        sys.stderr.write(f"{profile.table(frames)}\n")
        paths.append(TakeFiles(arguments.output, len(output)).folder / "profile.json")
        write_whole(paths[-1], (json.dumps(profile.as_dict(frames), indent=1) + "\n").encode())
    for path in paths:
        sys.stdout.write(f"{path}\n")
    return 0


def _check_key() -> None:
    """Refuse a key that cannot be used, and say so if it does not last."""
    from osmnet.provenance.key import signing_credential

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        signing_credential()
    for warning in caught:
        sys.stderr.write(f"osmnet: {warning.message}\n")


def _seed(arguments: argparse.Namespace) -> int | list[int]:
    """Return the given, resumed or a new seed."""
    if arguments.take_seed is not None:
        return [arguments.take_seed]
    if arguments.seed is not None:
        return int(arguments.seed)
    unfinished = unfinished_records(TakeFiles(arguments.output, 1).folder) if arguments.resume else []
    seed = unfinished[0].get("seed") if unfinished else None
    return seed if is_seed(seed) else secrets.randbelow(2**31)


def _make(
    arguments: argparse.Namespace, pipe: TalkingHeadPipeline, motion: MotionOptions, picture: PictureOptions
) -> tuple[TalkingHeadOutput, list[Path]]:
    """Render and save the takes, printing progress."""
    from tqdm import tqdm

    # 1. Encode and sample; nothing is rendered or written yet.
    seed = _seed(arguments)
    options = {each.name: getattr(part, each.name) for part in (motion, picture) for each in fields(part)}
    with warnings.catch_warnings():
        if not arguments.debug:
            warnings.simplefilter("ignore")  # they show a line of code; the relevant ones are printed below
        output = pipe(arguments.portrait, arguments.speech, seed=seed, output_type="lazy", **options)
    if arguments.seed is None and arguments.take_seed is None:  # only now: a wrong input above gets one sentence
        sys.stderr.write(f"osmnet: The same command with --seed {seed} makes these videos again.\n")
    if output.motion.speech.activity.max() < 0.5:
        sys.stderr.write("osmnet: No speech was found in the recording (steady noise?); the mouth stays at rest.\n")
    if arguments.face is None and output.source.num_faces > 1:
        count = output.source.num_faces
        sys.stderr.write(f"osmnet: The portrait shows {count} faces; the largest is taken (--face N takes another).\n")

    # 2. Render straight into the files.
    with tqdm(desc="rendering", unit="frame", file=sys.stderr, dynamic_ncols=True) as bar:

        def show(done_frames: int, total_frames: int) -> None:
            if bar.total is None:  # the first call reports resumed frames
                bar.reset(total_frames)
                bar.initial = bar.n = done_frames
                if done_frames:
                    bar.write(f"osmnet: {done_frames} of {total_frames} frames were there already.", file=sys.stderr)
                elif arguments.resume:
                    bar.write("osmnet: There is nothing to resume; starting over.", file=sys.stderr)
            bar.update(done_frames - bar.n)
            if done_frames == total_frames:
                bar.set_description("finishing files")

        paths = output.save(
            arguments.output, sheet=not arguments.no_sheet, progress=show, resume=arguments.resume,
            label=not arguments.no_label, consent=arguments.consent, overwrite=arguments.overwrite,
            animation=arguments.animation,
        )  # fmt: skip
    return output, paths


def main(argv: list[str] | None = None) -> int:
    """Run `osmnet generate`."""
    arguments = build_parser().parse_args(argv)
    try:
        with sigterm_as_ctrl_c():
            return _generate(arguments)
    except KeyboardInterrupt:
        unfinished = unfinished_records(TakeFiles(arguments.output or OUTPUT, 1).folder)
        kept = "; finished parts are kept, --resume completes the takes" if unfinished else ""
        sys.stderr.write(f"\nosmnet: stopped{kept}.\n")
        return EXIT_INTERRUPTED
