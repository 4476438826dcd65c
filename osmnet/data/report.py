"""Report what was kept and dropped, as HTML and text."""

import base64
import io
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from osmnet.data.shards import read_member
from osmnet.data.speakers import Merge
from osmnet.media.audio import FPS
from osmnet.utils.files import write_whole

MOST_ROWS = 1000  # in each table of the page: a longer one opens slowly
MOST_LINES = 20  # of dropped videos on the terminal
REPORT = "report.html"
_MEASURED = (
    "first_frame",
    "face_px",
    "yaw_deg",
    "sharpness",
    "av_offset",
    "av_correlation",
)  # other programs leave out
_INK, _MUTED, _BAR = "#1c2330", "#6b7484", "#0072b2"


def write_report(
    folder: Path, rows: list[dict[str, Any]], options: dict[str, Any], merges: Sequence[Merge] = ()
) -> Path:
    """Write a self-contained HTML report.

    Args:
        folder (`Path`): The dataset, with all its shards.
        rows (`list[dict]`): Its manifest.
        options (`dict`): The settings it was prepared with.
        merges (sequence of `Merge`): Speakers found to be one person.

    Returns:
        `Path`: `folder/report.html`.

    Raises:
        ValueError: If Jinja2 is not installed or the disk is full.
    """
    try:
        from jinja2 import Environment, FileSystemLoader
    except ImportError as error:
        raise ValueError("The report needs the package 'jinja2'; install osmnet with its extra 'train'.") from error
    kept = [row for row in rows if row["status"] == "kept"]
    lost = [row for row in rows if row["status"] != "kept"]
    of_key = {row["key"]: row for row in kept}
    # File names are untrusted: escape them.
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    page = environment.get_template("report.html.j2").render(
        title=folder.resolve().name,
        options=", ".join(f"{name} {value}" for name, value in options.items()),
        numbers=_numbers(kept, lost),
        plot=_plot(kept) if kept else "",
        reasons=_reasons(lost),
        merges=[(merge, [_picture(folder, of_key[key]) for key in merge.clips]) for merge in merges],
        kept=[dict.fromkeys(_MEASURED) | row | {"picture": _picture(folder, row)} for row in kept[:MOST_ROWS]],
        more_kept=max(len(kept) - MOST_ROWS, 0),
        lost=lost[:MOST_ROWS],
        more_lost=max(len(lost) - MOST_ROWS, 0),
    )
    path = folder / REPORT
    write_whole(path, page.encode())
    return path


def dropped_text(rows: list[dict[str, Any]], report: Path) -> str:
    """Summarize dropped stretches by reason, then by video.

    Args:
        rows (`list[dict]`): Lines of the manifest.
        report (`Path`): The page, for what is left out after 20 lines.

    Returns:
        `str`: Lines that end with a newline; empty if nothing was dropped.
    """
    lost = [row for row in rows if row["status"] != "kept"]
    if not lost:
        return ""
    lines = [f"{'dropped':>7} {'seconds':>8}  reason"]
    lines += [f"{count:7d} {seconds:8.1f}  {reason}" for reason, count, seconds in _reasons(lost)]
    for row in lost[:MOST_LINES]:
        place = f" at {row['first_frame'] / FPS:.1f} s" if "first_frame" in row else ""
        line = f"{row['source']}{place}: {row['reason']}"
        lines.append("".join(sign if sign.isprintable() else "?" for sign in line))  # untrusted names
    if len(lost) > MOST_LINES:
        lines.append(f"and {len(lost) - MOST_LINES} more, see {report}")
    return "\n".join(lines) + "\n"


def _numbers(kept: list[dict[str, Any]], lost: list[dict[str, Any]]) -> list[tuple[str, str]]:
    with_speech = [row for row in kept if row.get("speech")]
    corrected = [row for row in with_speech if row.get("av_offset")]
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
    """Group reasons, ignoring names and numbers: reason, count, seconds."""
    groups: dict[str, list[float]] = defaultdict(list)
    for row in lost:
        reason = re.sub(r"'[^']*'", "'…'", row["reason"])
        groups[re.sub(r"\b\d+(\.\d+)?\b", "N", reason)].append(row.get("seconds") or 0)
    return sorted(((reason, len(all_), sum(all_)) for reason, all_ in groups.items()), key=lambda item: -item[1])


def _picture(folder: Path, row: dict[str, Any]) -> str:
    if "jpg" not in row["files"]:
        return ""
    content = read_member(str(folder / row["shard"]), f"{row['key']}.jpg", *row["files"]["jpg"])
    return base64.b64encode(content).decode()


def _plot(kept: list[dict[str, Any]]) -> str:
    """Draw histograms as base64 PNG."""
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
