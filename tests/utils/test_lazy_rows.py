"""Rows that are made when they are looked at: the right ones, once, whoever comes first."""

import pickle
import threading

import numpy as np
import pytest
import torch

from osmnet.utils.lazy_rows import LazyRows
from osmnet.utils.threads import in_order


@pytest.fixture
def made():
    return []


@pytest.fixture
def rows(made) -> LazyRows:
    def make(start: int, stop: int) -> np.ndarray:
        made.append((start, stop))
        return np.arange(start, stop)[:, None] * [1.0, 10.0]

    return LazyRows((25, 2), 10, make)


def test_only_what_is_looked_at_is_made_and_only_once(rows, made):
    assert rows.shape == (25, 2) and len(rows) == 25 and made == []
    assert rows[12:14].tolist() == [[12, 120], [13, 130]]
    assert made == [(10, 20)]
    assert rows[np.array([19, 21, 10])].tolist() == [[19, 190], [21, 210], [10, 100]]
    assert made == [(10, 20), (20, 25)]
    assert rows[-1].tolist() == [24, 240] and rows[11, 1] == 110
    assert len(made) == 2


def test_as_an_array_it_is_whole_and_a_copy(rows, made):
    whole = np.asarray(rows)
    assert whole.dtype == np.float32 and np.array_equal(whole, np.arange(25)[:, None] * [1, 10])
    whole[0] = 99
    assert rows[0].tolist() == [0, 0] and sorted(made) == [(0, 10), (10, 20), (20, 25)]


def test_wrong_rows_are_refused_as_by_an_array(rows):
    with pytest.raises(IndexError):
        rows[25]


def test_readers_side_by_side_make_each_block_once(made):
    both = threading.Barrier(2, timeout=10)

    def make(start: int, stop: int) -> np.ndarray:
        made.append(start)
        return np.full((stop - start, 1), start)

    rows = LazyRows((40, 1), 20, make)

    def read(block: int) -> float:
        both.wait()
        return float(rows[20 * block : 20 * block + 5].sum())

    assert list(in_order(read, [1, 1], workers=2)) == [100, 100]
    assert made == [20]


def test_what_is_made_never_uses_several_threads_inside():
    threads = []

    def make(start: int, stop: int) -> np.ndarray:
        threads.append(torch.get_num_threads())
        return np.zeros((stop - start, 1))

    rows = LazyRows((4, 1), 2, make)
    rows[0]
    np.asarray(rows)
    assert threads == [1, 1]


def test_a_failure_is_told_and_tried_again():
    attempts = []

    def make(start: int, stop: int) -> np.ndarray:
        attempts.append(start)
        if len(attempts) == 1:
            raise ValueError("The sound is gone.")
        return np.ones((stop - start, 1))

    rows = LazyRows((3, 1), 3, make)
    with pytest.raises(ValueError, match="The sound is gone"):
        rows[0]
    assert rows[0].tolist() == [1]


def test_pickled_they_are_whole(rows, made):
    rows[3]
    copy = pickle.loads(pickle.dumps(rows))
    assert sorted(made) == [(0, 10), (10, 20), (20, 25)]
    assert copy.shape == (25, 2) and np.array_equal(copy[7:22:5], rows[7:22:5]) and np.array_equal(copy, rows)
