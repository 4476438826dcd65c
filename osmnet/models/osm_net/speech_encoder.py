"""Speech features of a network trained to transcribe speech.

Source: Moonshine (arXiv 2410.15608): the lower layers of the encoder of its model "tiny", with its weights (MIT). They
distinguish sounds, which a quarter of an hour of talking faces is too little to learn.
Letters in shape comments: B batch, N samples, S steps, H heads.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.nn import functional as F

from osmnet.loading.model import OSMNetModel
from osmnet.media.audio import SAMPLES_PER_FRAME
from osmnet.utils.checks import check_positive

STRIDES, KERNELS = (64, 3, 2), (127, 7, 3)
STRIDE = 384  # samples between two steps, 24 ms
RECEPTIVE_FIELD = 895  # samples that the convolutions of one step cover
ROTARY_BASE = 10000.0

# Frames (6 s, and 2 s to either side). A recording is encoded in cells of a grid, each with the sound around it, so
# that no frame's features depend on how many are asked for at once.
CELL, MARGIN = 150, 50


class Sound(Protocol):
    """Mono samples at 16 kHz, float32 in [-1, 1]: an array or `Recording`."""

    def __len__(self) -> int:
        """Number of samples."""

    def __getitem__(self, where: slice) -> np.ndarray:
        """Samples of a slice."""


class SpeechAttention(nn.Module):
    """Self-attention with rotary positions in each head."""

    def __init__(self, dim: int, num_heads: int, rotary_dim: int) -> None:
        super().__init__()
        self.num_heads, self.rotary_dim = num_heads, rotary_dim
        self.q_proj = nn.Linear(dim, dim, bias=False)
        self.k_proj = nn.Linear(dim, dim, bias=False)
        self.v_proj = nn.Linear(dim, dim, bias=False)
        self.o_proj = nn.Linear(dim, dim, bias=False)

    def forward(self, x: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
        """Map `(B, S, dim)` to the same; `rotation` is `(2, S, rotary_dim / 2)`."""
        query, key, value = (
            proj(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, H, S, dim / H)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        attended = F.scaled_dot_product_attention(self._turn(query, rotation), self._turn(key, rotation), value)
        return self.o_proj(attended.transpose(1, 2).flatten(2))  # (B, S, dim)

    def _turn(self, x: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
        """Rotate neighbouring pairs by their step's angles."""
        cos, sin = rotation
        even, odd = x[..., : self.rotary_dim : 2], x[..., 1 : self.rotary_dim : 2]
        turned = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)  # (B, H, S, rotary)
        return torch.cat([turned, x[..., self.rotary_dim :]], dim=-1)


class SpeechLayer(nn.Module):
    """Pre-norm encoder layer: attention, then an MLP."""

    def __init__(self, dim: int, num_heads: int, rotary_dim: int, mlp_dim: int) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(dim, bias=False)
        self.self_attn = SpeechAttention(dim, num_heads, rotary_dim)
        self.post_attention_layernorm = nn.LayerNorm(dim, bias=False)
        self.fc1 = nn.Linear(dim, mlp_dim)
        self.fc2 = nn.Linear(mlp_dim, dim)

    def forward(self, x: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
        """Map `(B, S, dim)` to the same."""
        x = x + self.self_attn(self.input_layernorm(x), rotation)
        return x + self.fc2(F.gelu(self.fc1(self.post_attention_layernorm(x))))


class SpeechEncoder(OSMNetModel):
    """Encode sound as 288 features every 24 ms."""

    @register_to_config
    def __init__(
        self,
        hidden_dim: int = 288,
        num_layers: int = 3,
        num_heads: int = 8,
        rotary_dim: int = 32,
        mlp_dim: int = 1152,
    ) -> None:
        super().__init__()
        check_positive(hidden_dim=hidden_dim, num_layers=num_layers, num_heads=num_heads, mlp_dim=mlp_dim)
        if hidden_dim % num_heads:
            raise ValueError(f"num_heads must divide hidden_dim, {hidden_dim}, not be {num_heads}.")
        if rotary_dim % 2 or not 0 <= rotary_dim <= hidden_dim // num_heads:
            raise ValueError(
                f"rotary_dim must be an even number from 0 to {hidden_dim // num_heads}, the size of a head, not "
                f"{rotary_dim}."
            )
        self.conv1 = nn.Conv1d(1, hidden_dim, KERNELS[0], STRIDES[0], bias=False)
        self.groupnorm = nn.GroupNorm(1, hidden_dim)
        self.conv2 = nn.Conv1d(hidden_dim, 2 * hidden_dim, KERNELS[1], STRIDES[1])
        self.conv3 = nn.Conv1d(2 * hidden_dim, hidden_dim, KERNELS[2], STRIDES[2])
        self.layers = nn.ModuleList(SpeechLayer(hidden_dim, num_heads, rotary_dim, mlp_dim) for _ in range(num_layers))

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """Encode a stretch of sound.

        Args:
            waveform (`torch.Tensor` of shape `(batch, samples)`): Mono, 16 kHz, in [-1, 1]; at least 895 samples.

        Returns:
            `torch.Tensor` of shape `(batch, steps, hidden_dim)`: Step `j` is centred on sample `384 j + 447`.
        """
        # 1. Convolve samples to steps.
        x = torch.tanh(self.conv1(waveform[:, None].to(self.dtype)))  # (B, dim, S)
        x = F.gelu(self.conv3(F.gelu(self.conv2(self.groupnorm(x))))).transpose(1, 2)  # (B, S, dim)
        # 2. Let the steps attend to one another.
        rotation = self._rotation(x.shape[1], x)  # (2, S, rotary / 2)
        for layer in self.layers:
            x = layer(x, rotation)  # (B, S, dim)
        return x

    @torch.inference_mode()
    def encode(self, sound: Sound, begin: int, end: int) -> np.ndarray:
        """Encode frames `begin … end − 1` of a recording.

        Args:
            sound (`np.ndarray` of shape `(samples,)` or `Recording`): Mono speech at 16 kHz; silent beyond its end.
            begin (`int`): First frame, of 640 samples each.
            end (`int`): Frame after the last.

        Returns:
            `np.ndarray` of shape `(end - begin, hidden_dim)`: float32, interpolated at the frames' middles.
        """
        features = np.empty((max(end - begin, 0), self.config.hidden_dim), np.float32)
        for cell in range(begin // CELL, -(-end // CELL)):
            first, stop = max(cell * CELL, begin), min((cell + 1) * CELL, end)
            earliest = max(cell * CELL - MARGIN, 0)
            piece = sound[earliest * SAMPLES_PER_FRAME : ((cell + 1) * CELL + MARGIN) * SAMPLES_PER_FRAME]
            features[first - begin : stop - begin] = self.encode_piece(piece, np.arange(first, stop) - earliest)
        return features

    @torch.inference_mode()
    def encode_piece(self, waveform: np.ndarray, frames: np.ndarray) -> np.ndarray:
        """Encode a piece of sound in one pass.

        Args:
            waveform (`np.ndarray` of shape `(samples,)`): Mono, 16 kHz, float32.
            frames (`np.ndarray` of shape `(n,)`): Places to read, in frames of the piece; may be fractional.

        Returns:
            `np.ndarray` of shape `(n, hidden_dim)`: float32; beyond the ends the nearest step.
        """
        # 1. Encode the piece, of at least two steps.
        waveform = np.pad(waveform, (0, max(RECEPTIVE_FIELD + STRIDE - len(waveform), 0)))
        steps = self(torch.from_numpy(np.ascontiguousarray(waveform))[None].to(self.device))[0].float().cpu().numpy()
        # 2. Interpolate linearly between the two steps around each place.
        at = ((np.asarray(frames) + 0.5) * SAMPLES_PER_FRAME - RECEPTIVE_FIELD // 2) / STRIDE
        at = np.clip(at, 0, len(steps) - 1)
        below = np.minimum(at.astype(int), len(steps) - 2)
        part = (at - below)[:, None].astype(np.float32)
        return steps[below] * (1 - part) + steps[below + 1] * part

    def _rotation(self, steps: int, like: torch.Tensor) -> torch.Tensor:
        half = self.config.rotary_dim // 2
        speed = ROTARY_BASE ** (-torch.arange(half, device=like.device, dtype=torch.float32) / half)
        angle = torch.arange(steps, device=like.device, dtype=torch.float32)[:, None] * speed
        return torch.stack([angle.cos(), angle.sin()]).to(like.dtype)
