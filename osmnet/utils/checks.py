"""Argument checks."""

from numbers import Integral, Real
from typing import Any


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
            raise ValueError(f"{name} must be a positive number, not {size!r}.")


def short(value: Any) -> str:
    """Return the representation of a value for a message, at most 80 characters."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python prints
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:77]}..."
