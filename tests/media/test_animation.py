"""Animations: they show what was given, at its speed, and nothing half-written stays."""

import errno

import numpy as np
import pytest
from PIL import Image, ImageSequence

from osmnet.media import animation
from osmnet.media.animation import animate_video, write_animation
from osmnet.media.video_writer import VideoWriter
from osmnet.utils import files
from tests.support.videos import quarters, ramp


def shown(path):
    """Frames `(n, H, W, 3)` and their durations in milliseconds."""
    with Image.open(path) as picture:
        frames, durations = [], []
        for frame in ImageSequence.Iterator(picture):
            frames.append(np.asarray(frame.convert("RGB")))
            durations.append(frame.info["duration"])
        return np.stack(frames), durations


@pytest.mark.parametrize(("ending", "error"), [("webp", 8), ("gif", 2)])
def test_animation_shows_the_frames_at_their_speed(tmp_path, ending, error):
    frames = quarters()[None].repeat(9, axis=0)
    frames[np.arange(9), :8, np.arange(9) * 6] = 0  # a line that moves
    chunks = (frames[:4], frames[4], frames[5:])
    path = write_animation(tmp_path / "made" / f"take.{ending}", iter(chunks), fps=12)
    found, durations = shown(path)
    assert found.shape == frames.shape
    assert np.abs(found.astype(int) - frames).mean() < error
    assert sum(durations) == 750
    with Image.open(path) as picture:
        assert picture.info["loop"] == 0


def test_large_frames_are_scaled_and_long_takes_are_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(animation, "MAX_FRAMES", 6)
    given = []

    def endless():
        while True:
            given.append(1)
            yield ramp(4, 40, 60, step=20)

    found, _ = shown(write_animation(tmp_path / "take.webp", endless(), max_side=30))
    assert found.shape == (6, 20, 30, 3) and len(given) == 2


@pytest.mark.parametrize("ending", ["webp", "gif"])
def test_a_video_becomes_a_small_animation_of_its_beginning(tmp_path, monkeypatch, ending):
    monkeypatch.setattr(animation, "_PREVIEW_SECONDS", 1.6)
    with VideoWriter(tmp_path / "take.mp4", (48, 64)) as writer:
        writer.write(ramp(50, 48, 64))
    sealed = []
    path = animate_video(tmp_path / "take.mp4", tmp_path / f"take.{ending}", max_side=32, seal=sealed.append)
    found, durations = shown(path)
    assert found.shape == (20, 24, 32, 3) and sum(durations) == 1600
    assert np.abs((found.mean((1, 2, 3)) - 20) / 4 - np.arange(0, 40, 2)).max() < 1
    assert len(sealed) == 1 and sealed[0] != path and not sealed[0].exists()


@pytest.mark.parametrize(
    ("name", "frames", "options", "reason"),
    [
        ("a.png", [ramp(2)], {}, "ends with .webp or .gif"),
        ("a.gif", [ramp(2)], {"fps": 60}, "fps must lie between 0.1 and 50"),
        ("a.webp", [ramp(2)], {"max_side": 0}, "max_side"),
        ("a.webp", [], {}, "at least one frame"),
        ("a.webp", [ramp(2), ramp(1, 16, 16)], {}, "all of one size"),
        ("a.webp", [ramp(2) / 255], {}, "uint8"),
    ],
)
def test_bad_arguments_are_refused_and_leave_nothing(tmp_path, name, frames, options, reason):
    with pytest.raises(ValueError, match=reason):
        write_animation(tmp_path / name, frames, **options)
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_told_and_the_file_before_stays(tmp_path, monkeypatch):
    path = tmp_path / "take.webp"
    path.write_bytes(b"before")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(ValueError, match="take.webp' cannot be written .No space left on device"):
        write_animation(path, [ramp(3)])
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]
