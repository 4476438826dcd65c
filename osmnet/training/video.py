"""Stage `video`: the video generator on mouth windows, driven by the true pose and expression of each clip."""

import json
import time
import zlib
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from tqdm import tqdm

from osmnet.data.dataset import Clip, load_clips, split_clips
from osmnet.face.morphable import FaceModel
from osmnet.face.mouth import GUIDE_CHANNELS, WINDOW_WIDTH, apply_affine, cut_window, guide, window_affine
from osmnet.face.pose import Similarity
from osmnet.face.topology import mouth_opening
from osmnet.face.warp import MeshWarp
from osmnet.media.video import read_frames
from osmnet.models.discriminator import PatchDiscriminator, d_loss, feature_matching_loss, g_loss
from osmnet.models.video_generator import VideoGenerator, VideoGeneratorOutput
from osmnet.training.common import load_component, moving_average, set_learning_rate, update_average, update_log

CONTEXT = 1.5  # the cached window is this much wider than the network's: warping looks outside the window
MIN_SIZE = 250  # clips with smaller crops are too soft to learn teeth from
CHECKPOINT_SECONDS = 180
NETWORKS = ("network", "average", "discriminator")  # the files of a checkpoint


@dataclass(frozen=True)
class VideoConfig:
    """Settings of the stage."""

    window_size: int = 128
    base_channels: int = 24
    batch_size: int = 8
    steps: int = 7_000
    adversarial_from: int = 2_500
    learning_rate: float = 2e-4
    ema: float = 0.999
    weight_l1: float = 4.0  # the paper's λ_rec
    weight_gradient: float = 4.0
    weight_adversarial: float = 0.3
    weight_feature: float = 4.0
    weight_mask: float = 0.01
    seed: int = 0


class MouthClip:
    """One clip's mouth windows, kept on disk and mapped into memory, with what a warp between its frames needs."""

    def __init__(self, clip: Clip, face_model: FaceModel, window_size: int):
        self.fit = clip.fit(face_model)
        self.size, self.window_size = clip.size, window_size
        self.wide_size = round(window_size * CONTEXT)
        anchor = face_model.mouth_anchor(self.fit.identity)
        similarity = Similarity(*(np.asarray(part) for part in self.fit.similarity))
        self.affine = window_affine(anchor, similarity, window_size)
        wide = window_affine(anchor, similarity, self.wide_size, WINDOW_WIDTH * CONTEXT)
        self.wide_affine = wide
        self.windows = self._cached_windows(clip)
        opening = mouth_opening(self.fit.shape)[: len(self.windows)]
        rank = opening.argsort().argsort() / max(len(opening) - 1, 1)
        self.open_weight = (0.4 + rank) / (0.4 + rank).sum()
        self.shut = np.flatnonzero(rank < 0.25)

    def _cached_windows(self, clip: Clip) -> np.ndarray:
        """Wide windows `(frames, wide_size, wide_size, 3)`, uint8, cut from the video once."""
        # Another face model places the windows elsewhere: its file has another name.
        places = zlib.crc32(self.wide_affine.round(2).tobytes())
        cache = clip.folder / f"mouth-{self.wide_size}-{places:08x}.npy"
        if not cache.is_file():
            for stale in clip.folder.glob(f"mouth-{self.wide_size}*.npy"):
                with suppress(OSError):
                    stale.unlink()
            frames = zip(read_frames(clip.video), self.wide_affine, strict=False)
            part = cache.with_suffix(".part.npy")
            np.save(part, np.stack([cut_window(frame, affine, self.wide_size) for frame, affine in frames]))
            part.replace(cache)
        return np.load(cache, mmap_mode="r")

    def __len__(self) -> int:
        return len(self.windows)

    def inner(self, window: np.ndarray) -> np.ndarray:
        """The network's window out of the middle of a wide one."""
        edge = (self.wide_size - self.window_size) // 2
        return window[edge : edge + self.window_size, edge : edge + self.window_size]

    def pair(self, source: int, target: int, context: int) -> dict[str, np.ndarray]:
        """Warp one frame of the clip to another: the inputs of the network and the truth."""
        at = lambda i: Similarity(*(part[i] for part in self.fit.similarity))  # noqa: E731
        warp = MeshWarp(np.empty((self.size, self.size, 3), np.uint8), self.fit.shape[source], at(source))
        target_px, origin = warp.points(self.fit.shape[target][None], at(slice(target, target + 1)))
        placed = target_px[0].copy()
        scale = np.sqrt(np.linalg.det(self.affine[target, :, :2]))
        placed[:, :2] = apply_affine(self.affine[target][None], target_px[..., :2])[0]
        placed[:, 2] *= scale
        origin = apply_affine(self.wide_affine[source][None], origin)[0]
        warp.size = self.window_size
        grid = warp.grid(placed, origin).astype(np.float32) - np.float32(0.5)
        wide = np.ascontiguousarray(self.windows[source])
        warped = cv2.remap(wide, grid[..., 0], grid[..., 1], cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REPLICATE)
        source_px = apply_affine(self.affine[source][None], warp.source_points[None, :478, :2])[0]
        around = np.clip(np.arange(target - context, target + context + 1), 0, len(self) - 1)
        pose = self.fit.head_pose[around] - self.fit.head_pose[source]
        return {
            "source": self.inner(wide),
            "target": self.inner(np.ascontiguousarray(self.windows[target])),
            "warped": warped,
            "guide": guide(placed[:478, :2], source_px, self.window_size),
            "driving": np.concatenate([pose, self.fit.expression[around]], 1).astype(np.float32),
        }


class MouthPairs:
    """Random pairs of frames of the same clip, mirrored half of the time."""

    def __init__(self, clips: list[Clip], face_model: FaceModel, window_size: int, context: int):
        self.clips = [
            MouthClip(clip, face_model, window_size) for clip in tqdm(clips, desc="mouth windows", unit="clip")
        ]
        # Long clips count more, but not in proportion; sharp ones much more: soft teeth are learnt easily enough.
        share = np.array([np.sqrt(len(clip)) * clip.size**2 for clip in self.clips])
        self.share = share / share.sum()
        self.context = context
        self.mirror = face_model.mirror_expression().astype(np.float32)

    def batch(self, size: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """Draw a batch; pictures become floats in [-1, 1], `(size, channels, window, window)`."""
        pairs = []
        for index in rng.choice(len(self.clips), size, p=self.share):
            clip = self.clips[index]
            source = rng.choice(clip.shut) if rng.random() < 0.5 else rng.integers(len(clip))
            pair = clip.pair(int(source), int(rng.choice(len(clip), p=clip.open_weight)), self.context)
            if rng.random() < 0.5:
                pair = self._flip(pair)
            pairs.append(self._tint(pair, rng))
        batch = {key: torch.from_numpy(np.stack([pair[key] for pair in pairs])) for key in pairs[0]}
        for key in ("source", "target", "warped"):
            batch[key] = batch[key].permute(0, 3, 1, 2).contiguous()
        return batch

    def _flip(self, pair: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        driving = pair["driving"] * np.array([-1, 1, -1, -1, 1, 1] + [1] * self.mirror.shape[0], np.float32)
        driving[:, 6:] = driving[:, 6:] @ self.mirror
        flipped = {key: np.ascontiguousarray(pair[key][:, ::-1]) for key in ("source", "target", "warped")}
        return {**flipped, "guide": np.ascontiguousarray(pair["guide"][:, :, ::-1]), "driving": driving}

    @staticmethod
    def _tint(pair: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The same change of light and colour for all pictures of a pair."""
        gain = rng.uniform(0.75, 1.2) * rng.uniform(0.93, 1.07, 3).astype(np.float32)
        gamma = rng.uniform(0.8, 1.25)
        table = 2 * np.clip((np.arange(256)[:, None] / 255) ** gamma * gain, 0, 1).astype(np.float32) - 1
        tinted = {
            key: np.stack([table[pair[key][..., c], c] for c in range(3)], -1)
            for key in ("source", "target", "warped")
        }
        return {**pair, **tinted}


def _edges(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return image[..., :, 1:] - image[..., :, :-1], image[..., 1:, :] - image[..., :-1, :]


def reconstruction_losses(
    sample: torch.Tensor, target: torch.Tensor, guide_map: torch.Tensor
) -> dict[str, torch.Tensor]:
    """L1 (Eq. 12) and L1 of the edges, where the network may paint; the inside of the mouth counts four times."""
    weight = guide_map[:, :1] + 3 * guide_map[:, 1:2]
    scale = weight.mean((1, 2, 3), keepdim=True) + 1e-3
    difference = (sample - target).abs() * weight / scale
    gradient = sum(
        ((a - b).abs() * weight[..., : a.shape[-2], : a.shape[-1]] / scale).mean()
        for a, b in zip(_edges(sample), _edges(target), strict=True)
    )
    return {"l1": difference.mean(), "gradient": gradient}


@torch.no_grad()
def validate(network: VideoGenerator, batches: list[dict[str, torch.Tensor]]) -> dict[str, float]:
    """L1 in [0, 1] over the inside of the mouth on held-out speakers: warp alone and warp with network."""
    was_training = network.training
    network.eval()
    totals = np.zeros(3)
    for batch in batches:
        sample = network(batch["source"], batch["driving"], batch["warped"], batch["guide"]).sample
        inside = batch["guide"][:, 1:2]
        for k, image in enumerate((batch["warped"], sample)):
            totals[k] += float(((image - batch["target"]).abs() * inside).sum()) / 6
        totals[2] += float(inside.sum())
    network.train(was_training)
    pixels = max(totals[2], 1e-6)
    return {"val_l1_warp": float(totals[0] / pixels), "val_l1": float(totals[1] / pixels)}


def sheet(network: VideoGenerator, batch: dict[str, torch.Tensor]) -> np.ndarray:
    """Columns source, warp, network, truth; one row a pair; uint8."""
    with torch.no_grad():
        sample = network(batch["source"], batch["driving"], batch["warped"], batch["guide"]).sample
    columns = torch.cat([batch["source"], batch["warped"], sample, batch["target"]], 3)
    rows = torch.cat(list(columns), 1).permute(1, 2, 0)
    return ((rows.clamp(-1, 1) + 1) * 127.5).round().byte().numpy()


def train(data: Path, out: Path, config: VideoConfig, work: Path) -> dict:
    """Train the video generator and save its moving average.

    Args:
        data (`Path`): Made by `osmnet prepare`.
        out (`Path`): Model folder with `face_model`; receives `video_generator`.
        config (`VideoConfig`): Settings.
        work (`Path`): Checkpoints, log and sheets; a run found there goes on.

    Returns:
        `dict`: Losses on held-out speakers.

    Raises:
        ValueError: If no clip can be used, an earlier stage is missing, or `work` holds a run of another network.
    """
    torch.manual_seed(config.seed)
    face_model = load_component(FaceModel, out, "face_model")
    clips = [clip for clip in load_clips(data) if clip.size >= MIN_SIZE]
    if not clips:
        raise ValueError(f"No clip in '{data}' has a crop of {MIN_SIZE} pixels; prepare videos with larger faces.")
    training, held_out = split_clips(clips)
    work.mkdir(parents=True, exist_ok=True)
    network = VideoGenerator(
        geometry="mesh", image_size=config.window_size, base_channels=config.base_channels, stem_stride=2,
        guide_channels=GUIDE_CHANNELS,
    )  # fmt: skip
    context = network.config.window // 2
    unseen = MouthPairs(held_out, face_model, config.window_size, context)
    pairs = MouthPairs(training, face_model, config.window_size, context)
    rng = np.random.default_rng(1)
    validation = [unseen.batch(8, rng) for _ in range(6)]

    average = moving_average(network)
    discriminator = PatchDiscriminator(in_channels=4)
    optimiser = torch.optim.Adam(network.parameters(), config.learning_rate, betas=(0.5, 0.99))
    d_optimiser = torch.optim.Adam(discriminator.parameters(), config.learning_rate, betas=(0.5, 0.99))
    modules = dict(zip(NETWORKS, (network, average, discriminator), strict=True))
    step = _resume(work, config, modules)
    rng = np.random.default_rng(config.seed + step)  # the same pairs again would be learnt by heart
    log: dict[str, float] = {}
    saved = time.monotonic()
    progress = tqdm(range(step, config.steps), initial=step, total=config.steps, desc="video", mininterval=10)
    for step in progress:
        decay = 0.5 * (1 + np.cos(np.pi * step / config.steps)) * 0.95 + 0.05
        set_learning_rate(optimiser, d_optimiser, rate=config.learning_rate * decay)
        batch = pairs.batch(config.batch_size, rng)
        output = network(batch["source"], batch["driving"], batch["warped"], batch["guide"])
        losses = reconstruction_losses(output.sample, batch["target"], batch["guide"])
        losses["mask"] = (output.mask * (1 - batch["guide"][:, 1:2])).mean()
        total = (
            config.weight_l1 * losses["l1"]
            + config.weight_gradient * losses["gradient"]
            + config.weight_mask * losses["mask"]
        )
        if step >= config.adversarial_from:
            losses |= _adversarial_losses(output, batch, discriminator, d_optimiser)
            total = total + config.weight_adversarial * losses["g"] + config.weight_feature * losses["feature"]
        optimiser.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        update_average(average, network, step, config.ema)
        update_log(log, losses)
        progress.set_postfix({k: f"{v:.3f}" for k, v in log.items()}, refresh=False)
        if time.monotonic() - saved > CHECKPOINT_SECONDS or step + 1 == config.steps:
            saved = time.monotonic()
            _save(work, step + 1, config, modules)
            average.save_pretrained(out / "video_generator")
            report = {"step": step + 1, **log, **validate(average, validation)}
            with (work / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({k: round(v, 5) for k, v in report.items()}) + "\n")
            cv2.imwrite(str(work / "sheet.png"), sheet(average, validation[0])[..., ::-1])
    average.save_pretrained(out / "video_generator")  # also when the run found was at its end already
    return validate(average, validation)


def _adversarial_losses(
    output: VideoGeneratorOutput, batch: dict[str, torch.Tensor], discriminator: PatchDiscriminator,
    d_optimiser: torch.optim.Optimizer,
) -> dict[str, torch.Tensor]:  # fmt: skip
    """One step of the discriminator, then its judgement of the network that painted `output`."""
    paint, inside = batch["guide"][:, :1], batch["guide"][:, 1:2]
    # Only what the network may paint can differ: the warp's faults elsewhere would drown the rest.
    fake = torch.cat([batch["target"] * (1 - paint) + output.sample * paint, inside], 1)
    real = torch.cat([batch["target"], inside], 1)
    real_logits, fake_logits = discriminator(real)[0], discriminator(fake.detach())[0]
    # Most patches hold nothing that could be fake; they would teach the discriminator to be undecided.
    weight = F.adaptive_max_pool2d(paint, real_logits.shape[-2:])
    d = d_loss(real_logits, fake_logits, weight)
    d_optimiser.zero_grad(set_to_none=True)
    d.backward()
    d_optimiser.step()
    discriminator.requires_grad_(False)  # the network's gradients flow through it, not into it
    fake_logits, fake_features = discriminator(fake)
    with torch.no_grad():
        real_features = discriminator(real)[1]
    discriminator.requires_grad_(True)
    return {"d": d, "g": g_loss(fake_logits, weight), "feature": feature_matching_loss(real_features, fake_features)}


def _save(work: Path, step: int, config: VideoConfig, modules: dict[str, torch.nn.Module]) -> None:
    for name, module in modules.items():
        part = work / f"{name}.part"
        save_file({k: v.contiguous() for k, v in module.state_dict().items()}, part)
        part.replace(work / f"{name}.safetensors")
    part = work / "state.part"
    part.write_text(json.dumps({"step": step, **asdict(config)}), encoding="utf-8")
    part.replace(work / "state.json")


def _resume(work: Path, config: VideoConfig, modules: dict[str, torch.nn.Module]) -> int:
    """Load the checkpoint in `work`, if there is one; returns the steps done."""
    if not (work / "state.json").is_file():
        return 0
    state = json.loads((work / "state.json").read_text(encoding="utf-8"))
    for name in ("window_size", "base_channels"):
        if state[name] != getattr(config, name):
            raise ValueError(
                f"The run in '{work}' has {name}={state[name]}, not {getattr(config, name)}; set it alike, or give "
                "another folder with --work."
            )
    for name, module in modules.items():
        module.load_state_dict(load_file(work / f"{name}.safetensors"))
    return state["step"]
