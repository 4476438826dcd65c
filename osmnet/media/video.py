"""Video files to and from arrays: constant-rate reading by timestamps, H.264 + AAC writing.

PyAV carries its own FFmpeg, so that no program has to be installed beside the package.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import av
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation, VideoReformatter

from osmnet.media.audio import local_file

_MAX_GAP = 5.0  # seconds; a larger jump between two timestamps is a broken clock, not a picture that stood still
_MAX_TAIL = 1.0  # seconds by which the end that a file announces may come after its last picture: sound, rounding
_AUDIO_BIT_RATE = 96_000
_NVENC = "h264_nvenc"
_CODECS = ("libx264", _NVENC)
_SOUND_EVERY = 25  # pictures: sound and picture lie side by side in the file, so that it plays while it loads
# Measured on a colourful 256 px picture, to 4:2:0 and back: mean error 0.5 grey levels, 3.5 with FFmpeg's defaults.
_TO_RGB = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND
_TO_RGB_SMALL = Interpolation.AREA  # four times faster than the above, and as good where the picture is made smaller
_TO_YUV = Interpolation.BILINEAR | Interpolation.ACCURATE_RND
_AAC_RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
_PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")


class Sound(Protocol):
    """Mono samples in [-1, 1] that are read piece by piece: an array, or a `Recording`."""

    def __len__(self) -> int:
        """Give the number of samples."""

    def __getitem__(self, samples: slice, /) -> np.ndarray:
        """Read some of them."""


Seal = Callable[[Path], None]
Window = tuple[int, int, int, int]  # left, top, right, bottom in pixels of the upright picture


def read_frames(
    path: str | os.PathLike[str] | bytes,
    fps: float = 25.0,
    max_side: int | None = None,
    window: Callable[[int], Window | None] | None = None,
    on_break: Callable[[Exception], None] | None = None,
) -> Iterator[np.ndarray]:
    """Read the pictures of a video at a constant rate.

    Frame `k` is the picture whose timestamp is nearest to `k / fps` seconds after the first one, so that variable
    frame rates and other rates than `fps` keep their speed. Rotation and mirroring written into the file are carried
    out, and pixels are made square. A file that breaks off yields what decodes.

    Args:
        path (`str`, `os.PathLike` or `bytes`): Any video file that FFmpeg reads, or its content.
        fps (`float`): Frames a second.
        max_side (`int`, *optional*): Larger pictures are made smaller until their longer side has this many pixels.
        window (`Callable`, *optional*): Says of frame `k` which part of the picture is wanted: `(left, top, right,
            bottom)`; `None` if nothing is. Converting colours costs more than decoding: what is not wanted is not
            converted. Not together with `max_side`.
        on_break (`Callable`, *optional*): Called with FFmpeg's error if the file breaks off.

    Yields:
        `np.ndarray` of shape `(H, W, 3)`: uint8 RGB, one array of its own per frame; of shape `(0, 0, 3)` where
        `window` is `None`.

    Raises:
        ValueError: At the call, if the file is missing, empty or not a video, or `fps` is not a positive number; while
            reading, if not one picture decodes.
    """
    if not 0 < fps <= 1000:
        raise ValueError(f"fps must be a positive number of frames a second, not {fps}.")
    address: str | io.BytesIO
    if isinstance(path, bytes):
        address, path = io.BytesIO(path), Path("video in memory")
    else:
        path = Path(path)
        address = local_file(path, "video")
    try:
        # Playlists may name other addresses: only local files are ever opened.
        container = av.open(address, mode="r", metadata_errors="ignore", options={"protocol_whitelist": "file"})
    except av.FFmpegError as error:
        raise ValueError(
            f"'{path}' cannot be read as a video ({error.strerror}): give a whole video file, for example MP4."
        ) from error
    formats = container.format.name
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    # FFmpeg also opens still pictures (image2, png_pipe, ...) and text files (tty) as videos.
    if not streams or formats in ("image2", "tty") or formats.endswith("_pipe"):
        container.close()
        raise ValueError(f"'{path}' is not a video: give a file with moving pictures, for example MP4.")
    return _constant_rate(container, streams[0], fps, path, max_side, window, on_break)


def _constant_rate(
    container: av.container.InputContainer,
    stream: Any,
    fps: float,
    path: Path,
    max_side: int | None,
    window: Callable[[int], Window | None] | None,
    on_break: Callable[[Exception], None] | None,
) -> Iterator[np.ndarray]:
    stream.thread_type = "AUTO"
    usual = 1 / float(stream.average_rate or stream.guessed_rate or 25)  # seconds a picture stays
    if not 0 < usual < _MAX_GAP:
        usual = 1 / 25
    to_rgb = _UprightRGB(float(stream.sample_aspect_ratio or 1), max_side)
    count = 0  # frames yielded so far
    held: Any = None  # the picture that is on the screen
    held_time = 0.0  # seconds after the first picture
    shift = 0.0  # from the file's clock to ours
    last_gap = usual
    end: float | None = None  # of what was decoded, by the file's own clock

    def due(until: float) -> Iterator[np.ndarray]:
        nonlocal count
        pixels: np.ndarray | None = None
        while count / fps < until - 1e-6:
            if window is not None:
                wanted = window(count)
                pixels = np.empty((0, 0, 3), np.uint8) if wanted is None else to_rgb.part(held, wanted)
            else:
                pixels = to_rgb(held) if pixels is None else pixels.copy()
            count += 1
            yield pixels

    with container:
        try:
            for frame in container.decode(stream):
                if frame.time is not None:
                    end = frame.time + max(usual, float((frame.duration or 0) * frame.time_base))
                if held is None:
                    held, shift = frame, -(frame.time or 0.0)
                    continue
                time = held_time + last_gap if frame.time is None else frame.time + shift
                if abs(time - held_time) > _MAX_GAP:
                    shift += held_time + last_gap - time
                    time = held_time + last_gap
                if time <= held_time:
                    continue
                yield from due((held_time + time) / 2)
                last_gap = time - held_time
                held, held_time = frame, time
        except av.FFmpegError as error:
            if held is None:
                raise ValueError(_no_picture(path)) from error
            if on_break is not None:
                on_break(error)
        else:
            # Decoders that work on several threads end without an error where a file was cut short.
            if on_break is not None and end is not None and _announced(container, stream) - end > _MAX_TAIL:
                on_break(EOFError(f"'{path}' was to be longer"))
        if held is None:
            raise ValueError(_no_picture(path))
        # The last picture stays on for half a step, as every other one does; the first frame is always there.
        yield from due(max(held_time + min(last_gap, usual) / 2, 1e-3 / fps if count == 0 else 0.0))


def _announced(container: av.container.InputContainer, stream: Any) -> float:
    """When the pictures of a file are to end, by its own clock; 0 if it does not say."""
    ends = []
    if stream.duration is not None:
        ends.append(float((stream.start_time or 0) + stream.duration) * float(stream.time_base))
    if container.duration is not None:  # after an edit list, but the sound may be what lasts so long
        ends.append(((container.start_time or 0) + container.duration) / av.time_base)
    return min(ends, default=0.0)


def _no_picture(path: Path) -> str:
    return f"'{path}' holds no picture that decodes: the file is damaged, export it again."


class _UprightRGB:
    """Turns decoded pictures into `(H, W, 3)` uint8 RGB, turned, mirrored and stretched the way a player shows them.

    Args:
        ratio (`float`): Width of a pixel in its heights.
        max_side (`int`, *optional*): Longest side of the result.
    """

    def __init__(self, ratio: float, max_side: int | None = None):
        self.ratio, self.max_side = ratio, max_side
        self._reformatter = VideoReformatter()
        self._cutter: tuple[Any, Any] = (None, None)  # what it was made for, and the filter that cuts
        # Looked up once a video: PyAV's side data and its frame refer to each other, so that each frame asked for it
        # stays in memory until the garbage collector comes round, some hundred large pictures later.
        self._turn: tuple[bool, bool, bool] | None = None

    def __call__(self, frame: Any) -> np.ndarray:
        """Convert the whole picture."""
        width, height = max(1, round(frame.width * self.ratio)), frame.height
        interpolation = _TO_RGB
        if self.max_side is not None and max(width, height) > self.max_side:
            scale = self.max_side / max(width, height)
            width, height, interpolation = max(1, round(width * scale)), max(1, round(height * scale)), _TO_RGB_SMALL
        return self._turned(self._convert(frame, width, height, interpolation), frame)

    def part(self, frame: Any, window: Window) -> np.ndarray:
        """Convert a part of the picture, equal to that part of the whole."""
        left, top, right, bottom = window
        if round(frame.width * self.ratio) != frame.width:
            return self(frame)[top:bottom, left:right]
        self._turn = self._turn or _turn(frame)
        transposed, flips_x, flips_y = self._turn
        width, height = (frame.height, frame.width) if transposed else (frame.width, frame.height)
        if flips_x:
            left, right = width - right, width - left
        if flips_y:
            top, bottom = height - bottom, height - top
        if transposed:
            left, top, right, bottom = top, left, bottom, right
        # A little more is converted: colour is stored for blocks of pixels and interpolated between them.
        x0, y0 = max(0, left // 8 * 8 - 8), max(0, top // 8 * 8 - 8)
        x1, y1 = min(frame.width, -(-right // 8) * 8 + 8), min(frame.height, -(-bottom // 8) * 8 + 8)
        made_for = (frame.format.name, frame.width, frame.height, frame.colorspace, frame.color_range, x0, y0, x1, y1)
        if self._cutter[0] != made_for:
            self._cutter = (made_for, _cutter(frame, x0, y0, x1 - x0, y1 - y0))
        graph = self._cutter[1]
        graph.push(frame)
        cut = graph.pull()
        pixels = self._convert(cut, cut.width, cut.height, _TO_RGB)
        return self._turned(pixels[top - y0 : bottom - y0, left - x0 : right - x0], frame)

    def _turned(self, pixels: np.ndarray, frame: Any) -> np.ndarray:
        self._turn = self._turn or _turn(frame)
        transposed, flips_x, flips_y = self._turn
        if transposed:
            pixels = pixels.transpose(1, 0, 2)
        return np.ascontiguousarray(pixels[:: -1 if flips_y else 1, :: -1 if flips_x else 1])

    def _convert(self, frame: Any, width: int, height: int, interpolation: Interpolation) -> np.ndarray:
        rgb = self._reformatter.reformat(
            frame, width=width, height=height, format="rgb24", interpolation=interpolation,
            dst_color_range=ColorRange.JPEG, threads=1,
        )  # fmt: skip
        return rgb.to_ndarray()


def _cutter(frame: Any, left: int, top: int, width: int, height: int) -> Any:
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or Fraction(1, 25)
    )
    crop = graph.add("crop", f"{width}:{height}:{left}:{top}:exact=1")
    sink = graph.add("buffersink")
    source.link_to(crop)
    crop.link_to(sink)
    graph.configure()
    return graph


def _turn(frame: Any) -> tuple[bool, bool, bool]:
    """What the file says to do with its pictures: exchange x and y, then mirror x, mirror y."""
    if SideDataType.DISPLAYMATRIX not in frame.side_data:
        return False, False, False
    # x' = a x + c y and y' = b x + d y, where one of each pair is +-1 and the other 0 (y points down)
    a, b, _, c, d = np.frombuffer(bytes(frame.side_data[SideDataType.DISPLAYMATRIX]), np.int32)[:5]
    transposed = abs(int(b)) > abs(int(a))
    if transposed:
        a, d = c, b
    return transposed, bool(a < 0), bool(d < 0)


@functools.lru_cache(maxsize=64)
def best_codec(device: str, size: tuple[int, int]) -> str:
    """Choose the encoder for frames that are made on a device.

    Args:
        device (`str`): Type of the device, as PyTorch names it.
        size (`tuple[int, int]`): Height and width of the frames.

    Returns:
        `str`: `"h264_nvenc"` on CUDA where FFmpeg, the driver and the size admit it, else `"libx264"`.
    """
    if device != "cuda" or _NVENC not in av.codecs_available:
        return "libx264"
    try:
        context: Any = av.CodecContext.create(_NVENC, "w")
        context.height, context.width = (length + length % 2 for length in size)
        context.pix_fmt, context.time_base = "yuv420p", Fraction(1, 25)
        context.open()
    except (OSError, av.FFmpegError):
        return "libx264"
    return _NVENC


class VideoWriter:
    """Write frames and speech into an MP4 file: H.264 and AAC, ready to be streamed.

    A context manager. The file appears under its name when the block ends well; if it ends with an exception, nothing
    is left. Pictures of odd width or height get their last column or row twice, as H.264 with 4:2:0 colour needs even
    sizes. The sound is cut or filled with silence to the length of the pictures.

    Args:
        path (`str` or `os.PathLike`): The file to write; missing folders are made, an existing file is replaced.
        size (`tuple[int, int]`): Height and width of the frames, in pixels.
        fps (`int` or `float`): Frames a second.
        waveform (`np.ndarray` of shape `(samples,)` or `Recording`, *optional*): Mono sound in [-1, 1], read as it is
            needed; None for a silent film.
        sampling_rate (`int`): Rate of `waveform` in Hz; one that AAC knows (8000, 11025, 12000, 16000 … 96000).
        crf (`int`): Quality of the pictures, 0 (lossless) to 51 (worst).
        comment (`str`, *optional*): Written into the file's metadata.
        preset (`str`): Speed of x264, "ultrafast" to "veryslow".
        threads (`int`): Threads of x264; one where many videos are written side by side.
        codec (`str`): `"libx264"`, or `"h264_nvenc"` for the encoder of an NVIDIA GPU, see `best_codec`; `crf` is then
            its constant quality, and `preset` and `threads` do not count.
        temporary_folder (`str` or `os.PathLike`, *optional*): Where the file is written until it is whole, on the same
            disk; the folder of `path` if not given.
        seal (`Callable`, *optional*): Called with the whole file before it gets its name: it may put a signed copy in
            its place.

    Raises:
        ValueError: If an argument is out of range; on entering the block, if the file cannot be written there; later,
            if frames have another shape, the disk is full, or the block ends without a frame.

    Example:
        >>> with VideoWriter("take.mp4", size=(256, 256), waveform=waveform) as writer:
        ...     for chunk in chunks:  # (n, 256, 256, 3) uint8
        ...         writer.write(chunk)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        size: tuple[int, int],
        fps: float = 25,
        waveform: Sound | None = None,
        sampling_rate: int = 16_000,
        crf: int = 18,
        comment: str | None = None,
        preset: str = "veryfast",
        threads: int = 2,
        codec: str = "libx264",
        temporary_folder: str | os.PathLike[str] | None = None,
        seal: Seal | None = None,
    ) -> None:
        """Check the arguments; nothing is written before the block is entered."""
        self.path = Path(path)
        self.size = (int(size[0]), int(size[1]))
        if min(self.size) < 1:
            raise ValueError(f"size must be (height, width) of at least one pixel, not {size}.")
        if not 0 < fps <= 1000:
            raise ValueError(f"fps must be a positive number of frames a second, not {fps}.")
        if not 0 <= crf <= 51:
            raise ValueError(f"crf must lie between 0 (lossless) and 51 (worst), not {crf}.")
        if preset not in _PRESETS:
            raise ValueError(f"preset must be one of {', '.join(_PRESETS)}, not {preset!r}.")
        if codec not in _CODECS:
            raise ValueError(f"codec must be one of {', '.join(_CODECS)}, not {codec!r}.")
        _check_sound(waveform, sampling_rate)
        self.num_frames = 0
        self._fps = Fraction(fps).limit_denominator(1001)
        self._waveform = waveform
        self._sampling_rate = int(sampling_rate)
        self._sound: _SoundTrack | None = None
        self._codec = codec
        # x264 takes more memory with every thread; several takes are encoded side by side.
        self._options = {"crf": str(crf), "preset": preset, "threads": str(threads)}
        if codec == _NVENC:
            self._options = {"rc": "vbr", "cq": str(crf), "preset": "p4"}
        self._comment = comment
        self._seal = seal
        self._temporary = _temporary(self.path, temporary_folder)
        self._container: Any = None
        self._reformatter = VideoReformatter()

    def __enter__(self) -> VideoWriter:
        """Open the file under a temporary name in the same folder."""
        if self.path.is_dir():
            raise ValueError(f"'{self.path}' is a folder: give the name of a video file inside it.")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._temporary.touch(exist_ok=False)
            self._open()
        except (OSError, av.FFmpegError) as error:
            self._discard()
            raise ValueError(self._cannot_write(error)) from error
        except BaseException:
            self._discard()
            raise
        return self

    def write(self, frames: np.ndarray) -> None:
        """Append frames.

        Args:
            frames (`np.ndarray` of shape `(n, H, W, 3)` or `(H, W, 3)`): uint8 RGB.

        Raises:
            ValueError: If the frames are not uint8 or not of the size of the video, if the writer is not open, or if
                the file cannot be written any further (for example on a full disk).
        """
        if self._container is None:
            raise ValueError("The video is not open: write inside its `with` block.")
        frames = np.asarray(frames)
        if frames.dtype != np.uint8 or frames.shape[-3:] != (*self.size, 3) or frames.ndim not in (3, 4):
            expected = f"uint8 of shape (n, {self.size[0]}, {self.size[1]}, 3)"
            raise ValueError(f"Frames must be {expected}, not {frames.dtype} of shape {frames.shape}.")
        try:
            for pixels in frames.reshape(-1, *self.size, 3):
                self._encode_picture(pixels)
            if self._sound is not None:
                self._sound.write(self._samples_due())
        except (OSError, av.FFmpegError) as error:
            raise ValueError(self._cannot_write(error)) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the file and give it its name, or remove what there is of it."""
        try:
            if kind is None:
                self._finish()
        except (OSError, av.FFmpegError) as reason:
            raise ValueError(self._cannot_write(reason)) from reason
        finally:
            self._discard()

    def _open(self) -> None:
        # The index at the front lets a browser play the file while it loads.
        self._container = av.open(f"file:{self._temporary}", "w", format="mp4", options={"movflags": "+faststart"})
        if self._comment:
            self._container.metadata["comment"] = self._comment
        height, width = self.size
        video = self._container.add_stream(self._codec, rate=self._fps, options=self._options)
        video.width, video.height = width + width % 2, height + height % 2
        video.pix_fmt = "yuv420p"
        video.time_base = 1 / self._fps
        context = video.codec_context
        context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        self._video = video
        if self._waveform is not None:
            self._sound = _SoundTrack(self._container, self._waveform, self._sampling_rate)
        self._container.start_encoding()

    def _encode_picture(self, pixels: np.ndarray) -> None:
        height, width = self.size
        if height % 2 or width % 2:
            pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame = self._reformatter.reformat(
            rgb,
            format="yuv420p",
            interpolation=_TO_YUV,
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            threads=1,
        )
        frame.pts, frame.time_base = self.num_frames, 1 / self._fps
        self._container.mux(self._video.encode(frame))
        self.num_frames += 1

    def _samples_due(self) -> int:
        return round(self.num_frames * self._sampling_rate / self._fps)

    def _finish(self) -> None:
        if self.num_frames == 0:
            raise ValueError(f"No frame was written to '{self.path}': a video needs at least one.")
        self._container.mux(self._video.encode(None))
        if self._sound is not None:
            self._sound.finish()
        self._container.close()
        self._container = None
        _put_in_place(self._temporary, self.path, self._seal)

    def _discard(self) -> None:
        """Close and remove the temporary file; nothing happens when it has got its name already."""
        container, self._container = self._container, None
        if container is not None:
            # The file is thrown away: what its end could not write does not matter, nor hides the first error.
            with contextlib.suppress(OSError, av.FFmpegError):
                container.close()
        with contextlib.suppress(OSError):
            self._temporary.unlink(missing_ok=True)

    def _cannot_write(self, error: Exception) -> str:
        reason = getattr(error, "strerror", None) or str(error)
        return f"'{self.path}' cannot be written ({reason}): give a folder with room in which you may write."


class _SoundTrack:
    """Encodes mono sound into a container, as far as the pictures have come."""

    def __init__(self, container: Any, sound: Sound, sampling_rate: int) -> None:
        self._container, self._sound, self._rate = container, sound, sampling_rate
        self._stream = container.add_stream("aac", rate=sampling_rate, layout="mono")
        self._stream.bit_rate = _AUDIO_BIT_RATE
        self._written = 0

    def write(self, until: int) -> None:
        """Encode up to sample `until`, with silence where the sound has ended."""
        if until <= self._written:
            return
        samples = np.asarray(self._sound[self._written : until], np.float32)
        samples = np.pad(np.clip(samples, -1, 1), (0, until - self._written - len(samples)))
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = self._rate
        frame.pts, frame.time_base = self._written, Fraction(1, self._rate)
        self._container.mux(self._stream.encode(frame))
        self._written = until

    def finish(self) -> None:
        self._container.mux(self._stream.encode(None))


def _check_sound(sound: Sound | None, sampling_rate: int) -> None:
    if sound is None:
        return
    if isinstance(sound, np.ndarray) and (sound.ndim != 1 or sound.dtype.kind != "f"):
        raise ValueError(f"waveform must hold floats of shape (samples,), not {sound.dtype} of shape {sound.shape}.")
    if sampling_rate not in _AAC_RATES:
        raise ValueError(f"sampling_rate must be one that AAC knows, for example 16000, not {sampling_rate}.")


def _temporary(path: Path, folder: str | os.PathLike[str] | None) -> Path:
    return Path(folder or path.parent) / f".{path.name}.{secrets.token_hex(4)}.part"


def _put_in_place(temporary: Path, path: Path, seal: Seal | None) -> None:
    """Give a finished file its name; what bears the name is whole, even after a power cut."""
    if seal is not None:
        seal(temporary)
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def count_pictures(path: str | os.PathLike[str]) -> int:
    """Say how many pictures of a video file are there to be read; 0 if the file is not there or damaged."""
    try:
        with av.open(f"file:{os.fspath(path)}") as container:
            packets = container.demux(container.streams.video[0])
            # The index of a file that was cut short may be whole: its pictures are then missing or nothing but zeros.
            return sum(packet.pts is not None and any(bytes(packet)[:4]) for packet in packets)
    except (OSError, IndexError, av.FFmpegError):
        return 0


def join_videos(
    parts: Sequence[Path],
    path: Path,
    waveform: Sound | None = None,
    sampling_rate: int = 16_000,
    comment: str | None = None,
    temporary_folder: str | os.PathLike[str] | None = None,
    seal: Seal | None = None,
) -> None:
    """Join silent videos of one encoder into one, without encoding the pictures again, and add the sound.

    Args:
        parts (`Sequence[Path]`): Files of `VideoWriter` with the same size, rate and settings, in order.
        path (`Path`): The file to write; it appears when it is whole.
        waveform (`np.ndarray` of shape `(samples,)` or `Recording`, *optional*): Mono sound of the whole.
        sampling_rate (`int`): Its rate in Hz.
        comment (`str`, *optional*): Written into the file's metadata.
        temporary_folder (`str` or `os.PathLike`, *optional*): Where it is written until it is whole, on the same disk.
        seal (`Callable`, *optional*): As of `VideoWriter`.

    Raises:
        ValueError: If a part cannot be read or the file cannot be written.
    """
    _check_sound(waveform, sampling_rate)
    temporary = _temporary(path, temporary_folder)
    try:
        with av.open(f"file:{temporary}", "w", format="mp4", options={"movflags": "+faststart"}) as container:
            if comment:
                container.metadata["comment"] = comment
            with av.open(f"file:{parts[0]}") as first:
                video = container.add_stream_from_template(first.streams.video[0])
                step = 1 / Fraction(first.streams.video[0].average_rate or 25)
            sound = None if waveform is None else _SoundTrack(container, waveform, sampling_rate)
            frames = 0
            for part in parts:
                begin = frames
                with av.open(f"file:{part}") as source:
                    stream = source.streams.video[0]
                    for packet in source.demux(stream):
                        if packet.pts is None or packet.dts is None:  # the empty packet at the end
                            continue
                        shift = round(begin * step / packet.time_base)
                        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                        packet.stream = video
                        container.mux(packet)
                        frames += 1
                        if sound is not None and frames % _SOUND_EVERY == 0:
                            sound.write(round(frames * sampling_rate * step))
            if sound is not None:
                sound.write(round(frames * sampling_rate * step))
                sound.finish()
        _put_in_place(temporary, path, seal)
    except (OSError, av.FFmpegError) as error:
        raise ValueError(
            f"'{path}' cannot be written ({getattr(error, 'strerror', None) or error}): give a folder with room in "
            "which you may write."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
