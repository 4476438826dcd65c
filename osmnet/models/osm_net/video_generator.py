"""The video generator: driving window and source picture to a frame.

Source: OSM-Net (arXiv 2309.16148), Section III-C, Eq. 10-11 and Fig. 3. Letters in shape comments: B batch, W window,
D `driving_dim` (6 pose + 64 expression numbers), V `vector_dim`, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from torch import nn
from torch.nn import functional as F

from osmnet.loading.model import OSMNetModel
from osmnet.models.layers import ConvBlock, ResidualBlock, UpBlock
from osmnet.utils.checks import check_range, short

GEOMETRIES = ("mesh", "none")
MAX_SIDE = 4096  # px; a chunk of larger pictures does not fit into memory


@dataclass
class VideoGeneratorOutput(BaseOutput):
    """Output of `VideoGenerator`.

    Args:
        sample (`torch.Tensor` of shape `(batch, 3, H, W)`): The frame, in [-1, 1].
        mask (`torch.Tensor` of shape `(batch, 1, H, W)`, *optional*): Share of the pixel that was painted, in [0, 1].
        residual (`torch.Tensor` of shape `(batch, 3, H, W)`, *optional*): `sample − warped_image`, which may be added
            to the same warp at a higher resolution.
    """

    sample: torch.Tensor
    mask: torch.Tensor | None = None
    residual: torch.Tensor | None = None


class DrivingEncoder(nn.Module):
    """Encode windows of 2k + 1 frames by unpadded 1-D convolutions."""

    def __init__(self, driving_dim: int = 70, window: int = 17, hidden_dim: int = 256, out_dim: int = 256) -> None:
        super().__init__()
        if window < 1 or window % 2 == 0:
            raise ValueError(f"window must be odd and at least 1, not {window}.")
        self.driving_dim, self.window = driving_dim, window
        self.conv_in = nn.Conv1d(driving_dim, hidden_dim, 1)
        self.convs = nn.ModuleList(nn.Conv1d(hidden_dim, hidden_dim, 3) for _ in range(window // 2))
        self.conv_out = nn.Conv1d(hidden_dim, out_dim, 1)

    def forward(self, driving_window: torch.Tensor) -> torch.Tensor:
        """Map windows `(batch, window, driving_dim)` to `(batch, out_dim)`."""
        if driving_window.ndim != 3 or tuple(driving_window.shape[1:]) != (self.window, self.driving_dim):
            raise ValueError(
                f"driving_window must have shape (batch, {self.window}, {self.driving_dim}), not "
                f"{tuple(driving_window.shape)}."
            )
        return self.encode_sequence(driving_window)[:, 0]

    def encode_sequence(self, driving: torch.Tensor) -> torch.Tensor:
        """Encode all windows of a sequence at once.

        Args:
            driving (`torch.Tensor` of shape `(batch, frames + window − 1, driving_dim)`): With k frames of context.

        Returns:
            `torch.Tensor` of shape `(batch, frames, out_dim)`: Entry i is `forward(driving[:, i : i + window])`.

        Raises:
            ValueError: If the shape does not fit.
        """
        if driving.ndim != 3 or driving.shape[2] != self.driving_dim or driving.shape[1] < self.window:
            raise ValueError(
                f"driving must have shape (batch, {self.window} or more, {self.driving_dim}), not "
                f"{tuple(driving.shape)}."
            )
        x = self.conv_in(driving.to(self.conv_in.weight.dtype).transpose(1, 2))  # (B, hidden, L + W − 1)
        for conv in self.convs:
            x = x[..., 1:-1] + conv(F.leaky_relu(x, 0.2))  # two frames shorter
        return self.conv_out(F.leaky_relu(x, 0.2)).transpose(1, 2)  # (B, L, V)


def _conv(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)


class VideoGenerator(OSMNetModel):
    """Generate a frame from the source picture and a driving window.

    A conditional auto-encoder. `geometry="none"` is the paper's: it makes every pixel. With `geometry="mesh"` it
    predicts a colour and a blending mask over the warped source. Channel 0 of `guide` confines the mask;
    `guide_channels=0` does not.

    `stem_stride=2` works at half the resolution, three times as fast; not in the paper. Pictures may have any size
    divisible by `stem_stride · 2**num_down`; train and render at `image_size`.
    """

    @register_to_config
    def __init__(
        self,
        geometry: str = "mesh",
        image_size: int = 256,
        driving_dim: int = 70,
        window: int = 17,
        base_channels: int = 32,
        max_channels: int = 256,
        num_down: int = 3,
        num_residual: int = 5,
        stem_stride: int = 1,
        guide_channels: int = 0,
        vector_dim: int = 256,
    ) -> None:
        super().__init__()
        if geometry not in GEOMETRIES:
            raise ValueError(f'geometry must be "mesh" or "none", not {short(geometry)}.')
        if min(driving_dim, base_channels, max_channels, num_down, stem_stride, vector_dim) < 1 or num_residual < 0:
            raise ValueError("All sizes of a VideoGenerator must be at least 1 (num_residual at least 0).")
        if guide_channels < 0 or (geometry == "none" and guide_channels):
            raise ValueError(f'guide_channels must be at least 0, and 0 with geometry="none", not {guide_channels}.')
        self.size_factor = stem_stride * 2**num_down
        check_range("image_size", image_size, 1, MAX_SIDE, whole=True)
        if image_size % self.size_factor:
            raise ValueError(f"image_size must be a multiple of {self.size_factor}, not {image_size}.")

        self.driving_encoder = DrivingEncoder(driving_dim, window, vector_dim, vector_dim)
        in_channels = 3 if geometry == "none" else 6 + guide_channels
        out_channels = 3 if geometry == "none" else 4
        in_channels, out_channels = in_channels * stem_stride**2, out_channels * stem_stride**2
        widths = [min(base_channels * 2**level, max_channels) for level in range(num_down + 1)]
        # The paper has three convolutions, each followed by pooling. With a mesh, which brings three times as many
        # channels or more, one comes before them.
        self.stem = None if geometry == "none" else ConvBlock(_conv(in_channels, widths[0]), vector_dim)
        read, made = (widths[:-1], widths[1:]) if self.stem else ([in_channels, *widths[:-2]], widths[:-1])
        self.down_blocks = nn.ModuleList(ConvBlock(_conv(i, o), vector_dim) for i, o in zip(read, made, strict=True))
        self.mid_blocks = nn.ModuleList(ResidualBlock(made[-1], vector_dim) for _ in range(num_residual))
        above = [made[-1], *widths[num_down - 1 : 0 : -1]]  # channels that come up from each smaller level
        self.up_blocks = nn.ModuleList(
            UpBlock(channels, width, width, vector_dim)
            for channels, width in zip(above, widths[num_down - 1 :: -1], strict=True)
        )
        self.conv_out = _conv(widths[0], out_channels)
        with torch.no_grad():  # start with dull colours and, with a mesh, half of what the guide allows
            for parameter in self.conv_out.parameters():
                parameter.mul_(0.1)

    def encode_driving(self, driving_window: torch.Tensor) -> torch.Tensor:
        """Encode windows `(batch, window, driving_dim)`: `(batch, vector_dim)`."""
        return self.driving_encoder(driving_window)

    def forward(
        self,
        source_image: torch.Tensor,
        driving_window: torch.Tensor,
        warped_image: torch.Tensor | None = None,
        guide: torch.Tensor | None = None,
    ) -> VideoGeneratorOutput:
        """Generate the frame in the middle of each window.

        Args:
            source_image (`torch.Tensor` of shape `(batch, 3, H, W)` or `(1, 3, H, W)`): The source, in [-1, 1].
            driving_window (`torch.Tensor` of shape `(batch, window, driving_dim)`): Pose and expression around each
                frame.
            warped_image (`torch.Tensor` of shape `(batch, 3, H, W)`, *optional*): The source warped to each frame's
                pose and expression, in [-1, 1]; with `geometry="mesh"` only.
            guide (`torch.Tensor` of shape `(batch, guide_channels, H, W)`, *optional*): Where to paint, in [0, 1],
                then what else the warp knows.

        Returns:
            `VideoGeneratorOutput`: The frames, in the dtype of the pictures given.

        Raises:
            ValueError: If an input is missing, superfluous, or of another shape.

        Source:
            arXiv 2309.16148, Eq. 10 (and 11, the same network under the centre feature).
        """
        return self.decode(source_image, self.encode_driving(driving_window), warped_image, guide)

    def decode(
        self,
        source_image: torch.Tensor,
        driving: torch.Tensor,
        warped_image: torch.Tensor | None = None,
        guide: torch.Tensor | None = None,
    ) -> VideoGeneratorOutput:
        """Compute `forward` from driving vectors `(batch, vector_dim)`."""
        stride, dtype = self.config.stem_stride, self.conv_out.weight.dtype
        inputs = self._check_inputs(source_image, driving, warped_image, guide)
        # 1. Join the pictures, and make squares of pixels the channels of one place.
        x = torch.cat([image.to(dtype) for image in inputs], 1)
        if stride > 1:
            x = F.pixel_unshuffle(x, stride)  # (B, C · stride², H / stride, W / stride)
        x = x.contiguous(memory_format=torch.channels_last)
        driving = F.leaky_relu(driving.to(dtype), 0.2)  # (B, V)

        # 2. Encode, transform, and decode with the encoder's skips.
        skips = []
        if self.stem:
            x = self.stem(x, driving)
            for block in self.down_blocks:
                skips.append(x)
                x = F.avg_pool2d(block(x, driving), 2)
        else:
            for block in self.down_blocks:
                skips.append(block(x, driving))
                x = F.avg_pool2d(skips[-1], 2)
        for block in self.mid_blocks:
            x = block(x, driving)  # (B, C, h / 2**num_down, w / 2**num_down), of h × w after step 1
        for block in self.up_blocks:
            x = block(x, skips.pop(), driving)
        x = self.conv_out(x).contiguous()  # the pictures' own layout: tanh is several times slower on strided ones
        if stride > 1:
            x = F.pixel_shuffle(x, stride)  # (B, 3 or 4, H, W)

        # 3. Return the picture, or blend it into the warped one.
        if warped_image is None:
            return VideoGeneratorOutput(sample=torch.tanh(x).to(source_image.dtype))
        # Blended in the dtype of the pictures: sixteen bits would band the untouched part of the frame.
        colour, logit = x.to(warped_image.dtype).split([3, 1], dim=1)
        mask = torch.sigmoid(logit)
        if guide is not None:
            mask = mask * guide[:, :1].to(mask.dtype)
        residual = mask * (torch.tanh(colour) - warped_image)
        return VideoGeneratorOutput(sample=warped_image + residual, mask=mask, residual=residual)

    def _check_inputs(
        self,
        source_image: torch.Tensor,
        driving: torch.Tensor,
        warped_image: torch.Tensor | None,
        guide: torch.Tensor | None,
    ) -> list[torch.Tensor]:
        """Check the inputs; return the pictures to concatenate."""
        config = self.config
        if driving.ndim != 2 or driving.shape[1] != config.vector_dim:
            raise ValueError(f"driving must have shape (batch, {config.vector_dim}), not {tuple(driving.shape)}.")
        batch = driving.shape[0]
        if source_image.ndim != 4 or source_image.shape[1] != 3 or source_image.shape[0] not in (1, batch):
            raise ValueError(
                f"source_image must have shape ({batch}, 3, height, width), not {tuple(source_image.shape)}."
            )
        height, width = source_image.shape[2:]
        if height % self.size_factor or width % self.size_factor or not height * width:
            raise ValueError(
                f"source_image must have a height and width divisible by {self.size_factor}; its shape is "
                f"{tuple(source_image.shape)}."
            )
        inputs = [source_image.expand(batch, -1, -1, -1)]
        mesh = config.geometry == "mesh"
        for name, image, channels in (
            ("warped_image", warped_image, 3 if mesh else 0),
            ("guide", guide, config.guide_channels),
        ):
            if image is None and channels:
                raise ValueError(
                    f"{name} is missing; this network needs one of shape ({batch}, {channels}, {height}, {width})."
                )
            if image is not None and not channels:
                raise ValueError(f"{name} is not used by this network; leave it out.")
            if image is not None:
                if tuple(image.shape) != (batch, channels, height, width):
                    raise ValueError(
                        f"{name} must have shape ({batch}, {channels}, {height}, {width}), not {tuple(image.shape)}."
                    )
                inputs.append(image)
        return inputs
