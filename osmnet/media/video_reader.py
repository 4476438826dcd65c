"""Read videos as RGB frames at a constant rate."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter

from osmnet.media.container import MAX_MEGAPIXELS, open_container, pixel_limit
from osmnet.utils.checks import check_path, check_range

Window = tuple[int, int, int, int]  # left, top, right, bottom in pixels of the upright picture

MAX_PARALLEL = 16.0  # millions of pixels

_MAX_GAP = 5.0  # s between two timestamps; a larger jump is a broken clock
_MAX_RATIO = 8.0  # of a pixel's sides; beyond it a broken header
_MAX_TAIL = 1.0  # s by which a file's announced end may follow its last picture: sound, rounding
_CLOCK = Fraction(1, 1_000_000)  # s, unit of the timestamps given to filters
# Measured on a colourful 256 px picture, to 4:2:0 and back: mean error 0.5 grey levels, 3.5 with FFmpeg's defaults.
_TO_RGB = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND
_TO_RGB_SMALL = Interpolation.AREA  # four times faster than the above, and as good for downscaling


def read_frames(
    path: str | os.PathLike[str] | bytes,
    fps: float = 25.0,
    max_side: int | None = None,
    window: Callable[[int], Window | None] | None = None,
    on_break: Callable[[Exception], None] | None = None,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> Iterator[np.ndarray]:
    """Read a video at a constant rate, upright, with square pixels.

    Frame `k` is the picture nearest to `k / fps` seconds after the first. Truncated files yield what decodes.

    Args:
        path (`str`, `os.PathLike` or `bytes`): A video of one of `osmnet.media.container.FORMATS`, or its content.
        fps (`float`): Frames per second, 0.001 to 1000.
        max_side (`int`, *optional*): Longest side in pixels; larger pictures are scaled down.
        window (`Callable`, *optional*): Maps frame `k` to the part to convert to RGB, which costs more than decoding:
            `(left, top, right, bottom)` or `None`. Not together with `max_side`.
        on_break (`Callable`, *optional*): Called with the error if the file is damaged or truncated, or from a picture
            beyond `max_megapixels` on.
        max_megapixels (`float`): Largest picture, millions of pixels; checked before it is decoded.

    Yields:
        `np.ndarray` of shape `(H, W, 3)`: uint8 RGB; of shape `(0, 0, 3)` where `window` gives `None`.

    Raises:
        ValueError: At the call, if the file is missing, empty, too large or not a video, or `fps` is out of range;
            while reading, if no picture decodes.
    """
    check_range("fps", fps, 0.001, 1000)
    if max_side is not None:
        check_range("max_side", max_side, 1, 2**16, whole=True)
    name = "The video in memory" if isinstance(path, bytes) else f"'{check_path('The video', path)}'"
    container = open_container(
        path, "video", "give a whole video file, for example MP4.", max_megapixels=max_megapixels
    )
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        container.close()
        raise ValueError(f"{name} is not a video: give a file with moving pictures, for example MP4.")
    if streams[0].codec_context is None:
        container.close()
        raise ValueError(f"{name} is of a kind that cannot be decoded: export it again, for example as MP4.")
    try:
        pixels = _checked_size(streams[0].width, streams[0].height, name, max_megapixels)
    except ValueError:
        container.close()
        raise
    # Of large pictures one at a time: each thread holds some.
    streams[0].thread_type = "AUTO" if pixels <= MAX_PARALLEL else "SLICE"
    streams[0].codec_context.options = pixel_limit(max_megapixels)
    rate = Fraction(float(fps)).limit_denominator(1_000_000)
    return _pictures(
        container, _steady_frames(container, streams[0], rate, name, on_break, max_megapixels), max_side, window
    )


def count_pictures(path: str | os.PathLike[str]) -> int:
    """Count a `VideoWriter` file's pictures; 0 if missing or damaged."""
    try:
        with av.open(f"file:{os.fspath(path)}", format="mp4", metadata_errors="ignore") as container:
            packets = container.demux(container.streams.video[0])
            # A truncated file may have a whole index: its pictures are then missing or all zeros.
            return sum(packet.pts is not None and any(bytes(packet)[:4]) for packet in packets)
    except (OSError, IndexError, av.FFmpegError):
        return 0


def _pictures(
    container: av.container.InputContainer,
    frames: Iterator[Any],
    max_side: int | None,
    window: Callable[[int], Window | None] | None,
) -> Iterator[np.ndarray]:
    to_rgb = _ToRGB()
    with container:
        for k, frame in enumerate(frames):
            if window is None:
                yield to_rgb(frame, max_side)
            elif (wanted := window(k)) is None:
                yield np.empty((0, 0, 3), np.uint8)
            else:
                yield to_rgb.part(frame, wanted)


def _steady_frames(
    container: av.container.InputContainer,
    stream: Any,
    fps: Fraction,
    name: str,
    on_break: Callable[[Exception], None] | None,
    max_megapixels: float,
) -> Iterator[Any]:
    """Decode to upright FFmpeg frames at a constant rate."""
    usual = 1 / float(stream.average_rate or stream.guessed_rate or 25)  # s between two pictures
    if not 0 < usual < _MAX_GAP:
        usual = 1 / 25
    graph: Any = None
    time, gap, shift = 0.0, usual, 0.0  # s: since the first picture, since the last one, and to the file's clock
    end: float | None = None  # s, of the decoded pictures by the file's clock
    try:
        for frame in container.decode(stream):
            if frame.time is not None:
                end = frame.time + max(usual, float((frame.duration or 0) * frame.time_base))
            # 1. Seconds since the first picture, by a clock that neither jumps nor runs backwards.
            before = time
            if graph is None:
                # `fps` rounds up: a picture is shown from its timestamp on.
                steady = ("fps", f"fps={fps}:round=up")
                ratio = float(stream.sample_aspect_ratio or 1)
                if not 1 / _MAX_RATIO <= ratio <= _MAX_RATIO:
                    ratio = 1.0
                width = max(1, round(frame.width * ratio))
                _checked_size(width, frame.height, name, max_megapixels)
                square = _square(frame, width)
                # Scale what there is less of: the file's pictures, or those asked for.
                filters = [*square, steady] if fps * usual > 1 else [steady, *square]
                graph = _graph(frame, *filters, *_upright(frame))
                shift = -(frame.time or 0.0)
            else:
                time = before + gap if frame.time is None else frame.time + shift
                if abs(time - before) > _MAX_GAP:
                    shift += before + gap - time
                    time = before + gap
                if time <= before:
                    time = before
                    continue
                gap = time - before
            # 2. Show each picture from halfway to the one before, the last one half a step longer (FFmpeg reads only
            #    the last duration).
            start, stop = (before + time) / 2, time + min(gap, usual) / 2
            frame.time_base, frame.pts = _CLOCK, int(start / _CLOCK)
            frame.duration = int(stop / _CLOCK) - frame.pts
            yield from _filtered(graph, frame)
    except av.FFmpegError as error:
        if graph is not None and on_break is not None:
            on_break(error)
    else:
        # Multi-threaded decoders end without an error on a truncated file.
        if on_break is not None and end is not None and _announced_end(container, stream) - end > _MAX_TAIL:
            on_break(EOFError(f"{name} is shorter than it announces"))
    if graph is None:
        # FFmpeg gives no size for some formats whose pictures are too large.
        too_large = "" if stream.width else ", or its pictures are too large"
        raise ValueError(f"{name} holds no picture that decodes: the file is damaged{too_large}; export it again.")
    yield from _filtered(graph, None)


def _announced_end(container: av.container.InputContainer, stream: Any) -> float:
    """End of the pictures in seconds of the file's clock; 0 if unknown."""
    ends = []
    if stream.duration is not None:
        ends.append(float((stream.start_time or 0) + stream.duration) * float(stream.time_base))
    if container.duration is not None:  # heeds edit lists, but may be the end of the sound
        ends.append(((container.start_time or 0) + container.duration) / av.time_base)
    return min(ends, default=0.0)


def _checked_size(width: int, height: int, name: str, max_megapixels: float) -> float:
    """Return millions of pixels within the limit."""
    pixels = width * height / 1e6
    if pixels > max_megapixels:
        raise ValueError(
            f"{name} has pictures of {width} x {height} pixels, and the limit is {max_megapixels:.3g} million pixels; "
            "scale it down first."
        )
    return pixels


def _square(frame: Any, width: int) -> list[tuple[str, str]]:
    return [] if width == frame.width else [("scale", f"{width}:{frame.height}:flags=bicubic+accurate_rnd")]


def _upright(frame: Any) -> list[tuple[str, str]]:
    """Filters that apply the file's rotation and mirroring."""
    if SideDataType.DISPLAYMATRIX not in frame.side_data:
        return []
    # x' = a x + c y and y' = b x + d y, where one of each pair is +-1 and the other 0 (y points down)
    a, b, _, c, d = np.frombuffer(bytes(frame.side_data[SideDataType.DISPLAYMATRIX]), np.int32)[:5]
    filters = []
    if abs(int(b)) > abs(int(a)):
        filters, a, d = [("transpose", "cclock_flip")], c, b  # exchanges x and y
    return filters + [("hflip", "")] * bool(a < 0) + [("vflip", "")] * bool(d < 0)


def _graph(frame: Any, *filters: tuple[str, str]) -> av.filter.Graph:
    """Chain filters, given by name and arguments."""
    graph = av.filter.Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=_CLOCK)
    chain = [graph.add(name, arguments or None) for name, arguments in filters]
    graph.link_nodes(source, *chain, graph.add("buffersink")).configure()
    return graph


def _filtered(graph: av.filter.Graph, frame: Any) -> Iterator[Any]:
    """Push a frame, or None to flush; yield the results."""
    graph.push(frame)
    while True:
        try:
            filtered = graph.pull()
        except (BlockingIOError, EOFError):
            return
        yield filtered


class _ToRGB:
    """Convert FFmpeg frames to `(H, W, 3)` uint8."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()  # the filter `scale` ignores a file's chroma location
        self._crop: tuple[Any, Any] = (None, None)  # settings of the graph, and the graph

    def __call__(self, frame: Any, max_side: int | None = None) -> np.ndarray:
        width, height, interpolation = frame.width, frame.height, _TO_RGB
        if max_side is not None and max(width, height) > max_side:
            scale = max_side / max(width, height)
            width, height, interpolation = max(1, round(width * scale)), max(1, round(height * scale)), _TO_RGB_SMALL
        rgb = self._reformatter.reformat(
            frame, width=width, height=height, format="rgb24", interpolation=interpolation,
            dst_color_range=ColorRange.JPEG, threads=1,
        )  # fmt: skip
        return rgb.to_ndarray()

    def part(self, frame: Any, window: Window) -> np.ndarray:
        """Convert a part, equal to that of the whole picture."""
        left, top, right, bottom = window
        # Chroma is subsampled and interpolated: cut out a margin.
        x0, y0 = max(0, left // 8 * 8 - 8), max(0, top // 8 * 8 - 8)
        x1, y1 = min(frame.width, -(-right // 8) * 8 + 8), min(frame.height, -(-bottom // 8) * 8 + 8)
        made_for = (frame.format.name, frame.width, frame.height, frame.colorspace, frame.color_range, x0, y0, x1, y1)
        if self._crop[0] != made_for:
            self._crop = made_for, _graph(frame, ("crop", f"{x1 - x0}:{y1 - y0}:{x0}:{y0}:exact=1"))
        (cut,) = _filtered(self._crop[1], frame)
        return np.ascontiguousarray(self(cut)[top - y0 : bottom - y0, left - x0 : right - x0])
