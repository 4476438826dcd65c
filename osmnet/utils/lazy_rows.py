"""Lazily computed arrays."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from osmnet.utils.threads import in_order, on_worker


class LazyRows:
    """Array `(rows, width)`, float32, computed by pages on first access; thread-safe.

    Indexed like an array; `np.asarray(rows)` and pickling compute all of it.

    Args:
        shape (`tuple[int, int]`): Rows and width.
        page (`int`): Rows computed at a time.
        make (`Callable`): Maps `start, stop` to rows `(stop - start, width)`.
    """

    def __init__(self, shape: tuple[int, int], page: int, make: Callable[[int, int], np.ndarray]):
        self.shape, self.dtype = shape, np.dtype(np.float32)
        self._rows = np.empty(shape, np.float32)  # occupies memory only as it is filled
        self._page, self._make_rows = page, make
        pages = -(-shape[0] // page)
        self._made = [False] * pages
        self._locks = [threading.Lock() for _ in range(pages)]

    @classmethod
    def of(cls, rows: np.ndarray) -> "LazyRows":
        """Wrap existing rows `(rows, width)`."""
        return cls(rows.shape, max(len(rows), 1), lambda start, stop: rows[start:stop])

    def __reduce__(self) -> tuple[Any, ...]:
        return LazyRows.of, (np.asarray(self),)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, where: Any) -> np.ndarray:
        touched = np.arange(self.shape[0])[where[0] if isinstance(where, tuple) else where]
        self._make(np.unique(touched // self._page).tolist())
        return self._rows[where]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        self._make(range(len(self._made)))
        return self._rows.astype(dtype or np.float32, copy=copy is not False)

    def _make(self, pages: Any) -> None:
        missing = [page for page in pages if not self._made[page]]
        if on_worker():
            for page in missing:
                self._make_page(page)
        else:  # on workers: PyTorch rounds differently with several threads inside
            for _ in in_order(self._make_page, missing):
                pass

    def _make_page(self, page: int) -> None:
        with self._locks[page]:
            if not self._made[page]:
                start, stop = page * self._page, min((page + 1) * self._page, self.shape[0])
                self._rows[start:stop] = self._make_rows(start, stop)
                self._made[page] = True
