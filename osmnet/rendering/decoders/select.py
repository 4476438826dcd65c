"""Which runtime draws with the video generator, and in which precision.

On a CPU the fused form is faster than eager PyTorch, `torch.compile`, ONNX Runtime and OpenVINO, in float32 and in
bfloat16 (docs/notes/performance_network.md), so no other runtime is a dependency.
"""

from __future__ import annotations

from typing import Protocol

import torch

from osmnet.models.osm_net.video_generator import VideoGenerator
from osmnet.rendering.decoders.eager import DeviceDecoder
from osmnet.rendering.decoders.fused import FusedDecoder

RUNTIMES = ("auto", "fused", "eager")
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
GPU_BATCH = 32  # frames


class Decoder(Protocol):
    """The video generator made ready for one source picture; several threads may call it at a time."""

    def __call__(
        self, vectors: torch.Tensor, warped: torch.Tensor | None, guide: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Draw n frames.

        Args:
            vectors (`torch.Tensor` of shape `(n, vector_dim)`): From the network's `driving_encoder`.
            warped (`torch.Tensor` of shape `(n, 3, H, W)`): The warped source, in [-1, 1]; only with a mesh.
            guide (`torch.Tensor` of shape `(n, guide_channels, H, W)`): See `VideoGenerator.forward`; likewise.

        Returns:
            `tuple`: float32: `residual` `(n, 3, H, W)` and `mask` `(n, 1, H, W)` or, with `geometry="none"`, `sample`
            and `None`.
        """


def make_decoder(
    video_generator: VideoGenerator,
    source_image: torch.Tensor,
    runtime: str = "auto",
    precision: str = "auto",
) -> Decoder:
    """Make a video generator ready for one source picture. It is copied: what happens to it later changes nothing.

    Args:
        video_generator (`VideoGenerator`): On the device that is to draw.
        source_image (`torch.Tensor` of shape `(1, 3, H, W)`): The source, in [-1, 1].
        runtime (`str`): `"fused"` for a CPU and `geometry="mesh"` only; `"eager"` is PyTorch alone, on a GPU captured
            as a graph; `"auto"` the fused one where it can be.
        precision (`str`): `"float32"`, `"bfloat16"` or, not for the fused one, `"float16"`. `"auto"` is the network's
            own (float32 for one in float16 on a CPU); for one in float32, float16 on a GPU, and bfloat16 on a CPU that
            has instructions for it.

    Returns:
        `Decoder`: The same bits for the same inputs on the same machine, however many threads call it.

    Raises:
        ValueError: If a name is unknown or the runtime cannot draw with this network.
    """
    if runtime not in RUNTIMES:
        raise ValueError(f"runtime must be one of {', '.join(RUNTIMES)}, not {runtime!r}.")
    if precision not in ("auto", *PRECISIONS):
        raise ValueError(f"precision must be one of auto, {', '.join(PRECISIONS)}, not {precision!r}.")
    device = video_generator.device.type
    can_fuse = device == "cpu" and video_generator.config.geometry == "mesh"
    if runtime == "fused" and not can_fuse:
        raise ValueError(
            f'runtime="fused" draws on a CPU with geometry="mesh", not on {device} with '
            f'geometry="{video_generator.config.geometry}"; leave it at "auto".'
        )
    if runtime == "eager" or not can_fuse:
        dtype = PRECISIONS.get(precision) or _own_precision(video_generator)
        return DeviceDecoder(video_generator, source_image, dtype, GPU_BATCH if device == "cuda" else 0)
    return FusedDecoder(video_generator, source_image, resolve_precision(video_generator, precision))


def resolve_precision(video_generator: VideoGenerator, precision: str = "auto") -> torch.dtype:
    """Say in which precision frames are drawn where nothing is said about the runtime.

    Args:
        video_generator (`VideoGenerator`): On the device that is to draw.
        precision (`str`): See `make_decoder`.

    Returns:
        `torch.dtype`: float32, bfloat16 or float16.

    Raises:
        ValueError: If the name is unknown, or it is float16 and a CPU is to draw.
    """
    if precision not in ("auto", *PRECISIONS):
        raise ValueError(f"precision must be one of auto, {', '.join(PRECISIONS)}, not {precision!r}.")
    dtype = PRECISIONS.get(precision) or _own_precision(video_generator)
    if dtype == torch.float16 and video_generator.device.type == "cpu" and video_generator.config.geometry == "mesh":
        if precision == "float16":
            raise ValueError("A CPU draws in the precisions float32 and bfloat16, not in float16; take one of them.")
        return torch.float32
    return dtype


def has_bfloat16() -> bool:
    """Whether this CPU has instructions for products of bfloat16; without, they take longer than float32's."""
    capabilities: dict = getattr(torch.cpu, "get_capabilities", dict)()  # not in PyTorch 2.8
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))


def _own_precision(video_generator: VideoGenerator) -> torch.dtype:
    dtype = video_generator.conv_out.weight.dtype
    if dtype != torch.float32:
        return dtype
    device = video_generator.device.type
    if device == "cuda":
        return torch.float16
    return torch.bfloat16 if device == "cpu" and has_bfloat16() else dtype
