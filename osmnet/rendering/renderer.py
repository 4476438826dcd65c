"""Base of the renderers: head pose and expression to frames."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence

import cv2
import numpy as np
import torch

from osmnet.face.morphable import FaceModel
from osmnet.face.mouth import apply_affine, cut_window, window_affine
from osmnet.face.pose import Similarity
from osmnet.face.topology import eye_opening
from osmnet.face.warp import MeshWarp
from osmnet.models.osm_net.video_generator import VideoGenerator
from osmnet.rendering.chunks import Chunk, chunk_bounds, chunk_length, render_chunks
from osmnet.rendering.decoders.runtimes import make_decoder
from osmnet.structures import Source
from osmnet.utils.lazy_rows import LazyRows
from osmnet.utils.threads import default_workers

LIDS_MEET = 0.95  # of the lids' distance; lids move on a curve, and on a straight line the upper would pass the lower
GPU_WORKERS = 2  # threads; while the frames of one chunk are copied from the GPU, it renders the next


def lid_closing(source: Source, face_model: FaceModel) -> np.ndarray:
    """Return the change of β `(64,)` that closes a source's lids."""
    return LIDS_MEET * float(eye_opening(source.fit.shape)) * face_model.array("blink")


class Renderer(ABC):
    """Base class that renders frames of one source.

    Args:
        source (`Source`): The portrait.
        face_model (`FaceModel`): The linear face model.
        video_generator (`VideoGenerator`): Of either geometry.
        precision (`str`): See `make_decoder`.

    Attributes:
        context (`int`): Frames before and after a chunk that `render_chunk` needs.
        closing (`np.ndarray` of shape `(64,)`): Change of β that closes the lids.
    """

    def __init__(
        self, source: Source, face_model: FaceModel, video_generator: VideoGenerator, precision: str = "auto"
    ):
        # 1. Settings of the network.
        self.source = source
        self.face_model = face_model
        self.network = video_generator
        self.context = video_generator.config.window // 2
        self.closing = lid_closing(source, face_model)
        self.uses_mesh = video_generator.config.geometry == "mesh"
        self.window_size = video_generator.config.image_size
        # 2. The warp, and the picture that the network gets of the source.
        if self.uses_mesh:
            fit = source.fit
            self.warp = MeshWarp(source.crop, fit.shape, fit.similarity)
            self.anchor = face_model.mouth_anchor(fit.identity)
            at_rest = window_affine(
                self.anchor, Similarity(*(part[None] for part in fit.similarity)), self.window_size
            )
            self.source_px = apply_affine(at_rest, self.warp.source_points[None, :478, :2])[0]  # (478, 2)
            shown = cut_window(source.crop, at_rest[0], self.window_size)
        else:
            shown = cv2.resize(source.crop, (self.window_size,) * 2, interpolation=cv2.INTER_AREA)
        # 3. The decoder of that picture.
        self.source_image = self.to_network([shown])  # (1, 3, window, window)
        self.decoder = make_decoder(video_generator, self.source_image, precision=precision)

    def __call__(
        self,
        head_pose: np.ndarray,
        expression: np.ndarray | LazyRows,
        blink: np.ndarray | None = None,
        chunks: Sequence[Chunk] | None = None,
        change: Callable[[int, np.ndarray], np.ndarray] | None = None,
    ) -> Generator[np.ndarray]:
        """Render takes chunk by chunk, on several threads.

        Args:
            head_pose (`np.ndarray` of shape `(num_videos, frames, 6)`): Absolute poses in the source's camera.
            expression (`np.ndarray` or `LazyRows` of shape `(frames, 64)`): β of every frame, the same in all takes.
            blink (`np.ndarray` of shape `(num_videos, frames)`, *optional*): How far the lids are closed, 0 to 1;
                below 0 they are wider open.
            chunks (sequence of `(int, int)`, *optional*): By default from `chunk_bounds`.
            change (`Callable`, *optional*): Maps a take and frames `(n,)` to its own change of β, `(n, 64)`.

        Yields:
            `np.ndarray` of shape `(num_videos, chunk, height, width, 3)`: uint8 frames.
        """
        num_videos, frames = head_pose.shape[:2]
        device = self.network.device.type

        def render(take: int, start: int, stop: int) -> np.ndarray:
            window = np.clip(np.arange(start - self.context, stop + self.context), 0, frames - 1)
            shown = expression[window]  # (n + 2 · context, 64)
            if blink is not None:
                shown = shown + blink[take, window, None] * self.closing
            if change is not None:
                shown = shown + change(take, window)
            return self.render_chunk(head_pose[take, window], shown)

        if chunks is None:
            chunks = chunk_bounds(frames, chunk_length(self.source.frame_size, device))
        workers = default_workers() if device == "cpu" else GPU_WORKERS
        return render_chunks(render, num_videos, chunks, workers)

    @abstractmethod
    def render_chunk(self, head_pose: np.ndarray, expression: np.ndarray) -> np.ndarray:
        """Render one chunk, independently of others; thread-safe.

        Args:
            head_pose (`np.ndarray` of shape `(n + 2 · context, 6)`): Absolute poses in the source's camera,
                `context` frames before and after included.
            expression (`np.ndarray` of shape `(n + 2 · context, 64)`): β of the same frames.

        Returns:
            `np.ndarray` of shape `(n, height, width, 3)`: uint8.
        """

    def driving(self, head_pose: np.ndarray, expression: np.ndarray) -> np.ndarray:
        """Join relative poses and expressions: `(frames, 70)`, float32."""
        return np.concatenate([head_pose - self.source.fit.head_pose, expression], 1).astype(np.float32)

    def to_network(self, images: list[np.ndarray]) -> torch.Tensor:
        """Stack uint8 pictures `(H, W, 3)`, scaled to [-1, 1]: `(n, 3, H, W)`."""
        stacked = torch.from_numpy(np.stack(images)).to(self.network.device)
        return stacked.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1
