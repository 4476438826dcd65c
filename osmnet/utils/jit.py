"""Numba compilation."""

from collections.abc import Callable
from typing import Any

import numba


def compiled(**options: Any) -> Callable[[Callable], Callable]:
    """Compile with `numba.njit(**options)`, without the GIL, cached on disk if possible."""

    def decorate(function: Callable) -> Callable:
        try:
            return numba.njit(cache=True, nogil=True, **options)(function)
        except RuntimeError:  # a read-only installation and no home folder, as in some containers
            return numba.njit(nogil=True, **options)(function)

    return decorate
