"""Stage `expression`: the expression extractor, sound of a clip to the expression of its face."""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from osmnet.data.dataset import load_clips, split_clips
from osmnet.face.morphable import FaceModel
from osmnet.face.topology import (
    CHIN,
    INNER_LIPS,
    LEFT_MOUTH_CORNER,
    LOWER_LIP,
    NOSE,
    NUM_VERTICES,
    OUTER_LIPS,
    RIGHT_MOUTH_CORNER,
    UPPER_LIP,
)
from osmnet.models.expression import ExpressionExtractor, expression_loss, landmark_loss, landmark_weights
from osmnet.training.common import load_component, moving_average, set_learning_rate, update_average, update_log
from osmnet.training.speech_clip import SpeechClip

PIXELS_PER_HEAD_UNIT = 71.0  # in a crop of 256 pixels: the paper's landmark loss is in pixels
MAX_LAG = 6  # frames by which sound and picture of a clip may still be apart
NEARLY_SHUT = 0.3  # share of the frames with the smallest openings
MIN_CORRELATION = 0.2  # below this the sound is not the face's
VALIDATE_EVERY = 100
WARM_UP = 100


@dataclass(frozen=True)
class ExpressionConfig:
    """Settings of the stage."""

    steps: int = 500
    align_steps: int = 300
    batch_size: int = 16
    frames: int = 64
    learning_rate: float = 5e-4
    weight_decay: float = 0.02
    hidden_dim: int = 128
    context_layers: int = 4
    dropout: float = 0.4
    identity_noise: float = 0.7
    identity_dropout: float = 0.5
    own_mean: float = 0.2
    weight_landmark: float = 0.02  # the paper's λ_ldmk, Eq. 7
    weight_mouth: float = 1.0
    weight_concordance: float = 1.0
    ema: float = 0.995
    amplitude: float = 0.7
    seed: int = 0


def train(data: Path, out: Path, config: ExpressionConfig) -> dict:
    """Train the expression extractor and save the moving average.

    A short first round finds out how sound and picture of each clip are aligned; the second round, from the start,
    trains on the aligned clips.

    Args:
        data (`Path`): Made by `osmnet prepare`.
        out (`Path`): Model folder with `face_model`; receives `expression_extractor`.
        config (`ExpressionConfig`): Settings.

    Returns:
        `dict`: Results on held-out speakers.

    Raises:
        ValueError: If no clip can be used, or an earlier stage is missing.
    """
    face_model = load_component(FaceModel, out, "face_model")
    clips = [SpeechClip(clip, face_model) for clip in tqdm(load_clips(data, speech=True), desc="clips", unit="clip")]
    if config.align_steps:
        rough, _ = _fit(clips, face_model, config, config.align_steps)
        clips = align(rough, face_model, clips)
    network, best = _fit(clips, face_model, config, config.steps)
    _, held_out = split_clips(clips)
    # One number is set by the held-out speakers: on its own training clips the network is louder than on new ones.
    _set_amplitude(network, face_model, held_out, config.amplitude)
    network.save_pretrained(out / "expression_extractor")
    return {**best, **validate(network, face_model, held_out)}


def _fit(
    clips: list[SpeechClip], face_model: FaceModel, config: ExpressionConfig, steps: int
) -> tuple[ExpressionExtractor, dict]:
    """One round of training; returns the moving average at its best step on held-out speakers."""
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    training, held_out = split_clips(clips)
    training = [clip for clip in training if len(clip) > config.frames // 2]
    if not training:
        raise ValueError(f"All training clips are shorter than {config.frames // 2} frames; set frames to fewer.")
    share = _shares(training)

    network = ExpressionExtractor(
        identity_dim=face_model.config.identity_dim, expression_dim=face_model.config.expression_dim,
        hidden_dim=config.hidden_dim, context_layers=config.context_layers, dropout=config.dropout,
    )  # fmt: skip
    average = moving_average(network)
    optimiser = torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    losses_of = _Losses(face_model, config)
    best: dict[str, float] = {}
    best_state = average.state_dict()
    log: dict[str, float] = {}
    for step in tqdm(range(steps), desc="expression", mininterval=5):
        rate = config.learning_rate * min(1, (step + 1) / WARM_UP) * (0.5 * (1 + np.cos(np.pi * step / steps)))
        set_learning_rate(optimiser, rate=rate)
        chosen = [training[i] for i in rng.choice(len(training), config.batch_size, p=share)]
        cuts = [clip.cut(config.frames, rng) for clip in chosen]
        mel, truth = (torch.from_numpy(np.stack([cut[part] for cut in cuts])) for part in range(2))
        identity = torch.from_numpy(np.stack([clip.identity for clip in chosen]))
        total, losses = losses_of(network(mel, _blurred_identities(chosen, config, rng)), truth, identity)
        optimiser.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        update_average(average, network, step, config.ema)
        update_log(log, losses)
        if (step + 1) % VALIDATE_EVERY == 0 or step + 1 == steps:
            result = validate(average, face_model, held_out)
            _say(f"{step + 1}: " + " ".join(f"{k} {v:.3f}" for k, v in {**log, **result}.items()))
            if result["opening"] + result["width"] > best.get("opening", -2) + best.get("width", -2):
                best = {"step": step + 1, **result}
                best_state = {name: value.clone() for name, value in average.state_dict().items()}
    average.load_state_dict(best_state)
    return average, best


def _blurred_identities(clips: list[SpeechClip], config: ExpressionConfig, rng: np.random.Generator) -> torch.Tensor:
    """Identities `(batch, 40)` of random frames, noisy and often unknown: 60 faces must not be learnt by heart."""
    identity = np.stack([clip.identities[rng.integers(len(clip.identities))] for clip in clips])
    known = rng.random((len(clips), 1)) >= config.identity_dropout
    noise = config.identity_noise * rng.normal(size=identity.shape)
    return torch.from_numpy((known * identity + noise).astype(np.float32))


def _say(line: str) -> None:
    """Print a line above the progress bar, where it does not mix with the report on stdout."""
    tqdm.write(line, file=sys.stderr)


def _shares(clips: list[SpeechClip]) -> np.ndarray:
    """How often each clip is drawn: half-way between alike and by length, for clips and again for speakers."""
    share = np.sqrt([len(clip) for clip in clips])
    for speaker in {clip.speaker for clip in clips}:
        same = np.array([clip.speaker == speaker for clip in clips])
        share[same] /= np.sqrt(share[same].sum())
    return share / share.sum()


class _Losses:
    """The paper's losses (Eq. 7-9), and two on the opening and width of the mouth."""

    def __init__(self, face_model: FaceModel, config: ExpressionConfig):
        self.face_model, self.config = face_model, config
        # Components count by how much they move the mouth; the rest cannot be heard.
        mouth = np.concatenate([INNER_LIPS, OUTER_LIPS, [CHIN]])
        basis_norm = face_model.geometry["expression_basis"][:, mouth].flatten(1).norm(dim=1)
        self.component_weights = basis_norm / basis_norm.max()
        weights = landmark_weights(NUM_VERTICES, INNER_LIPS.tolist(), NOSE.tolist())
        self.landmark_weights = weights / weights.mean()

    def __call__(
        self, expression: torch.Tensor, truth: torch.Tensor, identity: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        config = self.config
        # Sound does not tell a speaker's habitual expression, so it counts little.
        expression = expression - (1 - config.own_mean) * (expression - truth).mean(1, keepdim=True)
        shape, true_shape = (self.face_model(identity[:, None], beta) for beta in (expression, truth))
        mouth, true_mouth = _mouth(shape), _mouth(true_shape)
        losses = {
            "l2": expression_loss(expression, truth, self.component_weights),
            "landmark": landmark_loss(
                shape * PIXELS_PER_HEAD_UNIT, true_shape * PIXELS_PER_HEAD_UNIT, self.landmark_weights
            ),
            "mouth": 20 * F.l1_loss(mouth, true_mouth) + 20 * F.l1_loss(mouth.diff(dim=1), true_mouth.diff(dim=1)),
            "concordance": concordance_loss(mouth, true_mouth),
        }
        total = (
            losses["l2"] + config.weight_landmark * losses["landmark"] + config.weight_mouth * losses["mouth"]
            + config.weight_concordance * losses["concordance"]
        )  # fmt: skip
        return total, losses


def _mouth(shape: torch.Tensor) -> torch.Tensor:
    """Opening and width of the mouth, `(..., 478, 3)` to `(..., 2)` head units."""
    opening = torch.linalg.vector_norm(shape[..., UPPER_LIP, :] - shape[..., LOWER_LIP, :] + 1e-6, dim=-1)
    width = torch.linalg.vector_norm(shape[..., RIGHT_MOUTH_CORNER, :] - shape[..., LEFT_MOUTH_CORNER, :], dim=-1)
    return torch.stack([opening, width], -1)


def concordance_loss(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """1 - Lin's concordance over the frames, without its term for the means: punishes the uncorrelated and the small.

    Args:
        prediction (`torch.Tensor` of shape `(batch, frames, signals)`): Any unit.
        target (`torch.Tensor` of the same shape): The truth.

    Returns:
        `torch.Tensor`: A scalar in [0, 2].
    """
    p, t = prediction - prediction.mean(1, keepdim=True), target - target.mean(1, keepdim=True)
    covariance, energy = (p * t).mean(1), (p * p).mean(1) + (t * t).mean(1)
    # Pooled over the batch: a stretch in which nobody speaks says nothing by itself.
    return (1 - 2 * covariance.sum(0) / (energy.sum(0) + 1e-8)).mean()


@torch.no_grad()
def _shapes(
    network: ExpressionExtractor, face_model: FaceModel, clip: SpeechClip
) -> tuple[torch.Tensor, torch.Tensor]:
    """Faces `(frames, 478, 3)` of a clip as the network hears them and as they were seen."""
    identity = torch.from_numpy(clip.identity)
    return face_model(identity, clip.predict(network)), face_model(identity, torch.from_numpy(clip.expression))


def _mouths(network: ExpressionExtractor, face_model: FaceModel, clip: SpeechClip) -> tuple[np.ndarray, np.ndarray]:
    """Opening and width `(frames, 2)` of the mouth as the network hears it and as it was seen."""
    heard, seen = _shapes(network, face_model, clip)
    return _mouth(heard).numpy(), _mouth(seen).numpy()


@torch.no_grad()
def validate(network: ExpressionExtractor, face_model: FaceModel, clips: list[SpeechClip]) -> dict[str, float]:
    """How clips' own sound moves their mouths.

    Args:
        network (`ExpressionExtractor`): Put into evaluation mode meanwhile.
        face_model (`FaceModel`): The linear face model.
        clips (`list[SpeechClip]`): At least one; long ones count more.

    Returns:
        `dict[str, float]`: Correlations of opening and width with the truth, spread of the opening over the true one,
        and `lmd_ratio`, the distance of the inner lips from the truth over that of lips that never move.
    """
    was_training = network.training
    network.eval()
    rows = []
    for clip in clips:
        predicted, truth = _shapes(network, face_model, clip)
        p, t = _mouth(predicted).numpy(), _mouth(truth).numpy()
        error, movement = ((shape - truth)[:, INNER_LIPS].norm(dim=-1).mean() for shape in (predicted, truth[:1]))
        rows.append(
            {
                "opening": _correlate(p[:, 0], t[:, 0]),
                "width": _correlate(p[:, 1], t[:, 1]),
                "amplitude": p[:, 0].std() / max(t[:, 0].std(), 1e-6),
                "lmd_ratio": float(error) / max(float(movement), 1e-6),
            }
        )
    network.train(was_training)
    lengths = [len(clip) for clip in clips]
    return {name: float(np.average([row[name] for row in rows], weights=lengths)) for name in rows[0]}


@torch.no_grad()
def align(network: ExpressionExtractor, face_model: FaceModel, clips: list[SpeechClip]) -> list[SpeechClip]:
    """Move the sound of each clip to where the network expects it, and leave out clips whose sound is not the face's.

    Args:
        network (`ExpressionExtractor`): Trained for a little while: enough to tell when, if not yet how.
        face_model (`FaceModel`): The linear face model.
        clips (`list[SpeechClip]`): Changed in place.

    Returns:
        `list[SpeechClip]`: The clips kept.

    Raises:
        ValueError: If there is none.
    """
    network.eval()
    kept = []
    for clip in clips:
        heard, seen = _mouths(network, face_model, clip)
        lags = {lag: _correlation(heard, seen, lag) for lag in range(-MAX_LAG, MAX_LAG + 1)}
        best = max(lags, key=lambda lag: lags[lag] - 0.01 * abs(lag))
        if lags[best] < lags[0] + 0.04:
            best = 0
        if lags[best] < MIN_CORRELATION:
            _say(f"{clip.name}: left out, sound and lips agree only to {lags[best]:.2f}")
            continue
        if best:
            _say(f"{clip.name}: sound moved by {-best} frames ({lags[0]:.2f} to {lags[best]:.2f})")
        clip.shift(-best)
        kept.append(clip)
    if not kept:
        raise ValueError(
            "In no clip do sound and lips agree; are these voices of these faces? align_steps=0 trains all the same."
        )
    return kept


def _correlation(heard: np.ndarray, seen: np.ndarray, lag: int) -> float:
    """Correlation of opening and width, weighted 3 : 1, when `heard` is taken `lag` frames later than `seen`."""
    n = len(heard)
    a, b = heard[max(lag, 0) : n + min(lag, 0)], seen[max(-lag, 0) : n + min(-lag, 0)]
    return 0.75 * _correlate(a[:, 0], b[:, 0]) + 0.25 * _correlate(a[:, 1], b[:, 1])


def _correlate(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation; 0 where one of the two does not vary."""
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / max(np.sqrt((a * a).sum() * (b * b).sum()), 1e-12))


def _set_amplitude(
    network: ExpressionExtractor, face_model: FaceModel, clips: list[SpeechClip], amplitude: float
) -> None:
    """Stretch the network's output so that mouths open as far as real ones: regression shrinks it.

    What stays in place is the mouth as it is when it is nearly shut, so that it opens further but does not close
    harder: stretched around its mean, it would spend half of the time pressed shut.
    """
    network.eval()
    mouths = [_mouths(network, face_model, clip) for clip in clips]
    ratio = np.median([heard[:, 0].std() / max(seen[:, 0].std(), 1e-6) for heard, seen in mouths])
    gain = float(np.clip(amplitude / max(ratio, 1e-6), 0.5, 2.5))
    expression = torch.cat([clip.predict(network) for clip in clips])
    opening = np.concatenate([heard[:, 0] for heard, _ in mouths])
    nearly_shut = expression[torch.from_numpy(opening <= np.quantile(opening, NEARLY_SHUT))].mean(0)
    network.output_scale.mul_(gain)
    network.output_bias.mul_(gain).add_((1 - gain) * nearly_shut)
