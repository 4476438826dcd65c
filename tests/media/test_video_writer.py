"""Videos written: frames and sound come back as they were given, and nothing half-written stays."""

import av
import numpy as np
import pytest

from osmnet.media.audio import load_speech
from osmnet.media.video_reader import read_frames
from osmnet.media.video_writer import VideoWriter, join_videos
from osmnet.utils import files
from tests.support.videos import quarters, ramp


def probe(path):
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        audio = container.streams.audio[0] if container.streams.audio else None
        return {
            "codec": video.codec_context.name,
            "pix_fmt": video.codec_context.pix_fmt,
            "colour": (video.codec_context.colorspace, video.codec_context.color_primaries),
            "frames": video.frames,
            "rate": video.average_rate,
            "size": (video.height, video.width),
            "seconds": float(video.duration * video.time_base),
            "audio": audio and audio.codec_context.name,
            "audio_seconds": audio and float(audio.duration * audio.time_base),
            "comment": container.metadata.get("comment"),
        }


def test_round_trip_keeps_frames_and_colours(tmp_path):
    frames = quarters()[None].repeat(10, axis=0)
    frames[5:] = 255 - frames[5:]
    with VideoWriter(tmp_path / "take.mp4", (48, 64), comment="Synthetic: ε = 1") as writer:
        writer.write(frames[:4])
        writer.write(frames[4])
        writer.write(frames[5:])
        assert writer.num_frames == 10
    found = probe(tmp_path / "take.mp4")
    assert found["codec"] == "h264" and found["pix_fmt"] == "yuv420p" and found["colour"] == (1, 1)
    assert found["frames"] == 10 and found["rate"] == 25 and found["comment"] == "Synthetic: ε = 1"
    assert found["audio"] is None
    read = np.stack(list(read_frames(tmp_path / "take.mp4")))
    assert read.shape == frames.shape
    # in the middle of the quarters; a wrong colour matrix would be off by 10 and more
    for y, x in ((12, 16), (12, 48), (36, 16), (36, 48)):
        assert np.abs(read[:, y, x].astype(int) - frames[:, y, x]).max() <= 4


def test_file_can_be_streamed(tmp_path):
    with VideoWriter(tmp_path / "take.mp4", (32, 32), waveform=np.zeros(16_000, np.float32)) as writer:
        writer.write(ramp(5))
    data = (tmp_path / "take.mp4").read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize("seconds", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_sound_has_the_length_of_the_pictures_and_is_in_time(tmp_path, seconds, rate):
    waveform = np.zeros(round(seconds * rate), np.float32)
    start, stop = round(0.1 * rate), round(0.25 * rate)
    waveform[start:stop] = 0.5 * np.sin(2 * np.pi * 440 * np.arange(stop - start) / rate)
    with VideoWriter(tmp_path / "take.mp4", (32, 32), waveform=waveform, sampling_rate=rate) as writer:
        for frame in ramp(25):
            writer.write(frame)
    found = probe(tmp_path / "take.mp4")
    assert found["audio"] == "aac"
    assert found["seconds"] == pytest.approx(1.0)
    assert found["audio_seconds"] == pytest.approx(1.0, abs=1024 / rate)
    heard = load_speech(tmp_path / "take.mp4")
    assert abs(int(np.argmax(np.abs(heard) > 0.2)) - 1_600) < 160
    assert np.abs(heard[4_800:]).max() < 0.02


@pytest.mark.parametrize("size", [(33, 32), (32, 33), (31, 47), (1, 1)])
def test_odd_sizes_get_their_edge_twice(tmp_path, size):
    frames = np.full((5, *size, 3), 30, np.uint8)
    frames[:, -1], frames[:, :, -1] = 200, 200
    with VideoWriter(tmp_path / "odd.mp4", size, crf=1) as writer:
        writer.write(frames)
    height, width = probe(tmp_path / "odd.mp4")["size"]
    assert (height, width) == (size[0] + size[0] % 2, size[1] + size[1] % 2)
    read = next(read_frames(tmp_path / "odd.mp4"))
    assert np.abs(read[-1].astype(int) - 200).max() < 12
    assert np.abs(read[: size[0], : size[1]].astype(int) - frames[0]).mean() < 4


def test_other_rates_and_quality(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)
    sizes = []
    for crf in (10, 40):
        with VideoWriter(tmp_path / "take.mp4", (32, 32), fps=30, crf=crf, preset="ultrafast") as writer:
            writer.write(noise)
        sizes.append((tmp_path / "take.mp4").stat().st_size)  # the second replaces the first
    assert sizes[0] > 2 * sizes[1]
    assert probe(tmp_path / "take.mp4")["rate"] == 30


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("written", [0, 5])
def test_nothing_is_left_after_an_exception(tmp_path, error, written):
    path = tmp_path / "take.mp4"
    path.write_bytes(b"an earlier take")
    with pytest.raises(error), VideoWriter(path, (32, 32), waveform=np.zeros(9_000, np.float32)) as writer:
        if written:
            writer.write(ramp(written))
        assert len(list(tmp_path.iterdir())) == 2  # the temporary file is in the same folder
        assert path.read_bytes() == b"an earlier take"
        raise error("stop")
    assert path.read_bytes() == b"an earlier take"
    assert list(tmp_path.iterdir()) == [path]


def test_block_without_frames_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="No frame"), VideoWriter(tmp_path / "take.mp4", (32, 32)):
        pass
    assert list(tmp_path.iterdir()) == []


def test_place_that_cannot_be_written_is_refused_before_the_block(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    entered = False
    for path in (tmp_path / "file" / "take.mp4", tmp_path):
        with pytest.raises(ValueError, match="cannot be written|is a folder"), VideoWriter(path, (32, 32)):
            entered = True
    assert not entered
    assert [p.name for p in tmp_path.iterdir()] == ["file"]

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with (
        pytest.raises(ValueError, match="No space left on device"),
        VideoWriter(tmp_path / "take.mp4", (32, 32)) as writer,
    ):
        writer.write(ramp(2))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_bad_arguments_are_refused(tmp_path):
    path = tmp_path / "take.mp4"
    for options, reason in (
        ({"size": (0, 32)}, "size"),
        ({"fps": 0}, "fps"),
        ({"crf": 99}, "crf"),
        ({"preset": "warp"}, "preset"),
        ({"waveform": np.zeros((2, 9_000))}, "waveform"),
        ({"waveform": np.zeros(9_000, np.int16)}, "waveform"),
        ({"waveform": np.zeros(9_000), "sampling_rate": 12_345}, "sampling_rate"),
    ):
        with pytest.raises(ValueError, match=reason):
            VideoWriter(path, **{"size": (32, 32)} | options)
    with VideoWriter(path, (32, 32)) as writer:
        writer.write(ramp(1))
        for bad in (ramp(2)[:, :30], ramp(2) / 255.0, ramp(2)[..., 0]):
            with pytest.raises(ValueError, match="Frames must be uint8"):
                writer.write(bad)
    with pytest.raises(ValueError, match="not open"):
        writer.write(ramp(1))
    assert probe(path)["frames"] == 1


def test_parts_are_joined_whatever_their_folder_is_called(tmp_path):
    folder = tmp_path / "o'd'' #1?%20 é\"x:y\\z"
    folder.mkdir()
    parts = [folder / f"it's {index}.mp4" for index in range(2)]
    for part in parts:
        with VideoWriter(part, (32, 32), fps=29.97) as writer:
            writer.write(ramp(30))
    join_videos(parts, folder / "all.mp4", np.zeros(9_000, np.float32), comment="joined")
    assert sorted(folder.iterdir()) == sorted([*parts, folder / "all.mp4"])
    found = probe(folder / "all.mp4")
    assert found["frames"] == 60 and found["comment"] == "joined" and found["audio"] == "aac"
    joined = list(read_frames(folder / "all.mp4", fps=29.97))
    np.testing.assert_array_equal(joined, [f for part in parts for f in read_frames(part, fps=29.97)])
