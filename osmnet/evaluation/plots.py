"""Plots and frame strips of the evaluation report, PNG and JPEG."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from osmnet.media.audio import FPS

# Colours of Okabe and Ito, which also differ in lightness.
COLOURS = {"real": "#1c2330", "ours": "#d55e00", "oracle": "#0072b2", "static": "#8a93a3"}
ANGLES = (("yaw", "#0072b2"), ("pitch", "#d55e00"), ("roll", "#009e73"))
TAKES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5c00", "#8a93a3")
_GRID, _DPI = "#e3e7ed", 110


def _axes(columns: int = 1, rows: int = 1, width: float = 10.0, height: float = 2.4) -> tuple[Any, np.ndarray]:
    # Without pyplot: no window system, no global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, sharex="col")
    for each in axes.flat:
        each.grid(color=_GRID, linewidth=0.8)
        each.spines[["top", "right"]].set_visible(False)
        each.tick_params(labelsize=8)
        each.margins(x=0)
    return figure, axes


def _legend_above(axes: Any) -> None:
    axes.legend(fontsize=8, loc="lower right", bbox_to_anchor=(1, 0.98), ncols=9, frameon=False)


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def opening_plot(curves: dict[str, np.ndarray]) -> bytes:
    """Plot the mouth's opening over time."""
    figure, ((axes,),) = _axes(height=1.9)
    for method in ("real", "oracle", "ours"):
        curve = np.asarray(curves[method])
        width = 1.0 if method == "oracle" else 1.5
        axes.plot(np.arange(len(curve)) / FPS, curve, color=COLOURS[method], linewidth=width, label=method)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("opening [head units]", fontsize=8)
    axes.set_xlabel("seconds", fontsize=8)
    _legend_above(axes)
    return _png(figure)


def takes_plot(takes: Sequence[Any], real: Sequence[Any]) -> bytes:
    """Plot yaw, pitch and roll [°] of takes and of the real head."""
    figure, axes = _axes(rows=3, height=4.6)
    for index, (name, _) in enumerate(ANGLES):
        axis = axes[index, 0]
        curve = np.asarray(real)[:, index]
        axis.plot(
            np.arange(len(curve)) / FPS, curve, color=COLOURS["real"], linewidth=1.0, linestyle=":", label="real"
        )
        for number, take in enumerate(takes):
            angle = np.asarray(take)[:, index]
            colour = TAKES[number % len(TAKES)]
            axis.plot(np.arange(len(angle)) / FPS, angle, color=colour, linewidth=1.3, label=f"take {number + 1}")
        axis.set_ylabel(f"{name} [°]", fontsize=8)
    _legend_above(axes[0, 0])
    axes[-1, 0].set_xlabel("seconds", fontsize=8)
    return _png(figure)


def epsilon_plot(rows: Sequence[dict[str, float]], real: dict[str, float]) -> bytes:
    """Plot spread and distance between takes by ε, and ratios to real heads."""
    figure, axes = _axes(columns=2, height=2.8)
    epsilon = [row["epsilon"] for row in rows]

    def values(name: str) -> list[float]:
        return [np.nan if row[name] is None else row[name] for row in rows]

    axes[0, 0].plot(epsilon, values("pairwise"), "o-", color=TAKES[0], label="distance between takes")
    axes[0, 0].plot(epsilon, values("spread"), "o-", color=TAKES[1], label="spread in four seconds")
    if real["spread"] is not None:
        axes[0, 0].axhline(real["spread"], color=COLOURS["real"], linestyle=":", label="spread of real heads")
    axes[0, 0].set_ylabel("degrees", fontsize=8)
    for name, colour in zip(("spread", "speed", "jerk"), TAKES[1:], strict=False):
        axes[0, 1].plot(epsilon, values(f"{name}_ratio"), "o-", color=colour, label=name)
    axes[0, 1].axhline(1, color=COLOURS["real"], linestyle=":", label="real heads")
    axes[0, 1].set_ylabel("ratio to real heads", fontsize=8)
    for axis in axes.flat:
        axis.set_ylim(bottom=0)
        axis.set_xlabel("ε", fontsize=9)
        axis.legend(fontsize=8, frameon=False)
    return _png(figure)


def drift_plot(long: Sequence[Any], real_99: Sequence[float | None]) -> bytes:
    """Plot angles [°] over a long speech, with lines at `real_99`."""
    figure, ((axes,),) = _axes(height=2.4)
    curve = np.asarray(long)
    for index, (name, colour) in enumerate(ANGLES):
        axes.plot(np.arange(len(curve)) / 60, curve[:, index], color=colour, linewidth=1.0, label=name)
        reach = real_99[index]
        if reach is not None:
            for side in (-reach, reach):
                axes.axhline(side, color=colour, linestyle=":", linewidth=1.0)
    axes.set_xlabel("minutes", fontsize=8)
    axes.set_ylabel("degrees", fontsize=8)
    _legend_above(axes)
    return _png(figure)


def strip(frames: np.ndarray) -> bytes:
    """Encode frames `(n, height, width, 3)` side by side as JPEG."""
    file = io.BytesIO()
    Image.fromarray(np.concatenate(list(frames), 1)).save(file, format="JPEG", quality=88)
    return file.getvalue()
