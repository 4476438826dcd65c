"""From pose and expression to frames: the mesh warp, the video generator on top of it, and back into the picture."""

from collections.abc import Generator, Sequence

import cv2
import numpy as np
import torch

from osmnet.face.crop import paste_all
from osmnet.face.morphable import FaceModel
from osmnet.face.mouth import apply_affine, cut_window, guides, paint_window, window_affine
from osmnet.face.pose import Similarity, similarity_from_pose
from osmnet.face.topology import eye_opening
from osmnet.face.warp import MeshWarp
from osmnet.models.osm_net.video_generator import VideoGenerator
from osmnet.rendering.chunks import Chunk, chunk_bounds, chunk_length
from osmnet.rendering.decoders.select import make_decoder
from osmnet.structures import Source
from osmnet.utils.lazy_rows import LazyRows
from osmnet.utils.profiling import span
from osmnet.utils.threads import default_workers, in_order

LIDS_MEET = 0.95  # lids move on a curve: a straight way of their whole distance carries the upper past the lower
DEVICE_WORKERS = 2  # while the frames of one chunk are copied from a GPU, it draws the next


def lid_closing(source: Source, face_model: FaceModel) -> np.ndarray:
    """The change of β `(64,)` that shuts the lids of a source."""
    return LIDS_MEET * float(eye_opening(source.fit.shape)) * face_model.array("blink")


class Renderer:
    """Draws frames of one source; what does not change from frame to frame is prepared once.

    Args:
        source (`Source`): The portrait.
        face_model (`FaceModel`): The linear face model.
        video_generator (`VideoGenerator`): With `geometry="mesh"` it paints the mouth on the warped picture, with
            `geometry="none"` it makes the whole square.
        precision (`str`): `"float32"`, `"bfloat16"`, `"float16"`, or `"auto"`; see `make_decoder`.
    """

    def __init__(
        self, source: Source, face_model: FaceModel, video_generator: VideoGenerator, precision: str = "auto"
    ):
        self.source = source
        self.face_model = face_model
        self.network = video_generator
        self.context = video_generator.config.window // 2
        self.closing = lid_closing(source, face_model)
        self.uses_mesh = video_generator.config.geometry == "mesh"
        self.window_size = video_generator.config.image_size
        if not self.uses_mesh:
            self._source_image = self._to_network(
                [cv2.resize(source.crop, (self.window_size,) * 2, interpolation=cv2.INTER_AREA)]
            )
            self.decoder = make_decoder(video_generator, self._source_image, precision=precision)
            return
        fit = source.fit
        self.warp = MeshWarp(source.crop, fit.shape, fit.similarity)
        self.anchor = face_model.mouth_anchor(fit.identity)
        at_rest = window_affine(self.anchor, Similarity(*(part[None] for part in fit.similarity)), self.window_size)
        self._source_px = apply_affine(at_rest, self.warp.source_points[None, :478, :2])[0]
        self._source_image = self._to_network([cut_window(source.crop, at_rest[0], self.window_size)])
        self.decoder = make_decoder(video_generator, self._source_image, precision=precision)

    def __call__(
        self,
        head_pose: np.ndarray,
        expression: np.ndarray | LazyRows,
        blink: np.ndarray | None = None,
        chunks: Sequence[Chunk] | None = None,
    ) -> Generator[np.ndarray]:
        """Render takes: chunks side by side on several threads, yielded in order.

        Args:
            head_pose (`np.ndarray` of shape `(num_videos, frames, 6)`): Absolute poses in the source's camera.
            expression (`np.ndarray` or `LazyRows` of shape `(frames, 64)`): β of every frame, the same in all takes.
            blink (`np.ndarray` of shape `(num_videos, frames)`, *optional*): How far the lids are shut, 0 to 1.
            chunks (sequence of `(int, int)`, *optional*): First frame of each chunk and the one behind its last;
                those of `chunk_bounds` if not given.

        Yields:
            `np.ndarray` of shape `(num_videos, chunk, height, width, 3)`: uint8 frames in order.
        """
        count, frames = head_pose.shape[:2]

        def draw(job: tuple[int, int, int]) -> np.ndarray:
            take, start, stop = job
            window = np.clip(np.arange(start - self.context, stop + self.context), 0, frames - 1)
            shown = expression[window]
            if blink is not None:
                shown = shown + blink[take, window, None] * self.closing
            return self.block(head_pose[take, window], shown)

        device = self.network.device.type
        workers = default_workers() if device == "cpu" else DEVICE_WORKERS
        if chunks is None:
            chunks = chunk_bounds(frames, chunk_length(self.source.frame_size, device))
        jobs = ((take, *chunk) for chunk in chunks for take in range(count))
        # Whole rounds of takes lie ready, so that no worker waits while a round is put together.
        drawn = in_order(draw, jobs, workers, ahead=max(workers, count))
        try:
            for first in drawn:
                yield np.stack([first, *(next(drawn) for _ in range(count - 1))])
        finally:
            drawn.close()

    def block(self, head_pose: np.ndarray, expression: np.ndarray) -> np.ndarray:
        """Render some frames, independently of all others; several threads may do so at a time.

        Args:
            head_pose (`np.ndarray` of shape `(n + 2 · context, 6)`): Absolute poses in the source's camera, with
                those of `context` frames before and after.
            expression (`np.ndarray` of shape `(n + 2 · context, 64)`): β of the same frames.

        Returns:
            `np.ndarray` of shape `(n, height, width, 3)`: uint8 frames.
        """
        driving = np.concatenate([head_pose - self.source.fit.head_pose, expression], 1).astype(np.float32)
        with span("network"), torch.inference_mode():
            window = torch.from_numpy(driving)[None].to(self.network.device)
            vectors = self.network.driving_encoder.encode_sequence(window)[0]
        if self.uses_mesh:
            inside = slice(self.context, len(driving) - self.context)
            frames = self._by_mesh(head_pose[inside], expression[inside], vectors)
        else:
            frames = self._by_network(vectors)
        return self._paste(frames) if self.source.full_frame else frames

    def _by_mesh(self, head_pose: np.ndarray, expression: np.ndarray, vectors: torch.Tensor) -> np.ndarray:
        fit = self.source.fit
        with span("warp"):
            shape = self.face_model.move(fit.shape, expression - fit.expression)
            similarity = similarity_from_pose(head_pose, self.source.size)
            frames = self.warp(shape, similarity)
        with span("windows"):
            affine = window_affine(self.anchor, similarity, self.window_size)
            target_px = apply_affine(affine, similarity.place(shape)[..., :2])
            windows = [cut_window(frame, a, self.window_size) for frame, a in zip(frames, affine, strict=True)]
            guide = torch.from_numpy(guides(target_px, self._source_px, self.window_size))
            warped = self._to_network(windows)
        with span("network"), torch.inference_mode():
            residual, mask = self.decoder(vectors, warped, guide)
            assert mask is not None  # a network of this geometry has one
            # Colour times mask, in [0, 255]: residual = mask (colour - warped).
            painted = ((residual + mask * warped + mask) * 127.5).permute(0, 2, 3, 1).numpy()
            masks = mask[:, 0].numpy()
        with span("paint"):
            for i, frame in enumerate(frames):
                paint_window(frame, painted[i], masks[i], affine[i])
        return frames

    def _by_network(self, vectors: torch.Tensor) -> np.ndarray:
        with span("network"), torch.inference_mode():
            sample, _ = self.decoder(vectors, None, None)
        frames = ((sample.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        size = self.source.size
        return np.stack([cv2.resize(frame, (size, size), interpolation=cv2.INTER_CUBIC) for frame in frames])

    def _paste(self, frames: np.ndarray) -> np.ndarray:
        with span("paste"):
            return paste_all(self.source.picture, frames, self.source.box)

    def _to_network(self, images: list[np.ndarray]) -> torch.Tensor:
        stacked = torch.from_numpy(np.stack(images)).to(self.network.device)
        return stacked.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1
