"""GPU renderer in batched tensor operations.

Mesh points are placed on the CPU, pixels computed on the device; nothing waits until frames are copied back.
"""

import copy
from contextlib import nullcontext

import cv2
import numpy as np
import torch

from osmnet.face.crop import CropBox
from osmnet.face.morphable import FaceModel
from osmnet.face.mouth import apply_affine, window_affine
from osmnet.face.pose import similarity_from_pose
from osmnet.models.osm_net.video_generator import VideoGenerator
from osmnet.rendering.gpu.mouth_gpu import BatchedMouth
from osmnet.rendering.gpu.warp_gpu import BatchedWarp, to_device
from osmnet.rendering.renderer import Renderer
from osmnet.structures import Source


class BatchedMeshRenderer(Renderer):
    """Renderer on the video generator's device.

    Frames are reproducible bit for bit, and within 2/255 of `MeshRenderer`'s but for one pixel in 100,000. Slower than
    `MeshRenderer` on a CPU.
    """

    def __init__(
        self, source: Source, face_model: FaceModel, video_generator: VideoGenerator, precision: str = "auto"
    ):
        # On the CPU, because reading the face model's arrays from a GPU waits for everything that it is computing.
        super().__init__(source, copy.deepcopy(face_model).to("cpu"), video_generator, precision)
        self.device = device = video_generator.device
        if self.uses_mesh:
            self._warp = BatchedWarp(self.warp, device)
            self._mouth = BatchedMouth(self.source_px, self.window_size, device)
        else:
            self._enlarging = to_device(_resizing(self.window_size, source.size, cv2.INTER_CUBIC), device)
        if source.full_frame:
            self._paste = _Pasting(source.picture, source.box, source.size, device)
        if device.type == "cuda":
            self._copying = torch.cuda.Stream(device)
            torch.cuda.synchronize(device)  # chunks may be rendered on any stream

    def render_chunk(self, head_pose: np.ndarray, expression: np.ndarray) -> np.ndarray:
        """See `Renderer.render_chunk`; two threads keep the device busy."""
        driving = self.driving(head_pose, expression)  # (n + 2 · context, 70)
        # A new thread's current device is the first GPU.
        here = torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()
        with torch.inference_mode(), here:
            # 1. Encode the driving window of every frame.
            window = to_device(driving, self.device)[None]
            vectors = self.network.driving_encoder.encode_sequence(window)[0]  # (n, vector_dim)
            # 2. Render the squares: (n, 3, size, size), whole numbers in [0, 255].
            if self.uses_mesh:
                inside = slice(self.context, len(driving) - self.context)
                frames = self._render_mesh(head_pose[inside], expression[inside], vectors)
            else:
                sample, _ = self.decoder(vectors, None, None)
                frames = _resized(((sample + 1) * 127.5).round_().clamp_(0, 255), self._enlarging)
            # 3. Paste them into the picture and copy the frames to the CPU.
            if self.source.full_frame:
                frames = self._paste(frames)
            return self._to_host(frames.to(torch.uint8).permute(0, 2, 3, 1).contiguous())

    def _render_mesh(self, head_pose: np.ndarray, expression: np.ndarray, vectors: torch.Tensor) -> torch.Tensor:
        # 1. Place the points, on the CPU.
        fit = self.source.fit
        shape = self.face_model.move(fit.shape, expression - fit.expression)  # (n, 478, 3)
        similarity = similarity_from_pose(head_pose, self.source.size)
        affine = window_affine(self.anchor, similarity, self.window_size)  # (n, 2, 3)
        target_px = apply_affine(affine, similarity.place(shape)[..., :2])  # (n, 478, 2)
        # 2. Warp the source and cut out the mouth windows.
        frames = self._warp(shape, similarity)  # (n, 3, size, size)
        warped = self._mouth.cut(frames, affine) / 127.5 - 1  # (n, 3, window, window)
        # 3. Execute the video generator.
        residual, mask = self.decoder(vectors, warped, self._mouth.guides(target_px))
        assert mask is not None  # a network of this geometry has one
        # 4. Blend the windows into the frames, in place. Colour times mask: residual = mask (colour - warped).
        self._mouth.paint(frames, (residual + mask * warped + mask) * 127.5, mask, affine)
        return frames

    def _to_host(self, frames: torch.Tensor) -> np.ndarray:
        if self.device.type != "cuda":
            return frames.cpu().numpy()
        # On a stream of its own and into pinned memory, so that the next chunk is rendered meanwhile.
        host = torch.empty(frames.shape, dtype=frames.dtype, pin_memory=True)
        self._copying.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._copying):
            host.copy_(frames, non_blocking=True)
            arrived = torch.cuda.Event(blocking=True)
            arrived.record()
        frames.record_stream(self._copying)
        arrived.synchronize()
        return host.numpy()


class _Pasting:
    """Paste squares into the picture, see `osmnet.face.crop.paste`."""

    # On the device: copying pictures from it takes less time than a CPU needs to copy them within its memory.
    def __init__(self, picture: np.ndarray, box: CropBox, size: int, device: torch.device):
        height, width = picture.shape[:2]
        left, top, side = box
        x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + side, width), min(top + side, height)
        self.inside_picture = np.s_[..., y0:y1, x0:x1]
        self.inside_square = np.s_[..., y0 - top : y1 - top, x0 - left : x1 - left]
        self.picture = to_device(picture, device).permute(2, 0, 1)[None]
        self.resizing = None
        if size != side:
            kernel = cv2.INTER_AREA if size > side else cv2.INTER_CUBIC
            self.resizing = to_device(_resizing(size, side, kernel), device)

    def __call__(self, squares: torch.Tensor) -> torch.Tensor:
        """Paste `(n, 3, size, size)` into uint8 copies `(n, 3, height, width)`."""
        if self.resizing is not None:
            squares = _resized(squares, self.resizing)
        pasted = self.picture.repeat(len(squares), 1, 1, 1)
        pasted[self.inside_picture] = squares[self.inside_square].to(torch.uint8)
        return pasted


def _resizing(size: int, wanted: int, kernel: int) -> np.ndarray:
    """Return OpenCV's resizing as a matrix `(wanted, size)`, float32."""
    return cv2.resize(np.eye(size, dtype=np.float32), (size, wanted), interpolation=kernel)


def _resized(frames: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Resize `(n, 3, size, size)` to `(n, 3, wanted, wanted)`, rounded to [0, 255]."""
    return (matrix @ frames @ matrix.T).round_().clamp_(0, 255)
