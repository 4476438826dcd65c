"""A sheet of the gallery: lines of frames above their curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from osmnet.evaluation.figures.page import CURVES, GRID, INK, MUTED, Page, scaled
from osmnet.media.audio import FPS

BAND, LABEL, RIGHT, GAP = 900, 96, 14, 4  # px; width of a line, margins on either side, gap between pictures
CAPTION, CURVE, BELOW = 16, 58, 14  # px; heights of captions, curves and the margin under a line
MIN_RANGE_DEG = 8.0  # so that a still head looks still
MOUTH, HEARD = "#a04b8a", "#eef1f5"


@dataclass(frozen=True)
class Line:
    """Frames side by side.

    Attributes:
        label (`str`): Text on the left, up to two lines.
        pictures (`Sequence[np.ndarray]`): Frames `(height, width, 3)` of one shape, uint8.
        captions (`Sequence[str]`): Text under each frame.
        frames (`Sequence[int]`): Numbers of the frames in the recording, marked in the curves.
        degrees (`np.ndarray` of shape `(frames, 3)`, *optional*): Yaw, pitch and roll of the whole take.
        opening (`np.ndarray` of shape `(frames,)`, *optional*): Non-negative curve of the whole take.
        heard (`np.ndarray` of shape `(frames,)`, *optional*): Speech activity, shaded behind the curves.
    """

    label: str
    pictures: Sequence[np.ndarray]
    captions: Sequence[str]
    frames: Sequence[int] = ()
    degrees: np.ndarray | None = None
    opening: np.ndarray | None = None
    heard: np.ndarray | None = None

    @property
    def has_curves(self) -> bool:
        """Whether there is a curve to draw."""
        return self.degrees is not None or self.opening is not None


def draw_sheet(lines: Sequence[Line], largest: int = 118) -> Image.Image:
    """Draw a sheet with one scale for all its lines.

    Args:
        lines (`Sequence[Line]`): From the top; a line without pictures shows only its curves.
        largest (`int`): Largest width of a picture in pixels.

    Returns:
        `PIL.Image.Image`: RGB, 1010 pixels wide.
    """
    widths = [min((BAND + GAP) // max(len(line.pictures), 1) - GAP, largest) for line in lines]
    pictures = [
        [scaled(picture, width) for picture in line.pictures] for line, width in zip(lines, widths, strict=True)
    ]
    tops, bottom = [], 8
    for line, row in zip(lines, pictures, strict=True):
        tops.append(bottom)
        bottom += (row[0].shape[0] + CAPTION if row else 4) + (CURVE + 18 if line.has_curves else 0) + BELOW
    page = Page(LABEL + BAND + RIGHT, bottom)
    reach = max([MIN_RANGE_DEG / 2, *(np.abs(line.degrees).max() for line in lines if line.degrees is not None)])
    widest = max([1e-6, *(line.opening.max() for line in lines if line.opening is not None)])
    placed = []
    for line, row, width, top in zip(lines, pictures, widths, tops, strict=True):
        height = row[0].shape[0] if row else 0
        page.text(LABEL - 8, top + (height or CURVE) / 2, line.label, 8.5, ha="right", weight="bold")
        for number, (picture, caption) in enumerate(zip(row, line.captions, strict=True)):
            x = LABEL + number * (width + GAP)
            placed.append((Image.fromarray(picture), (x, top)))
            page.text(x + width / 2, top + height + CAPTION / 2, caption, 7, color=MUTED, ha="center")
        if line.has_curves:
            axes = page.axes(LABEL, top + (height + CAPTION if row else 4), BAND, CURVE)
            _draw_curves(axes, line, 1.1 * reach, 1.1 * widest)
    sheet = page.picture()
    for drawn, corner in placed:  # much faster than axes of the figure
        sheet.paste(drawn, corner)
    return sheet


def _draw_curves(axes: Any, line: Line, reach: float, widest: float) -> None:
    curve = line.degrees if line.degrees is not None else line.opening
    assert curve is not None
    seconds = (np.arange(len(curve)) + 0.5) / FPS
    axes.set(xlim=(0, len(curve) / FPS))
    if line.degrees is not None:
        axes.set(ylim=(-reach, reach))
        axes.axhline(0, color=GRID, linewidth=1)
        for column, (name, colour) in enumerate(CURVES):
            axes.plot(seconds, line.degrees[:, column], color=colour, linewidth=1.3, label=name)
        axes.yaxis.set_major_formatter("{x:g}°")
        axes.legend(loc="upper right", fontsize=6, ncols=3, frameon=False, borderaxespad=0, handlelength=1.2)
    else:
        axes.set(ylim=(0, widest))
        axes.plot(seconds, line.opening, color=MOUTH, linewidth=1.3)
        axes.set_yticks([])
    if line.heard is not None:
        low, high = axes.get_ylim()
        axes.fill_between(seconds, low, high, where=line.heard >= 0.5, color=HEARD, linewidth=0, zorder=0)
    for frame in line.frames:
        axes.axvline((frame + 0.5) / FPS, color=INK, linewidth=0.7, alpha=0.35)
    axes.xaxis.set_major_formatter("{x:g} s")
    axes.tick_params(colors=MUTED, labelsize=6.5, length=0, pad=2)
    axes.spines[:].set_color(GRID)
