"""A figure laid out in pixels from the top left."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

DPI = 100
INK, MUTED, GRID = "#1c2330", "#6b7484", "#e3e7ed"
# Colours that also differ in lightness, as on the contact sheets.
CURVES = (("yaw", "#0072b2"), ("pitch", "#d55e00"), ("roll", "#009e73"))
JPEG_QUALITY = 73


class Page:
    """A white figure for texts, pictures and axes placed by pixels.

    Args:
        width (`int`): Pixels.
        height (`int`): Pixels.
    """

    def __init__(self, width: int, height: int):
        # Without pyplot: no window system, no global state.
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.width, self.height = width, height
        self.figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="#ffffff")
        self.canvas = FigureCanvasAgg(self.figure)

    def text(self, x: float, y: float, text: str, size: float, **changes: Any) -> None:
        """Write text with its left end at `x` and its middle at `y`; `changes` go to matplotlib."""
        style: dict[str, Any] = {"color": INK, "va": "center", "parse_math": False} | changes
        self.figure.text(x / self.width, 1 - y / self.height, text, fontsize=size, **style)

    def axes(self, x: float, y: float, width: float, height: float) -> Any:
        """Add axes with their top left corner at `(x, y)`."""
        place = (x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(place)

    def image(self, x: float, y: float, picture: np.ndarray, width: int, height: int) -> None:
        """Place a picture `(height, width, 3)` with its top left corner at `(x, y)`."""
        axes = self.axes(x, y, width, height)
        axes.imshow(picture, interpolation="nearest", aspect="auto")
        axes.set_axis_off()

    def picture(self) -> Image.Image:
        """Draw the figure, RGB."""
        self.canvas.draw()
        return Image.fromarray(np.asarray(self.canvas.buffer_rgba())).convert("RGB")


def scaled(picture: np.ndarray, width: int) -> np.ndarray:
    """Resize a picture `(height, width, 3)` to another width."""
    size = width, max(round(width * picture.shape[0] / picture.shape[1]), 1)
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def encoded(image: Image.Image, kind: str = "png") -> bytes:
    """Encode a picture as `"png"` or lossy `"jpg"`."""
    buffer = io.BytesIO()
    if kind == "png":
        image.save(buffer, format="PNG")
    else:
        image.save(buffer, format="JPEG", quality=JPEG_QUALITY, optimize=True)
    return buffer.getvalue()
