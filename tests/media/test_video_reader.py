"""Videos read: frames keep their moment, colour and direction; what is no video is refused in one sentence."""

import av
import cv2
import numpy as np
import pytest

from osmnet.media.video_reader import read_frames
from tests.support.videos import numbers, quarters, ramp, write_timed


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


@pytest.mark.parametrize("rotation", [None, (90, False, False)])
def test_pixels_are_made_square(tmp_path, rotation):
    frames = quarters(48, 32)[None].repeat(2, axis=0)
    path = write_timed(tmp_path / "wide.mp4", frames, np.arange(2) / 25, rotation=rotation, pixel_ratio=2)
    expected = quarters(48, 64) if rotation is None else np.rot90(quarters(48, 64))
    frame = next(read_frames(path))
    assert frame.shape == expected.shape
    assert np.abs(frame.astype(int) - expected).mean() < 12
    part = next(read_frames(path, window=lambda _: (3, 5, 30, 41)))
    np.testing.assert_array_equal(part, frame[5:41, 3:30])


def test_a_size_that_changes_on_the_way_is_followed(tmp_path):
    parts = [
        write_timed(tmp_path / f"{size}.ts", ramp(3, size, size, step=20), begin + np.arange(3) / 25).read_bytes()
        for size, begin in ((32, 0), (64, 0.2))
    ]
    sizes = [frame.shape[0] for frame in read_frames(b"".join(parts))]
    assert sizes == [32, 32, 32, 64, 64, 64]


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
        "picture.png": "its format is not supported",
        "picture.jpg": "its format is not supported",
        "sound.wav": "not a video",
        "text.txt": "video",
        "noise.mp4": "cannot be decoded as a video",
        "cut.mp4": "cannot be decoded as a video",
        "empty.mp4": "is empty",
        "missing.mp4": "no file",
        ".": "is a folder",
    }.items():
        with pytest.raises(ValueError, match=reason) as error:
            read_frames(tmp_path / name)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="fps"):
        read_frames(tmp_path / "whole.mp4", fps=0)


@pytest.mark.parametrize("name", ["list.m3u8", "list.mp4", "list.ffconcat"])
def test_playlists_that_name_other_files_are_refused(tmp_path, name):
    write_timed(tmp_path / "private.ts", ramp(30), np.arange(30) / 25)
    if name.endswith("ffconcat"):
        text = "ffconcat version 1.0\nfile private.ts\n"
    else:
        text = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.2,\nprivate.ts\n#EXT-X-ENDLIST\n"
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=f"{name}' cannot be decoded as a video") as error:
        read_frames(tmp_path / name)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="The video in memory cannot be decoded"):
        read_frames(text.encode())


def write_as(codec, path, size, format="rgb24"):
    """Write a black picture by a codec that tells FFmpeg no size before it is decoded."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = size, size, format
        for frame in (av.VideoFrame.from_ndarray(np.zeros((size, size, 3), np.uint8)).reformat(format=format), None):
            container.mux(stream.encode(frame))
    return path


def test_large_pictures_are_refused_before_they_are_decoded(tmp_path):
    plain = write_timed(tmp_path / "plain.mp4", ramp(3, 64, 64), np.arange(3) / 25)
    wide = write_timed(tmp_path / "wide.mp4", ramp(3, 640, 640), np.arange(3) / 25, pixel_ratio=8)
    assert len(list(read_frames(plain, max_megapixels=0.0041))) == 3
    for path, words, limit in (
        (plain, "plain.mp4' has pictures of 64 x 64 pixels, and the limit is 0.004 million pixels; scale", 0.004),
        (wide, "wide.mp4' has pictures of 5120 x 640 pixels, and the limit is 1 million", 1),
        (write_as("mjpeg", tmp_path / "plain.avi", 64, "yuvj420p"), "or its pictures are too large; export", 0.004),
        (write_as("png", tmp_path / "plain.mov", 64), "or its pictures are too large; export", 0.004),
    ):
        with pytest.raises(ValueError, match=words):
            next(read_frames(path, max_megapixels=limit))


def test_a_video_whose_pictures_become_large_breaks_off(tmp_path):
    parts = [write_timed(tmp_path / f"{k}.ts", ramp(10, k, k), np.arange(10) / 25) for k in (64, 640)]
    (tmp_path / "grows.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    breaks = []
    frames = list(read_frames(tmp_path / "grows.ts", max_megapixels=0.01, on_break=breaks.append))
    assert breaks and {frame.shape for frame in frames} == {(64, 64, 3)}


def test_wide_pixels_are_made_square_at_any_rate(tmp_path):
    path = write_timed(tmp_path / "wide.mp4", ramp(6, 32, 32), np.arange(6) / 25, pixel_ratio=2)
    frames = list(read_frames(path))
    assert {frame.shape for frame in frames} == {(32, 64, 3)}
    np.testing.assert_array_equal(list(read_frames(path, fps=50))[:12:2], frames)
    np.testing.assert_array_equal(list(read_frames(path, fps=12.5)), frames[::2])
