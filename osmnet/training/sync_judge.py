"""Stage `sync`: the sync judge, which measures lip sync in evaluation."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from scipy.interpolate import interp1d
from torch import nn

from osmnet.data.dataset import Clip, Dataset
from osmnet.evaluation.metrics.sync import JUDGE_FOLDER, LIPS, MAX_SHIFT, SyncJudge, judge_distances, lip_shapes, score
from osmnet.loading.model import OSMNetModel
from osmnet.training.core.config import StageConfig
from osmnet.training.core.stage import ClipPools, Stage
from osmnet.training.core.trainer import fit
from osmnet.training.osm_net.sound import SOUND, SoundAugmentation, loudness
from osmnet.training.osm_net.speech_clip import ClipSound, draw_shares
from osmnet.training.osm_net.trained_components import load_initial

NEIGHBOUR = 0.1  # target of either neighbouring frame: clips are aligned to within about a frame
FAR = 4  # frames; from this offset on, sound is not in sync
STRETCH = 25  # frames of one decision in validation
STRETCH_HOP = 12
FIRST_SCALE = 10.0  # initial inverse temperature of the cosines; learnt


@dataclass(frozen=True)
class SyncConfig(StageConfig):
    """Settings of the stage, besides those of `StageConfig`.

    Args:
        frames (`int`): Length of a stretch; all its other frames are the negatives of a frame.
        hidden_dim (`int`): Channels of the network; with `init`, the network's own.
        embedding_dim (`int`): Dimensions of the embeddings; likewise.
        context_layers (`int`): Convolutions over time; likewise.
        dropout (`float`): Dropout; likewise.
        lip_gain (`float`): Augmentation of the mouth's size: standard deviation of the logarithm of its factor.
        lip_noise (`float`): Augmentation by the tracker's noise, head units.
    """

    steps: int = 2000
    batch_size: int = 16
    learning_rate: float = 1e-3
    warm_up: int = 100
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    ema: float = 0.99
    weights: dict[str, float] = field(default_factory=lambda: {"lips_to_sound": 0.5, "sound_to_lips": 0.5})
    frames: int = 50
    hidden_dim: int = 96
    embedding_dim: int = 64
    context_layers: int = 2
    dropout: float = 0.3
    lip_gain: float = 0.2
    lip_noise: float = 0.005

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frames <= 2 * self.context_layers + 1:
            raise ValueError(f"frames must be above {2 * self.context_layers + 1}, not {self.frames}.")


class SyncClip:
    """Lips and sound of a clip.

    Args:
        clip (`Clip`): A prepared clip with speech, sound and picture aligned.
    """

    def __init__(self, clip: Clip):
        waveform = clip.speech()
        self.lips = lip_shapes(clip.landmarks_px())
        self.sound = ClipSound(waveform, loudness(waveform), len(self.lips))
        self.speaker = clip.speaker
        self._at = interp1d(np.arange(len(self.lips)), self.lips, axis=0)

    def __len__(self) -> int:
        return len(self.lips)

    def cut(self, frames: int, change: SoundAugmentation, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Cut lips `(frames, 40, 3)` and mel windows, see `ClipSound.cut`."""
        mel, at = self.sound.cut(frames, change, rng)
        return self._at(at).astype(np.float32), mel


class SyncLosses(nn.Module):
    """Contrastive losses of lips and sound over the frames of a stretch.

    Args:
        judge (`SyncJudge`): The network.
        frames (`int`): Frames of a stretch.

    Source:
        Chung, Chung, Kang, "Perfect match: improved cross-modal embeddings for audio-visual synchronisation", 2019:
        one of many instead of pairs. Both directions, and targets for the neighbouring frames, are ours.
    """

    def __init__(self, judge: SyncJudge, frames: int):
        super().__init__()
        self.judge = judge
        self.log_scale = nn.Parameter(torch.tensor(FIRST_SCALE).log())
        count = frames - judge.frames + 1
        apart = (torch.arange(count)[None] - torch.arange(count)[:, None]).abs()
        truth = (apart == 0) * (1 - 2 * NEIGHBOUR) + (apart == 1) * NEIGHBOUR
        self.register_buffer("truth", truth / truth.sum(1, keepdim=True), persistent=False)
        self.register_buffer("too_far", apart > MAX_SHIFT, persistent=False)

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Compute the cross entropies of both directions."""
        lips, sound = (each.float() for each in self.judge(batch["lips"], batch["mel"]))  # (B, n, E) each
        with torch.autocast(lips.device.type, enabled=False):  # half precision cannot separate neighbouring frames
            alike = self.log_scale.exp() * lips @ sound.transpose(1, 2)  # (B, n, n)
            alike = alike.masked_fill(self.too_far, -1e4)
        return {
            "lips_to_sound": -(self.truth * alike.log_softmax(2)).sum(2).mean(),
            "sound_to_lips": -(self.truth * alike.transpose(1, 2).log_softmax(2)).sum(2).mean(),
        }


class SyncStage(Stage):
    """Training stage of the sync judge.

    Args:
        config (`SyncConfig`): Settings.
        dataset (`Dataset`): Its clips with speech are used.

    Raises:
        ValueError: If no clip is long enough.
    """

    name: ClassVar[str] = "sync"

    def __init__(self, config: SyncConfig, dataset: Dataset):
        self.config = config
        self.made_for = {"dataset": dataset.fingerprint}
        training, self._held_out = dataset.split(speech=True, by=cast(Any, config.split))
        self._training = [clip for clip in training if clip.frames > config.frames // 2]
        if not self._training:
            raise ValueError(
                f"All training clips with speech in '{dataset.where}' are shorter than {config.frames // 2} frames; "
                "set frames to fewer."
            )
        self._pools = ClipPools(self._training, SyncClip, config, "clips")
        torch.manual_seed(config.seed)
        if config.init:
            judge = load_initial(SyncJudge, config.init, JUDGE_FOLDER)
        else:
            judge = SyncJudge(
                num_points=len(LIPS), hidden_dim=config.hidden_dim, embedding_dim=config.embedding_dim,
                context_layers=config.context_layers, dropout=config.dropout,
            )  # fmt: skip
        self.networks: dict[str, OSMNetModel] = {JUDGE_FOLDER: judge}
        self.objective = SyncLosses(judge, config.frames)

    def batch(self, step: int, rank: int, world: int, micro: int) -> dict[str, torch.Tensor]:
        """Draw stretches: `lips` (B, frames, 40, 3) and `mel` (B, frames, 16, 16)."""
        config = self.config
        rng = np.random.default_rng([config.seed, step, micro, rank])
        clips = self._pools.at(step, rank, world)
        chosen = [clips[i] for i in rng.choice(len(clips), config.batch_size, p=draw_shares(clips))]
        cuts = [clip.cut(config.frames, SoundAugmentation.draw(SOUND, rng), rng) for clip in chosen]
        lips, mel = (np.stack([cut[part] for cut in cuts]) for part in range(2))
        lips = lips * np.exp(config.lip_gain * rng.normal(size=(len(lips), 1, 1, 1)))
        lips = lips + config.lip_noise * rng.normal(size=lips.shape)
        return {"lips": torch.from_numpy(lips.astype(np.float32)), "mel": torch.from_numpy(mel)}

    def validate(self, networks: dict[str, OSMNetModel]) -> dict[str, float]:
        """Measure on held-out clips, see `measure_judge`."""
        return measure_judge(cast(SyncJudge, networks[JUDGE_FOLDER]), self._held_out)


def measure_judge(judge: SyncJudge, clips: list[Clip]) -> dict[str, float]:
    """Measure how well a sync judge aligns clips.

    Args:
        judge (`SyncJudge`): In evaluation mode.
        clips (`list[Clip]`): Aligned clips with speech; those shorter than 2 s are left out.

    Returns:
        `dict[str, float]`: `found`, the share of clips with an offset within a frame; `found_in_4s`, the same for
        stretches of 4 s; `auc`, of seconds in sync against seconds 4 frames or more out of sync; mean
        `confidence`.
    """
    offsets, short, aligned, shifted, confidences = [], [], [], [], []
    for clip in clips:
        if clip.frames < 2 * STRETCH:
            continue
        distances = judge_distances(judge, clip.landmarks_px(), clip.speech())
        whole = score(distances)
        offsets.append(whole.offset)
        confidences.append(whole.confidence)
        parts = range(0, max(len(distances) - 4 * STRETCH + 1, 1), 4 * STRETCH)
        short += [score(distances[start : start + 4 * STRETCH]).offset for start in parts]
        seconds = np.lib.stride_tricks.sliding_window_view(distances, STRETCH, axis=0)[::STRETCH_HOP].mean(-1)
        aligned.append(seconds[:, MAX_SHIFT])
        far = np.abs(np.arange(-MAX_SHIFT, MAX_SHIFT + 1)) >= FAR
        shifted.append(seconds[:, far].ravel())
    if not offsets:
        raise ValueError("None of the held-out clips with speech is as long as 2 s; prepare longer ones.")
    near, away = np.concatenate(aligned), np.concatenate(shifted)
    away = away[~np.isnan(away)]
    below = np.searchsorted(np.sort(away), near, side="right")
    return {
        "found": float((np.abs(offsets) <= 1).mean()),
        "found_in_4s": float((np.abs(short) <= 1).mean()),
        "auc": float(1 - below.mean() / len(away)),
        "confidence": float(np.mean(confidences)),
    }


def train(dataset: Dataset, model: Path, config: SyncConfig, work: Path) -> dict[str, float]:
    """Train `sync_judge`; see `stages.train_stage`."""
    return fit(SyncStage(config, dataset), config, model, work)
