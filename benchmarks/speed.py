"""How long each part of a video takes, stage by stage, and how much memory a long recording needs.

    python benchmarks/speed.py [--threads 2] [--json FILE] [--quick]

Beside the time of each stage stands its ratio to a fixed kernel (a matrix product), timed between the repetitions of
the stage itself: on a busy machine both get slower, and the ratio still compares one version of the code with another.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

import osmnet
from osmnet.face.pose import similarity_from_pose
from osmnet.face.warp import MeshWarp
from osmnet.media.audio import FPS, SAMPLING_RATE, load_speech
from osmnet.media.video import VideoWriter
from osmnet.pipeline import OSMNetPipeline

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
KERNEL_SIZE, KERNEL_ROUNDS = 512, 8
BATCH = 16  # frames at a time, as the renderer does it
SIZE = 256  # of the square
IMPORT = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"
IMPORTS = {"import osmnet": "import osmnet", "import pipeline": "from osmnet import OSMNetPipeline"}


class Bench:
    """Times stages and, between their repetitions, the kernel.

    Args:
        repeats (`int`): How often each stage runs; the median counts.
    """

    def __init__(self, repeats: int):
        self.repeats = repeats
        self.rows: list[dict[str, float | str | None]] = []
        self.matrix = torch.rand(KERNEL_SIZE, KERNEL_SIZE, generator=torch.Generator().manual_seed(0))

    def kernel(self) -> float:
        """Seconds of the kernel: eight products of 512 × 512 matrices in float32."""
        start = time.perf_counter()
        for _ in range(KERNEL_ROUNDS):
            torch.mm(self.matrix, self.matrix)
        return time.perf_counter() - start

    def run(self, stage: str, work: Callable[[], object], frames: int | None = None, repeats: int = 0) -> None:
        """Time one stage.

        Args:
            stage (`str`): Its name.
            work (`Callable`): The stage; if it returns a float, that is taken for the seconds.
            frames (`int`, *optional*): Frames it makes: then the time of one is reported, and frames a second.
            repeats (`int`): How often, if not as all stages.
        """
        seconds, kernels = [], [self.kernel()]
        for _ in range(repeats or self.repeats):
            start = time.perf_counter()
            own = work()
            seconds.append(own if isinstance(own, float) else time.perf_counter() - start)
            kernels.append(self.kernel())
        took = statistics.median(seconds) / (frames or 1)
        row = {"stage": stage, "ms": 1000 * took, "kernels": took / statistics.median(kernels), "fps": None}
        if frames:
            row["fps"] = 1 / took
        self.rows.append(row)
        show(row)


def show(row: dict) -> None:
    """Print one line of the table."""
    fps = "" if row["fps"] is None else f"{row['fps']:9.1f}"
    print(f"{row['stage']:<34}{row['ms']:>12.2f}{row['kernels']:>12.2f}{fps:>10}", flush=True)


def import_seconds(statement: str) -> float:
    """Seconds of an import in a fresh interpreter (whose own start is not counted)."""
    folder = str(Path(osmnet.__file__).resolve().parent.parent)
    code = f"import sys; sys.path.insert(0, {folder!r}); " + IMPORT.format(statement)
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def recording(path: Path, seconds: float) -> np.ndarray:
    """The first seconds of a recording, over and over if it is shorter."""
    waveform = load_speech(path)
    return np.resize(waveform, round(seconds * SAMPLING_RATE))


def generate(pipe: OSMNetPipeline, portrait: Path, waveform: np.ndarray, full_frame: bool) -> None:
    """Sound and portrait to a finished file, as `osmnet generate` does it."""
    takes = pipe(
        portrait,
        waveform,
        sampling_rate=SAMPLING_RATE,
        generator=torch.Generator().manual_seed(7),
        full_frame=full_frame,
        output_type="lazy",
    )
    with tempfile.TemporaryDirectory() as folder:
        takes.save(folder, sheet=False)


def peak_memory(model: str | None, device: str, portrait: Path, speech: Path, seconds: float, threads: int) -> float:
    """Largest memory in MB of this process after one take from a long recording; call it in a process of its own."""
    import resource

    if threads:
        torch.set_num_threads(threads)
    pipe = OSMNetPipeline.from_pretrained(model, device=device)
    generate(pipe, portrait, recording(speech, seconds), full_frame=False)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)  # bytes there, kilobytes elsewhere


def measure(args: argparse.Namespace, bench: Bench) -> None:
    """Run all stages."""
    for name, statement in IMPORTS.items():
        bench.run(name, lambda statement=statement: import_seconds(statement))
    bench.run("load", lambda: OSMNetPipeline.from_pretrained(args.model, device=args.device))
    pipe = OSMNetPipeline.from_pretrained(args.model, device=args.device)
    waveform = recording(args.speech, args.seconds)
    generate(pipe, args.portrait, waveform[:SAMPLING_RATE], full_frame=False)  # compiles what is compiled on first use
    seed = torch.Generator()

    source = pipe.encode_source(args.portrait, size=SIZE)
    speech = pipe.encode_speech(waveform, SAMPLING_RATE)
    motion = pipe.sample_motion(speech, generator=seed.manual_seed(7))
    expression = pipe.extract_expression(source, speech)
    frames = speech.num_frames
    bench.run("encode portrait", lambda: pipe.encode_source(args.portrait, size=SIZE))
    bench.run("encode speech", lambda: pipe.encode_speech(waveform, SAMPLING_RATE), frames)
    bench.run("motion", lambda: pipe.sample_motion(speech, generator=seed.manual_seed(7)), frames)
    bench.run("expression", lambda: pipe.extract_expression(source, speech), frames)

    pose = (source.fit.head_pose + motion.head_pose[0])[:BATCH]
    shape = pipe.face_model.move(source.fit.shape, expression[:BATCH] - source.fit.expression)
    similarity = similarity_from_pose(pose, source.size)
    warp = MeshWarp(source.crop, source.fit.shape, source.fit.similarity)
    bench.run("warp", lambda: warp(shape, similarity), len(pose))
    bench.run("network", network_of(pipe, len(pose)), len(pose))
    bench.run("render, square", lambda: deque(pipe.render(source, motion), maxlen=0), frames)
    still = np.ascontiguousarray(np.broadcast_to(source.crop, (frames, *source.crop.shape)))
    noisy = still ^ np.random.default_rng(0).integers(
        0, 4, still.shape, dtype=np.uint8
    )  # no frame is quite like another
    bench.run("encode video", lambda: encode(noisy, waveform), frames)
    bench.run("audio to mp4, square", lambda: generate(pipe, args.portrait, waveform, False), frames)
    bench.run("audio to mp4, full frame", lambda: generate(pipe, args.portrait, waveform, True), frames)


def network_of(pipe: OSMNetPipeline, count: int) -> Callable[[], None]:
    """The video generator on a batch of random pictures."""
    network = pipe.video_generator
    config, side = network.config, network.config.image_size
    driving = torch.rand(count, config.vector_dim, device=pipe.device)
    picture = torch.rand(1, 3, side, side, device=pipe.device)
    more = []
    if config.geometry == "mesh":
        more.append(picture.repeat(count, 1, 1, 1))
        if config.guide_channels:
            more.append(torch.rand(count, config.guide_channels, side, side, device=pipe.device))

    @torch.inference_mode()
    def work() -> None:
        network.decode(picture, driving, *more).sample.cpu()

    return work


def encode(frames: np.ndarray, waveform: np.ndarray) -> None:
    """Write one video."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "take.mp4"
        with VideoWriter(path, frames.shape[1:3], FPS, waveform) as writer:
            for start in range(0, len(frames), BATCH):
                writer.write(frames[start : start + BATCH])


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or Hub id (default: the weights in the package)")
    parser.add_argument("--portrait", type=Path, default=EXAMPLES / "portrait_astronaut.jpg")
    parser.add_argument("--speech", type=Path, default=EXAMPLES / "speech_1.wav")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the recording (default: 10)")
    parser.add_argument("--memory-seconds", type=float, default=60.0, help="the same for memory (default: 60)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each stage; the median counts (default: 3)")
    parser.add_argument("--threads", type=int, default=0, help="threads of PyTorch (default: its own choice)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="2 s, once each, memory of 4 s: only to see that it runs")
    args = parser.parse_args()
    if args.quick:
        args.seconds, args.memory_seconds, args.repeats = 2.0, 4.0, 1
    if args.threads:
        torch.set_num_threads(args.threads)

    bench = Bench(args.repeats)
    bench.kernel()  # the first product starts the threads
    print(f"{'stage':<34}{'ms':>12}{'kernels':>12}{'fps':>10}   (ms and kernels of one frame where fps is given)")
    bench.run("kernel", bench.kernel, repeats=20)
    measure(args, bench)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        job = pool.submit(
            peak_memory, args.model, args.device, args.portrait, args.speech, args.memory_seconds, args.threads
        )
        peak = job.result()
    print(f"peak memory, {args.memory_seconds:g} s of audio: {peak:.0f} MB")
    if args.json:
        report = {
            "osmnet": osmnet.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
            "threads": torch.get_num_threads(),
            "device": args.device,
            "seconds": args.seconds,
            "stages": bench.rows,
            "peak_memory_mb": peak,
            "peak_memory_seconds": args.memory_seconds,
        }
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
