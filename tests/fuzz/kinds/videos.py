"""Videos: as speech, as a head motion, to prepare and to verify."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.case import Case
from tests.fuzz.kinds.shared import pipe, read_all, speech
from tests.fuzz.mutate import mutate_media
from tests.fuzz.seeds import contents


def make(rng: Random, seeds: Path) -> Case:
    """Make a case."""
    target = rng.choices(("read", "parts", "sound", "drive", "count", "prepare"), (40, 15, 20, 10, 10, 5))[0]
    files = contents(seeds / "videos")
    name = rng.choice(list(files))
    data = mutate_media(rng, files[name], files[rng.choice(list(files))])
    arguments = {"fps": rng.choice(("25", "25", "0.5", "240"))}
    return Case("videos", target, {name: data}, arguments=arguments)


def _file(folder: Path) -> Path:
    return next(path for path in folder.iterdir() if path.is_file())


def read(folder: Path, fps: float) -> Any:
    """Read its frames, scaled down."""
    from osmnet.media.video_reader import read_frames

    return read_all(read_frames(_file(folder), fps, max_side=512))


def parts(folder: Path, fps: float) -> Any:
    """Read a part of every frame, of a video in memory."""
    from osmnet.media.video_reader import read_frames

    content = _file(folder).read_bytes()
    return read_all(read_frames(content, fps, window=lambda k: None if k % 3 == 2 else (8, 8, 40, 40)))


def sound(folder: Path, fps: float) -> Any:
    """Read its sound."""
    from osmnet.media.audio import load_speech

    return load_speech(_file(folder), max_seconds=60)


def drive(folder: Path, fps: float) -> Any:
    """Take the head motion from it."""
    return pipe().sample_motion(speech(), head_motion=_file(folder), seed=1)


def count(folder: Path, fps: float) -> Any:
    """Count the pictures, as a run does that resumes."""
    from osmnet.media.video_reader import count_pictures

    return count_pictures(_file(folder))


def prepare(folder: Path, fps: float) -> Any:
    """Prepare a dataset from it; faults of the video become rows of the record."""
    from osmnet.data.prepared_video import Job, prepare_video
    from osmnet.loading.packaged import packaged_landmarker, packaged_weights

    video = _file(folder)
    job = Job(video, "clip", folder / "set", packaged_weights(), packaged_landmarker())
    result = prepare_video(job)
    import json

    for row in json.loads(job.record.read_text(encoding="utf-8"))["rows"]:
        if row["status"] == "dropped":
            raise ValueError(row["reason"])
    return result


TARGETS = {"read": read, "parts": parts, "sound": sound, "drive": drive, "count": count, "prepare": prepare}
