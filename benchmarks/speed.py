"""How fast videos are made, from sound and portrait to finished files, and how much memory it takes.

    python benchmarks/speed.py [--threads 2] [--long] [--out FOLDER] [--readme README.md]

Every scenario runs in a process of its own, so that its largest memory is its own. Beside each time stands its ratio
to a fixed kernel (benchmarks/calibration.py), timed before and after: on a busy machine both get slower, and the ratio
still compares one version of the code, or one machine, with another.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from calibration import Kernel

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
MARKS = "<!-- speed: made by benchmarks/speed.py -->", "<!-- /speed -->"
IMPORTS = {"import osmnet": "import osmnet", "import the pipeline": "from osmnet import OSMNetPipeline"}


@dataclass(frozen=True)
class Scenario:
    """One request.

    Attributes:
        name (`str`): What the tables call it.
        seconds (`float`): Length of the recording.
        takes (`int`): Takes at once.
        size (`int`): Side of the square; 0 for the whole picture.
        long (`bool`): Only with `--long`.
        stop_after (`float`): Seconds of video after which it stops, for memory that has been level for long; 0 for the
            whole of it.
    """

    name: str
    seconds: float
    takes: int = 1
    size: int = 256
    long: bool = False
    stop_after: float = 0


SCENARIOS = (
    Scenario("256 × 256, 10 s", 10),
    Scenario("256 × 256, 10 s, 4 takes", 10, takes=4),
    Scenario("512 × 512, 10 s", 10, size=512),
    Scenario("512 × 512, 10 s, 4 takes", 10, takes=4, size=512),
    Scenario("whole picture, 10 s", 10, size=0),
    Scenario("256 × 256, 5 min", 300, long=True),
    Scenario("256 × 256, 60 min", 3600, long=True),
    Scenario("256 × 256, 60 min, 4 takes, first 5 min of it", 3600, takes=4, long=True, stop_after=300),
)


class Enough(Exception):
    """The scenario has run as far as it is meant to."""


def recording(path: Path, seconds: float, folder: Path) -> Path:
    """A file of that length: the example over and over, as 16-bit WAV."""
    import soundfile

    from osmnet.media.audio import SAMPLING_RATE, load_speech

    waveform, file = load_speech(path), folder / "speech.wav"
    left = round(seconds * SAMPLING_RATE)
    with soundfile.SoundFile(file, "w", SAMPLING_RATE, 1, "PCM_16") as writer:
        while left > 0:
            writer.write(waveform[:left])
            left -= len(waveform)
    return file


def run(scenario: Scenario, args: argparse.Namespace) -> dict[str, Any]:
    """Measure one scenario; call it in a process of its own."""
    import resource

    import torch

    from osmnet.pipelines.osm_net.pipeline_osm_net import OSMNetPipeline
    from osmnet.utils.profiling import Profile
    from osmnet.utils.threads import default_workers

    if args.threads:
        torch.set_num_threads(args.threads)
    kernel = Kernel()
    with tempfile.TemporaryDirectory() as folder:
        speech = recording(args.speech, scenario.seconds, Path(folder))
        start = time.perf_counter()
        pipe = OSMNetPipeline.from_pretrained(args.model, device=args.device)
        load = time.perf_counter() - start
        options = {"num_videos": scenario.takes, "full_frame": scenario.size == 0, "size": scenario.size or None}

        def make() -> Any:
            return pipe(
                args.portrait, speech, generator=torch.Generator().manual_seed(7), output_type="lazy", **options
            )

        def stop(done: int, _: int) -> None:
            if scenario.stop_after and done >= scenario.stop_after * 25 * scenario.takes:
                raise Enough

        stream = pipe.stream(args.portrait, args.speech, **options)  # compiles what is compiled on first use
        next(stream)
        stream.close()
        firsts, totals, kernels = [], [], [kernel.seconds()]
        for _ in range(1 if scenario.long else args.repeats):
            start = time.perf_counter()
            stream = make().stream()
            next(stream)
            firsts.append(time.perf_counter() - start)
            stream.close()
            with Profile() as profile:
                start = time.perf_counter()
                takes = make()
                began = time.perf_counter()
                try:
                    takes.save(Path(folder) / "out", sheet=False, progress=stop)
                    frames = takes.head_pose.shape[0] * takes.head_pose.shape[1]
                except Enough:  # encoding and sampling an hour is not part of the five minutes
                    start, frames = began, round(scenario.stop_after * 25) * scenario.takes
            totals.append((time.perf_counter() - start) / frames)
            kernels.append(kernel.seconds())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    took, unit = statistics.median(totals), statistics.median(kernels)
    return asdict(scenario) | {
        "fps": 1 / took,
        "kernels_per_frame": took / unit,
        "first_frames_s": statistics.median(firsts),
        "first_frames_kernels": statistics.median(firsts) / unit,
        "load_s": load,
        "kernel_ms": 1000 * unit,
        "peak_memory_mb": peak,
        "workers": default_workers(),
        "profile": profile.as_dict(frames),
    }


def import_seconds(statement: str) -> float:
    """Seconds of an import in a fresh interpreter, whose own start is not counted; the best of three."""
    code = f"import sys, time; sys.path.insert(0, {str(ROOT)!r}); t = time.perf_counter(); {statement}; "
    code += "print(time.perf_counter() - t)"
    command = [sys.executable, "-c", code]
    return min(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for _ in range(3))


def table(rows: list[dict[str, Any]]) -> str:
    """Draw the results in Markdown."""
    heads = ("sound and portrait to finished mp4", "frames a second", "kernels a frame", "first frames", "memory")
    lines = [f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads)]
    for row in rows:
        lines.append(
            f"| {row['name']} | {row['fps']:.0f} | {row['kernels_per_frame']:.2f} | {row['first_frames_s']:.2f} s | "
            f"{row['peak_memory_mb']:.0f} MB |"
        )
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw where the processor time of a frame goes, a bar a scenario."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for row in rows for name in row["profile"]["spans"]))
    figure = Figure(figsize=(9, 1.2 + 0.45 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    left = np.zeros(len(rows))
    for name in names:
        spans = [row["profile"]["spans"].get(name, {}) for row in rows]
        width = np.array([span.get("cpu_ms_per_frame", 0.0) for span in spans])
        if width.max() > 0.05:
            axes.barh(range(len(rows)), width, left=left, label=name)
        left += width
    axes.set_yticks(range(len(rows)), [f"{row['name']}\n{row['fps']:.0f} frames/s" for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("processor time of a frame [ms], all threads together")
    axes.legend(ncols=5, fontsize=8, loc="lower center", bbox_to_anchor=(0.4, 1.0), frameon=False)
    figure.savefig(path, dpi=120)


def write_readme(path: Path, text: str) -> None:
    """Put the table between its marks."""
    content = path.read_text(encoding="utf-8")
    begin, end = (content.index(mark) for mark in MARKS)
    path.write_text(f"{content[: begin + len(MARKS[0])]}\n{text}\n{content[end:]}", encoding="utf-8")


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or Hub id (default: the weights in the package)")
    parser.add_argument("--portrait", type=Path, default=EXAMPLES / "portrait_astronaut.jpg")
    parser.add_argument("--speech", type=Path, default=EXAMPLES / "speech_1.wav")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each short scenario; the median counts")
    parser.add_argument("--threads", type=int, default=0, help="chunks rendered side by side (default: PyTorch's own)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", help="scenarios whose name has this in it")
    parser.add_argument("--long", action="store_true", help="also 5 and 60 minutes of sound: some 20 minutes in all")
    parser.add_argument("--quick", action="store_true", help="one second, once: only to see that it runs")
    parser.add_argument("--out", type=Path, help="folder for speed.json and speed.png")
    parser.add_argument("--readme", type=Path, help="file whose table is made anew")
    args = parser.parse_args()
    scenarios = [s for s in SCENARIOS if (args.long or not s.long) and (args.only or "") in s.name]
    if args.quick:
        args.repeats, scenarios = 1, [Scenario("256 × 256, 1 s", 1), Scenario("256 × 256, 1 s, 2 takes", 1, takes=2)]

    imports = {name: import_seconds(statement) for name, statement in IMPORTS.items()}
    for name, seconds in imports.items():
        print(f"{name}: {seconds:.2f} s")
    rows = []
    for scenario in scenarios:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            rows.append(pool.submit(run, scenario, args).result())
        row = rows[-1]
        print(
            f"{row['name']:<46}{row['fps']:>7.1f} frames/s{row['kernels_per_frame']:>8.2f} kernels a frame"
            f"{row['first_frames_s']:>7.2f} s to the first{row['peak_memory_mb']:>7.0f} MB",
            flush=True,
        )
    print(f"load: {rows[-1]['load_s']:.2f} s; kernel: {rows[-1]['kernel_ms']:.1f} ms; workers: {rows[-1]['workers']}")
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        report = {
            "python": platform.python_version(),
            "machine": platform.machine(),
            "device": args.device,
            "imports_s": imports,
            "scenarios": rows,
        }
        (args.out / "speed.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        plot(rows, args.out / "speed.png")
    if args.readme:
        write_readme(args.readme, table(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
