"""Recognise people across videos, so that splits are by person and not by name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from osmnet.data.dataset import Clip, is_held_out

# Distances of two clips' descriptors. One person's are up to 0.6 apart, with strong expressions; those of two people
# of a kind that the network saw little of are as near as 0.37. So a likely pair must be much nearer than both are to
# others.
SURE, LIKELY = 0.3, 0.45
RATIO, RIVALS = 0.7, 5  # of the distance to the fifth nearest other speaker
BLOCK = 256  # clips compared with all others at a time


@dataclass(frozen=True)
class Merge:
    """Speakers found to be one person.

    Attributes:
        speaker (`str`): The name all clips get: that of one who is held out, else the first.
        names (`tuple[str, ...]`): All names they had.
        clips (`tuple[str, str]`): Keys of the two clips of different names that are most alike.
        distance (`float`): Distance of their descriptors.
    """

    speaker: str
    names: tuple[str, ...]
    clips: tuple[str, str]
    distance: float


def restore_names(rows: list[dict[str, Any]]) -> None:
    """Undo `merge_speakers` in place."""
    for row in rows:
        if "named" in row:
            row["speaker"] = row.pop("named")


def merge_speakers(folder: Path, rows: list[dict[str, Any]]) -> list[Merge]:
    """Give one speaker to clips of the same face under different names.

    Two names become one speaker if any two of their clips are alike. Changed rows keep their name as `named`.

    Args:
        folder (`Path`): The dataset.
        rows (`list[dict]`): Its manifest, with the names as given (`restore_names`); changed in place.

    Returns:
        `list[Merge]`: By speaker.
    """
    kept = [row for row in rows if row["status"] == "kept"]
    described = [(row, Clip(str(folder), row).descriptor()) for row in kept]
    seen = [(row, descriptor) for row, descriptor in described if descriptor is not None]
    if not seen:
        return []
    seen.sort(key=lambda pair: pair[0]["speaker"])
    clips = [row for row, _ in seen]
    parent = {row["speaker"]: row["speaker"] for row in clips}
    closest: dict[str, tuple[float, str, str]] = {}  # by either of the two names
    descriptors = np.stack([descriptor for _, descriptor in seen])
    for i, j, distance in _alike(descriptors, [row["speaker"] for row in clips]):
        names = clips[i]["speaker"], clips[j]["speaker"]
        parent[_root(parent, names[0])] = _root(parent, names[1])
        for name in names:
            found = (distance, *sorted((clips[i]["key"], clips[j]["key"])))
            closest[name] = min(closest.get(name, found), found)
    groups: dict[str, list[str]] = {}
    for name in sorted(parent):
        groups.setdefault(_root(parent, name), []).append(name)
    merges = []
    for names in (names for names in groups.values() if len(names) > 1):
        # A speaker of whom a part was held out must not be trained on.
        speaker = min(names, key=lambda name: (not is_held_out(name), name))
        distance, *pair = min(closest[name] for name in names)
        merges.append(Merge(speaker, tuple(names), (pair[0], pair[1]), distance))
        for row in kept:
            if row["speaker"] in names and row["speaker"] != speaker:
                row["named"], row["speaker"] = row["speaker"], speaker
    return sorted(merges, key=lambda merge: merge.speaker)


def _alike(descriptors: np.ndarray, names: list[str]) -> list[tuple[int, int, float]]:
    """List pairs of one person under two names; `names` are sorted."""
    _, starts, speaker = np.unique(names, return_index=True, return_inverse=True)
    squares = (descriptors**2).sum(1)
    likely, rivals = [], np.zeros(len(descriptors))
    for start in range(0, len(descriptors), BLOCK):
        part = slice(start, start + BLOCK)
        squared = squares[part, None] + squares[None] - 2 * descriptors[part] @ descriptors.T
        distances = np.sqrt(np.maximum(squared, 0))
        distances[speaker[part, None] == speaker[None]] = np.inf
        if len(starts) > RIVALS:
            of_speakers = np.minimum.reduceat(distances, starts, axis=1)
            rivals[part] = np.partition(of_speakers, RIVALS - 1, axis=1)[:, RIVALS - 1]
        likely += [(start + i, j, distances[i, j]) for i, j in zip(*np.nonzero(distances < LIKELY), strict=True)]
    return [
        (i, j, float(distance)) for i, j, distance in likely
        if i < j and distance < max(SURE, RATIO * min(rivals[i], rivals[j]))
    ]  # fmt: skip


def _root(parent: dict[str, str], name: str) -> str:
    while parent[name] != name:
        parent[name] = parent[parent[name]]
        name = parent[name]
    return name
