"""Numba compilation."""

from collections.abc import Callable
from typing import Any

import numba


def compiled(**options: Any) -> Callable[[Callable], Callable]:
    """Decorate a function to be compiled at its first call, without the GIL, and cached on disk if possible.

    `options` are further ones of `numba.njit`.
    """

    def decorate(function: Callable) -> Callable:
        try:
            return numba.njit(cache=True, nogil=True, **options)(function)
        except RuntimeError:  # a read-only installation and no home folder, as in some containers
            return numba.njit(nogil=True, **options)(function)

    return decorate
