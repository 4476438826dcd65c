"""Losses of the video generator and its discriminator."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from osmnet.models.osm_net.discriminator import PatchDiscriminator, d_loss, feature_matching_loss, g_loss
from osmnet.models.osm_net.video_generator import VideoGenerator, VideoGeneratorOutput
from osmnet.training.osm_net.perceptual import VGG19, perceptual_losses

INSIDE = 3.0  # extra weight of the inside of the mouth, relative to the rest of the painted area
ELSEWHERE = 0.1  # weight of a discriminator patch of a whole face, relative to one around mouth and eyes

Batch = dict[str, torch.Tensor]


class VideoAdversary(nn.Module):
    """Patch discriminator on pictures and a mask of the mouth (and eyes)."""

    def __init__(self) -> None:
        """Build with random weights."""
        super().__init__()
        self.discriminator = PatchDiscriminator(in_channels=4)
        self.pictures: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None  # real, fake, weight

    def forward(self, batch: Batch) -> Batch:
        """Compute `d`, the hinge loss, on the kept pictures."""
        if self.pictures is None:
            raise RuntimeError("The objective has left no pictures; begin_step switches both on.")
        real, fake, weight = self.pictures
        self.pictures = None
        real_logits, fake_logits = self.discriminator(real)[0], self.discriminator(fake)[0]
        # Most patches have nothing generated in them; they would teach the discriminator to be undecided.
        patches = F.adaptive_max_pool2d(weight, real_logits.shape[-2:])
        return {"d": d_loss(real_logits, fake_logits, patches)}

    def generator_losses(self, real: torch.Tensor, fake: torch.Tensor, weight: torch.Tensor, weighted: bool) -> Batch:
        """Compute the generator's losses and keep the pictures.

        Args:
            real (`torch.Tensor` of shape `(batch, 4, H, W)`): True pictures and their masks.
            fake (`torch.Tensor` of the same shape): Generated ones.
            weight (`torch.Tensor` of shape `(batch, 1, H, W)`): Weight of each pixel.
            weighted (`bool`): Whether to weight the feature loss, too.

        Returns:
            `dict[str, torch.Tensor]`: `g` and `feature`.
        """
        self.pictures = real.detach().float(), fake.detach().float(), weight.detach().float()
        logits, features = self.discriminator(fake)
        with torch.no_grad():
            real_features = self.discriminator(real)[1]
        patches = F.adaptive_max_pool2d(weight, logits.shape[-2:])
        matched = feature_matching_loss(real_features, features, weight if weighted else None)
        return {"g": g_loss(logits, patches), "feature": matched}


class VideoLosses(nn.Module):
    """All losses of a batch, summed over the kinds of driving.

    Args:
        network (`VideoGenerator`): The network to train.
        vgg (`VGG19`, *optional*): For `per` and `style`.
        adversary (`VideoAdversary`, *optional*): For `g` and `feature`, while `adversarial`.
    """

    def __init__(self, network: VideoGenerator, vgg: VGG19 | None = None, adversary: VideoAdversary | None = None):
        super().__init__()
        self.network, self.vgg, self.adversary = network, vgg, adversary
        self.mesh = network.config.geometry == "mesh"
        self.adversarial = False

    def forward(self, batch: Batch) -> Batch:
        """Generate frames and compare them with the truth.

        Args:
            batch (`dict[str, torch.Tensor]`): From `MouthPairs` or `FacePairs`.

        Returns:
            `dict[str, torch.Tensor]`: `rec` (Eq. 12), `gradient` (L1 of the edges), with a mesh `mask` (painting
            outside of the mouth), with VGG-19 `per` and `style` (Eq. 13, 14), while adversarial `g` and `feature`.
        """
        # 1. All kinds of driving in one pass; a mean over the pass times their number is the sum of their means.
        kinds = batch["driving"].shape[1]
        driving = batch["driving"].transpose(0, 1).flatten(0, 1)
        batch = {name: value.repeat(kinds, 1, 1, 1) for name, value in batch.items() if name != "driving"}
        # 2. Pixels.
        if self.mesh:
            losses, sample, map_, weight = self._mesh(driving, batch)
        else:
            sample = self.network(batch["source"], driving).sample.float()  # (kinds·B, 3, H, W)
            losses = self._whole(sample, batch["target"])
            map_ = batch["guide"][:, 1:2]
            weight = map_.clamp(min=ELSEWHERE)
        # 3. Features of VGG-19 and of the discriminator.
        if self.vgg is not None:
            losses |= perceptual_losses(self.vgg, sample, batch["target"])
        if self.adversarial and self.adversary is not None:
            real, fake = (torch.cat([image, map_], 1) for image in (batch["target"], sample))
            losses |= self.adversary.generator_losses(real, fake, weight, weighted=not self.mesh)
        return {name: kinds * loss for name, loss in losses.items()}

    def _mesh(self, driving: torch.Tensor, batch: Batch) -> tuple[Batch, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Losses within the painted area, and frames with the truth elsewhere."""
        target, guide = batch["target"], batch["guide"]
        output: VideoGeneratorOutput = self.network(batch["source"], driving, batch["warped"], guide)
        sample, paint, inside = output.sample.float(), guide[:, :1], guide[:, 1:2]
        weight = paint + INSIDE * inside
        losses = reconstruction_losses(sample, target, weight / (weight.mean((1, 2, 3), keepdim=True) + 1e-3))
        losses["mask"] = (cast(torch.Tensor, output.mask).float() * (1 - inside)).mean()
        # Errors of the warp outside of the painted area would dominate the other losses.
        return losses, target * (1 - paint) + sample * paint, inside, paint

    @staticmethod
    def _whole(sample: torch.Tensor, target: torch.Tensor) -> Batch:
        return reconstruction_losses(sample, target, torch.ones_like(target[:, :1]))


def reconstruction_losses(sample: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> Batch:
    """Compare pictures and their edges.

    Args:
        sample (`torch.Tensor` of shape `(batch, 3, H, W)`): Generated, in [-1, 1].
        target (`torch.Tensor` of the same shape): The truth.
        weight (`torch.Tensor` of shape `(batch, 1, H, W)`): Weight of each pixel.

    Returns:
        `dict[str, torch.Tensor]`: `rec`, the mean L1 distance (arXiv 2309.16148, Eq. 12), and `gradient`, the L1
        distance of differences of neighbouring pixels.
    """
    edges = zip(_edges(sample), _edges(target), strict=True)
    gradient = [((a - b).abs() * weight[..., : a.shape[-2], : a.shape[-1]]).mean() for a, b in edges]
    return {"rec": ((sample - target).abs() * weight).mean(), "gradient": torch.stack(gradient).sum()}


def _edges(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return image[..., :, 1:] - image[..., :, :-1], image[..., 1:, :] - image[..., :-1, :]
