"""Numba compilation."""

from collections.abc import Callable
from typing import Any

import numba


def compiled(**options: Any) -> Callable[[Callable], Callable]:
    """Compile a function at its first call, without the GIL, and cache the result on disk where that is possible.

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
