"""Draw the layers of the package for docs/architecture.md, from the contract in pyproject.toml.

python scripts/architecture_figure.py --output docs/architecture.svg
"""

import argparse
import sys
import tomllib
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.patches import FancyBboxPatch  # noqa: E402

REPOSITORY = Path(__file__).resolve().parent.parent
# Contents of a package, and the numbered hops of a call that happen in it.
PACKAGES = {
    "cli": ("one module a command, the only argparse", "1"),
    "training": ("core/ · osm_net/: stages", ""),
    "serving": ("jobs, limits, caches", ""),
    "evaluation": ("protocol, report · metrics/ · figures/", ""),
    "pipelines": ("talking_head.py: all families · options.py · osm_net/: one family", "2 3 4"),
    "takes": ("output.py: data · writer.py: files · contact sheet, resuming", "5"),
    "rendering": ("renderers for CPU and GPU", "6"),
    "data": ("raw videos to datasets", ""),
    "provenance": ("label, signed manifest, verify", "7"),
    "structures": ("Source, Speech, Motion, StreamChunk", ""),
    "models": ("networks: osm_net/, one folder a family", "3 4"),
    "face": ("landmarks, crop, face model, warp", "2"),
    "media": ("sound, pictures, video", "3 7"),
    "loading": ("weights, folders, Hub", ""),
    "utils": ("files, threads, profiling, checks", ""),
}
HOPS = {
    "1": "arguments → options",
    "2": "encode_source: portrait → Source",
    "3": "encode_speech: sound → Speech",
    "4": "sample_motion: Speech → Motion",
    "5": "save: takes → files",
    "6": "render: Source, Motion → frames",
    "7": "frames → signed mp4",
}
WIDTH, INNER, ROW, GAP = 10.4, 7.2, 0.44, 0.1  # inches
FILL, EDGE, INK, ACCENT = "#f3f5f9", "#9aa7bd", "#1c2536", "#2f5fb3"


def layers() -> list[list[str]]:
    """Return the packages of each layer, top first."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    rows = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [[name.strip().removeprefix("osmnet.") for name in row.split("|")] for row in rows]


def draw_box(axes: Axes, name: str, left: float, top: float, width: float) -> None:
    """Draw one package: its name, its contents, and the hops in it."""
    text, hops = PACKAGES[name]
    middle = top - ROW / 2
    style = {"boxstyle": "round,pad=0,rounding_size=0.06", "fc": FILL, "ec": EDGE, "lw": 1}
    axes.add_patch(FancyBboxPatch((left, top - ROW), width, ROW, **style))
    axes.text(left + 0.14, middle, name, weight="bold", size=10.5, color=INK, va="center")
    axes.text(left + 1.3, middle, text, size=8, color=INK, va="center")
    for place, hop in enumerate(reversed(hops.split())):
        draw_hop(axes, hop, left + width - 0.22 - 0.28 * place, middle)


def draw_hop(axes: Axes, hop: str, x: float, y: float) -> None:
    """Draw the number of a hop."""
    axes.scatter([x], [y], s=150, color=ACCENT, zorder=3)
    axes.text(x, y - 0.005, hop, size=8.5, color="white", weight="bold", ha="center", va="center", zorder=4)


def draw(rows: list[list[str]]) -> plt.Figure:
    """Draw the figure."""
    height = len(rows) * (ROW + GAP) + 0.35
    figure, axes = plt.subplots(figsize=(WIDTH, height), facecolor="white")
    figure.subplots_adjust(0, 0, 1, 1)
    axes.set(xlim=(0, WIDTH), ylim=(0, height))
    axes.axis("off")
    for number, names in enumerate(rows):
        top = height - 0.2 - number * (ROW + GAP)
        width = (INNER - GAP * (len(names) - 1)) / len(names)
        for place, name in enumerate(names):
            draw_box(axes, name, 0.5 + place * (width + GAP), top, width)
    axes.annotate("", (0.3, 0.25), (0.3, height - 0.25), arrowprops={"arrowstyle": "-|>", "color": EDGE, "lw": 1.5})
    axes.text(0.15, height / 2, "imports point down", size=8, color=INK, rotation=90, va="center", ha="center")
    left = 0.5 + INNER + 0.25
    axes.text(left, height - 0.42, "osmnet generate", size=10, color=INK, weight="bold", va="center")
    for number, (hop, text) in enumerate(HOPS.items()):
        y = height - 0.8 - 0.38 * number
        draw_hop(axes, hop, left + 0.12, y)
        axes.text(left + 0.34, y, text, size=8, color=INK, va="center")
    return figure


def main(argv: list[str] | None = None) -> int:
    """Write the figure as SVG, and as PNG beside it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=REPOSITORY / "docs" / "architecture.svg")
    arguments = parser.parse_args(argv)
    # Text stays text, and nothing in the file changes from run to run.
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "osmnet", "font.family": "DejaVu Sans"}):
        figure = draw(layers())
        figure.savefig(arguments.output, metadata={"Date": None, "Creator": None})
        figure.savefig(arguments.output.with_suffix(".png"), dpi=150, metadata={"Software": None})
    plt.close(figure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
