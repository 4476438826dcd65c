"""Report of fine-tuning as JSON, Markdown and a picture."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from osmnet.evaluation.protocol import STRIP_SIDE, ClipResult
from osmnet.evaluation.summary import METRICS, Metric
from osmnet.utils.files import make_folder, write_whole

# Metrics of the protocol that fine-tuning should improve or must not spoil, by method.
SHOWN = {
    "ours": (
        "opening_correlation", "width_correlation", "amplitude", "lmd_mouth_px", "lmd_lips", "lse_c",
        "judge_confidence", "silence_motion", "ssim", "psnr", "sharpness", "identity", "flicker",
    ),
    "oracle": ("lmd_lips", "ssim", "psnr", "sharpness"),
}  # fmt: skip
METHODS = {"ours": "", "oracle": ", true motion"}


def compare(before: Sequence[ClipResult], after: Sequence[ClipResult]) -> list[dict[str, Any]]:
    """Compare two measurements of clips.

    Args:
        before (`Sequence[ClipResult]`): Of the starting model.
        after (`Sequence[ClipResult]`): Of the adapted model; clips in one list only are ignored.

    Returns:
        `list[dict]`: For each figure of some clip in both: `method`, `metric`, `label`, `better` (direction), `before`
        and `after` (means over the clips, rounded as shown) and `change`: `"better"`, `"worse"` or `"same"`.
    """
    both = [(a, b) for a in before for b in after if a.name == b.name]
    rows = []
    for method, names in SHOWN.items():
        for metric in (metric for metric in METRICS if metric.name in names):
            values = [
                [run.metrics[method].get(metric.name, math.nan) for run in pair]
                + [pair[0].metrics["real"].get(metric.name, math.nan)]
                for pair in both
            ]
            finite = [row for row in values if np.isfinite(row[:2]).all()]
            if not finite:
                continue
            first, last, real = (float(value) for value in np.mean(finite, 0))
            first, last = (round(value, metric.digits) for value in (first, last))
            unit = f" [{metric.unit}]" if metric.unit else ""
            rows.append({
                "method": method, "metric": metric.name, "label": f"{metric.label}{METHODS[method]}{unit}",
                "better": metric.arrow, "before": first, "after": last, "digits": metric.digits,
                "change": _change(_error(metric, first, real), _error(metric, last, real)),
            })  # fmt: skip
    return rows


def _error(metric: Metric, value: float, real: float) -> float:
    if metric.better in ("higher", "lower"):
        return -value if metric.better == "higher" else value
    if metric.better == "one":
        return abs(math.log(max(value, 1e-6)))
    return abs(value - (real if metric.better == "real" else 0.0))


def _change(before: float, after: float) -> str:
    return "same" if before == after else ("better" if after < before else "worse")


def text(report: dict[str, Any]) -> str:
    """Format a report as Markdown.

    Args:
        report (`dict`): The content of `finetune.json`.

    Returns:
        `str`: Lines, the last ended.
    """
    return f"# Fine-tuned from {report['model']}\n\n{table(report)}"


def table(report: dict[str, Any]) -> str:
    """Format a report without its heading."""
    clips, seconds = report["held_out"], report["seconds"]
    lines = [
        f"Measured on {len(clips)} held-out clip{'s' * (len(clips) > 1)} ({', '.join(clips)}; at most {seconds:g} s "
        "of each), which nothing was trained on.",
        "",
        stage_lines(report),
    ]
    if not any(row["kept"] for row in report["stages"].values()):
        lines += ["", "Nothing was kept: this is the starting model. Record more, or take fewer steps."]
    lines += ["", figure_table(report), ""]
    for change in ("better", "worse"):
        labels = [row["label"] for row in report["figures"] if row["change"] == change]
        lines.append(
            f"{change.capitalize()} than before: {'; '.join(labels)}."
            if labels
            else f"No figure is {change} than before."
        )
    return "\n".join([*lines, ""])


def stage_lines(report: dict[str, Any]) -> str:
    """List the stages and their own figures in Markdown."""
    lines = []
    for stage, row in report["stages"].items():
        outcome = "kept" if row["kept"] else "NOT BETTER: the components from before stay"
        figure = f"{row['figure']} ({row['better']}) {row['before']:.3f} → {row['after']:.3f}"
        lines.append(f"- {stage}, {row['steps']} steps: {figure} on held-out clips; {outcome}.")
    return "\n".join(lines)


def figure_table(report: dict[str, Any]) -> str:
    """Format the figures as a Markdown table."""
    width = max((len(row["label"]) for row in report["figures"]), default=6)
    lines = [f"| {'figure':{width}} | better | before | after | |", f"|{'-' * (width + 2)}|---|---|---|---|"]
    for row in report["figures"]:
        mark = {"better": "better", "same": "same", "worse": "WORSE"}[row["change"]]
        before, after = (f"{row[when]:.{row['digits']}f}" for when in ("before", "after"))
        lines.append(f"| {row['label']:{width}} | {row['better']} | {before} | {after} | {mark} |")
    return "\n".join(lines)


def write(report: dict[str, Any], measured: Mapping[str, Sequence[ClipResult]], out: Path) -> None:
    """Write `finetune.json`, `finetune.md` and `finetune.png` (frames: real, before, after).

    Args:
        report (`dict`): Content of `finetune.json`.
        measured (`Mapping[str, Sequence[ClipResult]]`): Results `"before"` and `"after"`.
        out (`Path`): Folder.

    Raises:
        ValueError: If the folder cannot be written.
    """
    buffer = io.BytesIO()
    _picture(measured).save(buffer, format="PNG")
    contents = {
        "finetune.png": buffer.getvalue(),
        "finetune.md": text(report).encode(),
        "finetune.json": (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode(),
    }
    make_folder(out)
    for name, content in contents.items():
        write_whole(out / name, content)


def _picture(measured: Mapping[str, Sequence[ClipResult]]) -> Image.Image:
    label, gap = 72, 14
    rows: list[tuple[str, np.ndarray]] = []
    for before, after in ((a, b) for a in measured["before"] for b in measured["after"] if a.name == b.name):
        rows += [("real", before.strips["real"]), ("before", before.strips["ours"]), ("after", after.strips["ours"])]
    columns = len(rows[0][1])
    height = len(rows) * STRIP_SIDE + (len(rows) // 3) * gap
    page = Image.new("RGB", (label + columns * STRIP_SIDE, height), "white")
    draw = ImageDraw.Draw(page)
    for number, (name, strip) in enumerate(rows):
        top = number * STRIP_SIDE + number // 3 * gap
        draw.text((8, top + STRIP_SIDE // 2 - 6), name, fill="#1c2330", font_size=14)
        for column, frame in enumerate(strip):
            page.paste(Image.fromarray(frame), (label + column * STRIP_SIDE, top))
    return page
