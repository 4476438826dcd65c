"""Argument checks that raise one-sentence errors."""

from typing import Any

import numpy as np


def check_range(name: str, value: float, low: float, high: float, whole: bool = False) -> None:
    """Refuse a value that is not a number from `low` to `high`, or with `whole` not a whole number."""
    number = isinstance(value, int | np.integer) if whole else isinstance(value, int | float | np.number)
    if isinstance(value, bool) or not number or not low <= value <= high:
        kind = "whole" if whole else "finite"
        raise ValueError(f"{name} must be a {kind} number from {low} to {high}, not {value!r}.")


def check_kind(name: str, value: Any, kind: type, maker: str) -> None:
    """Refuse an instance of another class, naming the method that makes one."""
    if not isinstance(value, kind):
        raise ValueError(f"{name} must be the {kind.__name__} that {maker} returns, not {type(value).__name__}.")


def check_positive(**sizes: float) -> None:
    """Refuse sizes that are not positive numbers; keywords are their names."""
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int | float) or size <= 0:
            raise ValueError(f"{name} must be a positive number, not {size!r}.")
