"""CPU renderer in OpenCV, compiled loops and PyTorch."""

import cv2
import numpy as np
import torch

from osmnet.face.crop import paste_all
from osmnet.face.mouth import apply_affine, cut_window, guides, paint_window, window_affine
from osmnet.face.pose import similarity_from_pose
from osmnet.rendering.renderer import Renderer
from osmnet.utils.profiling import span


class MeshRenderer(Renderer):
    """Renderer for a CPU."""

    def render_chunk(self, head_pose: np.ndarray, expression: np.ndarray) -> np.ndarray:
        """See `Renderer.render_chunk`."""
        # 1. Encode the driving window of every frame.
        driving = self.driving(head_pose, expression)  # (n + 2 · context, 70)
        with span("network"), torch.inference_mode():
            window = torch.from_numpy(driving)[None].to(self.network.device)
            vectors = self.network.driving_encoder.encode_sequence(window)[0]  # (n, vector_dim)
        # 2. Render the squares.
        if self.uses_mesh:
            inside = slice(self.context, len(driving) - self.context)
            frames = self._render_mesh(head_pose[inside], expression[inside], vectors)
        else:
            frames = self._render_network(vectors)
        # 3. Paste them into the picture.
        if not self.source.full_frame:
            return frames
        with span("paste"):
            return paste_all(self.source.picture, frames, self.source.box)

    def _render_mesh(self, head_pose: np.ndarray, expression: np.ndarray, vectors: torch.Tensor) -> np.ndarray:
        fit = self.source.fit
        # 1. Warp the source.
        with span("warp"):
            shape = self.face_model.move(fit.shape, expression - fit.expression)  # (n, 478, 3)
            similarity = similarity_from_pose(head_pose, self.source.size)
            frames = self.warp(shape, similarity)  # (n, size, size, 3)
        # 2. Cut out the mouth windows and draw their guides.
        with span("windows"):
            affine = window_affine(self.anchor, similarity, self.window_size)  # (n, 2, 3)
            target_px = apply_affine(affine, similarity.place(shape)[..., :2])  # (n, 478, 2)
            windows = [cut_window(frame, a, self.window_size) for frame, a in zip(frames, affine, strict=True)]
            guide = torch.from_numpy(guides(target_px, self.source_px, self.window_size))
            warped = self.to_network(windows)  # (n, 3, window, window)
        # 3. Execute the video generator.
        with span("network"), torch.inference_mode():
            residual, mask = self.decoder(vectors, warped, guide)
            assert mask is not None  # a network of this geometry has one
            # Colour times mask, in [0, 255]: residual = mask (colour - warped).
            painted = ((residual + mask * warped + mask) * 127.5).permute(0, 2, 3, 1).numpy()
            masks = mask[:, 0].numpy()
        # 4. Blend the windows into the frames, in place.
        with span("paint"):
            for i, frame in enumerate(frames):
                paint_window(frame, painted[i], masks[i], affine[i])
        return frames

    def _render_network(self, vectors: torch.Tensor) -> np.ndarray:
        with span("network"), torch.inference_mode():
            sample, _ = self.decoder(vectors, None, None)
        frames = ((sample.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        size = self.source.size
        return np.stack([cv2.resize(frame, (size, size), interpolation=cv2.INTER_CUBIC) for frame in frames])
