"""Rows of an array that are worked out when they are first looked at, some at a time, by whoever comes first."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from osmnet.utils.threads import in_order, on_worker


class LazyRows:
    """An array `(rows, width)`, float32, that is made in blocks of rows and kept; several threads may read it.

    It is read as an array is, `rows[10:20]` or `rows[indices]`; `np.asarray(rows)` makes all of it, as does pickling.

    Args:
        shape (`tuple[int, int]`): Rows and width.
        block (`int`): Rows that are made at a time.
        make (`Callable`): Makes the rows from a number to before another, `(stop - start, width)`.
    """

    def __init__(self, shape: tuple[int, int], block: int, make: Callable[[int, int], np.ndarray]):
        self.shape, self.dtype = shape, np.dtype(np.float32)
        self._rows = np.empty(shape, np.float32)  # takes up memory only as it is filled
        self._block, self._make_rows = block, make
        blocks = -(-shape[0] // block)
        self._made = [False] * blocks
        self._locks = [threading.Lock() for _ in range(blocks)]

    @classmethod
    def of(cls, rows: np.ndarray) -> "LazyRows":
        """Rows that are there already, `(rows, width)`."""
        return cls(rows.shape, max(len(rows), 1), lambda start, stop: rows[start:stop])

    def __reduce__(self) -> tuple[Any, ...]:
        return LazyRows.of, (np.asarray(self),)

    def __len__(self) -> int:
        """Rows."""
        return self.shape[0]

    def __getitem__(self, where: Any) -> np.ndarray:
        """Rows, as of an array."""
        touched = np.arange(self.shape[0])[where[0] if isinstance(where, tuple) else where]
        self._make(np.unique(touched // self._block).tolist())
        return self._rows[where]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All rows, as a copy."""
        self._make(range(len(self._made)))
        return self._rows.astype(dtype or np.float32, copy=copy is not False)

    def _make(self, blocks: Any) -> None:
        missing = [block for block in blocks if not self._made[block]]
        if on_worker():
            for block in missing:
                self._make_block(block)
        else:  # on workers: PyTorch rounds differently with several threads inside
            for _ in in_order(self._make_block, missing):
                pass

    def _make_block(self, block: int) -> None:
        with self._locks[block]:
            if not self._made[block]:
                start, stop = block * self._block, min((block + 1) * self._block, self.shape[0])
                self._rows[start:stop] = self._make_rows(start, stop)
                self._made[block] = True
