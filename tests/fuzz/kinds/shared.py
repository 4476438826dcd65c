"""What several kinds of inputs need: a tiny pipeline, a portrait and speech, encoded once a process."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

MAX_FRAMES = 300  # of a video; a valid file may be long, and reading on is then no fault


class CommandRefusedError(ValueError):
    """A command's exit status 2 with one sentence; the message is what it printed."""


class CommandFailedError(Exception):
    """A command that ended otherwise than documented."""


@cache
def pipe() -> Any:
    """Return the tiny pipeline."""
    from osmnet.pipelines.osm_net.pipeline_osm_net import OSMNetPipeline

    return OSMNetPipeline.tiny()


@cache
def source() -> Any:
    """Return an encoded portrait."""
    from tests.support.dummies import portrait

    return pipe().encode_source(portrait(128), size=64)


@cache
def speech() -> Any:
    """Return encoded speech of a fifth of a second."""
    from tests.support.dummies import SAMPLING_RATE
    from tests.support.dummies import speech as made_up

    return pipe().encode_speech(made_up(0.24), SAMPLING_RATE)


def read_all(pieces: Any, limit: int = MAX_FRAMES) -> int:
    """Read an iterator, up to a limit."""
    count = 0
    for _ in pieces:
        count += 1
        if count >= limit:
            break
    return count


@contextlib.contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Set environment variables for a block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def run_command(argv: list[str], folder: Path, allowed: tuple[int, ...] = (0,)) -> int:
    """Run `osmnet ARGV` in this process and in `folder`.

    Args:
        argv (`list[str]`): The arguments.
        folder (`Path`): Working folder.
        allowed (`tuple[int, ...]`): Exit statuses of success.

    Raises:
        CommandRefusedError: If it refused the arguments.
        CommandFailedError: If it ended in another way.
    """
    from osmnet.cli import main

    out, errors, before = io.StringIO(), io.StringIO(), Path.cwd()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            try:
                status = main(argv)
            except SystemExit as stop:
                status = stop.code
    finally:
        os.chdir(before)
    if status in allowed:
        return int(status)
    # A progress bar ends its line by a carriage return.
    lines = errors.getvalue().strip().replace("\r", "\n").splitlines()
    last = lines[-1] if lines else ""
    if status != 2 or not last.startswith("osmnet: "):
        raise CommandFailedError(f"exit status {status}, printing {last!r}")
    raise CommandRefusedError(last)


def seeds_folder() -> Path:
    """Return the folder of the seeds that this process mutates."""
    return Path(os.environ["OSMNET_FUZZ_SEEDS"])
