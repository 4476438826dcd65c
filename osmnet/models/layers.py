"""Building blocks of several networks."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class ResidualMLP(nn.Module):
    """`x + W₂ gelu(W₁ norm(x))` on the last dimension."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.linear_in = nn.Linear(dim, 2 * dim)
        self.linear_out = nn.Linear(2 * dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `(..., dim)` to `(..., dim)`."""
        hidden = F.gelu(self.linear_in(self.norm(x)))  # (..., 2 · dim)
        return x + self.linear_out(hidden)


class MelWindowEncoder(nn.Module):
    """Encode each frame's mel window by 2-D convolutions."""

    def __init__(self, mel_bins: int = 16, mel_window: int = 16, hidden_dim: int = 128) -> None:
        super().__init__()
        if min(mel_bins, mel_window) < 8:
            raise ValueError(f"mel_bins and mel_window must be at least 8, not {mel_bins} and {mel_window}.")
        widths = (1, 16, 32, 64)
        layers: list[nn.Module] = []
        for width_in, width_out in zip(widths, widths[1:], strict=False):
            layers += [nn.Conv2d(width_in, width_out, 3, stride=2, padding=1), nn.LeakyReLU(0.1)]
        self.convs = nn.Sequential(*layers)
        self.linear = nn.Linear(widths[-1] * -(-mel_bins // 8) * -(-mel_window // 8), hidden_dim)
        self.norm = nn.LayerNorm(hidden_dim)
        self.window_shape = (mel_window, mel_bins)

    def forward(self, mel_windows: torch.Tensor) -> torch.Tensor:
        """Map `(batch, frames, mel_window, mel_bins)` to `(batch, frames, hidden_dim)`."""
        if mel_windows.ndim != 4 or tuple(mel_windows.shape[2:]) != self.window_shape:
            raise ValueError(
                f"mel_windows must have shape (batch, frames, {self.window_shape[0]}, {self.window_shape[1]}), not "
                f"{tuple(mel_windows.shape)}."
            )
        batch, frames = mel_windows.shape[:2]
        # Not normalised: loudness tells speech from silence, which must close the mouth.
        x = mel_windows.to(self.linear.weight.dtype).flatten(0, 1).unsqueeze(1)  # (B·F, 1, window, bins)
        x = self.linear(self.convs(x).flatten(1))  # (B·F, hidden)
        return self.norm(x).unflatten(0, (batch, frames))  # (B, F, hidden)


class AdaIN(nn.Module):
    """Normalise a feature map, scaled and shifted by a driving vector."""

    def __init__(self, channels: int, driving_dim: int) -> None:
        super().__init__()
        # The paper has AdaIN and layer normalisation, but one right after the other undoes it. Statistics here are
        # over all channels of a sample: channels keep their means, which on a small map carry most of the information.
        self.norm = nn.GroupNorm(1, channels)
        self.linear = nn.Linear(driving_dim, 2 * channels)

    def forward(self, x: torch.Tensor, driving: torch.Tensor) -> torch.Tensor:
        """Map `(batch, channels, H, W)` and `(batch, driving_dim)` to `(batch, channels, H, W)`."""
        scale, shift = self.linear(driving)[:, :, None, None].chunk(2, dim=1)  # (B, C, 1, 1) each
        return torch.addcmul(shift, self.norm(x), 1 + scale)  # (B, C, H, W)


class ConvBlock(nn.Module):
    """(Transposed) convolution, AdaIN and leaky ReLU."""

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d, driving_dim: int) -> None:
        super().__init__()
        self.conv = conv
        self.adain = AdaIN(conv.out_channels, driving_dim)

    def forward(self, x: torch.Tensor, driving: torch.Tensor) -> torch.Tensor:
        """Apply the block to `(batch, channels, H, W)` under `(batch, driving_dim)`."""
        x = self.adain(self.conv(x), driving)  # (B, C, H', W')
        return F.leaky_relu(x, 0.2, inplace=True)


class ResidualBlock(nn.Module):
    """Two convolution blocks with a residual link."""

    def __init__(self, channels: int, driving_dim: int) -> None:
        super().__init__()
        self.first = ConvBlock(nn.Conv2d(channels, channels, 3, padding=1), driving_dim)
        self.second = ConvBlock(nn.Conv2d(channels, channels, 3, padding=1), driving_dim)

    def forward(self, x: torch.Tensor, driving: torch.Tensor) -> torch.Tensor:
        """Map `(batch, channels, H, W)` to the same shape."""
        return x + self.second(self.first(x, driving), driving)


class UpBlock(nn.Module):
    """Upsample twofold with a residual link, then join a skip."""

    def __init__(self, in_channels: int, out_channels: int, skip_channels: int, driving_dim: int) -> None:
        super().__init__()
        up = nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1)
        self.up = ConvBlock(up, driving_dim)
        self.link = nn.Conv2d(in_channels, out_channels, 1)
        self.join = ConvBlock(nn.Conv2d(out_channels + skip_channels, out_channels, 3, padding=1), driving_dim)

    def forward(self, x: torch.Tensor, skip: torch.Tensor, driving: torch.Tensor) -> torch.Tensor:
        """Map `(batch, in, H, W)` and `(batch, skip, 2H, 2W)` to `(batch, out, 2H, 2W)`."""
        link = F.interpolate(self.link(x), scale_factor=2, mode="nearest")  # (B, out, 2H, 2W)
        x = self.up(x, driving) + link
        return self.join(torch.cat([x, skip], 1), driving)
