"""The sync judge: a small network that measures lip synchrony.

Its input is the 3D outline of the lips relative to the head. Its figures have their own scale; never compare them with
SyncNet's LSE-D and LSE-C.
"""

from typing import NamedTuple

import numpy as np
import torch
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.nn import functional as F

from osmnet.face.topology import INNER_LIPS, LEFT_OUTER_CORNER, OUTER_LIPS, RIGHT_OUTER_CORNER
from osmnet.loading.model import OSMNetModel
from osmnet.loading.packaged import packaged_weights
from osmnet.media.features import mel_windows
from osmnet.models.layers import MelWindowEncoder

MAX_SHIFT = 15  # frames that sound is shifted to either side
JUDGE_FOLDER = "sync_judge"  # beside the pipeline's components, but not one of them
LIPS = np.concatenate([INNER_LIPS, OUTER_LIPS])
_NOSE_BRIDGE, _NOSE_BASE = 168, 2  # vertices that do not move with speech
_LIP_SCALE = 10.0  # lips move by about a tenth of a head unit


class SyncScore(NamedTuple):
    """Synchrony of a video's sound and picture.

    Attributes:
        distance (`float`): Mean distance of sound and lips at the best shift (SyncNet's LSE-D). Lower is better.
        confidence (`float`): Median over the shifts minus `distance` (SyncNet's LSE-C). Higher is better.
        offset (`int`): Frames by which the picture is late (negative: early) at the best shift.
    """

    distance: float
    confidence: float
    offset: int


def shifted_distances(
    lips: np.ndarray, sound: np.ndarray, max_shift: int = MAX_SHIFT, beyond: float = np.nan
) -> np.ndarray:
    """Compute distances between each frame's lips and the sound around it.

    Args:
        lips (`np.ndarray` of shape `(frames, dim)`): Embeddings of the picture.
        sound (`np.ndarray` of shape `(frames, dim)`): Embeddings of the sound.
        max_shift (`int`): Frames to either side.
        beyond (`float`): Value of the sound's embedding beyond both ends; NaN leaves those frames out.

    Returns:
        `np.ndarray` of shape `(frames, 2 * max_shift + 1)`: Distance of frame `i` to the sound of frame
        `i + column - max_shift`.
    """
    if lips.shape != sound.shape or lips.ndim != 2:
        raise ValueError(f"Embeddings of lips and sound must have one shape, not {lips.shape} and {sound.shape}.")
    padded = np.pad(sound.astype(np.float64), ((max_shift, max_shift), (0, 0)), constant_values=beyond)
    columns = [padded[shift : shift + len(lips)] for shift in range(2 * max_shift + 1)]
    return np.stack([np.linalg.norm(lips - column, axis=1) for column in columns], axis=1)


def score(distances: np.ndarray) -> SyncScore:
    """Pool `shifted_distances` over frames, without NaN, as SyncNet does.

    Source:
        Chung, Zisserman, "Out of time: automated lip sync in the wild", 2016, Sec. 4.1.
    """
    compared = ~np.isnan(distances)
    mean = np.where(compared, distances, 0).sum(0) / np.maximum(compared.sum(0), 1)
    mean = np.where(compared.any(0), mean, np.nan)  # short videos have no frames at large shifts
    best = int(np.nanargmin(mean))
    return SyncScore(float(mean[best]), float(np.nanmedian(mean) - mean[best]), distances.shape[1] // 2 - best)


def lip_shapes(landmarks_px: np.ndarray) -> np.ndarray:
    """Return lip outlines in the head's axes, minus their mean over the frames.

    Convention:
        Axes: right along the outer eye corners, down along the nose, away from the camera; origin: base of the nose;
        unit: 3D distance of the outer eye corners.

    Args:
        landmarks_px (`np.ndarray` of shape `(frames, 478, 3)`): Vertices of a clip in pixels.

    Returns:
        `np.ndarray` of shape `(frames, 40, 3)`: float32, inner lips before outer ones.
    """
    across = landmarks_px[:, LEFT_OUTER_CORNER] - landmarks_px[:, RIGHT_OUTER_CORNER]
    unit = np.linalg.norm(across, axis=1)[:, None, None]
    x = across / unit[:, 0]
    down = landmarks_px[:, _NOSE_BASE] - landmarks_px[:, _NOSE_BRIDGE]
    down = down - (down * x).sum(1, keepdims=True) * x
    y = down / np.linalg.norm(down, axis=1, keepdims=True)
    axes = np.stack([x, y, np.cross(x, y)], 1)  # (frames, 3, 3), one a row
    lips = (landmarks_px[:, LIPS] - landmarks_px[:, None, _NOSE_BASE]) @ axes.transpose(0, 2, 1) / unit
    return (lips - lips.mean(0)).astype(np.float32)


class SyncJudge(OSMNetModel):
    """Embeds lips and sound on a sphere, close together when in sync.

    Args:
        mel_bins (`int`): Bands of a mel window.
        mel_window (`int`): Steps of a mel window.
        num_points (`int`): Points of the lips.
        hidden_dim (`int`): Channels.
        embedding_dim (`int`): Dimensions of the embeddings.
        context_layers (`int`): Convolutions over time, each of which adds a frame of context on either side.
        dropout (`float`): Dropout after each of them in training.
    """

    @register_to_config
    def __init__(
        self,
        mel_bins: int = 16,
        mel_window: int = 16,
        num_points: int = 40,
        hidden_dim: int = 96,
        embedding_dim: int = 64,
        context_layers: int = 2,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        if min(num_points, hidden_dim, embedding_dim, context_layers) < 1:
            raise ValueError(
                "num_points, hidden_dim, embedding_dim and context_layers must be at least 1, not "
                f"{num_points}, {hidden_dim}, {embedding_dim} and {context_layers}."
            )
        self.lip_encoder = nn.Sequential(nn.Linear(3 * num_points, hidden_dim), nn.LayerNorm(hidden_dim))
        self.sound_encoder = MelWindowEncoder(mel_bins, mel_window, hidden_dim)
        self.lip_context = _context(hidden_dim, embedding_dim, context_layers, dropout)
        self.sound_context = _context(hidden_dim, embedding_dim, context_layers, dropout)

    @property
    def frames(self) -> int:
        """Receptive field in frames."""
        return 1 + 2 * self.config.context_layers

    def embed_lips(self, lips: torch.Tensor) -> torch.Tensor:
        """Map `lip_shapes` `(batch, frames, 40, 3)` to unit vectors `(batch, frames - 4, 64)` (default sizes)."""
        hidden = self.lip_encoder(_LIP_SCALE * lips.flatten(2))
        return F.normalize(self.lip_context(hidden.transpose(1, 2)), dim=1).transpose(1, 2)

    def embed_sound(self, mel: torch.Tensor) -> torch.Tensor:
        """Map mel windows `(batch, frames, 16, 16)` to unit vectors `(batch, frames - 4, 64)` (default sizes)."""
        hidden = self.sound_encoder(mel)
        return F.normalize(self.sound_context(hidden.transpose(1, 2)), dim=1).transpose(1, 2)

    def forward(self, lips: torch.Tensor, mel: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return both embeddings."""
        return self.embed_lips(lips), self.embed_sound(mel)


def _context(hidden_dim: int, embedding_dim: int, layers: int, dropout: float) -> nn.Sequential:
    blocks: list[nn.Module] = []
    for _ in range(layers):
        blocks += [nn.Conv1d(hidden_dim, hidden_dim, 3), nn.GELU(), nn.Dropout(dropout)]
    return nn.Sequential(*blocks, nn.Conv1d(hidden_dim, embedding_dim, 1))


def load_sync_judge() -> SyncJudge:
    """Load the sync judge in the package.

    Raises:
        ValueError: If this installation has none, or it is damaged.
    """
    return SyncJudge.from_pretrained(packaged_weights(), subfolder=JUDGE_FOLDER)


def judge_distances(judge: SyncJudge, landmarks_px: np.ndarray, waveform: np.ndarray) -> np.ndarray:
    """Compute the sync judge's `shifted_distances`, in [0, 2].

    Args:
        judge (`SyncJudge`): In evaluation mode.
        landmarks_px (`np.ndarray` of shape `(frames, 478, 3)`): Vertices in pixels, 25 fps.
        waveform (`np.ndarray` of shape `(samples,)`): 16 kHz mono.

    Raises:
        ValueError: If there are fewer frames with sound than the judge needs.
    """
    mel = mel_windows(waveform)
    count = min(len(landmarks_px), len(mel))
    if count < judge.frames:
        raise ValueError(f"The judge needs at least {judge.frames} frames with sound, not {count}.")
    lips = torch.from_numpy(lip_shapes(landmarks_px[:count]))[None].to(judge.device)
    with torch.inference_mode():
        embedded = judge(lips, torch.from_numpy(mel[:count])[None].to(judge.device))
    return shifted_distances(*(each[0].float().cpu().numpy() for each in embedded))


def judge_score(judge: SyncJudge, landmarks_px: np.ndarray, waveform: np.ndarray) -> SyncScore:
    """Pool `judge_distances`."""
    return score(judge_distances(judge, landmarks_px, waveform))
