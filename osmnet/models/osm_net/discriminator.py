"""Patch discriminator and its losses (not in the paper)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.nn import functional as F

from osmnet.loading.model import OSMNetModel


class PatchDiscriminator(OSMNetModel):
    """Classify overlapping patches as real or generated."""

    @register_to_config
    def __init__(self, in_channels: int = 3, base_channels: int = 32, num_layers: int = 3) -> None:
        super().__init__()
        if min(in_channels, base_channels, num_layers) < 1:
            raise ValueError(
                f"in_channels, base_channels and num_layers must be at least 1, not {in_channels}, {base_channels} "
                f"and {num_layers}."
            )
        widths = [in_channels, *(base_channels * 2 ** min(layer, 3) for layer in range(num_layers))]
        self.blocks = nn.ModuleList()
        for layer, (width_in, width_out) in enumerate(zip(widths, widths[1:], strict=False)):
            norm = nn.GroupNorm(1, width_out) if layer else nn.Identity()  # the first block needs the colours
            conv = nn.Conv2d(width_in, width_out, 4, stride=2, padding=1)
            self.blocks.append(nn.Sequential(conv, norm, nn.LeakyReLU(0.2)))
        self.conv_out = nn.Conv2d(widths[-1], 1, 3, padding=1)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Classify patches.

        Args:
            images (`torch.Tensor` of shape `(batch, in_channels, H, W)`): In [-1, 1], H and W at least
                `2**num_layers`.

        Returns:
            `tuple`: Logits `(batch, 1, H / 2**num_layers, W / 2**num_layers)`, positive for real, and the list of the
            blocks' feature maps.

        Raises:
            ValueError: If the shape does not fit.
        """
        smallest = 2**self.config.num_layers
        if images.ndim != 4 or images.shape[1] != self.config.in_channels or min(images.shape[2:]) < smallest:
            raise ValueError(
                f"images must have shape (batch, {self.config.in_channels}, height, width) of at least "
                f"{smallest} × {smallest} pixels, not {tuple(images.shape)}."
            )
        features = []
        x = images
        for block in self.blocks:
            x = block(x)  # (B, C, H / 2, W / 2)
            features.append(x)
        return self.conv_out(x), features


def d_loss(real: torch.Tensor, fake: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """Return the discriminator's hinge loss of logits `(batch, 1, h, w)`, weighted by patch."""
    return _mean(F.relu(1 - real), weight) + _mean(F.relu(1 + fake), weight)


def g_loss(fake: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """Return the generator's hinge loss; `weight` as in `d_loss`."""
    return -_mean(fake, weight)


def _mean(values: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
    return values.mean() if weight is None else (values * weight).sum() / weight.sum().clamp(min=1e-6)


def feature_matching_loss(
    real: Sequence[torch.Tensor], fake: Sequence[torch.Tensor], weight: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the mean L1 distance of feature maps.

    Args:
        real (sequence of `torch.Tensor`): Feature maps of real pictures, detached here.
        fake (sequence of `torch.Tensor`): Feature maps of generated pictures.
        weight (`torch.Tensor` of shape `(batch, 1, H, W)`, *optional*): Weight of each place, at any resolution.

    Raises:
        ValueError: If there are no maps, or not equally many.
    """
    if not real or len(real) != len(fake):
        raise ValueError(f"real and fake must hold equally many feature maps, not {len(real)} and {len(fake)}.")
    return torch.stack([_distance(a.detach(), b, weight) for a, b in zip(real, fake, strict=True)]).mean()


def _distance(real: torch.Tensor, fake: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
    if weight is None:
        return F.l1_loss(fake, real)
    return _mean((fake - real).abs().mean(1, keepdim=True), F.adaptive_max_pool2d(weight, fake.shape[-2:]))
