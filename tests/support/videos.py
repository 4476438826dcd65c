"""Small videos whose frames can be told apart by their pixels."""

from fractions import Fraction

import av
import numpy as np


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


def write_timed(path, frames, times, pix_fmt="yuv420p", rotation=None, pixel_ratio=None):
    """Write frames with their moments in seconds, as a phone with a variable rate does."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=1000, options={"crf": "4"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        stream.time_base = Fraction(1, 1000)
        if pixel_ratio is not None:
            stream.codec_context.sample_aspect_ratio = pixel_ratio
        if rotation is not None:
            stream.set_display_rotation(*rotation)
        for pixels, time in zip(frames, times, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels)
            frame.pts, frame.time_base = round(1000 * time), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
