"""Loops compiled by Numba."""

from collections.abc import Callable
from typing import Any

import numba


def compiled(**options: Any) -> Callable[[Callable], Callable]:
    """Compile a function at its first call, and keep the result on disk where there is a folder to write to.

    It runs without the interpreter's lock, so several threads may be in it at once.

    Args:
        **options: Further ones of `numba.njit`.

    Returns:
        `Callable`: A decorator.
    """

    def decorate(function: Callable) -> Callable:
        try:
            return numba.njit(cache=True, nogil=True, **options)(function)
        except RuntimeError:  # a read-only installation and no home folder, as in some containers
            return numba.njit(nogil=True, **options)(function)

    return decorate
