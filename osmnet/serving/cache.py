"""`EncodedCache`: recently encoded inputs."""

import hashlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

Value = TypeVar("Value")


@dataclass
class _Entry:
    future: Future[Any] = field(default_factory=Future)
    made: float = field(default_factory=time.monotonic)  # s
    size: int = 0  # bytes


class EncodedCache:
    """Thread-safe LRU cache limited by bytes and age.

    Concurrent requests compute a value once.

    Args:
        max_bytes (`int`): Limit of all values together, bytes.
        max_age (`float`): Lifetime of a value, s.
    """

    def __init__(self, max_bytes: int, max_age: float):
        self.max_bytes, self.max_age = max_bytes, max_age
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def get(self, key: Hashable, make: Callable[[], Value], size_of: Callable[[Value], int]) -> Value:
        """Return a key's value; compute it if missing.

        Args:
            key (hashable): `None` computes without caching.
            make (`Callable`): Computes the value. Its exception reaches all waiting callers and is not cached.
            size_of (`Callable`): Size of a value, bytes.
        """
        if key is None:
            return make()
        with self._lock:
            self._drop_old()
            entry = self._entries.get(key)
            if is_new := entry is None:
                entry = self._entries[key] = _Entry()
            self._entries.move_to_end(key)
        if is_new:
            self._make(key, entry, make, size_of)
        value: Value = entry.future.result()
        return value

    def clear(self) -> None:
        """Drop all values."""
        with self._lock:
            self._entries.clear()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def __len__(self) -> int:
        return len(self._entries)

    def _make(self, key: Hashable, entry: _Entry, make: Callable[[], Value], size_of: Callable[[Value], int]) -> None:
        try:
            value = make()
            entry.size = size_of(value)
        except BaseException as error:
            with self._lock:
                self._entries.pop(key, None)
            entry.future.set_exception(error)
            return
        entry.future.set_result(value)
        with self._lock:
            if entry.size > self.max_bytes:
                self._entries.pop(key, None)
            while sum(each.size for each in self._entries.values()) > self.max_bytes:
                self._entries.popitem(last=False)
            self._wait_for_oldest()

    def _drop_old(self) -> None:
        now = time.monotonic()
        for key in [key for key, each in self._entries.items() if now - each.made >= self.max_age]:
            del self._entries[key]

    def _wait_for_oldest(self) -> None:
        if self._timer is None and self._entries:
            oldest = min(each.made for each in self._entries.values())
            self._timer = threading.Timer(oldest + self.max_age - time.monotonic(), self._expire)
            self._timer.daemon = True
            self._timer.start()

    def _expire(self) -> None:
        with self._lock:
            self._timer = None
            self._drop_old()
            self._wait_for_oldest()


def file_digest(path: str | os.PathLike[str]) -> str | None:
    """Return a file's digest; `None` if unreadable."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "blake2b").hexdigest()
    except (OSError, ValueError):
        return None
