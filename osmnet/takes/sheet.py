"""Contact sheet: all takes on one page."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from osmnet.media.audio import FPS
from osmnet.utils.checks import check_path
from osmnet.utils.files import write_whole

MAX_TAKES = 24  # takes; some viewers do not open a taller page

_DPI = 100
_INK, _MUTED, _GRID, _PAPER = "#1c2330", "#6b7484", "#e3e7ed", "#ffffff"
# Three colours that also differ in lightness (Okabe and Ito), so that the curves can be told apart by everyone.
_CURVES = (("yaw", "#0072b2"), ("pitch", "#d55e00"), ("roll", "#009e73"))


def contact_sheet(
    takes: Sequence[np.ndarray],
    times_s: np.ndarray,
    head_pose: np.ndarray,
    path: str | os.PathLike[str] | None = None,
    title: str | None = None,
) -> Image.Image:
    """Draw a row of frames per take above its head-rotation curves.

    All takes share one scale of degrees; only the first 24 are shown.

    Args:
        takes (`Sequence[np.ndarray]`): One array of shape `(columns, H, W, 3)`, uint8 RGB, per take, all of one shape;
            the first 24 suffice.
        times_s (`np.ndarray` of shape `(columns,)`): Moment of each column in seconds, ascending.
        head_pose (`np.ndarray` of shape `(num_videos, frames, 6)`): Yaw, pitch, roll in radians (and the translation,
            which is not drawn) at 25 fps.
        path (`str` or `os.PathLike`, *optional*): PNG file to write; missing folders are made.
        title (`str`, *optional*): Line above the sheet.

    Returns:
        `PIL.Image.Image`: The sheet, RGB.

    Raises:
        ValueError: If the shapes do not fit together or the file cannot be written.
    """
    takes = [np.asarray(take) for take in takes]
    times_s = np.asarray(times_s, np.float64)
    head_pose = np.asarray(head_pose, np.float64)
    _check_shapes(takes, times_s, head_pose)
    shown = takes[:MAX_TAKES]
    sheet = _draw(shown, times_s, np.rad2deg(head_pose[: len(shown), :, :3]), title, len(head_pose))
    if path is not None:
        _save(sheet, check_path("path", path))
    return sheet


def _check_shapes(takes: Sequence[np.ndarray], times_s: np.ndarray, head_pose: np.ndarray) -> None:
    if not takes or takes[0].ndim != 4 or takes[0].shape[-1] != 3 or 0 in takes[0].shape:
        raise ValueError("takes must be a list of at least one array of shape (columns, H, W, 3).")
    for number, take in enumerate(takes, start=1):
        if take.dtype != np.uint8 or take.shape != takes[0].shape:
            expected = f"uint8 of shape {takes[0].shape} like the first"
            raise ValueError(f"Take {number} must be {expected}, not {take.dtype} of shape {take.shape}.")
    if times_s.shape != (len(takes[0]),):
        raise ValueError(f"times_s must hold one moment for each of {len(takes[0])} columns, not {times_s.shape}.")
    if head_pose.ndim != 3 or head_pose.shape[1] < 1 or head_pose.shape[2] != 6:
        raise ValueError(f"head_pose must have shape (num_videos, frames, 6), not {head_pose.shape}.")
    if len(takes) != len(head_pose) and not MAX_TAKES <= len(takes) < len(head_pose):
        raise ValueError(f"There are pictures of {len(takes)} takes, but head_pose holds {len(head_pose)}.")


def _draw(
    takes: Sequence[np.ndarray], times_s: np.ndarray, degrees: np.ndarray, title: str | None, num_takes: int
) -> Image.Image:
    # The object interface without pyplot: no window system, no global state, safe in any thread.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    columns, height, width = takes[0].shape[:3]
    # Layout in pixels, from the top: header, then one band per take of pictures, curves and a gap.
    left, right, gutter = 92, 28, 6
    header = 84 if title else 52
    cell = int(np.clip(1500 / columns, 96, 224))
    cell_height = max(1, round(cell * height / width))
    curve, join, gap, footer = 128, 20, 28, 40
    page_width = left + columns * cell + (columns - 1) * gutter + right
    page_height = header + len(takes) * (cell_height + curve + gap) + footer
    figure = Figure(figsize=(page_width / _DPI, page_height / _DPI), dpi=_DPI, facecolor=_PAPER)
    canvas = FigureCanvasAgg(figure)

    def place(x: float, y: float, w: float, h: float) -> Any:
        """Add axes in pixels from the top left."""
        return figure.add_axes((x / page_width, 1 - (y + h) / page_height, w / page_width, h / page_height))

    def write(x: float, y: float, text: str, **style: Any) -> None:
        figure.text(x / page_width, 1 - y / page_height, text, **{"color": _INK, "va": "center"} | style)

    if title:
        # About 0.6 em a letter: a long title is set smaller rather than cut off.
        room = (page_width - left - right) / len(title) / 0.6 * 72 / _DPI
        write(left, 30, title, fontsize=min(15, room), fontweight="bold", parse_math=False)
    for index, (name, colour) in enumerate(_CURVES):
        write(left + 76 * index, header - 22, f"\u2014 {name}", color=colour, fontsize=11, fontweight="bold")
    if page_width >= 700:
        note = "head rotation in degrees, one scale for all takes"
        if num_takes > len(takes):
            note += f"; the first {len(takes)} of {num_takes} takes"
        write(left + 76 * len(_CURVES), header - 22, note, color=_MUTED)

    duration = max(degrees.shape[1] / FPS, float(times_s.max()))
    low, high = min(0.0, float(degrees.min())), max(0.0, float(degrees.max()))
    margin = max(0.12 * (high - low), 2 - (high - low) / 2)  # at least 4 degrees: a still head shall look still
    seconds = (np.arange(degrees.shape[1]) + 0.5) / FPS
    band = page_width - left - right
    for row, take in enumerate(takes):
        top = header + row * (cell_height + curve + gap)
        write(left - 16, top + cell_height / 2, f"Take {row + 1}", fontsize=13, fontweight="bold", ha="right")
        strip = Image.new("RGB", (band, cell_height), _PAPER)
        pictures = place(left, top, band, cell_height)
        pictures.set_axis_off()
        joints = place(left, top + cell_height, band, join)  # from each picture to its moment on the time axis
        joints.set_axis_off()
        joints.set(xlim=(0, band), ylim=(1, 0))
        axes = place(left, top + cell_height + join, band, curve - join - 8)
        axes.set(xlim=(0, duration), ylim=(low - margin, high + margin))
        for column, moment in enumerate(times_s):
            x = column * (cell + gutter)
            strip.paste(Image.fromarray(take[column]).resize((cell, cell_height), Image.Resampling.LANCZOS), (x, 0))
            label = f"{moment:.2f} s" if duration < 10 else f"{moment:.1f} s"
            # Below the picture: in it, this would cover its own label.
            box = {"boxstyle": "square,pad=0.1", "facecolor": _PAPER, "linewidth": 0}
            joints.text(x, 0.55, label, color=_MUTED, fontsize=9, va="center", bbox=box, zorder=3)
            joints.plot([x + cell / 2, moment / duration * band], [0, 1], color=_GRID, linewidth=1.2)
            axes.axvline(moment, color=_GRID, linewidth=1.2, zorder=0)
        pictures.imshow(strip, interpolation="nearest", aspect="auto", extent=(0, band, cell_height, 0))
        axes.axhline(0, color=_MUTED, linewidth=0.8, zorder=1)
        for angle, (_, colour) in enumerate(_CURVES):
            axes.plot(seconds, degrees[row, :, angle], color=colour, linewidth=1.6, zorder=2 + angle)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter("{x:g}\u00b0")
        axes.xaxis.set_major_formatter("{x:g} s")
        axes.tick_params(colors=_MUTED, labelsize=10, length=0, pad=5, labelbottom=row + 1 == len(takes))
        axes.spines[:].set_visible(False)

    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _save(sheet: Image.Image, path: Path) -> None:
    if path.is_dir():
        raise ValueError(f"'{path}' is a folder: give the name of a PNG file inside it.")
    write_whole(path, as_png(sheet))


def as_png(image: Image.Image) -> bytes:
    """Encode a picture."""
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()
