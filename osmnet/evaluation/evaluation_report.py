"""The files of an evaluation: report.json, report.html and report.md."""

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from osmnet.evaluation.metrics.upper_face import FIGURES as UPPER_FACE
from osmnet.evaluation.plots import drift_plot, epsilon_plot, opening_plot, strip, takes_plot
from osmnet.evaluation.protocol import METHODS, ClipResult
from osmnet.evaluation.summary import COLUMNS, Metric, rows
from osmnet.utils.files import write_whole

TEMPLATE = Path(__file__).with_name("report.html.j2")
UNMEASURED: dict[str, Any] = {"clips": 0}
ANGLES = ("yaw", "pitch", "roll")
FIGURES = (("diversity", 2), ("spread", 2), ("speed", 3), ("jerk", 3))  # of head motion, and their digits


def write_report(folder: Path, report: dict[str, Any], results: Sequence[ClipResult]) -> list[Path]:
    """Write the three files into an existing folder, each only when complete.

    Args:
        folder (`Path`): The folder.
        report (`dict`): From `osmnet.evaluation.evaluate`, without NaN.
        results (`Sequence[ClipResult]`): Curves and strips of the clips, for the plots.

    Raises:
        ValueError: If a file cannot be written.
    """
    texts = {
        "report.json": json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "report.html": html(report, results),
        "report.md": markdown(report),
    }
    for name, text in texts.items():
        write_whole(folder / name, text.encode())
    return [folder / name for name in texts]


def markdown(report: dict[str, Any]) -> str:
    """Return the tables in Markdown."""
    split, count = report["settings"]["split"], len(report["clips"])
    methods = list(report["mean_by_length"])
    lines = [
        f"{count} clips ({split}), {report['seconds']:.0f} seconds; mean by length.",
        "",
        "| | unit | | " + " | ".join(COLUMNS[method] for method in methods) + " |",
        "| --- | --- | --- |" + " --- |" * len(methods),
    ]
    for metric, values in rows(report["mean_by_length"]):
        cells = " | ".join(number(values[method], metric.digits) for method in methods)
        lines.append(f"| {metric.label} | {metric.unit} | {metric.arrow} | {cells} |")
    motion = report["motion"]
    if motion.get("by_epsilon"):
        real = motion["real"]
        lines += [
            "",
            f"Head motion, {motion['takes']} takes of {motion['clips']} clips, against the real heads (in brackets: "
            "ratios to them):",
            "",
            "| | Diversity | spread | speed | jerk | between takes | Fréchet distance |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        for row in [*motion["by_epsilon"], *motion["other_sampling"]]:
            ratios = [f"{number(row[name], digits)}° ({number(row[f'{name}_ratio'], 2)})" for name, digits in FIGURES]
            last = f"{number(row['pairwise'], 2)}° | {number(row['frechet'], 2)}"
            how = f", sampling {row['sampling']}" if "sampling" in row else ""
            lines.append(f"| ε = {row['epsilon']:g}{how} | {' | '.join(ratios)} | {last} |")
        absolute = [f"{number(real[name], digits)}°" for name, digits in FIGURES]
        lines.append(f"| real | {' | '.join(absolute)} | — | {number(real['frechet'], 2)} |")
        lines.append(f"| static | 0 | 0 | 0 | 0 | 0° | {number(motion['static_frechet'], 2)} |")
        drift = motion["drift"]
        reached = zip(ANGLES, drift["largest"], drift["last_minute"], drift["real_99"], strict=True)
        angles = "; ".join(
            f"{name} {number(largest, 1)}° ({number(mean, 1)}°, {number(real_99, 1)}°)"
            for name, largest, mean, real_99 in reached
        )
        lines += [
            "",
            f"Farthest from the portrait in {drift['minutes']:g} min of speech at ε = 1 (in brackets the mean of the "
            f"last minute, and what 99 % of real heads stay within): {angles}.",
        ]
    upper = report.get("upper_face", UNMEASURED)  # reports of older versions have none
    if upper["clips"]:
        lines += [
            "",
            f"Brows, gaze and lids at ε = 1, {upper['takes']} takes of {upper['clips']} clips, not rendered; "
            f"upper-face dynamics deviation (FDD) {number(upper['fdd'], 1)} thousandths of a head unit:",
            "",
            "| | unit | sampled | real | ratio |",
            "| --- | --- | --- | --- | --- |",
        ]
        for name, (label, unit, digits) in UPPER_FACE.items():
            places = (("sampled", digits), ("real", digits), ("ratio", 2))
            cells = " | ".join(number(upper[row][name], count) for row, count in places)
            lines.append(f"| {label} | {unit} | {cells} |")
    lines += ["", "What was aimed at:", "", "| | aim | here | |", "| --- | --- | --- | --- |"]
    for name, aim, value, digits, is_reached in aims(report):
        verdict = "—" if is_reached is None else "reached" if is_reached else "missed"
        lines.append(f"| {name} | {aim} | {number(value, digits)} | {verdict} |")
    for note in report["notes"]:
        lines += ["", note]
    return "\n".join(lines) + "\n"


def aims(report: dict[str, Any]) -> list[tuple[str, str, float | None, int, bool | None]]:
    """Compare a report with the aims for unseen speakers.

    Args:
        report (`dict`): From `osmnet.evaluation.evaluate`.

    Returns:
        `list` of `(name, aim, figure, digits, reached)`: Figure and `reached` are `None` if not measured.
    """
    ours, static, oracle, real = (report["mean_by_length"][method] for method in METHODS)
    motion = report["motion"]
    sampled: dict[str, Any] = next((row for row in motion.get("by_epsilon", []) if row["epsilon"] == 1), {})
    drift = motion.get("drift", {})
    upper = report.get("upper_face", UNMEASURED).get("ratio", {})
    yaw, yaw_99 = (drift.get(name, [None])[0] for name in ("largest", "real_99"))
    gain = oracle["ssim"] - static["ssim"] if "ssim" in oracle and "ssim" in static else None
    rows = [
        ("mouth opening, correlation", 0.75, None, ours.get("opening_correlation"), 2),
        ("mouth width, correlation", 0.70, None, ours.get("width_correlation"), 2),
        ("mouth opening, amplitude, of real", 0.8, 1.2, ours.get("amplitude"), 2),
        ("LMD of the lips without pose, of static", None, 0.70, _ratio(ours, static, "lmd_lips"), 2),
        ("SSIM, oracle above static", 0.08, None, gain, 3),
        ("sharpness, of real", 0.9, 1.1, ours.get("sharpness"), 2),
        ("CPBD, of real", 0.9, 1.1, _ratio(ours, real, "cpbd"), 2),
        ("head motion at ε = 1, spread, of real", 0.8, None, sampled.get("spread_ratio"), 2),
        ("head motion at ε = 1, jerk, of real", 0.5, 1.5, sampled.get("jerk_ratio"), 2),
        ("brows at ε = 1, standard deviation, of real", 0.7, 1.1, upper.get("brows"), 2),
        ("gaze at ε = 1, standard deviation, of real", 0.7, 1.1, upper.get("gaze"), 2),
        (f"largest yaw in {drift.get('minutes', 5):g} min, degrees", None, yaw_99, yaw, 1),
        ("frames with a face found", 0.995, None, ours.get("faces_found"), 3),
    ]
    return [(name, _within(low, high, digits), value, digits, None if value is None else
             (low is None or value >= low) and (high is None or value <= high))
            for name, low, high, value, digits in rows]  # fmt: skip


def _ratio(ours: dict[str, Any], other: dict[str, Any], name: str) -> float | None:
    return ours[name] / other[name] if ours.get(name) is not None and other.get(name) else None


def _within(low: float | None, high: float | None, digits: int) -> str:
    if low is None:
        return "≤ " + number(high, digits)
    return f"≥ {low:.{digits}f}" if high is None else f"{low:.{digits}f} to {high:.{digits}f}"


def html(report: dict[str, Any], results: Sequence[ClipResult]) -> str:
    """Return the report as one self-contained page."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": number, "image": _data_address}
    motion, methods = report["motion"], list(report["mean_by_length"])
    plots = {}
    if motion.get("by_epsilon"):
        plots = {
            "takes": takes_plot(motion["curves"]["takes"], motion["curves"]["real"]),
            "epsilon": epsilon_plot(motion["by_epsilon"], motion["real"]),
            "drift": drift_plot(motion["curves"]["long"], motion["drift"]["real_99"]),
        }
    clips = [
        {
            "name": result.name,
            "seconds": result.seconds,
            "rows": rows(clip["metrics"]),
            "plot": opening_plot(result.curves),
            "strips": {method: strip(result.strips[method]) for method in ("real", "ours", "oracle")},
        }
        for result, clip in zip(results, report["clips"], strict=True)
    ]
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        report=report, motion=motion, plots=plots, clips=clips, methods=methods, columns=COLUMNS, angles=ANGLES,
        figures_of_motion=FIGURES, upper=report.get("upper_face", UNMEASURED), figures_of_upper_face=UPPER_FACE,
        aims=aims(report),
        rows=[(metric, values, _plain(report, metric)) for metric, values in rows(report["mean_by_length"])],
    )  # fmt: skip


def _plain(report: dict[str, Any], metric: Metric) -> dict[str, float | None]:
    return {method: mean.get(metric.name) for method, mean in report["mean_plain"].items()}


def number(value: float | None, digits: int = 2) -> str:
    """Format a figure for a table; `None` becomes a dash."""
    if value is None:
        return "—"
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if not float(text) else text  # no "-0.00"


def _data_address(content: bytes) -> str:
    kind = "png" if content.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
