"""Motion encoders and decoder, and the division of paths into clips.

Source: OSM-Net (arXiv 2309.16148), Section III-A. Letters in shape comments: B batch, T poses of a clip, K clips,
N `num_videos`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.nn import functional as F

from osmnet.loading.model import OSMNetModel
from osmnet.models.layers import MelWindowEncoder, ResidualMLP
from osmnet.utils.checks import check_positive, short


class MotionEncoder(OSMNetModel):
    """Encode a clip of relative head poses into a motion feature (E_m).

    The paper encodes frames; their pose numbers hold all head motion. `pose_scale` (6,) is the spread of poses in
    training.
    """

    _keep_in_fp32_modules = ["pose_scale"]

    @register_to_config
    def __init__(self, clip_length: int = 5, pose_dim: int = 6, motion_dim: int = 512, hidden_dim: int = 256) -> None:
        super().__init__()
        check_positive(pose_dim=pose_dim, motion_dim=motion_dim, hidden_dim=hidden_dim)
        _check_clip_length(clip_length)
        self.register_buffer("pose_scale", torch.ones(pose_dim))
        self.linear_in = nn.Linear(clip_length * pose_dim, hidden_dim)
        self.blocks = nn.Sequential(ResidualMLP(hidden_dim), ResidualMLP(hidden_dim))
        self.linear_out = nn.Linear(hidden_dim, motion_dim)

    def forward(self, head_pose: torch.Tensor) -> torch.Tensor:
        """Encode clips.

        Args:
            head_pose (`torch.Tensor` of shape `(batch, clip_length, pose_dim)`): Poses relative to the first of the
                clip: yaw, pitch, roll in radians, translation in head units.

        Returns:
            `torch.Tensor` of shape `(batch, motion_dim)`: The features F_m.

        Raises:
            ValueError: If the shape does not fit.
        """
        expected = (self.config.clip_length, self.config.pose_dim)
        if head_pose.ndim != 3 or tuple(head_pose.shape[1:]) != expected:
            raise ValueError(
                f"head_pose must have shape (batch, {expected[0]}, {expected[1]}), not {tuple(head_pose.shape)}."
            )
        x = (head_pose / self.pose_scale).flatten(1).to(self.linear_in.weight.dtype)  # (B, T · 6)
        x = self.blocks(self.linear_in(x))  # (B, hidden)
        return self.linear_out(x)


class AudioMotionEncoder(OSMNetModel):
    """Predict weights of the motion bases from speech (E_a)."""

    @register_to_config
    def __init__(
        self,
        mel_bins: int = 16,
        mel_window: int = 16,
        clip_length: int = 5,
        num_bases: int = 48,
        hidden_dim: int = 128,
    ) -> None:
        super().__init__()
        check_positive(num_bases=num_bases, hidden_dim=hidden_dim)
        _check_clip_length(clip_length)
        self.frame_encoder = MelWindowEncoder(mel_bins, mel_window, hidden_dim)
        self.linear_in = nn.Linear(clip_length * hidden_dim, hidden_dim)
        self.blocks = nn.Sequential(ResidualMLP(hidden_dim), ResidualMLP(hidden_dim))
        self.linear_out = nn.Linear(hidden_dim, num_bases)

    def forward(self, mel_windows: torch.Tensor) -> torch.Tensor:
        """Predict log-weights.

        Args:
            mel_windows (`torch.Tensor` of shape `(batch, clip_length, mel_window, mel_bins)`): Mel windows of the
                clip's frames.

        Returns:
            `torch.Tensor` of shape `(batch, num_bases)`, float32: log w_a; its exponentials sum to 1.

        Raises:
            ValueError: If the shape does not fit.
        """
        x = self.frame_encoder(mel_windows)  # (B, T, hidden)
        if x.shape[1] != self.config.clip_length:
            raise ValueError(
                f"mel_windows must hold {self.config.clip_length} frames a clip; its shape is "
                f"{tuple(mel_windows.shape)}."
            )
        x = self.blocks(self.linear_in(x.flatten(1)))  # (B, hidden)
        return F.log_softmax(self.linear_out(x).float(), dim=-1)


class MotionDecoder(OSMNetModel):
    """Decode motion features into head poses, see `MotionEncoder`.

    Part of the video generator in the paper; separate, it gives the motion before rendering.
    """

    _keep_in_fp32_modules = ["pose_scale"]

    @register_to_config
    def __init__(self, motion_dim: int = 512, clip_length: int = 5, hidden_dim: int = 256, pose_dim: int = 6) -> None:
        super().__init__()
        check_positive(pose_dim=pose_dim, motion_dim=motion_dim, hidden_dim=hidden_dim)
        _check_clip_length(clip_length)
        self.register_buffer("pose_scale", torch.ones(pose_dim))
        self.linear_in = nn.Linear(motion_dim, hidden_dim)
        self.blocks = nn.Sequential(ResidualMLP(hidden_dim), ResidualMLP(hidden_dim))
        self.linear_out = nn.Linear(hidden_dim, clip_length * pose_dim)

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        """Decode motion features.

        Args:
            feature (`torch.Tensor` of shape `(batch, motion_dim)`): Motion features F.

        Returns:
            `torch.Tensor` of shape `(batch, clip_length, pose_dim)`, float32: Poses relative to the first of the clip,
            which is exactly 0: yaw, pitch, roll in radians, translation in head units.

        Raises:
            ValueError: If the shape does not fit.
        """
        if feature.ndim != 2 or feature.shape[1] != self.config.motion_dim:
            raise ValueError(f"feature must have shape (batch, {self.config.motion_dim}), not {tuple(feature.shape)}.")
        x = self.blocks(self.linear_in(feature.to(self.linear_in.weight.dtype)))  # (B, hidden)
        x = self.linear_out(x).float().unflatten(1, (self.config.clip_length, self.config.pose_dim))  # (B, T, 6)
        return (x - x[:, :1]) * self.pose_scale


def clip_frames(num_frames: int, clip_length: int) -> np.ndarray:
    """Divide frames into clips that share their end frames.

    Args:
        num_frames (`int`): At least 1.
        clip_length (`int`): Frames of a clip T, at least 2.

    Returns:
        `np.ndarray` of shape `(clips, clip_length)`: Frame numbers; the last one is repeated beyond the end.
    """
    clips = max(math.ceil((num_frames - 1) / (clip_length - 1)), 1)
    index = np.arange(clips)[:, None] * (clip_length - 1) + np.arange(clip_length)
    return np.minimum(index, num_frames - 1)


def compose_clips(clips: torch.Tensor, pull: float = 0.15, smoothing: float = 2.0) -> torch.Tensor:
    """Join clips of relative poses into one path.

    A plain sum drifts like a random walk, so clip starts fade by `pull`.

    Args:
        clips (`torch.Tensor` of shape `(num_videos, clips, clip_length, pose_dim)`): Poses relative to the clip's
            first.
        pull (`float`): Share of the distance from rest that each clip takes back, in [0, 1].
        smoothing (`float`): Standard deviation of a Gaussian over the path, in frames; 0 does not smooth.

    Returns:
        `torch.Tensor` of shape `(num_videos, clips · (clip_length − 1) + 1, pose_dim)`: Poses relative to the first
        frame, which is exactly 0.

    Raises:
        ValueError: If an argument is out of range or its shape does not fit.

    Source:
        arXiv 2309.16148, Section III-A.2 (last paragraph). The pull and the smoothing are ours.
    """
    if clips.ndim != 4 or clips.shape[1] < 1 or clips.shape[2] < 2:
        raise ValueError(
            "clips must have shape (num_videos, clips, clip_length, pose_dim) with clip_length of at least 2, not "
            f"{tuple(clips.shape)}."
        )
    if not 0 <= pull <= 1:
        raise ValueError(f"pull must be between 0 and 1, not {short(pull)}.")
    if not 0 <= smoothing < math.inf:
        raise ValueError(f"smoothing must be a finite number of frames of at least 0, not {short(smoothing)}.")
    # 1. Add up where each clip starts; each start fades by the pull.
    clips = clips - clips[:, :, :1]
    ends = clips[:, :, -1]  # (N, K, 6)
    offsets = torch.cat([torch.zeros_like(ends[:, :1]), ends], 1).detach().cpu()  # (N, K+1, 6)
    steps = offsets.numpy()  # NumPy does ten times as many such small steps in a second
    for clip in range(1, steps.shape[1]):
        steps[:, clip] += (1 - pull) * steps[:, clip - 1]
    offsets = offsets.to(clips.device)
    # 2. Place the clips, each start fading over the frames.
    fade = 1 - pull * torch.linspace(0, 1, clips.shape[2], dtype=clips.dtype, device=clips.device)  # (T,)
    path = offsets[:, :-1].unsqueeze(2) * fade[:, None] + clips  # (N, K, T, 6)
    # 3. Drop the last pose of each clip, which is the first of the next one, except the very last; smooth.
    path = torch.cat([path[:, :, :-1].flatten(1, 2), offsets[:, -1:]], 1)  # (N, K · (T − 1) + 1, 6)
    path = _gaussian_smooth(path, smoothing)
    return path - path[:, :1]


def _gaussian_smooth(path: torch.Tensor, sigma: float) -> torch.Tensor:
    """Smooth `(N, frames, 6)` over frames, reflected at the ends."""
    radius, frames = int(4 * sigma + 0.5), path.shape[1]
    if radius == 0 or frames == 1:
        return path
    steps = torch.arange(-radius, radius + 1, dtype=path.dtype, device=path.device)
    kernel = torch.exp(-0.5 * (steps / sigma) ** 2)
    kernel = kernel / kernel.sum()
    period = 2 * (frames - 1)
    index = torch.arange(-radius, frames + radius, device=path.device) % period
    index = torch.minimum(index, period - index)  # … 2 1 0 1 2 … frames-1 … 1 0 1 …
    padded = path[:, index].transpose(1, 2)  # (N, 6, frames + 2·radius)
    smoothed = F.conv1d(padded.flatten(0, 1).unsqueeze(1), kernel.view(1, 1, -1))  # (N · 6, 1, frames)
    return smoothed.view(path.shape[0], path.shape[2], frames).transpose(1, 2)


def _check_clip_length(clip_length: int) -> None:
    if isinstance(clip_length, bool) or not isinstance(clip_length, int) or clip_length < 2:
        raise ValueError(f"clip_length must be a whole number of at least 2, not {short(clip_length)}.")
