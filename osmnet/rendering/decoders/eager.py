"""Eager execution by PyTorch, on a GPU as a CUDA graph."""

from __future__ import annotations

import copy
from collections.abc import Callable
from threading import Lock

import torch

from osmnet.models.osm_net.video_generator import VideoGenerator

WARM_UP = 3  # runs before the capture, because cuDNN's and cuBLAS's set-up at first use cannot be captured

Pictures = tuple[torch.Tensor, torch.Tensor | None]


class EagerDecoder:
    """Execute a copy of a `VideoGenerator` on its device; thread-safe.

    Args:
        network (`VideoGenerator`): Of either geometry.
        source_image (`torch.Tensor` of shape `(1, 3, H, W)`): The source, in [-1, 1].
        dtype (`torch.dtype`): Of the copy's weights and maps; frames are blended in float32.
        batch (`int`): Frames at a time; fewer are padded, more split, since a GPU replays one shape. 0 takes any.
    """

    def __init__(self, network: VideoGenerator, source_image: torch.Tensor, dtype: torch.dtype, batch: int = 0):
        self.device, self.batch = network.device, batch
        self.network = copy.deepcopy(network).to(dtype=dtype, memory_format=torch.channels_last).eval()
        self.source_image = source_image.to(self.device, torch.float32)
        config, size = network.config, source_image.shape[2:]
        channels = [3, config.guide_channels] if config.geometry == "mesh" else []
        shapes = [(config.vector_dim,), *((count, *size) for count in channels if count)]
        self._inputs = [torch.zeros(batch, *shape, device=self.device) for shape in shapes]
        self._lock = Lock()
        self._free = torch.cuda.Event() if batch and self.device.type == "cuda" else None
        if batch:
            self._replay = self._captured()

    @torch.inference_mode()
    def __call__(
        self, vectors: torch.Tensor, warped: torch.Tensor | None = None, guide: torch.Tensor | None = None
    ) -> Pictures:
        """Compute frames, see `Decoder`.

        Raises:
            ValueError: If an input is missing, superfluous, or of another shape.
        """
        # 1. Check the inputs.
        given = [x for x in (vectors, warped, guide) if x is not None]
        if not self.batch or not len(vectors):
            return self._compute(vectors, warped, guide)
        wanted, shapes = [x.shape[1:] for x in self._inputs], [x.shape[1:] for x in given]
        if shapes != wanted or len({len(x) for x in given}) > 1:
            raise ValueError(
                f"A frame of the inputs must have the shapes {[tuple(shape) for shape in wanted]}, and all inputs as "
                f"many frames; given were {[tuple(x.shape) for x in given]}."
            )
        # 2. Compute equal batches; a short one keeps earlier frames in its remaining places.
        parts = []
        for start in range(0, len(vectors), self.batch):
            part = [x[start : start + self.batch] for x in given]
            count = len(part[0])
            with self._lock:  # the captured batch is at one place in memory
                if self._free:  # the last caller may be on another stream
                    torch.cuda.current_stream(self.device).wait_event(self._free)
                for static, value in zip(self._inputs, part, strict=True):
                    static[:count].copy_(value, non_blocking=True)
                picture, mask = self._replay()
                parts.append((picture[:count].clone(), None if mask is None else mask[:count].clone()))
                if self._free:
                    self._free.record(torch.cuda.current_stream(self.device))
        pictures, masks = zip(*parts, strict=True)
        return torch.cat(pictures), None if masks[0] is None else torch.cat(masks)

    def _compute(
        self, vectors: torch.Tensor, warped: torch.Tensor | None = None, guide: torch.Tensor | None = None
    ) -> Pictures:
        output = self.network.decode(self.source_image, vectors, warped, guide)
        return (output.sample if output.residual is None else output.residual), output.mask

    @torch.inference_mode()
    def _captured(self) -> Callable[[], Pictures]:
        """Capture the computation of the batch in `_inputs`."""
        if self.device.type != "cuda":
            return lambda: self._compute(*self._inputs)
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        graph = torch.cuda.CUDAGraph()
        # cuDNN must not choose its algorithms by timing: each process would choose anew and get other bits.
        with torch.backends.cudnn.flags(enabled=True, deterministic=True):
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP):
                    self._compute(*self._inputs)
            torch.cuda.current_stream(self.device).wait_stream(stream)
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                output = self._compute(*self._inputs)

        def replay() -> Pictures:
            graph.replay()
            return output

        return replay
