"""Precision of execution; `"auto"` is measured once per machine."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

import torch

from osmnet.models.osm_net.video_generator import VideoGenerator
from osmnet.rendering.decoders.eager import EagerDecoder
from osmnet.rendering.decoders.fused import AT_ONCE, FusedDecoder, can_fuse
from osmnet.utils.checks import short
from osmnet.utils.files import cache_folder, make_folder, write_whole
from osmnet.utils.threads import in_order

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TURNS = 3  # timed runs of each precision; the fastest counts
GAIN = 0.9  # of float32's time; bfloat16 must stay below it, or the more exact one is taken
PAINTED = 40 / 128, 84 / 128  # rows, columns of a mouth window, as fractions; median of held-out pictures

_decided: dict[str, torch.dtype] = {}  # a process keeps its first answer, so that a seed keeps its frames
_deciding = Lock()


def _renew_lock() -> None:
    global _deciding
    _deciding = Lock()


if hasattr(os, "register_at_fork"):  # a process forked while a thread measures would wait for the lock for ever
    os.register_at_fork(after_in_child=_renew_lock)


def resolve_precision(video_generator: VideoGenerator, precision: str = "auto") -> torch.dtype:
    """Return the dtype of a precision (see `make_decoder`) for the default runtime.

    Raises:
        ValueError: If the name is unknown, or float16 for a CPU's fused runtime.
    """
    check_precision(precision)
    if precision == "auto":
        dtype = own_precision(video_generator)
        return torch.float32 if dtype == torch.float16 and can_fuse(video_generator) else dtype
    if precision == "float16" and can_fuse(video_generator):
        raise ValueError("A CPU draws in the precisions float32 and bfloat16, not in float16; take one of them.")
    return PRECISIONS[precision]


def check_precision(precision: str) -> None:
    """Check a precision's name."""
    if precision not in ("auto", *PRECISIONS):
        raise ValueError(f"precision must be one of auto, {', '.join(PRECISIONS)}, not {short(precision)}.")


def own_precision(video_generator: VideoGenerator) -> torch.dtype:
    """Return the dtype of the weights or, if float32, the device's fastest."""
    dtype = video_generator.conv_out.weight.dtype
    if dtype != torch.float32:
        return dtype
    device = video_generator.device.type
    if device == "cuda":
        return torch.float16
    return fastest_precision(video_generator) if device == "cpu" else dtype


def fastest_precision(
    video_generator: VideoGenerator, timer: Callable[[VideoGenerator], dict[str, float]] | None = None
) -> torch.dtype:
    """Return the faster of float32 and bfloat16 on this CPU, timed once.

    The answer is kept in a file, so that a seed keeps its frames; if none can be written, AMX decides. Timing takes
    about a second, more if Numba has to compile.

    Args:
        video_generator (`VideoGenerator`): With float32 weights, on the CPU.
        timer (`Callable`, *optional*): Returns seconds by precision; `chunk_seconds` if not given.

    Returns:
        `torch.dtype`: float32 or bfloat16; float32 where the CPU has no instructions for bfloat16.
    """
    # Without AMX, float32 may be faster even where there are instructions for bfloat16.
    if not has_bfloat16():
        return torch.float32
    machine = _machine(video_generator)
    key = hashlib.blake2b(json.dumps(machine, sort_keys=True).encode(), digest_size=8).hexdigest()
    with _deciding:
        if key not in _decided:
            _decided[key] = PRECISIONS[_kept_or_measured(video_generator, machine, key, timer or chunk_seconds)]
        return _decided[key]


def has_bfloat16() -> bool:
    """Whether this CPU has bfloat16 instructions."""
    capabilities = _capabilities()
    return "avx512_bf16" in capabilities or "amx_bf16" in capabilities


def chunk_seconds(video_generator: VideoGenerator) -> dict[str, float]:
    """Return a batch's shortest CPU time in seconds, by precision."""
    source_image, *inputs = _inputs(video_generator)
    decoder = FusedDecoder if can_fuse(video_generator) else EagerDecoder
    decoders = {name: decoder(video_generator, source_image, PRECISIONS[name]) for name in ("float32", "bfloat16")}

    def measure(_: None) -> dict[str, float]:
        seconds: dict[str, list[float]] = {name: [] for name in decoders}
        for _turn in range(1 + TURNS):  # in turns, so that a change of the clock rate meets both
            for name, run in decoders.items():
                begin = time.thread_time()
                run(*inputs)
                seconds[name].append(time.thread_time() - begin)
        return {name: min(times[1:]) for name, times in seconds.items()}  # the first run compiles

    (seconds,) = in_order(measure, [None], workers=1)  # on one thread, as chunks are rendered
    return seconds


def _inputs(network: VideoGenerator) -> list[torch.Tensor]:
    """Make random inputs of a batch."""
    config, size = network.config, network.config.image_size
    random = torch.Generator().manual_seed(0)  # the global generator stays as it is
    source_image = 2 * torch.rand(1, 3, size, size, generator=random) - 1
    vectors = torch.randn(AT_ONCE, config.vector_dim, generator=random)
    if config.geometry != "mesh":
        return [source_image, vectors]
    warped = 2 * torch.rand(AT_ONCE, 3, size, size, generator=random) - 1
    guide = torch.rand(AT_ONCE, config.guide_channels, size, size, generator=random)
    if config.guide_channels:
        rows, columns = (int(size * (1 - share) / 2) for share in PAINTED)  # margins around the painted box
        inside = torch.zeros(size, size)
        inside[rows : size - rows, columns : size - columns] = 1
        guide[:, 0] *= inside
    return [source_image, vectors, warped, guide]


def _kept_or_measured(
    video_generator: VideoGenerator,
    machine: dict[str, Any],
    key: str,
    timer: Callable[[VideoGenerator], dict[str, float]],
) -> str:
    try:
        path = cache_folder() / f"precision-{key}.json"
        if (kept := _read(path, machine)) is not None:
            return kept
        make_folder(path.parent)
    except (ValueError, RuntimeError):  # not timed, because the next process might decide otherwise
        return "bfloat16" if "amx_bf16" in machine["capabilities"] else "float32"
    seconds = timer(video_generator)
    if (kept := _read(path, machine)) is not None:  # another process was faster: both take its answer
        return kept
    precision = "bfloat16" if seconds["bfloat16"] < GAIN * seconds["float32"] else "float32"
    record = {"precision": precision, "seconds": seconds, "machine": machine}
    with contextlib.suppress(ValueError):  # the folder is full or gone: the next process measures again
        write_whole(path, (json.dumps(record, indent=1) + "\n").encode())
    return precision


def _read(path: Path, machine: dict[str, Any]) -> str | None:
    """Read a kept answer, if valid for this machine."""
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict) or record.get("machine") != machine:
        return None
    precision = record.get("precision")
    return precision if precision in ("float32", "bfloat16") else None


def _machine(video_generator: VideoGenerator) -> dict[str, Any]:
    """Describe what the answer depends on, in JSON types."""
    shape = {name: value for name, value in video_generator.config.items() if not name.startswith("_")}
    return {
        "cpu": _cpu_model(),
        "capabilities": _capabilities(),
        "torch": torch.__version__,
        "network": json.loads(json.dumps(shape)),
    }


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _capabilities() -> list[str]:
    """List the instruction sets that PyTorch finds."""
    found: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # not in PyTorch 2.8
    return sorted(name for name, value in found.items() if value is True)
