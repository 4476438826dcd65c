"""Second half of stage `motion`: audio motion encoder and unit of ε."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from osmnet.data.dataset import Clip, Dataset
from osmnet.data.shards import fingerprint
from osmnet.face.morphable import FaceModel
from osmnet.loading.model import OSMNetModel
from osmnet.models.osm_net.motion_codec import AudioMotionEncoder, MotionDecoder, MotionEncoder
from osmnet.models.osm_net.motion_space import MotionSpace, kl_loss
from osmnet.training.core.config import StageConfig
from osmnet.training.core.stage import ClipPools, Stage
from osmnet.training.osm_net.motion_prior import fit_prior
from osmnet.training.osm_net.pose_clip import MIRROR, PoseClip, draw, evenly
from osmnet.training.osm_net.pose_plot import plot_weights
from osmnet.training.osm_net.trained_components import load_component, load_initial

MAX_VALIDATION_CLIPS = 64  # held in memory
CALIBRATED = 0.95  # share of real stretches within ε = 1


@dataclass(frozen=True)
class AudioMotionConfig(StageConfig):
    """Settings, besides those of `StageConfig`.

    Args:
        hidden_dim (`int`): Width of the network; with `init`, the network's own.
        mel_noise (`float`): Standard deviation of noise on each band of a frame's mel window.
    """

    steps: int = 1500
    batch_size: int = 128
    learning_rate: float = 3e-4
    schedule: str = "constant"
    weight_decay: float = 0.05
    checkpoint_every: int = 750
    validate_every: int = 250
    weights: dict[str, float] = field(default_factory=lambda: {"kl": 1.0})
    hidden_dim: int = 128
    mel_noise: float = 0.1


class AudioMotionStage(Stage):
    """Training stage of the audio motion encoder (Eq. 4).

    Args:
        config (`AudioMotionConfig`): Settings.
        dataset (`Dataset`): Its clips with speech are used.
        model (`Path`): Folder with `face_model`, `motion_encoder`, `motion_space` and `motion_decoder`.
        rescale (`bool`): Whether to set the unit of ε and the prior from these clips; false keeps both.

    Raises:
        ValueError: If no clip can be used, a component is missing, or networks do not fit each other.
    """

    name: ClassVar[str] = "audio-motion"

    def __init__(self, config: AudioMotionConfig, dataset: Dataset, model: Path, rescale: bool = True):
        self.config, self.rescale = config, rescale
        self.face_model = load_component(FaceModel, model, "face_model")
        self.made_for = {"face_model": fingerprint(self.face_model), "dataset": dataset.fingerprint}
        self._training, self._held_out = dataset.split(speech=True, by=cast(Any, config.split))
        self._validation: list[PoseClip] = []
        self._mean_weights: torch.Tensor | None = None  # log, of training clips
        self._pools = ClipPools(self._training, self._pose_clip, config, "tracks with sound")
        encoder = load_component(MotionEncoder, model, "motion_encoder").requires_grad_(False)
        space = load_component(MotionSpace, model, "motion_space").requires_grad_(False)
        decoder = load_component(MotionDecoder, model, "motion_decoder").requires_grad_(False)
        self.length = encoder.config.clip_length
        torch.manual_seed(config.seed)
        sizes = {"clip_length": self.length, "num_bases": space.config.num_bases}
        if config.init:
            audio = load_initial(AudioMotionEncoder, config.init, "audio_motion_encoder")
            for name, value in sizes.items():
                if audio.config[name] != value:
                    raise ValueError(
                        f"The audio motion encoder of '{config.init}' has {name}={audio.config[name]}, the motion "
                        f"space in '{model}' {value}; start both from one model."
                    )
        else:
            audio = AudioMotionEncoder(**sizes, hidden_dim=config.hidden_dim)
        self.networks: dict[str, OSMNetModel] = {
            "audio_motion_encoder": audio, "motion_encoder": encoder, "motion_space": space, "motion_decoder": decoder,
        }  # fmt: skip
        self.objective = AudioMotionLoss(audio, encoder, space)

    def _pose_clip(self, clip: Clip) -> PoseClip | None:
        pose_clip = PoseClip(clip, self.face_model, self.length, sound=True)
        return pose_clip if len(pose_clip.starts) else None

    def batch(self, step: int, rank: int, world: int, micro: int) -> dict[str, torch.Tensor]:
        """Draw stretches: `head_pose` (B, T, 6) and `mel` (B, T, 16, 16)."""
        rng = np.random.default_rng([self.config.seed, step, micro, rank])
        drawn = draw(self._pools.at(step, rank, world), self.config.batch_size, rng)
        poses = np.concatenate([clip.poses(index) for clip, index in drawn])
        mel = np.concatenate([clip.mel(index) for clip, index in drawn])
        # As of another voice and microphone: with so little speech the network would memorise the windows.
        mel = mel + self.config.mel_noise * rng.standard_normal((len(mel), 1, 1, mel.shape[-1]), dtype=np.float32)
        return {"head_pose": torch.from_numpy(poses), "mel": torch.from_numpy(mel)}

    def validate(self, networks: dict[str, OSMNetModel]) -> dict[str, float]:
        """Compute `kl` on held-out clips, and `kl_constant` of the mean weights."""
        weights, predicted = _weights(networks, self._validation_clips())
        if self._mean_weights is None:  # not of the pool, whose clips change
            clips = self._made(self._training, "training tracks")
            self._mean_weights = _weights(networks, clips)[0].exp().mean(0).log()
        constant = self._mean_weights.to(weights.device).expand_as(weights)
        return {"kl": float(kl_loss(weights, predicted)), "kl_constant": float(kl_loss(weights, constant))}

    def _made(self, clips: list[Clip], what: str) -> list[PoseClip]:
        bar = tqdm(evenly(clips, MAX_VALIDATION_CLIPS), desc=what, unit="clip", leave=False)
        return [clip for each in bar if (clip := self._pose_clip(each)) is not None]

    def _validation_clips(self) -> list[PoseClip]:
        if not self._validation:
            self._validation = self._made(self._held_out, "held-out tracks")
            if not self._validation:
                raise ValueError(f"No held-out clip holds {self.length} frames without a cut; prepare longer clips.")
        return self._validation

    def figures(self, networks: dict[str, OSMNetModel]) -> dict[str, np.ndarray]:
        """Plot weights of a held-out clip, from motion and from sound."""
        clip = max(self._validation_clips(), key=lambda clip: len(clip.starts))
        weights, predicted = (each.exp().cpu().numpy() for each in _weights(networks, [clip]))
        return {"weights": plot_weights(clip.name, weights, predicted)}

    def finish(self, networks: dict[str, OSMNetModel]) -> dict[str, float]:
        """Set the unit of ε (95 % of real stretches within ε = 1) and the prior.

        Returns:
            `dict[str, float]`: `epsilon_of_95_percent`, the radius in the old unit; with `rescale` also
            `prior_learned`, 0 if the clips are too few or too short for the prior.
        """
        # The centre is predicted from sound, less well on held-out clips: both kinds count.
        clips = [*self._pools.at(self.config.steps - 1), *self._validation_clips()]
        distance = torch.cat([_distance(networks, [clip]) for clip in clips])
        unit = distance.quantile(CALIBRATED).clamp(min=1e-6)
        report = {"epsilon_of_95_percent": float(unit)}
        if self.rescale:
            encoder, space, decoder = (networks[f"motion_{name}"] for name in ("encoder", "space", "decoder"))
            # The cosine of Eq. 1 does not depend on the scale, and the decoder divides by it: nothing else changes.
            for parameter in (encoder.linear_out.weight, encoder.linear_out.bias, space.motion_bases):
                parameter /= unit
            decoder.linear_in.weight *= unit
            walks = [walk for clip in clips for walk in _walks(networks, clip)]
            report["prior_learned"] = float(fit_prior(cast(MotionSpace, space), walks))
        return report


class AudioMotionLoss(nn.Module):
    """Loss `kl` (Eq. 4) between the weights from motion and from sound."""

    def __init__(self, audio_motion_encoder: AudioMotionEncoder, motion_encoder: MotionEncoder, space: MotionSpace):
        super().__init__()
        self.audio, self.encoder, self.space = audio_motion_encoder, motion_encoder, space

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Compute the loss."""
        predicted = self.audio(batch["mel"]).float()  # (B, S)
        with torch.no_grad(), torch.autocast(predicted.device.type, enabled=False):
            target = self.space.log_attention(self.encoder(batch["head_pose"]))  # (B, S)
        return {"kl": kl_loss(target, predicted)}


@torch.no_grad()
def _weights(networks: dict[str, OSMNetModel], clips: list[PoseClip]) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-weights `(stretches, S)` from motion and from sound."""
    device = networks["motion_space"].motion_bases.device
    rows = []
    for clip in clips:
        poses, mel = (torch.from_numpy(each).to(device) for each in (clip.poses(), clip.mel()))
        weights = networks["motion_space"].log_attention(networks["motion_encoder"](poses))
        rows.append((weights, networks["audio_motion_encoder"](mel)))
    return torch.cat([row[0] for row in rows]), torch.cat([row[1] for row in rows])


@torch.no_grad()
def _distance(networks: dict[str, OSMNetModel], clips: list[PoseClip]) -> torch.Tensor:
    """Distance of each reconstructed stretch from the centre of its sound."""
    space = networks["motion_space"]
    weights, predicted = _weights(networks, clips)
    return (space.reconstruct(weights.exp()) - space.reconstruct(predicted.exp())).norm(dim=1)


@torch.no_grad()
def _walks(networks: dict[str, OSMNetModel], clip: PoseClip) -> list[np.ndarray]:
    """Offsets `(clips, C)` of consecutive clips from the centre, also mirrored."""
    space = networks["motion_space"]
    poses, mel = (torch.from_numpy(each).to(space.motion_bases.device) for each in (clip.poses(), clip.mel()))
    center = space.reconstruct(networks["audio_motion_encoder"](mel).exp().mean(0))  # (C,)
    mirror = torch.from_numpy(MIRROR).to(poses.device)
    either = [(space(networks["motion_encoder"](each))[0] - center).cpu().numpy() for each in (poses, mirror * poses)]
    step = clip.length - 1
    walks = []
    for phase in range(step):  # the last frame of a clip is the first of the next
        which = np.flatnonzero(clip.starts % step == phase)
        together = np.split(which, np.flatnonzero(np.diff(clip.starts[which]) != step) + 1)
        walks += [offsets[run] for run in together for offsets in either if len(run)]
    return walks
