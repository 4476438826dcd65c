"""Media files that come from anywhere, opened so that they can name no other file."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path

import av

from osmnet.utils.checks import check_path

# FFmpeg's demuxers for files that hold their own sound and pictures. Playlists (hls, dash, concat, sdp) name other
# files; still pictures, subtitles and raw data are neither recordings nor videos.
FORMATS = (
    "wav", "w64", "aiff", "au", "caf", "mp3", "aac", "ac3", "amr", "flac", "ogg", "wv",
    "mov", "matroska", "mpegts", "mpeg", "avi", "asf", "flv", "dv", "mxf", "gif",
)  # fmt: skip

MAX_MEGAPIXELS = 64  # millions of pixels; an 8K frame has 33


class NamedContent(io.BytesIO):
    """Content of a file, with its name, from which FFmpeg takes hints.

    Args:
        content (`bytes`): All of it.
        name (`str`): Name of the file.
    """

    def __init__(self, content: bytes, name: str):
        super().__init__(content)
        self.name = name


def open_container(
    source: str | os.PathLike[str] | bytes,
    kind: str,
    advice: str,
    content: bytes | None = None,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> av.container.InputContainer:
    """Open a media file of one of `FORMATS`.

    Args:
        source (`str`, `os.PathLike` or `bytes`): The file, or its content.
        kind (`str`): Its kind in messages ("recording", "video").
        advice (`str`): End of the message if it cannot be opened.
        content (`bytes`, *optional*): Content of a file that was read before.
        max_megapixels (`float`): Largest picture that is decoded, also to find out about streams and for covers.

    Returns:
        `av.container.InputContainer`: For the caller to close.

    Raises:
        ValueError: If the file is missing, a folder, empty, damaged or of another format.
    """
    if isinstance(source, bytes):
        address: io.BytesIO | str = io.BytesIO(source)
    elif content is not None:
        address = NamedContent(content, f"file:{os.fspath(source)}")
    else:
        address = local_file(check_path(f"The {kind}", source), kind)
    options = {"protocol_whitelist": "file", "format_whitelist": ",".join(FORMATS), **pixel_limit(max_megapixels)}
    try:
        return av.open(address, mode="r", metadata_errors="ignore", options=options)
    except av.FFmpegError as error:
        name = f"The {kind} in memory" if isinstance(source, bytes) else f"'{os.fspath(source)}'"
        reason = "its format is not supported" if error.errno == errno.EINVAL else error.strerror
        raise ValueError(f"{name} cannot be decoded as a {kind} ({reason}): {advice}") from error


def pixel_limit(max_megapixels: float) -> dict[str, str]:
    """Options of FFmpeg that make its decoders refuse larger pictures before they allocate them."""
    return {"max_pixels": str(round(max_megapixels * 1e6))}


def local_file(path: Path, kind: str) -> str:
    """Check that `path` is a file with something in it, and spell it for FFmpeg.

    Args:
        path (`Path`): The file.
        kind (`str`): Its kind in messages.

    Returns:
        `str`: The path behind `file:`, so that a colon in it is not read as a protocol.

    Raises:
        ValueError: If there is no such file, if it is a folder, or if it is empty.
    """
    try:
        if path.is_dir():
            raise ValueError(f"'{path}' is a folder: give the path of one {kind}.")
        if not path.is_file():
            raise ValueError(f"There is no file '{path}': check the path of the {kind}.")
        if path.stat().st_size == 0:
            raise ValueError(f"'{path}' is empty (0 bytes): copy or make the {kind} again.")
    except OSError as error:
        raise ValueError(f"'{path}' cannot be read ({error.strerror}): check the path of the {kind}.") from error
    return f"file:{path}"
