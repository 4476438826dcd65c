"""Stage `motion`: motion encoder, space and decoder, then the audio motion encoder."""

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
from osmnet.loading.model import OSMNetModel
from osmnet.models.osm_net.motion_codec import MotionDecoder, MotionEncoder
from osmnet.models.osm_net.motion_space import MotionSpace
from osmnet.training.core.config import StageConfig
from osmnet.training.core.processes import join_processes, on_main
from osmnet.training.core.stage import ClipPools, Stage
from osmnet.training.core.trainer import fit
from osmnet.training.osm_net.audio_motion_stage import AudioMotionConfig, AudioMotionStage
from osmnet.training.osm_net.pose_clip import MIRROR, PoseClip, draw, evenly
from osmnet.training.osm_net.pose_plot import plot_tracks
from osmnet.training.osm_net.trained_components import load_component, load_initial

__all__ = ["AudioMotionConfig", "AudioMotionStage", "MotionConfig", "MotionStage", "train"]

COMPONENTS = {"motion_encoder": MotionEncoder, "motion_space": MotionSpace, "motion_decoder": MotionDecoder}
MAX_SCALE_CLIPS = 256  # for the spread, which is the unit of poses
MAX_VALIDATION_CLIPS = 64  # held in memory
IN_USE = 0.001  # a basis is used if it is the nearest one of this share of the stretches


@dataclass(frozen=True)
class MotionConfig(StageConfig):
    """Settings of the motion space, besides those of `StageConfig`.

    Args:
        clip_length (`int`): T, poses of a stretch; with `init`, this and the next four are the networks' own.
        num_bases (`int`): S.
        motion_dim (`int`): C.
        kappa (`float`): κ of Eq. 2.
        hidden_dim (`int`): Width of encoder and decoder.
        keep_space (`bool`): With `init`, train the audio motion encoder only: bases learnt from many people suit one
            person, too, and ε keeps its meaning.
    """

    steps: int = 4000
    batch_size: int = 512
    learning_rate: float = 1e-3
    checkpoint_every: int = 2000
    weights: dict[str, float] = field(
        default_factory=lambda: {"pose": 1.0, "pose_mixed": 1.0, "basis": 1.0, "usage": 0.02}
    )
    clip_length: int = 5
    num_bases: int = 48
    motion_dim: int = 512
    kappa: float = 16.0
    hidden_dim: int = 256
    keep_space: bool = True


class MotionStage(Stage):
    """Training stage of motion encoder, bases and decoder (Eq. 1-3).

    Args:
        config (`MotionConfig`): Settings.
        dataset (`Dataset`): All of its clips are used, with or without speech.
        model (`Path`): Folder with `face_model`.

    Raises:
        ValueError: If no clip can be used, or a component is missing.
    """

    name: ClassVar[str] = "motion"

    def __init__(self, config: MotionConfig, dataset: Dataset, model: Path):
        self.config = config
        self.face_model = load_component(FaceModel, model, "face_model")
        self.made_for = {"face_model": fingerprint(self.face_model), "dataset": dataset.fingerprint}
        self._training, self._held_out = dataset.split(by=cast(Any, config.split))
        self._validation: list[PoseClip] = []
        self._pools = ClipPools(self._training, self._pose_clip, config, "tracks")
        torch.manual_seed(config.seed)
        if config.init:
            networks = {name: load_initial(kind, config.init, name) for name, kind in COMPONENTS.items()}
            self.length = networks["motion_encoder"].config.clip_length
        else:
            self.length = config.clip_length
            sizes = {"clip_length": self.length, "motion_dim": config.motion_dim, "hidden_dim": config.hidden_dim}
            encoder, decoder = MotionEncoder(**sizes), MotionDecoder(**sizes)
            scale = self._pose_scale()
            encoder.pose_scale.copy_(scale)
            decoder.pose_scale.copy_(scale)
            space = MotionSpace(config.num_bases, config.motion_dim, config.kappa)
            networks = {"motion_encoder": encoder, "motion_space": space, "motion_decoder": decoder}
        self.networks: dict[str, OSMNetModel] = networks
        self.objective = MotionLosses(**networks)

    def _pose_scale(self) -> torch.Tensor:
        poses = [
            clip.poses()
            for each in tqdm(evenly(self._training, MAX_SCALE_CLIPS), desc="pose spread", unit="clip", leave=False)
            if (clip := self._pose_clip(each)) is not None
        ]
        if not poses:
            raise ValueError(
                f"No training clip holds {self.length} frames without a cut; set clip_length to fewer, or prepare "
                "longer clips."
            )
        both = np.concatenate([*poses, *(MIRROR * each for each in poses)])
        return torch.from_numpy(both.reshape(-1, both.shape[-1]).std(0).clip(1e-6))

    def _pose_clip(self, clip: Clip) -> PoseClip | None:
        pose_clip = PoseClip(clip, self.face_model, self.length)
        return pose_clip if len(pose_clip.starts) else None

    def batch(self, step: int, rank: int, world: int, micro: int) -> dict[str, torch.Tensor]:
        """Draw stretches `head_pose` (B, T, 6), half of them mirrored."""
        rng = np.random.default_rng([self.config.seed, step, micro, rank])
        drawn = draw(self._pools.at(step, rank, world), self.config.batch_size, rng)
        poses = np.concatenate([clip.poses(index) for clip, index in drawn])
        mirrored = rng.random(len(poses)) < 0.5
        poses[mirrored] *= MIRROR
        return {"head_pose": torch.from_numpy(poses)}

    def validate(self, networks: dict[str, OSMNetModel]) -> dict[str, float]:
        """Compute held-out losses and count the bases in use."""
        poses = torch.cat([torch.from_numpy(clip.poses()) for clip in self._validation_clips()])
        losses = MotionLosses(**_motion_networks(networks))({"head_pose": poses.to(_device(networks))})
        report = {name: float(losses[name]) for name in ("pose", "pose_mixed", "basis")}
        # Without a score the last weights are kept: held-out clips choose nothing.
        return {**report, "bases_in_use": _bases_in_use(networks, poses)}

    def _validation_clips(self) -> list[PoseClip]:
        if not self._validation:
            chosen = evenly(self._held_out, MAX_VALIDATION_CLIPS)
            made = [self._pose_clip(clip) for clip in tqdm(chosen, desc="held-out tracks", unit="clip", leave=False)]
            self._validation = [clip for clip in made if clip is not None]
            if not self._validation:
                raise ValueError(f"No held-out clip holds {self.length} frames without a cut; prepare longer clips.")
        return self._validation

    def figures(self, networks: dict[str, OSMNetModel]) -> dict[str, np.ndarray]:
        """Plot held-out tracks, real and decoded."""
        return {"tracks": plot_tracks(self._validation_clips(), **_motion_networks(networks))}

    def finish(self, networks: dict[str, OSMNetModel]) -> dict[str, float]:
        """Count the bases used by training clips: `bases_in_use`."""
        clips = self._pools.at(self.config.steps - 1)
        poses = torch.cat([torch.from_numpy(clip.poses()) for clip in clips])
        return {"bases_in_use": _bases_in_use(networks, poses)}


class MotionLosses(nn.Module):
    """Losses of poses, bases (Eq. 3) and usage of bases."""

    def __init__(self, motion_encoder: MotionEncoder, motion_space: MotionSpace, motion_decoder: MotionDecoder):
        super().__init__()
        self.encoder, self.space, self.decoder = motion_encoder, motion_space, motion_decoder

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Compute `pose`, `pose_mixed`, `basis` and `usage`."""
        with torch.autocast(batch["head_pose"].device.type, enabled=False):  # half precision would move the bases
            return self._losses(batch["head_pose"])

    def _losses(self, poses: torch.Tensor) -> dict[str, torch.Tensor]:
        scale = self.decoder.pose_scale
        feature = self.encoder(poses).float()  # (B, C)
        mixed, weights = self.space(feature)  # (B, C), (B, S)
        usage = weights.mean(0)  # (S,)
        return {
            "pose": F.l1_loss(self.decoder(feature) / scale, poses / scale),
            "pose_mixed": F.l1_loss(self.decoder(mixed) / scale, poses / scale),
            # Relative to the feature's own spread.
            "basis": F.l1_loss(mixed, feature) / feature.detach().std().clamp(min=1e-3),
            # Sampling would draw bases that no clip uses.
            "usage": (usage * (usage * len(usage) + 1e-9).log()).sum(),
        }


def train(
    dataset: Dataset, model: Path, config: MotionConfig, work: Path, audio_config: AudioMotionConfig | None = None
) -> dict[str, dict]:
    """Train the motion space, unless `keep_space`, then `audio_motion_encoder`; see `stages.train_stage`."""
    audio_config = audio_config or AudioMotionConfig(init=config.init, split=config.split)
    dataset.split(speech=True, by=cast(Any, audio_config.split))  # refuses clips without speech before the first half
    reports = {}
    if config.init and config.keep_space:
        on_main(join_processes(), lambda: _copy_space(config.init, Path(model)))
    else:
        reports["motion"] = fit(MotionStage(config, dataset, model), config, model, work / "motion")
    stage = AudioMotionStage(audio_config, dataset, model, rescale=not (config.init and config.keep_space))
    reports["audio-motion"] = fit(stage, audio_config, model, work / "audio-motion")
    return reports


def _copy_space(init: str, model: Path) -> None:
    for name, kind in COMPONENTS.items():
        load_initial(kind, init, name).save_pretrained(model / name)


def _motion_networks(networks: dict[str, OSMNetModel]) -> dict[str, Any]:
    return {name: networks[name] for name in COMPONENTS}


def _device(networks: dict[str, OSMNetModel]) -> torch.device:
    return cast(MotionSpace, networks["motion_space"]).motion_bases.device


def _bases_in_use(networks: dict[str, OSMNetModel], poses: torch.Tensor) -> int:
    space = cast(MotionSpace, networks["motion_space"])
    with torch.no_grad():
        nearest = space.log_attention(networks["motion_encoder"](poses.to(_device(networks)))).argmax(1)
    return int((nearest.bincount(minlength=space.config.num_bases) > IN_USE * len(poses)).sum())
