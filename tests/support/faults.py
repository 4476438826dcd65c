"""Faults of the disk: every kind of call by which something is written fails once.

As a program, `python -m tests.support.faults SCENARIOS FOLDER`, it prints what is wrong after such faults, as JSON. It
needs the library of `faults.c` in LD_PRELOAD.
"""

import contextlib
import ctypes
import errno
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

TEMPORARY = re.compile(r"/\.[^/]*\.part|/\.saving-|/\.tmp")
RAW = re.compile(r"Errno|os error|UntrackedPointer|I/O error|enforce fail|iostream|\n")
FIX = re.compile(r"[;:] (give|free|make|choose|check|set|run|start)\b")


def build(folder: Path) -> Path:
    """Compile the library."""
    library = folder / "faults.so"
    source = Path(__file__).with_suffix(".c")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


class Disk:
    """What is written below a folder, call by call."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(os.environ["LD_PRELOAD"])
        self._library.faults_begin.argtypes = (ctypes.c_char_p, ctypes.c_long, ctypes.c_int)
        self._library.faults_end.restype = ctypes.c_char_p
        self.calls: list[tuple[str, str]] = []

    @contextlib.contextmanager
    def watched(self, folder: Path, fails_at: int = 0, error: int = 0) -> Iterator[None]:
        """Record calls; the one of a number, counted from 1, fails."""
        self._library.faults_begin(os.fsencode(folder), fails_at, error)
        try:
            yield
        finally:
            lines = os.fsdecode(self._library.faults_end()).splitlines()
            self.calls = [tuple(line.replace(str(folder), "").split(" ", 1)) for line in lines]


class Scenario:
    """Something that is written into a folder in which older files are."""

    warns = False  # instead of raising

    def before(self, folder: Path) -> None:
        """Write the older files."""

    def write(self, folder: Path) -> None:
        """Write the new ones."""

    def content(self, folder: Path) -> dict[str, object]:
        """What is under final names, without what differs from run to run."""
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        }

    def is_whole(self, found: dict, old: dict, new: dict) -> bool:
        """Whether each file is the older or the new one, and none is missing that was there and stays."""
        return all(found[name] in (old.get(name), new.get(name)) for name in found) and not (
            (old.keys() & new.keys()) - found.keys()
        )


def check(scenario: Scenario, folder: Path, thoroughly: bool) -> list[str]:
    """Let calls of every kind fail, one at a time; return what is wrong afterwards."""
    disk, wrong = Disk(), []
    before = folder / "before" / "out"
    before.mkdir(parents=True)
    scenario.before(before)
    old = scenario.content(before)
    undisturbed = shutil.copytree(before, folder / "undisturbed" / "out")
    with disk.watched(undisturbed):
        scenario.write(undisturbed)
    new, calls = scenario.content(undisturbed), disk.calls
    wrong += [f"not synced: {each}" for each in not_synced(calls)]
    if len(calls) < 4:
        wrong.append(f"only {calls} were seen")
    for number, error in chosen(calls, thoroughly):
        call, path = calls[number - 1]
        where = f"{errno.errorcode[error]} at call {number}, {call} {path}"
        place = shutil.copytree(before, folder / f"{number}-{error}" / "out")
        message = None
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            with disk.watched(place, number, error):
                try:
                    scenario.write(place)
                except (ValueError, OSError) as raised:
                    message = str(raised)
        if scenario.warns:
            message = next((str(each.message) for each in heard), None)
        found = scenario.content(place)
        if message is None and found != new:
            wrong.append(f"{where}: nothing was said")
        if message is not None and (RAW.search(message) or str(place) not in message or not FIX.search(message)):
            wrong.append(f"{where}: it says {message!r}")
        if not scenario.is_whole(found, old, new):
            wrong.append(f"{where}: {describe(found, old, new)}")
        wrong += [f"{where}: {path} is left" for path in left(place)]
        scenario.write(place)
        if scenario.content(place) != new:
            wrong.append(f"{where}: written again, {describe(scenario.content(place), old, new)}")
        wrong += [f"{where}: written again, {path} is left" for path in left(place)]
        shutil.rmtree(place)
    return wrong


def chosen(calls: list[tuple[str, str]], thoroughly: bool) -> list[tuple[int, int]]:
    """Of each kind the first call, with a full disk, and the last one, with a broken one; or these in turns."""
    kinds: dict[tuple[str, str], list[int]] = {}
    for number, (call, path) in enumerate(calls, 1):
        name = path.rpartition("/")[2] or path  # alike in each component of a model
        kinds.setdefault((call, re.sub(r"[0-9a-f]{4,}|[0-9]+|tmp\w+", "*", name)), []).append(number)
    pairs = [((numbers[0], errno.ENOSPC), (numbers[-1], errno.EIO)) for numbers in kinds.values()]
    if thoroughly:
        return [each for pair in pairs for each in pair]
    return [pair[turn % 2] for turn, pair in enumerate(pairs)]


def not_synced(calls: list[tuple[str, str]]) -> list[str]:
    """Names that came about before their files were on the disk, or whose folder was not synced afterwards."""
    written: set[str] = set()
    synced: set[str] = set()
    wrong = []
    for number, (call, path) in enumerate(calls):
        if call == "write" and "/.tmp" not in path:  # safetensors' own: it renames them unseen
            written.add(path)
            synced.discard(path)
        elif call == "fsync":
            synced.add(path)
        elif call == "rename":
            source, target = path.split("\t")
            moved = {each for each in written | synced if each == source or each.startswith(f"{source}/")}
            unsynced = moved - synced
            written, synced = (
                {target + each.removeprefix(source) if each in moved else each for each in paths}
                for paths in (written, synced)
            )
            synced_after = ("fsync", f"{os.path.dirname(target).rstrip('/')}/") in calls[number:]
            if not TEMPORARY.search(target) and (unsynced or not moved or not synced_after):
                wrong.append(f"{target} {sorted(unsynced)}")
    return wrong


def left(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob("*") if TEMPORARY.search(str(path))]


def describe(found: dict, old: dict, new: dict) -> str:
    kinds = {name: "new" if found.get(name) == new.get(name) else "old" if found.get(name) == old.get(name) else "?"
             for name in sorted(found.keys() | old.keys() | new.keys())}  # fmt: skip
    return f"there are {kinds}, without {sorted((old.keys() | new.keys()) - found.keys())}"


# Scenarios


class Takes(Scenario):
    """Takes of another seed are replaced; parts of 16 frames are joined if there are more."""

    def __init__(self, frames: int, count: int, **options):
        import torch
        from PIL import Image

        from osmnet.takes import writer
        from tests.support.dummies import SAMPLING_RATE, portrait, speech, tiny_pipeline

        writer.PART_SECONDS = 16 / 25
        writer.contact_sheet = lambda takes, *_, **__: Image.fromarray(takes[0][0])  # drawing takes long
        pipe = tiny_pipeline()
        source = pipe.encode_source(portrait(), size=64)
        sound = pipe.encode_speech(speech(frames / 25), SAMPLING_RATE)
        self.old, self.new = (
            pipe(source, sound, num_videos=number, generator=torch.Generator().manual_seed(seed), output_type="lazy")
            for seed, number in ((1, count + 1), (2, count))
        )
        self.options = options

    def before(self, folder: Path) -> None:
        self.old.save(folder, **self.options)

    def write(self, folder: Path) -> None:
        self.new.save(folder, overwrite=True, resume=True, **self.options)

    def content(self, folder: Path) -> dict[str, object]:
        import av
        import numpy as np
        from PIL import Image

        found = super().content(folder)
        for name in found:
            if name.endswith(".json"):
                found[name] = json.loads(found[name]) | {"made": None}
            elif name.endswith(".mp4"):
                with av.open(str(folder / name)) as video:
                    found[name] = [(packet.pts, bytes(packet)) for packet in video.demux() if packet.size]
            else:
                with Image.open(folder / name) as picture:
                    found[name] = np.asarray(picture.convert("RGB")).tobytes()
        return found


class Checkpoint(Scenario):
    def __init__(self):
        from accelerate import Accelerator

        from osmnet.training.core.state import RunState
        from tests.support.toy_stage import ToyConfig, ToyStage

        self.accelerator, stage = Accelerator(), ToyStage(ToyConfig())
        RunState(stage, stage.config, self.accelerator)

    def _save(self, folder: Path, step: int) -> None:
        from osmnet.training.core.checkpoint import save_checkpoint, seed_all

        seed_all(0, 0)
        save_checkpoint(self.accelerator, folder, step, {"settings": {}}, keep=1)

    def before(self, folder: Path) -> None:
        self._save(folder, 1)

    def write(self, folder: Path) -> None:
        self._save(folder, 2)

    def is_whole(self, found: dict, old: dict, new: dict) -> bool:
        return found in (old, new, old | new)


class Model(Scenario):
    """Weights of another seed, in a pipeline's folder."""

    def __init__(self):
        from tests.support.dummies import tiny_pipeline

        self.old, self.new = (tiny_pipeline(seed=seed) for seed in (0, 1))

    def before(self, folder: Path) -> None:
        self.old.save_pretrained(folder)

    def write(self, folder: Path) -> None:
        self.new.save_pretrained(folder)

    def is_whole(self, found: dict, old: dict, new: dict) -> bool:
        return found in (old, new)


class Key(Scenario):
    """The key of an installation."""

    warns = True

    def write(self, folder: Path) -> None:
        from osmnet.provenance import key

        key._process_key.cache_clear()
        os.environ["OSMNET_HOME"] = str(folder / "home")
        key.signing_credential()

    def content(self, folder: Path) -> dict[str, object]:
        from osmnet.provenance import key

        path = folder / "home" / key.FILE_NAME
        return {"key": key._stored(path) is not None} if path.exists() else {}


class DataSet(Scenario):
    """A video is added to a dataset."""

    def __init__(self, folder: Path):
        from osmnet.data import prepare, prepared_video, report
        from osmnet.data.segments import Options
        from osmnet.loading.packaged import packaged_landmarker, packaged_weights
        from tests.support.clips import talking_video

        self.clips = [talking_video(folder / f"{name}.mp4", 13) for name in "ab"]
        self.prepare = partial(
            prepare.prepare, model=packaged_weights(), bundle=packaged_landmarker(), options=Options(min_seconds=0.5)
        )
        tracked: dict[Path, object] = {}
        track = prepared_video.track_faces

        def track_once(video: Path, bundle: Path) -> object:
            if video not in tracked:
                tracked[video] = track(video, bundle)
            return tracked[video]

        prepared_video.track_faces = track_once
        prepare.on_processes = lambda jobs, function, workers: ((job, function(job)) for job in jobs)
        report._plot = lambda kept: ""

    def before(self, folder: Path) -> None:
        self.prepare(self.clips[:1], folder)

    def write(self, folder: Path) -> None:
        self.prepare(self.clips, folder)

    def is_whole(self, found: dict, old: dict, new: dict) -> bool:
        manifest = found["manifest.jsonl"]
        return super().is_whole(found, old, new) and manifest in (old["manifest.jsonl"], new["manifest.jsonl"])


SCENARIOS: dict[str, Callable[[Path], Scenario]] = {
    "takes": lambda folder: Takes(6, 1, animation="gif"),
    "parts": lambda folder: Takes(20, 1, sheet=False),
    "checkpoint": lambda folder: Checkpoint(),
    "model": lambda folder: Model(),
    "key": lambda folder: Key(),
    "dataset": DataSet,
}

if __name__ == "__main__":
    names, place, thoroughly = sys.argv[1].split(","), Path(sys.argv[2]).resolve(), "thoroughly" in sys.argv
    found = {}
    for name in names:
        (place / name).mkdir()
        found[name] = check(SCENARIOS[name](place / name), place / name / "runs", thoroughly)
    sys.stdout.write(json.dumps(found) + "\n")
