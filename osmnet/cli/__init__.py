"""Command line `osmnet COMMAND ...`, one module a command.

Stdout gets only the names of files made; a refusal is one sentence on stderr.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from importlib import import_module

import osmnet
from osmnet.cli.parser import EXIT_INTERRUPTED, EXIT_WRONG_INPUT, Parser
from osmnet.utils.checks import one_line, short

# Each command is the module of its name here, with a `main(argv)`.
COMMANDS = {
    "generate": "make talking-head videos from a portrait and a recording of speech",
    "prepare": "turn raw videos into a dataset of tracked, cropped clips",
    "train": "train or fine-tune the networks on prepared clips",
    "evaluate": "measure a model on held-out clips by the papers' protocol",
    "bases": "draw what the learned head motions do, and faces turned by them",
    "gallery": "draw a page of frame sheets that shows what the weights do",
    "verify": "say whether a video is as it was signed, and what it says of its making",
    "push": "send a model to the Hub, after showing what would be sent",
    "doctor": "check this installation and say how to repair it",
}


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command names."""
    parser = Parser(
        prog="osmnet",
        description="Many different, natural talking-head videos from one portrait and one recording of speech.",
    )
    parser.add_argument("--version", action="version", version=f"osmnet {osmnet.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, purpose in COMMANDS.items():
        commands.add_parser(name, help=purpose, add_help=False)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv (`list[str]`, *optional*): Arguments without the program's name; those of the process by default.

    Returns:
        `int`: Exit status: 0; 1 if `doctor` finds something wrong; 2 for a wrong input; 130 after Ctrl-C.

    Raises:
        SystemExit: With the same statuses, by argparse (`--help`, `--version`, an argument it cannot parse).
    """
    argv = sys.argv[1:] if argv is None else argv
    if not argv:
        build_parser().print_help(sys.stderr)
        return EXIT_WRONG_INPUT
    if argv[0] not in COMMANDS:
        build_parser().parse_args(argv)  # exits: help, version, or a refusal
        return EXIT_WRONG_INPUT
    try:
        return _run(argv[0], argv[1:])
    except KeyboardInterrupt:
        sys.stderr.write("\nosmnet: stopped.\n")
        return EXIT_INTERRUPTED
    except (ValueError, OSError, ImportError) as error:
        if "--debug" in argv:
            traceback.print_exc()
        hint = " Run `osmnet doctor` to see what is missing." if isinstance(error, ImportError) else ""
        sys.stderr.write(f"osmnet: {one_line(_message(error))}{hint}\n")
        return EXIT_WRONG_INPUT


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{short(str(error.filename))} cannot be used ({error.strerror}); check the path."
    return str(error)


def _run(command: str, argv: list[str]) -> int:
    try:
        return import_module(f"osmnet.cli.{command}").main(argv) or 0
    except ModuleNotFoundError as error:
        if command in ("generate", "doctor", "verify", "push"):  # they need no extra
            raise
        raise ValueError(
            f"`osmnet {command}` needs the package '{error.name}'; install osmnet with its extra 'train'."
        ) from error
