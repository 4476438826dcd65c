"""Write MP4 files with H.264 pictures and AAC sound, by PyAV."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import av  # not imageio, which writes neither sound nor colour tags, and cannot copy packets
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation, VideoReformatter

from osmnet.utils.checks import check_path, short
from osmnet.utils.files import Seal, cannot_write, discard, put_in_place, temporary_path

_AUDIO_BIT_RATE = 96_000  # bit/s
_NVENC = "h264_nvenc"
_CODECS = ("libx264", _NVENC)
_SOUND_EVERY = 25  # pictures; interleaved with sound so that the file plays while it loads
_TO_YUV = Interpolation.BILINEAR | Interpolation.ACCURATE_RND
_AAC_RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)  # Hz
_PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")
_MP4 = {"movflags": "+faststart"}  # the index at the front lets a browser play the file while it loads
# Any file name; only MP4 files of this disk; packets as they are.
_CONCAT = {"safe": "0", "protocol_whitelist": "file", "format_whitelist": "concat,mov", "auto_convert": "0"}


class Sound(Protocol):
    """Sliceable mono samples in [-1, 1]: an array or a `Recording`."""

    def __len__(self) -> int: ...

    def __getitem__(self, samples: slice, /) -> np.ndarray: ...


@functools.lru_cache(maxsize=64)
def best_codec(device: str, size: tuple[int, int]) -> str:
    """Choose the encoder for a device.

    Args:
        device (`str`): Type of the device, as PyTorch names it.
        size (`tuple[int, int]`): Height and width of the frames.

    Returns:
        `str`: `"h264_nvenc"` on CUDA if FFmpeg, driver and size allow it, else `"libx264"`.
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
    """Write frames and speech to a streamable MP4 file.

    A context manager; the file appears when the block ends without an exception. Odd sizes are padded, sound is cut or
    padded to the pictures.

    Args:
        path (`str` or `os.PathLike`): The file; missing folders are made, an existing file is replaced.
        size (`tuple[int, int]`): Height and width of the frames in pixels.
        fps (`int` or `float`): Frames per second.
        waveform (`np.ndarray` of shape `(samples,)` or `Recording`, *optional*): Mono sound in [-1, 1], read as
            needed.
        sampling_rate (`int`): Rate of `waveform` in Hz, an AAC rate (8000, 11025, 12000, 16000 … 96000).
        crf (`int`): Quality, 0 (lossless) to 51 (worst).
        comment (`str`, *optional*): Metadata of the file.
        preset (`str`): Speed of x264, "ultrafast" to "veryslow".
        threads (`int`): Threads of x264; one if many videos are written in parallel.
        codec (`str`): `"libx264"` or `"h264_nvenc"`, which ignores `preset` and `threads`; see `best_codec`.
        temporary_folder (`str` or `os.PathLike`, *optional*): Folder of the unfinished file, on the same disk; that
            of `path` if not given.
        seal (`Callable`, *optional*): Called with the finished file before it is renamed; may replace it by a signed
            copy.

    Raises:
        ValueError: If an argument is out of range; on entering the block, if the file cannot be written; later, if
            frames have another shape, the disk is full, or the block ends without a frame.

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
        self.path = check_path("path", path)
        self.size = (int(size[0]), int(size[1]))
        if min(self.size) < 1:
            raise ValueError(f"size must be (height, width) of at least one pixel, not {size}.")
        if not 0 < fps <= 1000:
            raise ValueError(f"fps must be a positive number of frames per second, at most 1000, not {fps}.")
        if not 0 <= crf <= 51:
            raise ValueError(f"crf must lie between 0 (lossless) and 51 (worst), not {crf}.")
        if preset not in _PRESETS:
            raise ValueError(f"preset must be one of {', '.join(_PRESETS)}, not {short(preset)}.")
        if codec not in _CODECS:
            raise ValueError(f"codec must be one of {', '.join(_CODECS)}, not {short(codec)}.")
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
        self._temporary = temporary_path(self.path, temporary_folder)
        self._container: Any = None
        self._reformatter = VideoReformatter()

    def __enter__(self) -> VideoWriter:
        if self.path.is_dir():
            raise ValueError(f"'{self.path}' is a folder: give the name of a video file inside it.")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._temporary.touch(exist_ok=False)
            self._open()
        except (OSError, av.FFmpegError) as error:
            self._discard()
            raise ValueError(cannot_write(self.path, error)) from error
        except BaseException:
            self._discard()
            raise
        return self

    def write(self, frames: np.ndarray) -> None:
        """Append frames.

        Args:
            frames (`np.ndarray` of shape `(n, H, W, 3)` or `(H, W, 3)`): uint8 RGB.

        Raises:
            ValueError: If type or size is another, the writer is not open, or the disk is full.
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
            raise ValueError(cannot_write(self.path, error)) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        except (OSError, av.FFmpegError) as reason:
            raise ValueError(cannot_write(self.path, reason)) from reason
        finally:
            self._discard()

    def _open(self) -> None:
        self._container = av.open(f"file:{self._temporary}", "w", format="mp4", options=_MP4)
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
        put_in_place(self._temporary, self.path, self._seal)

    def _discard(self) -> None:
        container, self._container = self._container, None
        if container is not None:
            # An error on closing must not hide the first one.
            with contextlib.suppress(OSError, av.FFmpegError):
                container.close()
        discard(self._temporary)


class _SoundTrack:
    """Encodes mono sound alongside the pictures."""

    def __init__(self, container: Any, sound: Sound, sampling_rate: int) -> None:
        self._container, self._sound, self._rate = container, sound, sampling_rate
        self._stream = container.add_stream("aac", rate=sampling_rate, layout="mono")
        self._stream.bit_rate = _AUDIO_BIT_RATE
        self._written = 0

    def write(self, until: int) -> None:
        """Encode up to sample `until`, padded with silence."""
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


def join_videos(
    parts: Sequence[Path],
    path: Path,
    waveform: Sound | None = None,
    sampling_rate: int = 16_000,
    comment: str | None = None,
    temporary_folder: str | os.PathLike[str] | None = None,
    seal: Seal | None = None,
) -> None:
    """Join silent videos without re-encoding, and add sound.

    Args:
        parts (`Sequence[Path]`): Files of `VideoWriter` with the same size, rate and settings, in order.
        path (`Path`): The file to write; it appears when it is whole.
        waveform (`np.ndarray` of shape `(samples,)` or `Recording`, *optional*): Mono sound of the whole.
        sampling_rate (`int`): Its rate in Hz.
        comment (`str`, *optional*): Metadata of the file.
        temporary_folder (`str` or `os.PathLike`, *optional*): As of `VideoWriter`.
        seal (`Callable`, *optional*): As of `VideoWriter`.

    Raises:
        ValueError: If a part cannot be read or the file cannot be written.
    """
    _check_sound(waveform, sampling_rate)
    temporary = temporary_path(path, temporary_folder)
    listed = temporary.with_name(f"{temporary.name}.txt")
    try:
        quoted = (f"file:{part.resolve()}".replace("'", "'\\''") for part in parts)
        listed.write_text("".join(f"file '{name}'\n" for name in quoted), encoding="utf-8")
        with (
            av.open(f"file:{listed}", format="concat", options=_CONCAT) as source,
            av.open(f"file:{temporary}", "w", format="mp4", options=_MP4) as container,
        ):
            if comment:
                container.metadata["comment"] = comment
            stream = source.streams.video[0]
            video = container.add_stream_from_template(stream)
            sound = None if waveform is None else _SoundTrack(container, waveform, sampling_rate)
            frames, samples_per_frame = 0, sampling_rate / Fraction(stream.average_rate)
            for packet in source.demux(stream):
                if packet.dts is None:  # the empty packet at the end
                    continue
                packet.stream = video
                container.mux(packet)
                frames += 1
                if sound is not None and frames % _SOUND_EVERY == 0:
                    sound.write(round(frames * samples_per_frame))
            if sound is not None:
                sound.write(round(frames * samples_per_frame))
                sound.finish()
        put_in_place(temporary, path, seal)
    except (OSError, av.FFmpegError) as error:
        raise ValueError(cannot_write(path, error)) from error
    finally:
        for file in (temporary, listed):
            discard(file)
