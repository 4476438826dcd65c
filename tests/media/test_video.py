"""Video: frames keep their moment, colour and direction on the way in and out, and nothing half-written stays."""

from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from osmnet.media import video as video_module
from osmnet.media.audio import load_speech
from osmnet.media.video import VideoWriter, read_frames


def quarters(height=48, width=64):
    """Red and green over blue and white."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2, 0] = pixels[: height // 2, width // 2 :, 1] = 230
    pixels[height // 2 :, : width // 2, 2] = 230
    pixels[height // 2 :, width // 2 :] = 230
    return pixels


def ramp(count, height=32, width=32, step=4):
    """Frames of one grey each, so that a frame's number can be read from its pixels."""
    return np.stack([np.full((height, width, 3), 20 + step * k, np.uint8) for k in range(count)])


def numbers(frames, step=4):
    return [round((float(frame.mean()) - 20) / step) for frame in frames]


def write_timed(path, frames, times, pix_fmt="yuv420p", rotation=None, codec="libx264"):
    """Write frames with their moments in seconds, as a phone with a variable rate does."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=1000, options={"crf": "4"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        stream.time_base = Fraction(1, 1000)
        if rotation is not None:
            stream.set_display_rotation(*rotation)
        for pixels, time in zip(frames, times, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels)
            frame.pts, frame.time_base = round(1000 * time), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


# read_frames


def test_sixty_pictures_a_second_become_25_at_the_right_moments(tmp_path):
    path = write_timed(tmp_path / "fast.mp4", ramp(60, step=3), np.arange(60) / 60)
    frames = list(read_frames(path))
    assert len(frames) == 25
    assert frames[0].shape == (32, 32, 3) and frames[0].dtype == np.uint8
    expected = np.arange(25) / 25 * 60
    assert np.abs(np.array(numbers(frames, step=3)) - expected).max() <= 0.51


def test_variable_rate_keeps_its_clock(tmp_path):
    times = np.array([0, 0.04, 0.08, 0.48, 0.52, 0.56])  # a picture stood still for 0.4 s
    frames = list(read_frames(write_timed(tmp_path / "variable.mp4", ramp(6, step=20), times)))
    assert numbers(frames, step=20)[:2] == [0, 1]
    assert len(frames) == 15
    for k, number in enumerate(numbers(frames, step=20)):
        distance = np.abs(times - k / 25)
        assert distance[number] <= distance.min() + 1e-3


def test_25_fps_is_read_frame_by_frame_and_slower_ones_repeat(tmp_path):
    path = write_timed(tmp_path / "plain.mp4", ramp(20), np.arange(20) / 25)
    assert numbers(read_frames(path)) == list(range(20))
    assert numbers(read_frames(path, fps=12.5)) == list(range(0, 20, 2))
    doubled = list(read_frames(path, fps=50))
    assert 38 <= len(doubled) <= 40
    assert not any(np.shares_memory(a, b) for a, b in zip(doubled, doubled[1:], strict=False))


def test_clock_that_jumps_makes_no_endless_still(tmp_path):
    times = np.concatenate([np.arange(5) / 25, 10_000 + np.arange(5) / 25])
    path = write_timed(tmp_path / "jump.mkv", ramp(10), times)
    assert numbers(read_frames(path)) == list(range(10))


@pytest.mark.parametrize(
    ("rotation", "upright"),
    [
        ((90, False, False), lambda a: np.rot90(a, 1)),
        ((-90, False, False), lambda a: np.rot90(a, -1)),
        ((180, False, False), lambda a: a[::-1, ::-1]),
        ((0, True, False), lambda a: a[:, ::-1]),
        ((0, False, True), lambda a: a[::-1]),
    ],
)
def test_rotation_and_mirroring_are_carried_out(tmp_path, rotation, upright):
    frames = quarters()[None].repeat(3, axis=0)
    path = write_timed(tmp_path / "phone.mp4", frames, np.arange(3) / 25, rotation=rotation)
    expected = upright(quarters())
    frame = next(read_frames(path))
    assert frame.shape == expected.shape
    assert np.abs(frame.astype(int) - expected).mean() < 12  # the corners' colours, whatever the codec does at edges


@pytest.mark.parametrize("rotation", [None, (90, False, False), (-90, False, False), (180, True, False)])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le", "yuv444p"])
def test_a_part_is_that_part_of_the_whole(tmp_path, rotation, pix_fmt):
    rng = np.random.default_rng(0)
    frames = cv2.resize(rng.integers(0, 256, (12, 16, 3), np.uint8), (96, 64))[None].repeat(4, axis=0)
    path = write_timed(tmp_path / "a.mp4", frames, np.arange(4) / 25, pix_fmt=pix_fmt, rotation=rotation)
    whole = next(read_frames(path))
    for left, top, right, bottom in ((0, 0, *whole.shape[1::-1]), (13, 7, 50, 41), (33, 22, 64, 64)):
        parts = list(read_frames(path, window=lambda k, box=(left, top, right, bottom): box if k % 2 else None))
        assert [part.size for part in parts[::2]] == [0, 0]
        for part in parts[1::2]:
            np.testing.assert_array_equal(part, whole[top:bottom, left:right])


def test_large_pictures_are_made_smaller_and_small_ones_left(tmp_path):
    path = write_timed(tmp_path / "a.mp4", ramp(3, step=20), np.arange(3) / 25, rotation=(90, False, False))
    whole = next(read_frames(path))
    longest = max(whole.shape)
    assert next(read_frames(path, max_side=longest)).shape == whole.shape
    small = list(read_frames(path, max_side=longest // 2))
    assert small[0].shape == (whole.shape[0] // 2, whole.shape[1] // 2, 3)
    assert numbers(small, step=20) == [0, 1, 2]


def test_ten_bit_pictures_are_read(tmp_path):
    path = write_timed(tmp_path / "deep.mp4", ramp(5, step=20), np.arange(5) / 25, pix_fmt="yuv420p10le")
    assert numbers(read_frames(path), step=20) == [0, 1, 2, 3, 4]


def test_cut_video_gives_what_there_is(tmp_path):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (20, 64, 64, 3), dtype=np.uint8)
    data = write_timed(tmp_path / "whole.mkv", frames, np.arange(20) / 25).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) // 2])
    assert 2 <= len(list(read_frames(tmp_path / "cut.mkv"))) < 20


def test_damage_in_the_middle_is_told(tmp_path):
    rng = np.random.default_rng(0)
    data = bytearray(write_timed(tmp_path / "a.mp4", rng.integers(0, 256, (40, 64, 64, 3), dtype=np.uint8),
                                 np.arange(40) / 25).read_bytes())  # fmt: skip
    breaks = []
    list(read_frames(bytes(data), on_break=breaks.append))
    assert not breaks
    start = data.index(b"mdat") + 4
    data[start + 30_000 : start + 60_000] = b"\xff" * 30_000
    assert len(list(read_frames(bytes(data), on_break=breaks.append))) < 40 and len(breaks) == 1


@pytest.mark.parametrize("ending", ["mkv", "mp4"])
def test_an_end_that_is_missing_is_told(tmp_path, ending):
    frames = np.random.default_rng(0).integers(0, 256, (75, 64, 64, 3), dtype=np.uint8)
    whole = write_timed(tmp_path / f"whole.{ending}", frames, np.arange(75) / 25)
    if ending == "mp4":  # its index goes to the front, so that what there is can be read
        with (
            av.open(str(whole)) as source,
            av.open(str(tmp_path / "front.mp4"), "w", options={"movflags": "faststart"}) as target,
        ):
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(source.streams.video[0]):
                if packet.dts is not None:
                    packet.stream = stream
                    target.mux(packet)
        whole = tmp_path / "front.mp4"
    breaks = []
    assert len(list(read_frames(whole, on_break=breaks.append))) == 75 and not breaks
    data = whole.read_bytes()
    (tmp_path / f"cut.{ending}").write_bytes(data[: len(data) // 2])
    assert 25 < len(list(read_frames(tmp_path / f"cut.{ending}", on_break=breaks.append))) < 45
    assert len(breaks) == 1


def test_what_is_no_video_is_refused_at_the_call(tmp_path):
    from PIL import Image

    Image.fromarray(quarters()).save(tmp_path / "picture.png")
    Image.fromarray(quarters()).save(tmp_path / "picture.jpg")
    (tmp_path / "text.txt").write_text("no pictures here\n" * 20)
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5_000))
    (tmp_path / "empty.mp4").touch()
    whole = write_timed(tmp_path / "whole.mp4", ramp(5), np.arange(5) / 25).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])  # its index, at the end, is gone
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.int16), format="s16", layout="mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
    for name, reason in {
        "picture.png": "not a video",
        "picture.jpg": "not a video",
        "sound.wav": "not a video",
        "text.txt": "video",
        "noise.mp4": "cannot be read as a video",
        "cut.mp4": "cannot be read as a video",
        "empty.mp4": "is empty",
        "missing.mp4": "no file",
        ".": "is a folder",
    }.items():
        with pytest.raises(ValueError, match=reason) as error:
            read_frames(tmp_path / name)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="fps"):
        read_frames(tmp_path / "whole.mp4", fps=0)


# VideoWriter


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

    monkeypatch.setattr(video_module.os, "replace", full)
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
