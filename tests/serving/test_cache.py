"""The cache of encoded inputs: limits, age, threads."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from osmnet.serving.cache import EncodedCache, file_digest

LONG = 1000.0  # s


def test_a_value_is_made_once():
    made = []

    def make():
        made.append(threading.get_ident())
        time.sleep(0.05)  # the others ask meanwhile
        return object()

    cache = EncodedCache(100, LONG)
    with ThreadPoolExecutor(4) as pool:
        values = list(pool.map(lambda _: cache.get("key", make, lambda _: 1), range(8)))
    assert len(made) == 1 and len(set(map(id, values))) == 1
    cache.clear()
    assert len(cache) == 0


def test_what_was_used_least_recently_goes_first():
    cache, sizes = EncodedCache(10, LONG), {"a": 4, "b": 4, "c": 4, "large": 11}

    def get(key):
        return cache.get(key, lambda: key, sizes.__getitem__)

    for key in ("a", "b", "a", "c"):
        get(key)
    assert len(cache) == 2
    assert cache.get("a", pytest.fail, len) == "a"
    get("large")  # larger than the cache: it displaces nothing
    assert cache.get("c", pytest.fail, len) == "c" and len(cache) == 2
    cache.clear()


def test_old_values_are_dropped_though_nobody_asks():
    cache = EncodedCache(100, 0.1)
    for key in "ab":
        cache.get(key, lambda: 1, lambda _: 1)
    assert len(cache) == 2
    until = time.monotonic() + 10
    while len(cache) and time.monotonic() < until:
        time.sleep(0.02)
    assert len(cache) == 0


def test_errors_are_raised_and_not_kept():
    cache = EncodedCache(100, LONG)

    def fail():
        raise ValueError("broken")

    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            cache.get("key", fail, len)
    assert cache.get("key", lambda: "made", len) == "made"
    assert cache.get(None, lambda: "not kept", len) == "not kept" and len(cache) == 1
    cache.clear()


def test_the_digest_is_that_of_the_content(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"a")
    other.write_bytes(b"a")
    assert file_digest(one) == file_digest(other)
    other.write_bytes(b"b")
    assert file_digest(one) != file_digest(other)
    assert file_digest(tmp_path / "none") is file_digest("\0") is file_digest(tmp_path) is None
