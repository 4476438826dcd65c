"""Speech to expression, frame by frame.

Source: OSM-Net (arXiv 2309.16148), Section III-B, Eq. 7-9. Letters in shape comments: B batch, L frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.nn import functional as F

from osmnet.loading.model import OSMNetModel
from osmnet.models.layers import MelWindowEncoder

DILATIONS = (1, 2, 4, 8)
CHUNK = 1024  # frames; bounds the memory on an hour of speech


class ContextBlock(nn.Module):
    """Residual dilated convolution over frames, normalised per frame."""

    def __init__(self, dim: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.conv = nn.Conv1d(dim, dim, 3, padding=dilation, dilation=dilation)
        self.linear = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `(batch, frames, dim)` to `(batch, frames, dim)`."""
        hidden = self.conv(self.norm(x).transpose(1, 2)).transpose(1, 2)  # (B, L, dim)
        return x + self.dropout(self.linear(F.gelu(hidden)))


class SpeechInput(nn.Module):
    """Project features standardised by `mean` and `spread` of the training speech."""

    mean: torch.Tensor
    spread: torch.Tensor

    def __init__(self, speech_dim: int, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(speech_dim))
        self.register_buffer("spread", torch.ones(speech_dim))
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(speech_dim, hidden_dim)
        self.norm = nn.LayerNorm(hidden_dim)

    def forward(self, speech: torch.Tensor) -> torch.Tensor:
        """Map `(batch, frames, speech_dim)` to `(batch, frames, hidden_dim)`."""
        x = ((speech - self.mean) / self.spread).to(self.linear.weight.dtype)  # (B, L, speech_dim)
        return self.norm(self.linear(self.dropout(x)))


class ExpressionExtractor(OSMNetModel):
    """Predict expression coefficients β from speech and identity.

    The paper has no context (`context_layers=0`); with it a mouth can open before the sound. `speech_dim=0` uses mel
    windows alone.
    """

    _keep_in_fp32_modules = ["output_scale", "output_bias", "mean", "spread"]

    @register_to_config
    def __init__(
        self,
        mel_bins: int = 16,
        mel_window: int = 16,
        identity_dim: int = 40,
        expression_dim: int = 64,
        hidden_dim: int = 128,
        context_layers: int = 4,
        dropout: float = 0.1,
        speech_dim: int = 0,
        speech_dropout: float = 0.2,
    ) -> None:
        super().__init__()
        if min(identity_dim, expression_dim, hidden_dim) < 1 or context_layers < 0:
            raise ValueError(
                f"identity_dim, expression_dim and hidden_dim must be at least 1 and context_layers at least 0, not "
                f"{identity_dim}, {expression_dim}, {hidden_dim} and {context_layers}."
            )
        self.frame_encoder = MelWindowEncoder(mel_bins, mel_window, hidden_dim)
        if speech_dim:
            self.speech_input = SpeechInput(speech_dim, hidden_dim, speech_dropout)
        self.film = nn.Linear(identity_dim, 2 * hidden_dim)
        self.blocks = nn.ModuleList(
            ContextBlock(hidden_dim, DILATIONS[layer % len(DILATIONS)], dropout) for layer in range(context_layers)
        )
        self.norm = nn.LayerNorm(hidden_dim)
        self.head = nn.Linear(hidden_dim, expression_dim)
        # From outputs to coefficients: (64,) each.
        self.register_buffer("output_scale", torch.ones(expression_dim))
        self.register_buffer("output_bias", torch.zeros(expression_dim))

    @property
    def context_frames(self) -> int:
        """Context on either side in frames, beyond the mel window."""
        return sum(DILATIONS[layer % len(DILATIONS)] for layer in range(self.config.context_layers))

    def forward(
        self, mel_windows: torch.Tensor, identity: torch.Tensor, speech: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Predict expression coefficients.

        Args:
            mel_windows (`torch.Tensor` of shape `(batch, frames, mel_window, mel_bins)`): Speech around each frame.
            identity (`torch.Tensor` of shape `(batch, identity_dim)` or `(1, identity_dim)`): α of the source face.
            speech (`torch.Tensor` of shape `(batch, frames, speech_dim)`, *optional*): Features of a `SpeechEncoder`;
                required if `speech_dim` is above 0, refused otherwise.

        Returns:
            `torch.Tensor` of shape `(batch, frames, expression_dim)`, float32: β in standard deviations.

        Raises:
            ValueError: If a shape does not fit.
        """
        if (
            identity.ndim != 2
            or identity.shape[1] != self.config.identity_dim
            or identity.shape[0] not in (1, mel_windows.shape[0])
        ):
            raise ValueError(
                f"identity must have shape ({mel_windows.shape[0]}, {self.config.identity_dim}), not "
                f"{tuple(identity.shape)}."
            )
        self._check_speech(mel_windows, speech)
        # 1. Encode each frame's speech.
        x = self.frame_encoder(mel_windows)  # (B, L, hidden)
        if speech is not None:
            x = x + self.speech_input(speech)
        # 2. Scale and shift it by the identity of the face.
        scale, shift = self.film(identity.to(x.dtype)).unsqueeze(1).chunk(2, dim=-1)  # (B, 1, hidden) each
        x = x * (1 + scale) + shift
        # 3. Exchange with neighbouring frames, and predict.
        for block in self.blocks:
            x = block(x)  # (B, L, hidden)
        return self.head(self.norm(x)).float() * self.output_scale + self.output_bias  # (B, L, 64)

    def _check_speech(self, mel_windows: torch.Tensor, speech: torch.Tensor | None) -> None:
        wanted = (*mel_windows.shape[:2], self.config.speech_dim) if self.config.speech_dim else None
        found = None if speech is None else tuple(speech.shape)
        if found != wanted:
            raise ValueError(f"speech must be {'left out' if wanted is None else f'of shape {wanted}'}, not {found}.")

    @torch.inference_mode()
    def extract(
        self,
        mel_windows: np.ndarray,
        identity: np.ndarray,
        begin: int = 0,
        end: int | None = None,
        speech: Callable[[int, int], np.ndarray] | None = None,
    ) -> np.ndarray:
        """Predict the coefficients of a recording, in chunks.

        Args:
            mel_windows (`np.ndarray` of shape `(frames, mel_window, mel_bins)`): The whole recording.
            identity (`np.ndarray` of shape `(identity_dim,)`): α of the face.
            begin (`int`): First frame.
            end (`int`, *optional*): Frame after the last.
            speech (`Callable`, *optional*): Maps `begin, end` to features `(end - begin, speech_dim)`, as
                `SpeechEncoder.encode` does.

        Returns:
            `np.ndarray` of shape `(end - begin, expression_dim)`: β, float32.
        """
        frames = len(mel_windows)
        end = frames if end is None else end
        alpha = torch.from_numpy(identity)[None].to(self.device)
        expression = np.empty((max(end - begin, 0), self.config.expression_dim), np.float32)
        for start in range(begin, end, CHUNK):
            stop = min(start + CHUNK, end)
            first, last = max(start - self.context_frames, 0), min(stop + self.context_frames, frames)
            mel = torch.from_numpy(np.array(mel_windows[first:last], order="C"))[None].to(self.device)
            features = None if speech is None else torch.from_numpy(speech(first, last))[None].to(self.device)
            part = self(mel, alpha, features)[0, start - first : stop - first]  # (stop − start, 64)
            expression[start - begin : stop - begin] = part.float().cpu().numpy()
        return expression


def expression_loss(
    expression: torch.Tensor, target: torch.Tensor, component_weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the mean L2 distance of coefficients; arXiv 2309.16148, Eq. 8.

    Args:
        expression (`torch.Tensor` of shape `(..., expression_dim)`): Predicted β.
        target (`torch.Tensor` of shape `(..., expression_dim)`): True β.
        component_weights (`torch.Tensor` of shape `(expression_dim,)`, *optional*): Factors of the differences; not in
            the paper.

    Raises:
        ValueError: If the shapes differ.
    """
    _check_same_shape("expression", expression, target)
    difference = expression - target
    if component_weights is not None:
        difference = difference * component_weights
    return torch.linalg.vector_norm(difference, dim=-1).mean()


def landmark_loss(landmarks: torch.Tensor, target: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the mean of 1/N Σ ω_n ‖p̃_n − p_n‖₂; arXiv 2309.16148, Eq. 9.

    Args:
        landmarks (`torch.Tensor` of shape `(..., num_landmarks, 2 or 3)`): Predicted points.
        target (`torch.Tensor` of the same shape): True points, in the same unit.
        weights (`torch.Tensor` of shape `(num_landmarks,)`): ω, from `landmark_weights`.

    Raises:
        ValueError: If the shapes do not fit.
    """
    _check_same_shape("landmarks", landmarks, target)
    if landmarks.ndim < 2 or tuple(weights.shape) != (landmarks.shape[-2],):
        raise ValueError(
            f"weights must have shape (num_landmarks,) for landmarks of shape {tuple(landmarks.shape)}, not "
            f"{tuple(weights.shape)}."
        )
    return (torch.linalg.vector_norm(landmarks - target, dim=-1) * weights).mean()


def landmark_weights(
    num_landmarks: int, inner_mouth: Sequence[int], nose: Sequence[int], weight: float = 20.0
) -> torch.Tensor:
    """Return ω of Eq. 9, `(num_landmarks,)`: `weight` at mouth and nose, else 1.

    Raises:
        ValueError: If an index is outside `0 … num_landmarks − 1`.
    """
    indices = [*inner_mouth, *nose]
    outside = [index for index in indices if not 0 <= index < num_landmarks]
    if outside:
        raise ValueError(f"Landmark index {outside[0]} is not between 0 and {num_landmarks - 1}.")
    weights = torch.ones(num_landmarks)
    weights[torch.tensor(indices, dtype=torch.long)] = weight
    return weights


def _check_same_shape(name: str, prediction: torch.Tensor, target: torch.Tensor) -> None:
    if prediction.shape != target.shape:
        raise ValueError(
            f"{name} and target must have one shape, not {tuple(prediction.shape)} and {tuple(target.shape)}."
        )
