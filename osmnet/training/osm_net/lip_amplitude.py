"""Accuracy and amplitude of predicted lip motion."""

from collections.abc import Iterable

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from osmnet.face.morphable import FaceModel
from osmnet.face.topology import INNER_LIPS, LEFT_MOUTH_CORNER, LOWER_LIP, RIGHT_MOUTH_CORNER, UPPER_LIP
from osmnet.media.audio import FPS
from osmnet.models.osm_net.expression import ExpressionExtractor
from osmnet.training.osm_net.speech_clip import SpeechClip

NEARLY_SHUT = 0.3  # share of the frames, those with the smallest openings
LARGEST_GAIN, SMALLEST_GAIN = 2.5, 0.5


def mouth(shape: torch.Tensor) -> torch.Tensor:
    """Compute mouth opening and width, `(..., 478, 3)` to `(..., 2)` head units."""
    opening = torch.linalg.vector_norm(shape[..., UPPER_LIP, :] - shape[..., LOWER_LIP, :] + 1e-6, dim=-1)
    width = torch.linalg.vector_norm(shape[..., RIGHT_MOUTH_CORNER, :] - shape[..., LEFT_MOUTH_CORNER, :], dim=-1)
    return torch.stack([opening, width], -1)


def concordance_loss(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Compute 1 - Lin's concordance without its term for the means.

    Args:
        prediction (`torch.Tensor` of shape `(batch, frames, signals)`): Any unit.
        target (`torch.Tensor` of the same shape): The truth.

    Returns:
        `torch.Tensor`: A scalar in [0, 2].
    """
    p, t = prediction - prediction.mean(1, keepdim=True), target - target.mean(1, keepdim=True)
    covariance, energy = (p * t).mean(1), (p * p).mean(1) + (t * t).mean(1)
    # Pooled over the batch: a silent stretch has no information of its own.
    return (1 - 2 * covariance.sum(0) / (energy.sum(0) + 1e-8)).mean()


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Compute Pearson's correlation; 0 for a constant."""
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / max(np.sqrt((a * a).sum() * (b * b).sum()), 1e-12))


def agreement(predicted: np.ndarray, true: np.ndarray) -> float:
    """Correlate opening and width `(frames, 2)`, weighted 3 : 1."""
    return 0.75 * correlation(predicted[:, 0], true[:, 0]) + 0.25 * correlation(predicted[:, 1], true[:, 1])


@torch.no_grad()
def shapes(network: ExpressionExtractor, face_model: FaceModel, clip: SpeechClip) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute predicted and true faces `(frames, 478, 3)`."""
    identity = torch.from_numpy(clip.identity)
    return face_model(identity, clip.predict(network)), face_model(identity, torch.from_numpy(clip.expression))


def curves(network: ExpressionExtractor, face_model: FaceModel, clip: SpeechClip) -> tuple[np.ndarray, np.ndarray]:
    """Compute predicted and true opening and width `(frames, 2)`."""
    predicted, true = shapes(network, face_model, clip)
    return mouth(predicted).numpy(), mouth(true).numpy()


def measure(network: ExpressionExtractor, face_model: FaceModel, clips: Iterable[SpeechClip]) -> dict[str, float]:
    """Measure lips predicted from the clips' own sound.

    Args:
        network (`ExpressionExtractor`): In evaluation mode.
        face_model (`FaceModel`): On the CPU.
        clips (iterable of `SpeechClip`): At least one, weighted by length; iterated once.

    Returns:
        `dict[str, float]`: Correlations of `opening` and `width` with the truth; `amplitude`, the opening's spread
        relative to the true one; `lmd_ratio`, the inner lips' distance from the truth relative to that of still lips.
    """
    rows, lengths = [], []
    for clip in clips:
        predicted, true = shapes(network, face_model, clip)
        p, t = mouth(predicted).numpy(), mouth(true).numpy()
        error, movement = ((shape - true)[:, INNER_LIPS].norm(dim=-1).mean() for shape in (predicted, true[:1]))
        rows.append(
            {
                "opening": correlation(p[:, 0], t[:, 0]),
                "width": correlation(p[:, 1], t[:, 1]),
                "amplitude": p[:, 0].std() / max(t[:, 0].std(), 1e-6),
                "lmd_ratio": float(error) / max(float(movement), 1e-6),
            }
        )
        lengths.append(len(clip))
    return {name: float(np.average([row[name] for row in rows], weights=lengths)) for name in rows[0]}


@torch.no_grad()
def usual_spread(face_model: FaceModel, clips: Iterable[SpeechClip]) -> float:
    """Compute the median standard deviation of real mouth openings, head units."""
    spreads = []
    for clip in clips:
        shape = face_model(torch.from_numpy(clip.identity), torch.from_numpy(clip.expression))
        spreads.append(float(mouth(shape)[:, 0].std(correction=0)))
    return float(np.median(spreads))


@torch.no_grad()
def set_amplitude(
    network: ExpressionExtractor, face_model: FaceModel, clips: list[SpeechClip], spread: float
) -> float:
    """Scale the output to real mouth openings, since regression shrinks it.

    Args:
        network (`ExpressionExtractor`): Its `output_scale` and `output_bias` are changed.
        face_model (`FaceModel`): On the CPU.
        clips (`list[SpeechClip]`): Not trained on: there the output is smaller.
        spread (`float`): Target of the opening's standard deviation, head units: the median over the clips.

    Returns:
        `float`: The factor, in [0.5, 2.5].
    """
    # The fixed point is the nearly shut mouth: scaling around the mean would press it shut half of the time.
    # 1. Factor.
    openings = [curves(network, face_model, clip)[0][:, 0] for clip in clips]
    gain = float(
        np.clip(spread / max(np.median([each.std() for each in openings]), 1e-6), SMALLEST_GAIN, LARGEST_GAIN)
    )
    # 2. Fixed point.
    expression = torch.cat([clip.predict(network) for clip in clips])
    opening = np.concatenate(openings)
    nearly_shut = expression[torch.from_numpy(opening <= np.quantile(opening, NEARLY_SHUT))].mean(0)
    # 3. Output layer.
    network.output_scale.mul_(gain)
    network.output_bias.mul_(gain).add_((1 - gain) * nearly_shut.to(network.output_bias.device))
    return gain


def plot_curves(mouths: dict[str, tuple[np.ndarray, np.ndarray]], seconds: float = 8.0) -> np.ndarray:
    """Plot predicted and true openings and widths.

    Args:
        mouths (`dict`): Clip's name to its two `curves`.
        seconds (`float`): Length of the plot.

    Returns:
        `np.ndarray` of shape `(height, width, 3)`: uint8.
    """
    figure, axes = plt.subplots(len(mouths), 2, figsize=(12, 2.2 * len(mouths)), squeeze=False, layout="constrained")
    for row, (name, (predicted, true)) in zip(axes, mouths.items(), strict=True):
        count = min(len(true), round(seconds * FPS))
        for axis, i, what in zip(row, (0, 1), ("opening", "width"), strict=True):
            axis.plot(np.arange(count) / FPS, true[:count, i], color="0.5", label="true")
            axis.plot(np.arange(count) / FPS, predicted[:count, i], color="tab:blue", label="predicted")
            value = correlation(predicted[:, i], true[:, i])
            axis.set_title(f"{name}: {what} [head units], correlation {value:.2f}", fontsize=8)
    axes[0, 0].legend(fontsize=8)
    axes[-1, 0].set_xlabel("s")
    axes[-1, 1].set_xlabel("s")
    return as_picture(figure)


def as_picture(figure: plt.Figure) -> np.ndarray:
    """Render and close a figure: `(height, width, 3)`, uint8."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    plt.close(figure)
    return picture
