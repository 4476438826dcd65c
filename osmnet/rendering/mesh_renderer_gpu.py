"""The renderer for a GPU: all frames of a chunk at once, in batched tensor operations on the network's device.

What is computed where: the places of the mesh's points come from the same arithmetic as on the CPU (some 50 µs a
frame) and go to the device, 31 KB a frame; everything that has pixels is computed there; the finished uint8 frames
come back. Between the two nothing waits: no number is read from the device before its frames.
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
from osmnet.rendering.gpu.mouth_gpu import DeviceMouth
from osmnet.rendering.gpu.warp_gpu import DeviceWarp, to_device
from osmnet.rendering.mesh_renderer import Renderer
from osmnet.structures import Source


def renderer_for(
    source: Source, face_model: FaceModel, video_generator: VideoGenerator, precision: str = "auto"
) -> Renderer:
    """The renderer that suits the video generator's device: the arguments are those of `Renderer`."""
    kind = Renderer if video_generator.device.type == "cpu" else DeviceRenderer
    return kind(source, face_model, video_generator, precision)


class DeviceRenderer(Renderer):
    """Draws frames of one source on the device of the video generator.

    The frames are those of `Renderer`, but for rounding: within 2/255, but for one pixel in 100,000. The same chunks
    give the same frames, bit for bit. It runs on a CPU too, where `Renderer` is faster.

    Args:
        source (`Source`): The portrait.
        face_model (`FaceModel`): The linear face model.
        video_generator (`VideoGenerator`): As of `Renderer`.
        precision (`str`): As of `Renderer`.
    """

    def __init__(
        self, source: Source, face_model: FaceModel, video_generator: VideoGenerator, precision: str = "auto"
    ):
        # Asking a GPU for the face model's arrays would be waiting for what it is drawing.
        super().__init__(source, copy.deepcopy(face_model).to("cpu"), video_generator, precision)
        self.device = device = video_generator.device
        if self.uses_mesh:
            self._warp = DeviceWarp(self.warp, device)
            self._mouth = DeviceMouth(self._source_px, self.window_size, device)
        else:
            self._enlarged = to_device(_resizing(self.window_size, source.size, cv2.INTER_CUBIC), device)
        if source.full_frame:
            self._pasting = _Pasting(source.picture, source.box, source.size, device)
        if device.type == "cuda":
            self._copying = torch.cuda.Stream(device)
            torch.cuda.synchronize(device)  # chunks may be drawn on any stream

    def block(self, head_pose: np.ndarray, expression: np.ndarray) -> np.ndarray:
        """Render some frames, as `Renderer.block` does; with two threads at it, the device never stands still."""
        driving = np.concatenate([head_pose - self.source.fit.head_pose, expression], 1).astype(np.float32)
        # Every thread begins on the first GPU.
        here = torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()
        with torch.inference_mode(), here:
            window = to_device(driving, self.device)[None]
            vectors = self.network.driving_encoder.encode_sequence(window)[0]
            inside = slice(self.context, len(driving) - self.context)
            if self.uses_mesh:
                frames = self._draw(head_pose[inside], expression[inside], vectors)
            else:
                sample, _ = self.decoder(vectors, None, None)
                frames = _resized(((sample + 1) * 127.5).round_().clamp_(0, 255), self._enlarged)
            if self.source.full_frame:
                frames = self._pasting(frames)
            return self._to_host(frames.to(torch.uint8).permute(0, 2, 3, 1).contiguous())

    def _draw(self, head_pose: np.ndarray, expression: np.ndarray, vectors: torch.Tensor) -> torch.Tensor:
        fit = self.source.fit
        shape = self.face_model.move(fit.shape, expression - fit.expression)
        similarity = similarity_from_pose(head_pose, self.source.size)
        affine = window_affine(self.anchor, similarity, self.window_size)
        target_px = apply_affine(affine, similarity.place(shape)[..., :2])
        frames = self._warp(shape, similarity)
        warped = self._mouth.cut(frames, affine) / 127.5 - 1
        residual, mask = self.decoder(vectors, warped, self._mouth.guides(target_px))
        assert mask is not None  # a network of this geometry has one
        # Colour times mask, in [0, 255]: residual = mask (colour - warped).
        self._mouth.paint(frames, (residual + mask * warped + mask) * 127.5, mask, affine)
        return frames

    def _to_host(self, frames: torch.Tensor) -> np.ndarray:
        if self.device.type != "cuda":
            return frames.cpu().numpy()
        # On a stream of its own and into pinned memory: the next chunk is drawn meanwhile.
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
    """Puts squares back where they came from, as `osmnet.face.crop.paste`.

    On the device: copying a whole picture from there takes less time than a CPU needs to copy it within its memory.
    """

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
        """Whole numbers `(n, 3, size, size)` to uint8 pictures `(n, 3, height, width)`."""
        if self.resizing is not None:
            squares = _resized(squares, self.resizing)
        pasted = self.picture.repeat(len(squares), 1, 1, 1)
        pasted[self.inside_picture] = squares[self.inside_square].to(torch.uint8)
        return pasted


def _resizing(size: int, wanted: int, kernel: int) -> np.ndarray:
    """What OpenCV does to columns of pixels when it resizes a picture, as a matrix `(wanted, size)` float32."""
    return cv2.resize(np.eye(size, dtype=np.float32), (size, wanted), interpolation=kernel)


def _resized(frames: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Whole numbers in [0, 255] to such: `(n, 3, size, size)` to `(n, 3, wanted, wanted)`."""
    return (matrix @ frames @ matrix.T).round_().clamp_(0, 255)
