"""What is read back: signed files, keys, trust anchors, records of unfinished runs, checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.case import Case
from tests.fuzz.kinds.shared import environment, run_command, seeds_folder
from tests.fuzz.mutate import mutate_bytes, mutate_json, mutate_media
from tests.fuzz.seeds import contents

KEY = "home/signing.pem"


def make(rng: Random, seeds: Path) -> Case:
    """Make a case."""
    part = rng.random()
    if part < 0.55:
        files = contents(seeds / "takes")
        name = rng.choice([each for each in files if not each.endswith(".json")])
        data = mutate_media(rng, files[name], files[rng.choice(list(files))])
        return Case("takes", rng.choice(("verify", "verify", "command", "sign")), {name: data})
    if part < 0.75:
        key = (seeds / KEY).read_bytes()
        data = _pem(rng, key)
        target = rng.choice(("own_key", "given_key", "anchors"))
        taken = contents(seeds / "takes")["signed.png"]
        return Case("takes", target, {KEY: data, "signed.png": taken})
    if part < 0.9:
        files = contents(seeds / "work")
        name = rng.choice([each for each in files if each.endswith((".json", ".whole"))])
        is_json = name.endswith(".json")
        data = mutate_json(rng, json.loads(files[name])) if is_json else mutate_bytes(rng, files[name])
        return Case("takes", rng.choice(("records", "records", "resume")), {name: data}, "work")
    files = contents(seeds / "checkpoints")
    name = rng.choice(list(files))
    data = mutate_json(rng, json.loads(files[name])) if name.endswith(".json") else mutate_bytes(rng, files[name])
    return Case("takes", "checkpoint", {name: data}, "checkpoints")


def _pem(rng: Random, key: bytes) -> bytes:
    blocks = [b"-----BEGIN" + block for block in key.split(b"-----BEGIN")[1:]]
    edit = rng.random()
    if edit < 0.5:
        return mutate_bytes(rng, key)
    if edit < 0.7:
        rng.shuffle(blocks)
        return b"".join(blocks)
    if edit < 0.85:
        return b"".join(blocks[: rng.randrange(len(blocks))])
    return rng.choice(blocks) * rng.choice((1, 2, 50))


def _file(folder: Path) -> Path:
    return next(path for path in folder.iterdir() if path.is_file())


def verify(folder: Path) -> Any:
    """Verify a file."""
    from osmnet.provenance.verify import verify

    verdict = verify(_file(folder))
    return json.dumps(verdict.as_dict())


def command(folder: Path) -> Any:
    """Verify it by the command."""
    return run_command(["verify", str(_file(folder))], folder, allowed=(0, 1, 3, 4))


def sign(folder: Path) -> Any:
    """Sign a damaged file."""
    from osmnet.provenance.manifest import sign

    sign(_file(folder))


def own_key(folder: Path) -> Any:
    """Sign with a damaged key of this installation, and verify with it."""
    from osmnet.provenance.manifest import check_signing
    from osmnet.provenance.verify import verify

    with environment(OSMNET_HOME=str(folder / "home")):
        verify(folder / "signed.png")
        check_signing()


def given_key(folder: Path) -> Any:
    """Sign with a damaged key that the environment names."""
    from osmnet.provenance.manifest import check_signing

    key = str(folder / KEY)
    with environment(OSMNET_SIGNING_KEY=key, OSMNET_SIGNING_CERTIFICATE=key):
        check_signing()


def anchors(folder: Path) -> Any:
    """Verify with damaged trust anchors."""
    from osmnet.provenance.verify import verify

    return verify(folder / "signed.png", folder / KEY)


def records(folder: Path) -> Any:
    """Read the records of unfinished runs, and begin one."""
    from osmnet.takes.unfinished import UnfinishedRun, unfinished_records

    unfinished_records(folder)
    run = UnfinishedRun(folder, {"seed": 7, "take_seeds": [7]})
    run.begin(resume=True)
    run.leave()


def resume(folder: Path) -> Any:
    """Resume a run by the command."""
    model = str(seeds_folder() / "model")
    argv = ["generate", "portrait.png", "speech.wav", "--model", model, "--output", ".", "--resume"]
    return run_command([*argv, "--num-videos", "1", "--crop", "--size", "64", "--no-sheet"], folder)


def checkpoint(folder: Path) -> Any:
    """Find the newest whole checkpoint."""
    from osmnet.training.core.checkpoint import newest_checkpoint

    found, damaged = newest_checkpoint(folder)
    for sentence in damaged:
        if not sentence.isprintable():
            raise ValueError(sentence)
    return found


TARGETS = {
    "verify": verify, "command": command, "sign": sign, "own_key": own_key, "given_key": given_key,
    "anchors": anchors, "records": records, "resume": resume, "checkpoint": checkpoint,
}  # fmt: skip
