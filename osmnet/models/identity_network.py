"""A network that tells people apart.

Source: dlib's `dlib_face_recognition_resnet_model_v1` by Davis King (CC0), a ResNet of 29 convolutions; weights as
converted for face-api (MIT), see `weights_card/NOTICE`. Its distances are its own: never compare them with ArcFace's
similarity (CSIM).
Letters in shape comments: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.nn import functional as F

from osmnet.loading.model import OSMNetModel
from osmnet.loading.packaged import packaged_weights

CHIP = 150  # px, side of the aligned picture
PADDING = 0.25  # of the face, around it
# Outer and inner corner of the left eye, of the right eye (outer first), base of the nose; and where dlib puts them.
ALIGNED = np.array([263, 362, 33, 133, 2])
PLACES = np.array([
    [0.8595674595992, 0.2134981538014], [0.6460604764104, 0.2289674387677], [0.1205750620789, 0.2137274526848],
    [0.3340850613712, 0.2290642403242], [0.4901123135679, 0.6277975316475],
])  # fmt: skip
MEAN = (122.782, 117.001, 104.298)  # grey levels of 255 that are subtracted
FOLDER = "identity_network"  # beside the pipeline's components, but not one of them
WIDTHS = (32, 64, 128, 256, 256)  # channels of the groups
DEPTHS = (3, 4, 3, 3, 1)  # residual blocks in each; all groups but the first begin by halving the side


def face_chip(picture: np.ndarray, landmarks_px: np.ndarray) -> np.ndarray:
    """Align a face as the network expects it, `(150, 150, 3)`, uint8.

    Args:
        picture (`np.ndarray` of shape `(height, width, 3)`): uint8 RGB.
        landmarks_px (`np.ndarray` of shape `(478, 2 or 3)`): Vertices in its pixels.
    """
    places = (PLACES + PADDING) / (1 + 2 * PADDING)
    seen = landmarks_px[ALIGNED, :2].astype(float)
    # The similarity from face to chip, by least squares in complex numbers.
    x, y = (points @ (1, 1j) for points in (seen, places))
    turn = np.vdot(x - x.mean(), y - y.mean()) / np.vdot(x - x.mean(), x - x.mean()).real
    shift = y.mean() - turn * x.mean()
    matrix = np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])
    enlarged = max(int(np.ceil(1 / (abs(turn) * CHIP))), 1)  # a large face is sampled densely, then averaged
    side = CHIP * min(enlarged, 8)
    matrix = matrix * side
    matrix[:, 2] -= 0.5  # OpenCV's pixel centres are whole numbers
    matrix[:, 2] += matrix[:, :2] @ (0.5, 0.5)
    chip = cv2.warpAffine(picture, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return cv2.resize(chip, (CHIP, CHIP), interpolation=cv2.INTER_AREA)


class Affine(nn.Module):
    """Scales and shifts channels, as batch normalisation does once it is frozen."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `(B, C, H, W)` to the same."""
        return x * self.weight[:, None, None] + self.bias[:, None, None]


class ResidualBlock(nn.Module):
    """Two convolutions beside the input, which is averaged and zero-padded where they halve its side."""

    def __init__(self, in_channels: int, channels: int, halves: bool) -> None:
        super().__init__()
        self.halves = halves
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=2 if halves else 1, padding=0 if halves else 1)
        self.affine1 = Affine(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.affine2 = Affine(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `(B, C, H, W)` to `(B, channels, H, W)` or half of H and W."""
        out = self.affine2(self.conv2(F.relu(self.affine1(self.conv1(x)))))
        if self.halves:
            x = F.avg_pool2d(x, 2)
            # Either may be larger by a row and a column.
            height, width = max(x.shape[2], out.shape[2]), max(x.shape[3], out.shape[3])
            x, out = (
                F.pad(each, (0, width - each.shape[3], 0, height - each.shape[2], 0, out.shape[1] - each.shape[1]))
                for each in (x, out)
            )
        return F.relu(x + out)


class IdentityNetwork(OSMNetModel):
    """Maps aligned faces to 128 numbers, close together for one person.

    By Euclidean distance: below 0.6 the makers call two pictures the same person.

    Args:
        widths (`tuple[int, ...]`): Channels of the groups of blocks.
        depths (`tuple[int, ...]`): Residual blocks in each group.
        descriptor_dim (`int`): Numbers that describe a face.
    """

    @register_to_config
    def __init__(
        self, widths: tuple[int, ...] = WIDTHS, depths: tuple[int, ...] = DEPTHS, descriptor_dim: int = 128
    ) -> None:
        super().__init__()
        self.stem, self.affine = nn.Conv2d(3, widths[0], 7, stride=2), Affine(widths[0])
        layers: list[nn.Module] = []
        channels = widths[0]
        for group, (width, count) in enumerate(zip(widths, depths, strict=True)):
            for number in range(count):
                layers.append(ResidualBlock(channels, width, halves=group > 0 and number == 0))
                channels = width
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(channels, descriptor_dim, bias=False)

    def forward(self, chips: torch.Tensor) -> torch.Tensor:
        """Describe aligned faces `(B, 3, 150, 150)`, RGB in [-1, 1], by `(B, 128)`."""
        grey = (chips + 1) * 127.5 - chips.new_tensor(MEAN)[:, None, None]
        x = F.relu(self.affine(self.stem(grey / 256)))
        x = self.layers(F.max_pool2d(x, 3, stride=2))
        return self.head(x.mean((2, 3)))

    @torch.inference_mode()
    def describe(self, chips: np.ndarray) -> np.ndarray:
        """Describe faces `(n, 150, 150, 3)`, uint8, by `(n, 128)`, float32."""
        pictures = torch.from_numpy(np.ascontiguousarray(chips.transpose(0, 3, 1, 2))).to(self.device)
        return self(pictures.float() / 127.5 - 1).float().cpu().numpy()


def load_identity_network() -> IdentityNetwork:
    """Load the network in the package, in float32.

    Raises:
        ValueError: If this installation has none, or it is damaged.
    """
    return IdentityNetwork.from_pretrained(packaged_weights(), subfolder=FOLDER).float()
