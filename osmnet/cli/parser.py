"""Argument parser of all commands."""

import argparse
from pathlib import Path
from typing import Any, NoReturn

from osmnet.utils.checks import check_path, one_line

EXIT_WRONG_INPUT = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, what a shell reports for Ctrl-C


class Parser(argparse.ArgumentParser):
    """Argument parser whose errors are one sentence."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2 and one sentence."""
        self.exit(EXIT_WRONG_INPUT, f"osmnet: {one_line(message)}; see `{self.prog} --help`.\n")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does; raise `ValueError` for a path that no file can have."""
        parsed = super().parse_args(args, namespace)
        for name, value in vars(parsed).items():
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, Path):
                    check_path(f"The path '{name}'", each)
        return parsed


def add_model(group: argparse._ActionsContainer) -> None:
    """Add `--model` and `--revision`."""
    group.add_argument(
        "--model", metavar="FOLDER_OR_ID", help="a folder or a Hub id (default: the weights inside the package)"
    )
    group.add_argument("--revision", metavar="REVISION", help="branch, tag or commit of a Hub id")
