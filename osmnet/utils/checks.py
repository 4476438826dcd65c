"""Argument checks."""

import os
import re
from numbers import Integral, Real
from pathlib import Path
from typing import Any

MAX_PATH, MAX_NAME = 4096, 255  # bytes, of Linux
MAX_LINE, MAX_REASON = 600, 300  # characters of a message, and of another library's part in it


def check_range(name: str, value: Any, low: float, high: float, whole: bool = False) -> None:
    """Check that a number, whole if asked, is from `low` to `high`."""
    number = isinstance(value, Integral if whole else Real)  # NumPy's scalars are registered as these, too
    if isinstance(value, bool) or not number or not low <= value <= high:
        kind = "whole" if whole else "finite"
        raise ValueError(f"{name} must be a {kind} number from {low:g} to {high:g}, not {short(value)}.")


def check_kind(name: str, value: Any, kind: type, maker: str) -> None:
    """Check a value's class; `maker` names its source."""
    if not isinstance(value, kind):
        raise ValueError(f"{name} must be the {kind.__name__} that {maker} returns, not {type(value).__name__}.")


def check_flag(name: str, value: Any) -> None:
    """Check that a value is `True` or `False`."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, not {short(value)}.")


def check_path(name: str, value: Any) -> Path:
    """Check that a value can be a path, and return it as one."""
    if not isinstance(value, str | os.PathLike):
        raise ValueError(f"{name} must be a path, not {type(value).__name__}.")
    try:
        encoded = os.fsencode(value)
    except UnicodeEncodeError:
        encoded = b"\0"
    longest = max(map(len, encoded.split(b"/")))
    if b"\0" in encoded or len(encoded) > MAX_PATH or longest > MAX_NAME:
        raise ValueError(f"{name} cannot be {short(os.fspath(value))}, which no file system can hold.")
    return Path(os.fsdecode(encoded))


def check_positive(**sizes: Any) -> None:
    """Check that sizes, given by name, are positive."""
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int | float) or size <= 0:
            raise ValueError(f"{name} must be a positive number, not {short(size)}.")


def short(value: Any) -> str:
    """Return the representation of a value for a message, one line of at most 80 characters."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # an integer of more digits than Python prints
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:77]}..."


def reason(error: BaseException) -> str:
    """Return why something failed, for the brackets of a message: one short line, or the error's class."""
    if isinstance(error, UnicodeError):
        return "it is not UTF-8 text"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if isinstance(error, RecursionError):
        text = "it is nested too deep"
    lines = re.sub(r"\[Errno -?\d+\] ?", "", text).strip().splitlines()
    if not lines:
        return type(error).__name__
    line = "".join(letter if letter.isprintable() else "?" for letter in lines[0]).rstrip(".")
    return line if len(line) <= MAX_REASON else f"{line[:MAX_REASON]}…"


def one_line(text: str) -> str:
    """Return a message as one printable line, cut to `MAX_LINE`."""
    line = "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))
    return line if len(line) <= MAX_LINE else f"{line[: MAX_LINE - 1]}…"
