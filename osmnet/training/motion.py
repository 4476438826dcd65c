"""Stage `motion`: motion encoder, motion space and decoder from pose tracks, then the audio motion encoder."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch.nn import functional as F
from tqdm import tqdm

from osmnet.data.dataset import Clip, load_clips, split_clips
from osmnet.face.morphable import FaceModel
from osmnet.models.motion import (
    AudioMotionEncoder,
    MotionDecoder,
    MotionEncoder,
    MotionSpace,
    kl_loss,
)
from osmnet.training.common import load_component, set_learning_rate

TRACK_SMOOTHING = 1.0  # frames; the landmarker's noise is not motion
CUT_DEG = 12.0  # a head that turns further than this in one frame has been cut to another take


@dataclass(frozen=True)
class MotionConfig:
    """Settings of the stage."""

    clip_length: int = 5
    num_bases: int = 48
    motion_dim: int = 512
    kappa: float = 16.0
    hidden_dim: int = 256
    steps: int = 4000
    audio_steps: int = 1500
    batch_size: int = 512
    learning_rate: float = 1e-3
    weight_basis: float = 1.0
    weight_usage: float = 0.02
    seed: int = 0


def smooth_track(head_pose: np.ndarray) -> np.ndarray:
    """Pose track `(frames, 6)` without the landmarker's noise."""
    return gaussian_filter1d(head_pose, TRACK_SMOOTHING, axis=0, mode="nearest").astype(np.float32)


def unbroken_starts(head_pose: np.ndarray, length: int) -> np.ndarray:
    """Frames at which a stretch of `length` frames without a cut begins."""
    turn = np.abs(np.diff(head_pose[:, :3], axis=0)).max(1)
    breaks = np.flatnonzero(turn > np.deg2rad(CUT_DEG))
    starts = np.arange(len(head_pose) - length + 1)
    if len(breaks) == 0:
        return starts
    return starts[~((starts[:, None] <= breaks) & (breaks < starts[:, None] + length - 1)).any(1)]


def relative_clips(head_pose: np.ndarray, length: int) -> np.ndarray:
    """All stretches of a track relative to their first frame: `(frames, 6)` to `(clips, length, 6)`."""
    starts = unbroken_starts(head_pose, length)
    clips = head_pose[starts[:, None] + np.arange(length)]
    return (clips - clips[:, :1]).astype(np.float32)


def train(data: Path, out: Path, config: MotionConfig) -> dict:
    """Train the four networks of the motion space and save them.

    Args:
        data (`Path`): Made by `osmnet prepare`.
        out (`Path`): Model folder with `face_model`; receives `motion_encoder`, `motion_space`, `motion_decoder` and
            `audio_motion_encoder`.
        config (`MotionConfig`): Settings.

    Returns:
        `dict`: The losses of the last step, and how many bases are in use.

    Raises:
        ValueError: If no training clip has speech, or an earlier stage is missing.
    """
    torch.manual_seed(config.seed)
    face_model = load_component(FaceModel, out, "face_model")
    clips = load_clips(data)
    training, _ = split_clips(clips)
    if not any(clip.has_speech for clip in training):
        raise ValueError(f"None of the {len(training)} training clips in '{data}' has speech; prepare some that do.")
    tracks = {
        clip.name: smooth_track(clip.fit(face_model).head_pose) for clip in tqdm(clips, desc="tracks", unit="clip")
    }
    poses = np.concatenate([relative_clips(tracks[c.name], config.clip_length) for c in training])
    mirrored = poses * np.array([-1, 1, -1, -1, 1, 1], np.float32)
    poses = torch.from_numpy(np.concatenate([poses, mirrored]))
    scale = poses.flatten(0, 1).std(0)
    sizes = {"clip_length": config.clip_length, "motion_dim": config.motion_dim, "hidden_dim": config.hidden_dim}
    encoder, decoder = MotionEncoder(**sizes), MotionDecoder(**sizes)
    space = MotionSpace(config.num_bases, config.motion_dim, config.kappa)
    encoder.pose_scale.copy_(scale)
    decoder.pose_scale.copy_(scale)

    parameters = [*encoder.parameters(), *space.parameters(), *decoder.parameters()]
    optimiser = torch.optim.Adam(parameters, config.learning_rate)
    for step in tqdm(range(config.steps), desc="motion", mininterval=5):
        set_learning_rate(optimiser, rate=config.learning_rate * 0.5 * (1 + np.cos(np.pi * step / config.steps)))
        batch = poses[torch.randint(len(poses), (config.batch_size,))]
        feature = encoder(batch)
        mixed, weights = space(feature)
        usage = weights.mean(0)
        losses = {
            "pose": F.l1_loss(decoder(feature) / scale, batch / scale),
            "pose_mixed": F.l1_loss(decoder(mixed) / scale, batch / scale),
            # L1 over C numbers of unit spread: the feature's own size is the yardstick.
            "basis": F.l1_loss(mixed, feature) / feature.detach().std().clamp(min=1e-3),
            # Bases that no clip uses would be drawn when sampling: keep them all at work.
            "usage": (usage * (usage * config.num_bases + 1e-9).log()).sum(),
        }
        total = (
            losses["pose"]
            + losses["pose_mixed"]
            + config.weight_basis * losses["basis"]
            + config.weight_usage * losses["usage"]
        )
        optimiser.zero_grad(set_to_none=True)
        total.backward()
        optimiser.step()

    audio = _train_audio(training, tracks, encoder, space, config)
    _calibrate(clips, tracks, encoder, space, decoder, audio, config)
    for network, name in ((encoder, "motion_encoder"), (space, "motion_space"), (decoder, "motion_decoder"),
                          (audio, "audio_motion_encoder")):  # fmt: skip
        network.eval().save_pretrained(out / name)
    with torch.no_grad():
        weights = space.attention(encoder(poses))
    report = {name: float(value.detach()) for name, value in losses.items()}
    report["bases_in_use"] = int((weights.argmax(1).bincount(minlength=config.num_bases) > 0.001 * len(poses)).sum())
    return report


def _aligned(clip: Clip, track: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Relative clips of a track with the mel windows of the same frames."""
    mel = clip.mel_windows()
    starts = unbroken_starts(track, length)
    poses = track[starts[:, None] + np.arange(length)]
    return poses - poses[:, :1], mel[starts[:, None] + np.arange(length)]


def _train_audio(
    clips: list[Clip], tracks: dict, encoder: MotionEncoder, space: MotionSpace, config: MotionConfig
) -> AudioMotionEncoder:
    pairs = [_aligned(c, tracks[c.name], config.clip_length) for c in clips if c.has_speech]
    poses, mels = (torch.from_numpy(np.concatenate([pair[i] for pair in pairs])) for i in range(2))
    with torch.no_grad():
        wanted = space.log_attention(encoder(poses))
    audio = AudioMotionEncoder(clip_length=config.clip_length, num_bases=config.num_bases)
    optimiser = torch.optim.AdamW(audio.parameters(), 3e-4, weight_decay=0.05)
    for _ in tqdm(range(config.audio_steps), desc="audio motion", mininterval=5):
        index = torch.randint(len(poses), (128,))
        mel = mels[index] + 0.1 * torch.randn(128, 1, 1, mels.shape[-1])
        loss = kl_loss(wanted[index], audio(mel))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    return audio.eval()


@torch.no_grad()
def _calibrate(clips: list[Clip], tracks: dict, encoder: MotionEncoder, space: MotionSpace, decoder: MotionDecoder,
               audio: AudioMotionEncoder, config: MotionConfig) -> None:  # fmt: skip
    """Scale the feature space so that ε = 1 holds 95 % of real clips around the centre that their own sound gives."""
    distances = []
    for clip in clips:
        if clip.has_speech:
            poses, mels = (torch.from_numpy(x) for x in _aligned(clip, tracks[clip.name], config.clip_length))
            centre = space.reconstruct(audio(mels).exp())
            distances.append((space(encoder(poses))[0] - centre).norm(dim=1))
    distance = torch.cat(distances)
    unit = distance.quantile(0.95)
    # The cosine of Eq. 1 does not see the scale, and the decoder divides by it again: nothing else changes.
    for parameter in (encoder.linear_out.weight, encoder.linear_out.bias, space.motion_bases):
        parameter /= unit
    decoder.linear_in.weight *= unit
    probabilities = torch.linspace(0, 1, len(space.radius_quantiles))
    space.radius_quantiles.copy_((distance / unit).quantile(probabilities).clamp(max=1))
