"""Stage `expression`: the expression extractor, sound of a clip to the expression of its face."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from osmnet.data.dataset import Clip, is_held_out, load_clips
from osmnet.face.morphable import FaceModel
from osmnet.face.topology import INNER_LIPS, LEFT_MOUTH_CORNER, LOWER_LIP, NOSE, RIGHT_MOUTH_CORNER, UPPER_LIP
from osmnet.media.audio import MEL_WINDOW, STEPS_PER_FRAME, mel_spectrogram
from osmnet.models.expression import ExpressionExtractor, expression_loss, landmark_loss, landmark_weights

PIXELS_PER_HEAD_UNIT = 71.0  # in a crop of 256 pixels: the paper's landmark loss is in pixels


@dataclass(frozen=True)
class ExpressionConfig:
    """Settings of the stage."""

    steps: int = 1500
    align_steps: int = 500
    batch_size: int = 16
    frames: int = 64
    learning_rate: float = 5e-4
    weight_decay: float = 0.02
    hidden_dim: int = 128
    context_layers: int = 4
    dropout: float = 0.2
    weight_landmark: float = 0.02  # the paper's λ_ldmk, Eq. 7
    weight_mouth: float = 1.0
    weight_concordance: float = 1.0
    ema: float = 0.995
    amplitude: float = 0.8
    seed: int = 0


MAX_LAG = 6  # frames by which sound and picture of a clip may still be apart
MIN_CORRELATION = 0.25  # below this the sound is not the face's


class SpeechClip:
    """Spectrogram and expression of one clip."""

    def __init__(self, clip: Clip, face_model: FaceModel):
        fit = clip.fit(face_model)
        frames = len(fit.expression)
        spectrogram = mel_spectrogram(clip.speech())[: frames * STEPS_PER_FRAME]
        self.spectrogram = np.pad(spectrogram, ((0, frames * STEPS_PER_FRAME - len(spectrogram)), (0, 0)), constant_values=-1)
        self.expression = fit.expression
        self.identity = fit.identity
        self.speaker = clip.speaker
        self.name = clip.name

    def shift(self, frames: int) -> None:
        """Move the sound against the picture: frame i gets the sound of frame i - `frames`."""
        steps = frames * STEPS_PER_FRAME
        silence = np.full((abs(steps), self.spectrogram.shape[1]), -1, np.float32)
        if steps > 0:
            self.spectrogram = np.concatenate([silence, self.spectrogram[:-steps]])
        elif steps < 0:
            self.spectrogram = np.concatenate([self.spectrogram[-steps:], silence])

    def predict(self, network: ExpressionExtractor) -> torch.Tensor:
        """β `(frames, 64)` that the network hears."""
        mel = np.pad(self.spectrogram, ((6, 10), (0, 0)), constant_values=-1)
        with torch.no_grad():
            return network(torch.from_numpy(windows_of(mel))[None], torch.from_numpy(self.identity)[None])[0]

    def cut(self, frames: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A random stretch at a random speed: mel windows `(frames, 16, 16)` and β `(frames, 64)`."""
        speed = rng.uniform(0.88, 1.14)
        length = min(frames * speed, len(self.expression) - 1)
        start = rng.uniform(0, len(self.expression) - 1 - length)
        at = start + np.arange(frames) * length / frames
        steps = (start * STEPS_PER_FRAME) + np.arange(-6, frames * STEPS_PER_FRAME + 10) * length / frames
        mel = _interpolate(self.spectrogram, np.clip(steps, 0, len(self.spectrogram) - 1))
        mel = _disturb(mel, rng)
        return windows_of(mel), _interpolate(self.expression, at)


def _interpolate(rows: np.ndarray, at: np.ndarray) -> np.ndarray:
    below = np.minimum(at.astype(int), len(rows) - 2) if len(rows) > 1 else np.zeros(len(at), int)
    part = (at - below)[:, None].astype(np.float32)
    return rows[below] * (1 - part) + rows[np.minimum(below + 1, len(rows) - 1)] * part


def _disturb(mel: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another microphone, room and voice: equaliser, noise floor, pitch, reverberation, gain."""
    bands = np.arange(mel.shape[1])
    if rng.random() < 0.7:  # voice pitch and length of the vocal tract: bands move
        position = np.clip(bands * rng.uniform(0.9, 1.1) + rng.uniform(-0.5, 0.5), 0, mel.shape[1] - 1)
        mel = _interpolate(mel.T, position).T
    if rng.random() < 0.4:  # a room: energy dies away at 10 to 60 dB a second
        decay = np.float32(10 ** -rng.uniform(1.2, 2.5))
        reverberant = mel.copy()
        for i in range(1, len(mel)):
            reverberant[i] = np.maximum(mel[i], reverberant[i - 1] - decay)
        mel = reverberant
    knots = rng.normal(0, 0.12, 4)
    mel = mel + np.interp(bands, np.linspace(0, bands[-1], 4), knots) + rng.normal(0, 0.05)
    if rng.random() < 0.7:
        floor = rng.uniform(-1.0, -0.2) + np.interp(bands, np.linspace(0, bands[-1], 3), rng.normal(0, 0.15, 3))
        mel = np.maximum(mel, floor + rng.normal(0, 0.04, mel.shape))
    return np.maximum(mel, -1).astype(np.float32)


def windows_of(mel: np.ndarray) -> np.ndarray:
    """Windows of a spectrogram that already has its context: `(4 frames + 16, 16)` to `(frames, 16, 16)`."""
    frames = (len(mel) - MEL_WINDOW) // STEPS_PER_FRAME
    index = STEPS_PER_FRAME * np.arange(frames)[:, None] + np.arange(MEL_WINDOW)
    return mel[index]


def _mouth(shape: torch.Tensor) -> torch.Tensor:
    """Opening and width of the mouth, `(..., 478, 3)` to `(..., 2)` head units."""
    opening = torch.linalg.vector_norm(shape[..., UPPER_LIP, :] - shape[..., LOWER_LIP, :] + 1e-6, dim=-1)
    width = torch.linalg.vector_norm(shape[..., RIGHT_MOUTH_CORNER, :] - shape[..., LEFT_MOUTH_CORNER, :], dim=-1)
    return torch.stack([opening, width], -1)


def concordance_loss(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """1 - Lin's concordance over the frames: punishes what is uncorrelated and what is too small alike.

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
def validate(network: ExpressionExtractor, face_model: FaceModel, clips: list[SpeechClip]) -> dict[str, float]:
    """Correlation and relative amplitude of opening and width on clips with their own sound, and mouth distance / static."""
    network.eval()
    rows = []
    for clip in clips:
        identity = torch.from_numpy(clip.identity)
        predicted = face_model(identity, clip.predict(network))
        truth = face_model(identity, torch.from_numpy(clip.expression))
        p, t = _mouth(predicted).numpy(), _mouth(truth).numpy()
        static = truth[:1].expand_as(truth)
        lips = lambda a, b: float((a - b)[:, INNER_LIPS].norm(dim=-1).mean())  # noqa: E731
        rows.append(
            [np.corrcoef(p[:, 0], t[:, 0])[0, 1], np.corrcoef(p[:, 1], t[:, 1])[0, 1], p[:, 0].std() / t[:, 0].std(),
             lips(predicted, truth) / lips(static, truth), len(p)]
        )  # fmt: skip
    rows = np.nan_to_num(np.array(rows))
    names = ("opening", "width", "amplitude", "lmd_ratio")
    network.train()
    return {name: float(np.average(rows[:, i], weights=rows[:, -1])) for i, name in enumerate(names)}


@torch.no_grad()
def align(network: ExpressionExtractor, face_model: FaceModel, clips: list[SpeechClip]) -> list[SpeechClip]:
    """Move the sound of each clip to where the network expects it, and leave out clips whose sound is not the face's.

    Args:
        network (`ExpressionExtractor`): Trained for a little while: enough to tell when, if not yet how.
        face_model (`FaceModel`): The linear face model.
        clips (`list[SpeechClip]`): Changed in place.

    Returns:
        `list[SpeechClip]`: The clips kept.
    """
    network.eval()
    kept = []
    for clip in clips:
        identity = torch.from_numpy(clip.identity)
        heard = _mouth(face_model(identity, clip.predict(network))).numpy()
        seen = _mouth(face_model(identity, torch.from_numpy(clip.expression))).numpy()
        lags = {lag: _correlation(heard, seen, lag) for lag in range(-MAX_LAG, MAX_LAG + 1)}
        best = max(lags, key=lambda lag: lags[lag] - 0.01 * abs(lag))
        if lags[best] < lags[0] + 0.04:
            best = 0
        if lags[best] < MIN_CORRELATION:
            tqdm.write(f"{clip.name}: left out, sound and lips agree only to {lags[best]:.2f}")
            continue
        if best:
            tqdm.write(f"{clip.name}: sound moved by {-best} frames ({lags[0]:.2f} to {lags[best]:.2f})")
        clip.shift(-best)
        kept.append(clip)
    return kept


def _correlation(heard: np.ndarray, seen: np.ndarray, lag: int) -> float:
    """Correlation of opening and width, weighted 3 : 1, when `heard` is taken `lag` frames later than `seen`."""
    n = len(heard)
    a, b = heard[max(lag, 0) : n + min(lag, 0)], seen[max(-lag, 0) : n + min(-lag, 0)]
    values = [np.corrcoef(a[:, i], b[:, i])[0, 1] for i in range(2)]
    return float(np.nan_to_num(0.75 * values[0] + 0.25 * values[1]))


def train(data: Path, out: Path, config: ExpressionConfig) -> dict:
    """Train the expression extractor and save the moving average.

    A short first round finds out how sound and picture of each clip are aligned; the second round, from the start, trains
    on the aligned clips.

    Args:
        data (`Path`): Made by `osmnet prepare`.
        out (`Path`): Model folder with `face_model`; receives `expression_extractor`.
        config (`ExpressionConfig`): Settings.

    Returns:
        `dict`: Results on held-out speakers.
    """
    face_model = FaceModel.from_pretrained(out / "face_model")
    clips = [SpeechClip(clip, face_model) for clip in tqdm(load_clips(data, speech=True), desc="clips", unit="clip")]
    if config.align_steps:
        rough, _ = _fit(clips, face_model, config, config.align_steps)
        clips = align(rough, face_model, clips)
    network, best = _fit(clips, face_model, config, config.steps)
    held_out = [clip for clip in clips if is_held_out(clip.speaker)]
    # One number is set by the held-out speakers: on its own training clips the network is louder than on new ones.
    _set_amplitude(network, face_model, held_out or clips, config.amplitude)
    best = {**best, **validate(network, face_model, held_out)} if held_out else best
    network.save_pretrained(out / "expression_extractor")
    return best


def _set_amplitude(network: ExpressionExtractor, face_model: FaceModel, clips: list[SpeechClip], amplitude: float) -> None:
    """Stretch the network's output around its mean so that mouths open as far as real ones: regression shrinks it."""
    network.eval()
    heard = [clip.predict(network) for clip in clips]
    opening = lambda clip, beta: float(_mouth(face_model(torch.from_numpy(clip.identity), beta))[:, 0].std())  # noqa: E731
    ratio = np.median([opening(c, b) / opening(c, torch.from_numpy(c.expression)) for c, b in zip(clips, heard, strict=True)])
    mean, gain = torch.cat(heard).mean(0), float(np.clip(amplitude / ratio, 0.5, 2.5))
    network.output_scale.mul_(gain)
    network.output_bias.mul_(gain).add_((1 - gain) * mean)


def _fit(clips: list[SpeechClip], face_model: FaceModel, config: ExpressionConfig, steps: int) -> tuple[ExpressionExtractor, dict]:
    """One round of training; returns the moving average at its best step on held-out speakers."""
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    held_out = [clip for clip in clips if is_held_out(clip.speaker)]
    clips = [clip for clip in clips if not is_held_out(clip.speaker) and len(clip.expression) > config.frames // 2]
    # Every speaker counts alike up to a point: half-way between per clip and per second, then per speaker.
    weight = np.sqrt([len(clip.expression) for clip in clips])
    for speaker in {clip.speaker for clip in clips}:
        same = np.array([clip.speaker == speaker for clip in clips])
        weight[same] /= np.sqrt(weight[same].sum())
    weight /= weight.sum()

    network = ExpressionExtractor(
        identity_dim=face_model.config.identity_dim, expression_dim=face_model.config.expression_dim,
        hidden_dim=config.hidden_dim, context_layers=config.context_layers, dropout=config.dropout,
    )  # fmt: skip
    average = ExpressionExtractor.from_config(network.config).eval()
    average.load_state_dict(network.state_dict())
    optimiser = torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    basis_norm = face_model.geometry["expression_basis"].flatten(1).norm(dim=1)
    landmark_weight = landmark_weights(478, INNER_LIPS.tolist(), NOSE.tolist())
    landmark_weight = landmark_weight / landmark_weight.mean()
    best: dict[str, float] = {}
    log: dict[str, float] = {}
    progress = tqdm(range(steps), desc="expression", mininterval=5)
    for step in progress:
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * min(1, (step + 1) / 100) * (0.5 * (1 + np.cos(np.pi * step / steps)))
        chosen = [clips[i] for i in rng.choice(len(clips), config.batch_size, p=weight)]
        cuts = [clip.cut(config.frames, rng) for clip in chosen]
        mel = torch.from_numpy(np.stack([c[0] for c in cuts]))
        truth = torch.from_numpy(np.stack([c[1] for c in cuts]))
        identity = torch.from_numpy(np.stack([clip.identity for clip in chosen]))
        noisy = identity + 0.5 * torch.randn_like(identity)  # 60 faces must not be learnt by heart
        beta = network(mel, noisy)
        shape = face_model(identity[:, None], beta)
        true_shape = face_model(identity[:, None], truth)
        mouth, true_mouth = _mouth(shape), _mouth(true_shape)
        losses = {
            "l2": expression_loss(beta, truth, basis_norm / basis_norm.max()),
            "landmark": landmark_loss(shape * PIXELS_PER_HEAD_UNIT, true_shape * PIXELS_PER_HEAD_UNIT, landmark_weight),
            "mouth": 20 * F.l1_loss(mouth, true_mouth) + 20 * F.l1_loss(mouth.diff(dim=1), true_mouth.diff(dim=1)),
            "concordance": concordance_loss(mouth, true_mouth),
        }
        total = (
            losses["l2"] + config.weight_landmark * losses["landmark"] + config.weight_mouth * losses["mouth"]
            + config.weight_concordance * losses["concordance"]
        )  # fmt: skip
        optimiser.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            rate = min(config.ema, (step + 1) / (step + 10))
            for slow, fast in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
                slow.lerp_(fast, 1 - rate) if slow.is_floating_point() else slow.copy_(fast)
        for name, value in losses.items():
            log[name] = 0.98 * log.get(name, float(value.detach())) + 0.02 * float(value.detach())
        if (step + 1) % 100 == 0 or step + 1 == steps:
            result = validate(average, face_model, held_out or clips)
            tqdm.write(f"{step + 1}: " + " ".join(f"{k} {v:.3f}" for k, v in {**log, **result}.items()))
            if result["opening"] + result["width"] > best.get("opening", -2) + best.get("width", -2):
                best = {"step": step + 1, **result}
                state = {name: value.clone() for name, value in average.state_dict().items()}
    average.load_state_dict(state)
    return average, best
