"""The page that shows what became of the videos: what was kept, what was dropped, and why."""

import base64
import io
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from osmnet.media.audio import FPS

MOST_ROWS = 1000  # in each table: a longer page opens slowly
REPORT = "report.html"
_INK, _MUTED, _BAR = "#1c2330", "#6b7484", "#0072b2"


def write_report(folder: Path, rows: list[dict[str, Any]], options: dict[str, Any]) -> Path:
    """Write the report of a dataset: one file that needs no other.

    Args:
        folder (`Path`): The dataset, its shards whole.
        rows (`list[dict]`): Its manifest.
        options (`dict`): With what it was prepared.

    Returns:
        `Path`: `folder/report.html`.

    Raises:
        ValueError: If Jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, FileSystemLoader
    except ImportError as error:
        raise ValueError("The report needs the package 'jinja2'; install osmnet with its extra 'train'.") from error
    kept = [row for row in rows if row["status"] == "kept"]
    lost = [row for row in rows if row["status"] != "kept"]
    # File names come from anywhere: what they hold is shown, never obeyed.
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    page = environment.get_template("report.html.j2").render(
        title=folder.resolve().name,
        options=", ".join(f"{name} {value}" for name, value in options.items()),
        numbers=_numbers(kept, lost),
        plot=_plot(kept) if kept else "",
        reasons=_reasons(lost),
        kept=[row | {"picture": _picture(folder, row)} for row in kept[:MOST_ROWS]],
        more_kept=max(len(kept) - MOST_ROWS, 0),
        lost=lost[:MOST_ROWS],
        more_lost=max(len(lost) - MOST_ROWS, 0),
    )
    part, path = folder / f".{REPORT}.part", folder / REPORT
    try:
        part.write_text(page, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _numbers(kept: list[dict[str, Any]], lost: list[dict[str, Any]]) -> list[tuple[str, str]]:
    with_speech = [row for row in kept if row["speech"]]
    corrected = [row for row in with_speech if row["av_offset"]]
    return [
        ("clips kept", str(len(kept))),
        ("minutes", f"{sum(row['frames'] for row in kept) / FPS / 60:.1f}"),
        ("with speech", str(len(with_speech))),
        ("minutes of speech", f"{sum(row['frames'] for row in with_speech) / FPS / 60:.1f}"),
        ("sound moved", str(len(corrected))),
        ("speakers", str(len({row["speaker"] for row in kept}))),
        ("videos kept in part or whole", str(len({row.get("video") for row in kept}))),
        ("stretches dropped", str(len(lost))),
        ("seconds dropped", f"{sum(row.get('seconds') or 0 for row in lost):.0f}"),
    ]


def _reasons(lost: list[dict[str, Any]]) -> list[tuple[str, int, float]]:
    """Reasons with their numbers taken out, how often, and how many seconds."""
    groups: dict[str, list[float]] = defaultdict(list)
    for row in lost:
        reason = re.sub(r"'[^']*'", "'…'", row["reason"])
        groups[re.sub(r"\b\d+(\.\d+)?\b", "N", reason)].append(row.get("seconds") or 0)
    return sorted(((reason, len(all_), sum(all_)) for reason, all_ in groups.items()), key=lambda item: -item[1])


def _picture(folder: Path, row: dict[str, Any]) -> str:
    if "jpg" not in row["files"]:
        return ""
    start, size = row["files"]["jpg"]
    with (folder / row["shard"]).open("rb") as shard:
        shard.seek(start)
        return base64.b64encode(shard.read(size)).decode()


def _plot(kept: list[dict[str, Any]]) -> str:
    """Histograms of what was kept, as PNG in base64."""
    from matplotlib.figure import Figure

    def values(name: str) -> list[float]:
        return [row[name] for row in kept if row.get(name) is not None]

    figure = Figure(figsize=(11.5, 2.3), dpi=110)
    axes = figure.subplots(1, 5)
    offsets = values("av_offset")
    frames = np.arange(min([*offsets, -4]) - 0.5, max([*offsets, 4]) + 1)
    panels = (
        ("audio-video offset [frames]", offsets, frames),
        ("correlation of lips and sound", values("av_correlation"), 20),
        ("sharpness of the face", values("sharpness"), 20),
        ("side of the crop [px]", values("size"), 20),
        ("length [s]", [row["frames"] / FPS for row in kept], 20),
    )
    for axis, (title, data, bins) in zip(axes, panels, strict=True):
        axis.hist(data, bins=bins, color=_BAR)
        axis.set_title(title, fontsize=8, color=_INK)
        axis.tick_params(labelsize=7, colors=_MUTED)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    figure.tight_layout()
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return base64.b64encode(file.getvalue()).decode()
