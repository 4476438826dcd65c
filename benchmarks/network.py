"""Speed of the video generator alone, by shape of the network, runtime and precision.

    python benchmarks/network.py [--shape base_channels=24,max_channels=256] [--model FOLDER] [--json FILE]

Runtimes take turns on one thread. The fastest turn counts, in processor time, which other programs hardly change, and
as a ratio to the fixed kernel of calibration.py. Weights are random unless a model is given. ONNX Runtime, OpenVINO
and torch.compile are measured where they are installed (the last needs a C++ compiler); osmnet itself needs none of
them.
"""

import argparse
import copy
import importlib.util
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from calibration import Kernel
from torch import nn

from osmnet.models.layers import ConvBlock
from osmnet.models.osm_net.video_generator import VideoGenerator
from osmnet.rendering.decoders.fused import AT_ONCE, FusedDecoder

SHAPES = ("base_channels=16,max_channels=64", "base_channels=24,max_channels=256")
BATCH = 16  # frames, as the renderer gives them
GUIDES = 4
PAINTED = 40, 84  # rows and columns of a window of 128 pixels, the median of held-out pictures
Run = Callable[[], tuple[torch.Tensor, torch.Tensor]]


def network_of(shape: str) -> VideoGenerator:
    """Make a network with random weights from `name=value,...`."""
    given = dict(part.split("=") for part in shape.split(",") if part)
    torch.manual_seed(0)
    fixed = {"image_size": 128, "stem_stride": 2, "guide_channels": GUIDES}
    return VideoGenerator(**(fixed | {name: int(value) for name, value in given.items()})).eval()


def inputs_of(network: VideoGenerator) -> list[torch.Tensor]:
    """Make a source picture, driving vectors, warped pictures and guides."""
    size = network.config.image_size
    torch.manual_seed(1)
    source, warped = torch.rand(1, 3, size, size) * 2 - 1, torch.rand(BATCH, 3, size, size) * 2 - 1
    guide = torch.rand(BATCH, GUIDES, size, size)
    rows, columns = (size * side // 128 for side in PAINTED)
    outside = torch.ones(size, size)
    outside[size // 2 - rows // 2 : size // 2 + rows // 2, size // 2 - columns // 2 : size // 2 + columns // 2] = 0
    guide[:, 0] *= 1 - outside
    return [source, torch.randn(BATCH, network.config.vector_dim), warped, guide]


@torch.inference_mode()
def floors(network: VideoGenerator, inputs: list[torch.Tensor]) -> dict[str, float]:
    """Count multiply-adds of a frame and parameters, in millions, and MB that the fused form moves.

    Every convolution reads its input and writes its output, every normalisation reads a map twice and writes it, in
    float32, and all weights are read once for the frames of a batch.
    """
    macs, moved, parameters = 0, 0, 0

    def count(module: nn.Module, given: tuple, made: torch.Tensor) -> None:
        nonlocal macs, moved, parameters
        if isinstance(module, ConvBlock):
            moved += 3 * made.numel()
            return
        weights = cast(torch.Tensor, module.weight).numel()
        places = given[0] if isinstance(module, nn.ConvTranspose2d) else made
        macs += places.shape[2] * places.shape[3] * weights
        moved += given[0].numel() + made.numel() + weights / AT_ONCE
        parameters += weights

    kinds = (nn.Conv2d, nn.ConvTranspose2d, ConvBlock)
    hooks = [module.register_forward_hook(count) for module in network.modules() if isinstance(module, kinds)]
    network.decode(inputs[0], *(value[:1] for value in inputs[1:]))
    for hook in hooks:
        hook.remove()
    return {"mmacs": macs / 1e6, "weights_m": parameters / 1e6, "moved_mb": 4 * moved / 1e6}


class Drawing(nn.Module):
    """The network with one source picture, tensors in and out, for other runtimes."""

    source: torch.Tensor

    def __init__(self, network: VideoGenerator, source: torch.Tensor):
        super().__init__()
        self.network = network
        self.register_buffer("source", source)

    def forward(self, vectors: torch.Tensor, warped: torch.Tensor, guide: torch.Tensor) -> Any:
        """Return residual and mask."""
        output = self.network.decode(self.source, vectors, warped, guide)
        return output.residual, output.mask


def runs_of(network: VideoGenerator, inputs: list[torch.Tensor], folder: Path) -> dict[str, Run]:
    """Return a function for each installed runtime."""
    source, *rest = inputs
    plain = Drawing(network, source).eval()
    half = Drawing(copy.deepcopy(network).bfloat16(), source).eval()
    runs: dict[str, Run] = {
        "eager, float32": lambda: plain(*rest),
        "eager, bfloat16": lambda: half(*rest),
    }
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        decoder = FusedDecoder(network, source, dtype)
        runs[f"fused, {name}"] = partial(decoder, *rest)
    if shutil.which("c++"):
        compiled = torch.compile(plain, dynamic=False)
        runs["torch.compile, float32"] = lambda: compiled(*rest)
    arrays = [value.numpy() for value in rest]
    if importlib.util.find_spec("openvino"):
        runs |= openvino_runs(plain, rest, arrays)
    if importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("onnx"):
        runs |= onnx_runs(plain, rest, arrays, folder)
    return runs


def openvino_runs(plain: nn.Module, rest: list[torch.Tensor], arrays: list[np.ndarray]) -> dict[str, Run]:
    """Run OpenVINO frame by frame: 2026.4 crashes on larger batches of some shapes, and dynamic sizes cost a tenth."""
    import openvino

    one = [value[:1] for value in rest]
    model = openvino.convert_model(plain, example_input=tuple(one), input=[(list(value.shape),) for value in one])
    core = openvino.Core()
    runs: dict[str, Run] = {}
    for name, hint in (("float32", "f32"), ("bfloat16", "bf16")):
        settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": hint}
        request = core.compile_model(model, "CPU", settings).create_infer_request()

        def run(request: Any = request) -> tuple[torch.Tensor, torch.Tensor]:
            made: tuple[list, list] = ([], [])
            for i in range(BATCH):
                frame = request.infer([value[i : i + 1] for value in arrays], share_inputs=True)
                for k in range(2):
                    made[k].append(torch.from_numpy(frame[k]))
            return torch.cat(made[0]), torch.cat(made[1])

        runs[f"OpenVINO, {name}"] = run
    return runs


def onnx_runs(plain: nn.Module, rest: list[torch.Tensor], arrays: list[np.ndarray], folder: Path) -> dict[str, Run]:
    """ONNX Runtime in float32, and in int8 with ranges from the very batch that is drawn, which flatters it."""
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    names = ["vectors", "warped", "guide"]
    path, ready, int8 = (folder / f"{name}.onnx" for name in ("plain", "ready", "int8"))
    torch.onnx.export(plain, tuple(rest), path, input_names=names, opset_version=18, dynamo=False)
    batch = dict(zip(names, arrays, strict=True))

    class Batches(CalibrationDataReader):
        left = [batch]

        def get_next(self) -> dict | None:
            return self.left.pop() if self.left else None

    quant_pre_process(path, ready)
    quantize_static(ready, int8, Batches(), op_types_to_quantize=["Conv", "ConvTranspose"], per_channel=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    runs: dict[str, Run] = {}
    for name, file in (("float32", path), ("int8", int8)):
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

        def run(session: Any = session) -> tuple[torch.Tensor, torch.Tensor]:
            residual, mask = (torch.from_numpy(value) for value in session.run(None, batch))
            return residual, mask

        runs[f"ONNX Runtime, {name}"] = run
    return runs


def processor_seconds(work: Callable[[], object]) -> float:
    """Time on the processor."""
    start = time.process_time()
    work()
    return time.process_time() - start


@torch.inference_mode()
def measure(shape: str, network: VideoGenerator, repeats: int, kernel: Kernel) -> list[dict[str, Any]]:
    """Measure one shape in all runtimes."""
    inputs = inputs_of(network)
    size = floors(network, inputs)
    print(f"\n{shape}: {size['mmacs']:.0f} M multiply-adds, {size['weights_m']:.2f} M weights, "
          f"{size['moved_mb']:.1f} MB moved a frame")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        runs = runs_of(network, inputs, Path(folder))
        made = {name: [value.clone() for value in run()] for name, run in runs.items()}
        took: dict[str, list[float]] = {name: [] for name in runs}
        units = []
        for _ in range(repeats):
            for name, run in runs.items():
                took[name].append(processor_seconds(run) / BATCH)
            units.append(processor_seconds(kernel.seconds) / 5)  # it runs five times
    rows = []
    for name in runs:
        seconds = min(took[name])
        error = (made[name][0] - made["eager, float32"][0]).abs() * 127.5
        row = {
            "shape": shape, "runtime": name, "ms": 1000 * seconds, "kernels": seconds / min(units),
            "gflops": 2 * size["mmacs"] / 1000 / seconds, "error_max": float(error.max()), **size,
        }  # fmt: skip
        rows.append(row)
        print(f"  {name:<24}{row['ms']:8.2f} ms{row['kernels']:8.3f} kernels{row['gflops']:7.0f} GFLOPS"
              f"{row['error_max']:8.3f} grey levels off at most", flush=True)  # fmt: skip
    return rows


def threads_of(shape: str, network: VideoGenerator, repeats: int) -> list[dict[str, Any]]:
    """Measure frames a second with two threads: both in one batch, or a batch each."""
    source, *rest = inputs_of(network)
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        decoder = FusedDecoder(network, source, dtype)
        fastest = {}
        for name, inner, workers in (("one", 1, 1), ("both in a batch", 2, 1), ("a batch each", 1, 2)):
            torch.set_num_threads(inner)
            with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(inner,)) as pool:
                seconds = []
                for _ in range(repeats):
                    start = time.perf_counter()
                    list(pool.map(decoder, *([value] * 4 for value in rest)))
                    seconds.append(time.perf_counter() - start)
            fastest[name] = 4 * BATCH / min(seconds)
        torch.set_num_threads(1)
        rows.append({"shape": shape, "dtype": str(dtype)[6:], "fps": fastest})
        print(f"  fused, {str(dtype)[6:]}, frames a second by threads: "
              + ", ".join(f"{name} {fps:.0f}" for name, fps in fastest.items()))  # fmt: skip
    return rows


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", action="append", help="arguments of VideoGenerator, as often as wanted")
    parser.add_argument("--model", help="measure the network of this folder instead")
    parser.add_argument("--repeats", type=int, default=10, help="turns; the quickest counts (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    kernel, rows = Kernel(), []
    if args.model:
        networks = {"model": VideoGenerator.from_pretrained(args.model, subfolder="video_generator")}
    else:
        networks = {shape: network_of(shape) for shape in args.shape or SHAPES}
    for shape, network in networks.items():
        rows += measure(shape, network, args.repeats, kernel)
        rows += threads_of(shape, network, args.repeats)
    print(f"\nkernel: {1000 * statistics.median(processor_seconds(kernel.seconds) / 5 for _ in range(5)):.2f} ms")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
