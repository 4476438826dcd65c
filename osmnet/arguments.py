"""The argument parser of all commands."""

import argparse
from typing import NoReturn

EXIT_WRONG_INPUT = 2


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaint is one sentence instead of the whole usage."""

    def error(self, message: str) -> NoReturn:
        """Leave with status 2 after one sentence on stderr."""
        self.exit(EXIT_WRONG_INPUT, f"osmnet: {message}; see `{self.prog} --help`.\n")
