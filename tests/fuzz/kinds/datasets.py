"""Prepared datasets of strangers: manifests, shards and their members."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from tests.fuzz.case import Case
from tests.fuzz.kinds.shared import MAX_FRAMES, pipe, read_all
from tests.fuzz.mutate import mutate_bytes, mutate_json, mutate_media
from tests.fuzz.seeds import contents

SHAPES = ((0,), (3,), (10, 478, 3), (9, 478, 3), (10, 478, 2), (10**6, 478, 3), (10**9,), (2**31, 2**31), (10, 64))
DTYPES = ("<i2", "<f4", "<f8", "<c8", "|b1", "<U8", "|O", "<M8[s]", "|V7")


def make(rng: Random, seeds: Path) -> Case:
    """Make a case."""
    files = contents(seeds / "dataset")
    rows = [json.loads(line) for line in files["manifest.jsonl"].splitlines()]
    edit, changed = rng.random(), {}
    if edit < 0.15:
        changed["dataset.json"] = mutate_json(rng, json.loads(files["dataset.json"]))
    elif edit < 0.5:
        changed["manifest.jsonl"] = _manifest(rng, rows)
    elif edit < 0.55:
        changed[rng.choice(list(files))] = None
    else:
        changed = _member(rng, rows, files, seeds)
    target = rng.choices(("read", "open", "split"), (6, 2, 1))[0]
    return Case("datasets", target, changed, "dataset")


def _manifest(rng: Random, rows: list[dict[str, Any]]) -> bytes:
    lines = [json.dumps(row).encode() for row in rows]
    place = rng.randrange(len(rows))
    if rng.random() < 0.3:
        shard = rng.choice(("../x.tar", "/etc/passwd", "shards/../../x.tar", "http://127.0.0.1:9/x", "", "\0", ".", 3))
        lines[place] = json.dumps({**rows[place], "shard": shard}).encode()
    else:
        lines[place] = mutate_json(rng, rows[place])
    return b"\n".join(lines) + b"\n"


def _member(rng: Random, rows: list[dict[str, Any]], files: dict[str, bytes], seeds: Path) -> dict[str, bytes]:
    """Put another member behind a shard, or damage the shard."""
    name = rows[0]["shard"]
    if rng.random() < 0.3:
        return {name: mutate_bytes(rng, files[name])}
    ending = rng.choice(("npz", "npz", "npz", "wav", "mp4"))
    start, size = rows[0]["files"][ending]
    member = files[name][start : start + size]
    member = _npz(rng, member, seeds) if ending == "npz" else mutate_media(rng, member)
    rows = [{**row, "files": {**row["files"], ending: [len(files[name]), len(member)]}} for row in rows[:1]] + rows[1:]
    manifest = "".join(json.dumps(row) + "\n" for row in rows).encode()
    return {name: files[name] + member, "manifest.jsonl": manifest}


def _npz(rng: Random, member: bytes, seeds: Path) -> bytes:
    edit = rng.random()
    if edit < 0.03:
        return (seeds / "bomb.npz").read_bytes()
    if edit < 0.4:
        return mutate_bytes(rng, member)
    with zipfile.ZipFile(io.BytesIO(member)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(list(parts))
    if rng.random() < 0.15:
        del parts[name]
    elif rng.random() < 0.5:
        parts[name] = _npy(rng)
    else:
        parts[name] = mutate_bytes(rng, parts[name])
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for each, content in parts.items():
            archive.writestr(each, content)
    return file.getvalue()


def _npy(rng: Random) -> bytes:
    """An array whose header promises anything."""
    shape, dtype = rng.choice(SHAPES), rng.choice(DTYPES)
    file = io.BytesIO()
    header = {"descr": dtype, "fortran_order": rng.random() < 0.2, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    length = int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
    return file.getvalue() + bytes(min(length, 200_000))


def open_(folder: Path) -> Any:
    """Open it and list the clips."""
    from osmnet.data.dataset import Dataset

    dataset = Dataset.open(folder)
    return dataset.fingerprint, dataset.clips(), dataset.clips(speech=True, min_size=64)


def split(folder: Path) -> Any:
    """Split it."""
    from osmnet.data.dataset import Dataset

    dataset = Dataset.open(folder)
    return dataset.split(), dataset.split(by="clip", speech=True)


def read(folder: Path) -> Any:
    """Read all that there is of each clip."""
    from osmnet.data.dataset import Dataset

    for clip in Dataset.open(folder).clips():
        clip.landmarks_px()
        clip.fit(pipe().face_model)
        if clip.has_speech:
            clip.mel_windows()
        read_all(clip.read_frames(0, MAX_FRAMES))


TARGETS = {"open": open_, "split": split, "read": read}
