"""People found under several names."""

from pathlib import Path

import numpy as np
import pytest

from osmnet.data import speakers
from osmnet.data.dataset import Clip, is_held_out
from osmnet.data.speakers import LIKELY, SURE, merge_speakers, restore_names

HELD_OUT = "opentalker-face"


def rows_of(*clips: tuple[str, str]) -> list[dict]:
    rows = [{"status": "kept", "key": key, "speaker": speaker, "frames": 50} for key, speaker in clips]
    return [*rows, {"status": "dropped", "reason": "no face was found", "seconds": 1.0}]


@pytest.fixture
def faces(monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Descriptors by clip; a test adds them. Others have none."""
    known: dict[str, np.ndarray] = {}
    monkeypatch.setattr(Clip, "descriptor", lambda clip: known.get(clip.name))
    return known


def person(number: int, away: float = 0.0) -> np.ndarray:
    """A face; people are 1.4 apart."""
    descriptor = np.zeros(128, np.float32)
    descriptor[number], descriptor[-1] = 1.0, away
    return descriptor


def test_the_same_face_under_two_names_is_one_speaker(faces):
    faces |= {"a1": person(0), "a2": person(0, 0.25), "b1": person(0, 0.5), "c1": person(1)}
    rows = rows_of(("a1", "bob"), ("a2", "bob"), ("b1", "ann"), ("c1", "cy"), ("d1", "dan"))
    (merge,) = merge_speakers(Path("nowhere"), rows)
    assert [row["speaker"] for row in rows[:-1]] == ["ann", "ann", "ann", "cy", "dan"]
    assert [row.get("named") for row in rows[:-1]] == ["bob", "bob", None, None, None]
    # Through the clip nearest to the other name: from the first alone it is too far.
    assert merge.names == ("ann", "bob") and merge.clips == ("a2", "b1")
    assert merge.distance == pytest.approx(0.25, abs=1e-3) and LIKELY < 0.5
    restore_names(rows)
    assert [row["speaker"] for row in rows[:-1]] == ["bob", "bob", "ann", "cy", "dan"] and "named" not in rows[0]


def test_a_person_of_whom_a_part_is_held_out_is_held_out(faces):
    assert is_held_out(HELD_OUT) and not is_held_out("bob")
    faces |= {"a1": person(0), "b1": person(0)}
    rows = rows_of(("a1", "bob"), ("b1", HELD_OUT))
    assert merge_speakers(Path("nowhere"), rows)[0].speaker == HELD_OUT
    assert {row["speaker"] for row in rows[:-1]} == {HELD_OUT}


def test_names_are_merged_in_chains_whatever_the_size_of_a_block(faces, monkeypatch):
    faces |= {f"k{k}": person(0, 0.25 * k) for k in range(5)} | {"z": person(3)}
    clips = [*((f"k{k}", f"name{k}") for k in range(5)), ("z", "zoe")]
    rows = rows_of(*clips)
    whole = merge_speakers(Path("nowhere"), rows)
    assert len(whole) == 1 and whole[0].names == tuple(f"name{k}" for k in range(5))
    monkeypatch.setattr(speakers, "BLOCK", 2)
    assert merge_speakers(Path("nowhere"), rows_of(*clips)) == whole


def test_two_who_are_not_very_alike_must_be_less_alike_to_everybody_else(faces):
    """People of a kind that the network saw little of are all near to each other."""
    away = 0.37
    assert SURE < away < LIKELY
    clips = [("a", "ann"), ("b", "bob"), *((f"z{k}", f"zoe{k}") for k in range(5))]
    faces |= {"a": person(0), "b": person(0, away)} | {f"z{k}": person(1 + k) for k in range(5)}
    assert merge_speakers(Path("nowhere"), rows_of(*clips))[0].names == ("ann", "bob")
    faces |= {
        f"z{k}": person(0) * np.cos(0.45) + person(1 + k) * np.sin(0.45) for k in range(5)
    }  # all are near to ann
    assert merge_speakers(Path("nowhere"), rows_of(*clips)) == []
    few = rows_of(*clips[:2])
    assert merge_speakers(Path("nowhere"), few) == []  # nobody to compare with


def test_clips_without_a_descriptor_keep_their_names(faces):
    rows = rows_of(("a", "ann"), ("b", "bob"))
    assert merge_speakers(Path("nowhere"), rows) == [] and rows == rows_of(("a", "ann"), ("b", "bob"))
