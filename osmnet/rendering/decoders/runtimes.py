"""Runtimes: execution of a video generator for one source picture.

On a CPU the fused runtime is the fastest (docs/notes/performance_network.md).
"""

from __future__ import annotations

from typing import Protocol

import torch

from osmnet.models.osm_net.video_generator import VideoGenerator
from osmnet.rendering.decoders.eager import EagerDecoder
from osmnet.rendering.decoders.fused import FusedDecoder, can_fuse
from osmnet.rendering.decoders.precision import PRECISIONS, check_precision, own_precision, resolve_precision
from osmnet.utils.checks import short

RUNTIMES = ("auto", "fused", "eager")
GPU_BATCH = 32  # frames


class Decoder(Protocol):
    """Executor of a `VideoGenerator` for one source picture; thread-safe."""

    def __call__(
        self, vectors: torch.Tensor, warped: torch.Tensor | None, guide: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Compute n frames.

        Args:
            vectors (`torch.Tensor` of shape `(n, vector_dim)`): From the network's `driving_encoder`.
            warped (`torch.Tensor` of shape `(n, 3, H, W)`): The warped source, in [-1, 1]; only with a mesh.
            guide (`torch.Tensor` of shape `(n, guide_channels, H, W)`): See `VideoGenerator.forward`; likewise.

        Returns:
            `tuple`: float32: `residual` `(n, 3, H, W)` and `mask` `(n, 1, H, W)`; without a mesh `sample` and `None`.
        """


def make_decoder(
    video_generator: VideoGenerator,
    source_image: torch.Tensor,
    runtime: str = "auto",
    precision: str = "auto",
) -> Decoder:
    """Prepare a copy of a video generator for one source picture.

    Args:
        video_generator (`VideoGenerator`): On the device that renders.
        source_image (`torch.Tensor` of shape `(1, 3, H, W)`): The source, in [-1, 1].
        runtime (`str`): `"fused"` (CPU with `geometry="mesh"`), `"eager"` (PyTorch alone, on a GPU as a graph) or
            `"auto"` (fused if possible).
        precision (`str`): `"float32"`, `"bfloat16"`, `"float16"` (not fused) or `"auto"`: the network's own (float32
            for one in float16 on a CPU); for one in float32, float16 on a GPU and `fastest_precision` on a CPU.

    Returns:
        `Decoder`: The same bits for the same inputs on the same machine, however many threads call it.

    Raises:
        ValueError: If a name is unknown or the runtime cannot execute this network.
    """
    if runtime not in RUNTIMES:
        raise ValueError(f"runtime must be one of {', '.join(RUNTIMES)}, not {short(runtime)}.")
    check_precision(precision)
    device = video_generator.device.type
    fused = can_fuse(video_generator)
    if runtime == "fused" and not fused:
        raise ValueError(
            f'runtime="fused" draws on a CPU with geometry="mesh", not on {device} with '
            f'geometry="{video_generator.config.geometry}"; leave it at "auto".'
        )
    if runtime == "eager" or not fused:
        dtype = PRECISIONS.get(precision) or own_precision(video_generator)
        return EagerDecoder(video_generator, source_image, dtype, GPU_BATCH if device == "cuda" else 0)
    return FusedDecoder(video_generator, source_image, resolve_precision(video_generator, precision))
