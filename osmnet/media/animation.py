"""Write animated WebP or GIF by imageio, without sound."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from PIL import Image

from osmnet.media.video_reader import read_frames
from osmnet.utils.checks import check_path
from osmnet.utils.files import Seal, write_whole

MAX_FRAMES = 500  # of an animation; they are all held in memory, at 320 x 320 pixels 0.4 MB each
# Options of Pillow's writers, by ending.
_OPTIONS = {".webp": {"quality": 80, "method": 4}, ".gif": {}}
_PREVIEW_SECONDS, _PREVIEW_FPS = 8.0, 12.5  # s, frames/s; at 320 x 320 pixels 1 MB as WebP, 7 MB as GIF


def write_animation(
    path: str | os.PathLike[str],
    frames: Iterable[np.ndarray],
    fps: float = 25.0,
    max_side: int = 320,
    loop: int = 0,
    seal: Seal | None = None,
) -> Path:
    """Write an animated WebP or GIF atomically.

    At most 500 frames, all held in memory. GIF has 256 colours per frame and eight times the size.

    Args:
        path (`str` or `os.PathLike`): The file, `*.webp` or `*.gif`; missing folders are made, a file is replaced.
        frames (iterable of `np.ndarray`): uint8 RGB, chunks `(n, H, W, 3)` or single ones `(H, W, 3)`.
        fps (`float`): Frames per second; GIF shows at most 50.
        max_side (`int`): Longest side in pixels, at most 4096; larger frames are scaled down.
        loop (`int`): Times to show it; 0 for ever.
        seal (`Callable`, *optional*): As of `VideoWriter`.

    Returns:
        `Path`: The file.

    Raises:
        ValueError: If an argument is out of range, frames are not uint8 RGB of one size, or the file cannot be
            written.
    """
    path = check_path("path", path)
    ending = path.suffix.lower()
    if ending not in _OPTIONS:
        raise ValueError(f"'{path}' is no animation: give a name that ends with {' or '.join(_OPTIONS)}.")
    fastest = 50 if ending == ".gif" else 1000
    if not 0.1 <= fps <= fastest:
        raise ValueError(f"fps must lie between 0.1 and {fastest} for {ending}, not {fps}.")
    if not 1 <= max_side <= 4096 or not 0 <= loop <= 65535:
        raise ValueError(f"max_side must lie between 1 and 4096, loop between 0 and 65535, not {max_side} and {loop}.")
    # ms; ends of frames are rounded, not lengths, to keep the speed. GIF has units of 10 ms.
    unit = 10 if ending == ".gif" else 1
    ends = np.rint(np.arange(MAX_FRAMES + 1) * 1000 / fps / unit).astype(int) * unit
    options = {"duration": np.diff(ends).tolist(), "loop": loop, **_OPTIONS[ending]}
    file, sizes = io.BytesIO(), set()
    with iio.imopen(file, "w", plugin="pillow", extension=ending) as writer:
        for frame in islice(_single(frames), MAX_FRAMES):
            sizes.add(frame.shape)
            if len(sizes) == 1:
                writer.write(_scaled(frame, max_side), is_batch=False, **options)
    if len(sizes) != 1:
        raise ValueError(f"'{path}' needs at least one frame, and all of one size.")
    write_whole(path, file.getvalue(), seal)
    return path


def animate_video(
    video: str | os.PathLike[str], path: str | os.PathLike[str], max_side: int = 320, seal: Seal | None = None
) -> Path:
    """Animate the first 8 seconds of a video at 12.5 fps.

    Args:
        video (`str` or `os.PathLike`): The video.
        path (`str` or `os.PathLike`): As of `write_animation`, like the others.
        max_side (`int`): Longest side in pixels.
        seal (`Callable`, *optional*): As of `VideoWriter`.

    Returns:
        `Path`: The file.

    Raises:
        ValueError: As `read_frames` and `write_animation`.
    """
    frames = read_frames(video, fps=_PREVIEW_FPS, max_side=max_side)
    return write_animation(
        path, islice(frames, round(_PREVIEW_SECONDS * _PREVIEW_FPS)), _PREVIEW_FPS, max_side, seal=seal
    )


def _single(frames: Iterable[np.ndarray]) -> Iterable[np.ndarray]:
    for chunk in frames:
        if chunk.dtype != np.uint8 or chunk.ndim not in (3, 4) or chunk.shape[-1] != 3 or chunk.size == 0:
            raise ValueError(f"Frames must be uint8 of shape (n, H, W, 3), not {chunk.dtype} of shape {chunk.shape}.")
        yield from chunk.reshape(-1, *chunk.shape[-3:])


def _scaled(frame: np.ndarray, max_side: int) -> np.ndarray:
    height, width = frame.shape[:2]
    scale = max_side / max(height, width)
    if scale >= 1:
        return frame.copy()  # the chunk need not stay in memory
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0))
