"""Stage `upper-face`: the motion space of brows and lids, and the habits of eyes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from osmnet.data.dataset import Clip, Dataset
from osmnet.data.shards import fingerprint
from osmnet.face.morphable import FaceModel
from osmnet.face.upper_face import EXPRESSION, LIDS, MIRROR
from osmnet.loading.model import OSMNetModel
from osmnet.models.osm_net.upper_face_space import UpperFaceSpace
from osmnet.pipelines.options import MotionOptions
from osmnet.pipelines.osm_net.upper_face import UpperFaceTake
from osmnet.training.core.config import StageConfig
from osmnet.training.core.stage import ClipPools, Stage
from osmnet.training.core.trainer import fit
from osmnet.training.osm_net.motion_prior import fit_prior
from osmnet.training.osm_net.pose_clip import draw, evenly
from osmnet.training.osm_net.trained_components import load_component, load_initial
from osmnet.training.osm_net.upper_face_clip import STRETCH, UpperFaceClip, measure_habits

SIGNS = MIRROR[: len(EXPRESSION)]
MAX_VALIDATION_CLIPS = 64  # held in memory
CALIBRATED = 0.95  # share of real stretches within ε = 1
FARTHEST = 0.995  # share of real frames within the limits
TRIALS, ROUNDS = 8, 4  # simulated takes, and their rounds, to match the spread
QUIET, TALKING = 0.2, 0.8  # share of speech


@dataclass(frozen=True)
class UpperFaceConfig(StageConfig):
    """Settings of the upper-face space, besides those of `StageConfig`.

    Args:
        clip_length (`int`): Frames of a stretch; with `init`, this and the next four are the network's own.
        num_bases (`int`): S.
        motion_dim (`int`): C.
        kappa (`float`): κ of Eq. 2.
        hidden_dim (`int`): Width of encoder and decoder.
    """

    steps: int = 3000
    batch_size: int = 512
    learning_rate: float = 1e-3
    checkpoint_every: int = 1500
    weights: dict[str, float] = field(
        default_factory=lambda: {"pose": 1.0, "pose_mixed": 1.0, "basis": 1.0, "usage": 0.02}
    )
    clip_length: int = 5
    num_bases: int = 24
    motion_dim: int = 64
    kappa: float = 16.0
    hidden_dim: int = 64


class UpperFaceStage(Stage):
    """Training stage of the upper-face space (Eq. 1-3 on brows and lids).

    Args:
        config (`UpperFaceConfig`): Settings.
        dataset (`Dataset`): All of its clips are used, with or without speech.
        model (`Path`): Folder with `face_model`.

    Raises:
        ValueError: If no clip can be used, or a component is missing.
    """

    name: ClassVar[str] = "upper-face"

    def __init__(self, config: UpperFaceConfig, dataset: Dataset, model: Path):
        self.config = config
        self.face_model = load_component(FaceModel, model, "face_model")
        self.made_for = {"face_model": fingerprint(self.face_model), "dataset": dataset.fingerprint}
        self._training, self._held_out = dataset.split(by=cast(Any, config.split))
        self._validation: list[UpperFaceClip] = []
        self.length = config.clip_length
        torch.manual_seed(config.seed)
        if config.init:
            space = load_initial(UpperFaceSpace, config.init, "upper_face_space")
            self.length = space.config.clip_length
        else:
            space = UpperFaceSpace(self.length, config.num_bases, config.motion_dim, config.hidden_dim, config.kappa)
        self._pools = ClipPools(self._training, self._clip, config, "upper faces")
        if not config.init:
            scale = self._scale()
            space.encoder.pose_scale.copy_(scale)
            space.decoder.pose_scale.copy_(scale)
        self.networks: dict[str, OSMNetModel] = {"upper_face_space": space}
        self.objective = UpperFaceLosses(space)

    def _scale(self) -> torch.Tensor:
        clips = np.concatenate([clip.clips() for clip in self._pools.at(0)])
        both = np.concatenate([clips, SIGNS * clips])
        return torch.from_numpy(both.reshape(-1, both.shape[-1]).std(0).clip(1e-6))

    def _clip(self, clip: Clip) -> UpperFaceClip | None:
        upper = UpperFaceClip(clip, self.face_model, self.length)
        return upper if len(upper.starts) else None

    def batch(self, step: int, rank: int, world: int, micro: int) -> dict[str, torch.Tensor]:
        """Draw stretches `upper_face` (B, T, 6), half of them mirrored."""
        rng = np.random.default_rng([self.config.seed, step, micro, rank])
        drawn = draw(self._pools.at(step, rank, world), self.config.batch_size, rng)
        clips = np.concatenate([clip.clips(index) for clip, index in drawn])
        mirrored = rng.random(len(clips)) < 0.5
        clips[mirrored] *= SIGNS
        return {"upper_face": torch.from_numpy(clips)}

    def validate(self, networks: dict[str, OSMNetModel]) -> dict[str, float]:
        """Compute held-out losses."""
        space = _space(networks)
        clips = torch.cat([torch.from_numpy(clip.clips()) for clip in self._validation_clips()])
        losses = UpperFaceLosses(space)({"upper_face": clips.to(space.center_weights.device)})
        # Without a score the last weights are kept: held-out clips choose nothing.
        return {name: float(losses[name]) for name in ("pose", "pose_mixed", "basis")}

    def _validation_clips(self) -> list[UpperFaceClip]:
        if not self._validation:
            bar = tqdm(evenly(self._held_out, MAX_VALIDATION_CLIPS), desc="held-out faces", unit="clip", leave=False)
            self._validation = [clip for each in bar if (clip := self._clip(each)) is not None]
            if not self._validation:
                raise ValueError(f"No held-out clip holds {self.length} frames without a cut; prepare longer clips.")
        return self._validation

    @torch.no_grad()
    def finish(self, networks: dict[str, OSMNetModel]) -> dict[str, float]:
        """Set the centre, the unit of ε, the prior, limits, and the habits of eyes.

        Returns:
            `dict[str, float]`: `epsilon_of_95_percent`, the radius in the old unit; `prior_learned`, 0 if the clips
            are too few for the prior; `voice` and `force` of brows and lids; `spread_ratio` of sampled brows to real
            ones; and the habits.
        """
        space, clips = _space(networks), self._pools.at(self.config.steps - 1)
        # 1. Centre and unit.
        features = [self._features(space, clip) for clip in clips]  # (mixed, weights) each
        space.center_weights.copy_(torch.cat([weights for _, weights in features]).mean(0))
        distance = torch.cat([(mixed - space.center()).norm(dim=1) for mixed, _ in features])
        unit = distance.quantile(CALIBRATED).clamp(min=1e-6)
        # The cosine of Eq. 1 does not depend on the scale, and the decoder divides by it: nothing else changes.
        for parameter in (space.encoder.linear_out.weight, space.encoder.linear_out.bias, space.space.motion_bases):
            parameter /= unit
        space.decoder.linear_in.weight *= unit
        # 2. Prior, limits, habits.
        walks = [walk for clip in clips for walk in self._walks(space, clip)]
        report = {"epsilon_of_95_percent": float(unit), "prior_learned": float(fit_prior(space.space, walks))}
        tracks = np.concatenate([np.abs(clip.track - np.median(clip.track, 0)) for clip in clips])
        # A mirrored face has the same limits, and each side may go as far as the other.
        space.limits.copy_(torch.from_numpy(np.quantile(tracks, FARTHEST, axis=0).clip(1e-4)))
        habits = measure_habits(clips)
        for name, value in habits.items():
            space.eyes[name].fill_(value)
        # 3. How far brows and lids go, and how much more in speech.
        space.liveliness[4] = voice = _voice(clips)
        report |= {"voice": voice, **_match_spread(space, clips), **habits}
        return report

    @staticmethod
    def _features(space: UpperFaceSpace, clip: UpperFaceClip) -> tuple[torch.Tensor, torch.Tensor]:
        """Return F̃ and weights of all stretches, also mirrored."""
        either = np.concatenate([clip.clips(), SIGNS * clip.clips()])
        _, mixed, weights, _ = space(torch.from_numpy(either).to(space.center_weights.device))
        return mixed, weights

    def _walks(self, space: UpperFaceSpace, clip: UpperFaceClip) -> list[np.ndarray]:
        """Return offsets `(clips, C)` of consecutive clips from the centre, also mirrored."""
        mixed, _ = self._features(space, clip)
        either = (mixed - space.center()).cpu().numpy().reshape(2, len(clip.starts), -1)
        step, walks = self.length - 1, []
        for phase in range(step):  # the last frame of a clip is the first of the next
            which = np.flatnonzero(clip.starts % step == phase)
            together = np.split(which, np.flatnonzero(np.diff(clip.starts[which]) != step) + 1)
            walks += [offsets[run] for run in together for offsets in either if len(run)]
        return walks


class UpperFaceLosses(nn.Module):
    """Losses of coordinates, bases (Eq. 3) and usage of bases, as of head motion."""

    def __init__(self, space: UpperFaceSpace):
        super().__init__()
        self.space = space

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Compute `pose`, `pose_mixed`, `basis` and `usage`."""
        clips = batch["upper_face"]
        with torch.autocast(clips.device.type, enabled=False):  # half precision would move the bases
            scale = self.space.decoder.pose_scale
            feature, mixed, weights, decoded = self.space(clips)
            usage = weights.mean(0)  # (S,)
            return {
                "pose": F.l1_loss(decoded[0] / scale, clips / scale),
                "pose_mixed": F.l1_loss(decoded[1] / scale, clips / scale),
                "basis": F.l1_loss(mixed, feature) / feature.detach().std().clamp(min=1e-3),
                "usage": (usage * (usage * len(usage) + 1e-9).log()).sum(),
            }


def train(dataset: Dataset, model: Path, config: UpperFaceConfig, work: Path) -> dict[str, Any]:
    """Train `upper_face_space`; see `stages.train_stage`."""
    return fit(UpperFaceStage(config, dataset, model), config, model, work)


def _space(networks: dict[str, OSMNetModel]) -> UpperFaceSpace:
    return cast(UpperFaceSpace, networks["upper_face_space"])


def _voice(clips: list[UpperFaceClip]) -> float:
    """Return how much faster, as a logarithm, brows move in speech than in silence; the median over people."""
    speeds: dict[str, list[np.ndarray]] = {}
    for clip in clips:
        if clip.activity is not None:
            brows = clip.track[: len(clip.activity), :2].mean(1)
            speed = np.log(np.abs(np.gradient(brows)) + 5e-5)
            speeds.setdefault(clip.speaker, []).append(np.stack([speed, clip.activity], 1))
    gains = []
    for rows in map(np.concatenate, speeds.values()):
        quiet, talking = rows[rows[:, 1] < QUIET, 0], rows[rows[:, 1] > TALKING, 0]
        if min(len(quiet), len(talking)) >= 25:
            gains.append(talking.mean() - quiet.mean())
    return float(np.clip(np.median(gains), 0, 1)) if len(gains) >= 4 else 0.0


def _match_spread(space: UpperFaceSpace, clips: list[UpperFaceClip]) -> dict[str, float]:
    """Set the force with which sampled brows and lids spread as real ones."""
    spreads = [spread for clip in clips if len(spread := clip.spread())]
    if not spreads:
        return {}
    real = np.concatenate(spreads).mean(0)
    activity = np.ones(4 * STRETCH, np.float32)
    for _ in range(ROUNDS):
        takes = [UpperFaceTake(space, (seed,), MotionOptions(gaze="fixed", blink=False)) for seed in range(TRIALS)]
        paths = np.stack([take.add(activity)[0][:, : len(EXPRESSION)] for take in takes])
        sampled = paths.reshape(-1, STRETCH, paths.shape[-1]).std(1).mean(0)
        ratio = float(np.mean((sampled / real)[[0, 1, LIDS]]))
        space.liveliness[5] = float(np.clip(float(space.liveliness[5]) / max(ratio, 1e-3), 0.1, 5))
    return {"force": float(space.liveliness[5]), "spread_ratio": ratio}
