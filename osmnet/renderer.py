"""From pose and expression to frames: the mesh warp, the video generator on top of it, and back into the picture."""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from osmnet.face.crop import CropBox, paste
from osmnet.face.morphable import FaceFit, FaceModel
from osmnet.face.mouth import apply_affine, cut_window, guide, paint_window, window_affine
from osmnet.face.pose import Similarity, similarity_from_pose
from osmnet.face.warp import MeshWarp
from osmnet.models.video_generator import VideoGenerator

CHUNK = 16  # frames rendered at a time,
CHUNK_BYTES = 2**24  # and fewer of large ones: several takes are in memory at once


@dataclass(frozen=True)
class Source:
    """A portrait, encoded once.

    Attributes:
        picture (`np.ndarray` of shape `(height, width, 3)`): The whole picture, uint8.
        crop (`np.ndarray` of shape `(size, size, 3)`): The square around the head at the size it is rendered.
        box (`CropBox`): Where the square lies in the picture.
        fit (`FaceFit`): Shape, identity, expression and pose of the head.
        full_frame (`bool`): Whether frames are whole pictures or squares.
        num_faces (`int`): How many faces the picture shows.
    """

    picture: np.ndarray
    crop: np.ndarray
    box: CropBox
    fit: FaceFit
    full_frame: bool
    num_faces: int = 1

    @property
    def size(self) -> int:
        """Side of the square in pixels."""
        return self.crop.shape[0]

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of the frames."""
        return self.picture.shape[:2] if self.full_frame else (self.size, self.size)


class Renderer:
    """Draws frames of one source; what does not change from frame to frame is prepared once.

    Args:
        source (`Source`): The portrait.
        face_model (`FaceModel`): The linear face model.
        video_generator (`VideoGenerator`): With `geometry="mesh"` it paints the mouth on the warped picture, with
            `geometry="none"` it makes the whole square.
    """

    def __init__(self, source: Source, face_model: FaceModel, video_generator: VideoGenerator):
        self.source = source
        self.face_model = face_model
        self.network = video_generator
        self.context = video_generator.config.window // 2
        self.uses_mesh = video_generator.config.geometry == "mesh"
        self.window_size = video_generator.config.image_size
        if not self.uses_mesh:
            self._source_image = self._to_network(
                [cv2.resize(source.crop, (self.window_size,) * 2, interpolation=cv2.INTER_AREA)]
            )
            return
        fit = source.fit
        self.warp = MeshWarp(source.crop, fit.shape, fit.similarity)
        self.anchor = face_model.mouth_anchor(fit.identity)
        at_rest = window_affine(self.anchor, Similarity(*(part[None] for part in fit.similarity)), self.window_size)
        self._source_px = apply_affine(at_rest, self.warp.source_points[None, :478, :2])[0]
        self._source_image = self._to_network([cut_window(source.crop, at_rest[0], self.window_size)])

    def __call__(self, head_pose: np.ndarray, expression: np.ndarray) -> Iterator[np.ndarray]:
        """Render one take.

        Args:
            head_pose (`np.ndarray` of shape `(frames, 6)`): Absolute poses in the source's camera.
            expression (`np.ndarray` of shape `(frames, 64)`): β of every frame.

        Yields:
            `np.ndarray` of shape `(chunk, height, width, 3)`: uint8 frames in order, at most 16 at a time.
        """
        around = np.clip(np.arange(-self.context, len(head_pose) + self.context), 0, len(head_pose) - 1)
        driving = np.concatenate([head_pose - self.source.fit.head_pose, expression], 1).astype(np.float32)[around]
        height, width = self.source.frame_size
        step = min(CHUNK, max(CHUNK_BYTES // (3 * height * width), 1))
        for start in range(0, len(head_pose), step):
            stop = min(start + step, len(head_pose))
            window = torch.from_numpy(driving[start : stop + 2 * self.context])[None].to(self.network.device)
            with torch.inference_mode():
                vectors = self.network.driving_encoder.encode_sequence(window)[0]
            if self.uses_mesh:
                frames = self._by_mesh(head_pose[start:stop], expression[start:stop], vectors)
            else:
                frames = self._by_network(vectors)
            yield self._paste(frames) if self.source.full_frame else frames

    def _by_mesh(self, head_pose: np.ndarray, expression: np.ndarray, vectors: torch.Tensor) -> np.ndarray:
        fit = self.source.fit
        shape = self.face_model.move(fit.shape, expression - fit.expression)
        similarity = similarity_from_pose(head_pose, self.source.size)
        frames = self.warp(shape, similarity)
        affine = window_affine(self.anchor, similarity, self.window_size)
        target_px = apply_affine(affine, similarity.place(shape)[..., :2])
        windows = [cut_window(frame, a, self.window_size) for frame, a in zip(frames, affine, strict=True)]
        guides = np.stack([guide(points, self._source_px, self.window_size) for points in target_px])
        guides = torch.from_numpy(guides).to(self.network.device)
        warped = self._to_network(windows)
        with torch.inference_mode():
            output = self.network.decode(self._source_image, vectors, warped, guides)
            # Colour times mask, in [0, 255]: residual = mask (colour - warped).
            painted = (output.residual + output.mask * warped + output.mask) * 127.5
        painted = painted.float().permute(0, 2, 3, 1).cpu().numpy()
        masks = output.mask[:, 0].float().cpu().numpy()
        for i, frame in enumerate(frames):
            paint_window(frame, painted[i], masks[i], affine[i])
        return frames

    def _by_network(self, vectors: torch.Tensor) -> np.ndarray:
        with torch.inference_mode():
            sample = self.network.decode(self._source_image, vectors).sample
        frames = ((sample.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        size = self.source.size
        return np.stack([cv2.resize(frame, (size, size), interpolation=cv2.INTER_CUBIC) for frame in frames])

    def _paste(self, frames: np.ndarray) -> np.ndarray:
        return np.stack([paste(self.source.picture, frame, self.source.box) for frame in frames])

    def _to_network(self, images: list[np.ndarray]) -> torch.Tensor:
        stacked = torch.from_numpy(np.stack(images)).to(self.network.device)
        return stacked.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1
