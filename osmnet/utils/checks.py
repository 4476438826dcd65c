"""Argument checks."""

import os
from numbers import Integral, Real
from pathlib import Path
from typing import Any

MAX_NAME, MAX_PATH = 255, 4095  # bytes


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


def check_positive(**sizes: Any) -> None:
    """Check that sizes, given by name, are positive."""
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int | float) or size <= 0:
            raise ValueError(f"{name} must be a positive number, not {short(size)}.")


def checked_path(name: str, value: Any) -> Path:
    """Return a value as a path, or raise `ValueError` if no file can have it."""
    if not isinstance(value, str | os.PathLike) or isinstance(os.fspath(value), bytes):
        raise ValueError(f"{name} must be a path, not {type(value).__name__}.")
    path = Path(value)
    try:
        names = [os.fsencode(part) for part in path.parts]
    except UnicodeEncodeError:
        names = [b"\0"]
    if any(b"\0" in part for part in names):
        raise ValueError(f"{name} has a character that no file name can have: {short(str(path))}; give another path.")
    if any(len(part) > MAX_NAME for part in names) or sum(len(part) + 1 for part in names) > MAX_PATH:
        raise ValueError(f"{name} is longer than a disk takes: {short(str(path))}; give a shorter path.")
    return path


def short(value: Any) -> str:
    """Return the representation of a value for a message, at most 80 characters."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python prints
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:77]}..."
