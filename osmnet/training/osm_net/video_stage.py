"""Stage `video`: the video generator, on mouth windows or whole faces."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, cast

import numpy as np
import torch

from osmnet.data.dataset import Dataset
from osmnet.data.shards import fingerprint
from osmnet.face.morphable import FaceModel
from osmnet.face.mouth import GUIDE_CHANNELS
from osmnet.loading.model import OSMNetModel
from osmnet.models.osm_net.video_generator import GEOMETRIES, VideoGenerator
from osmnet.training.core.config import StageConfig
from osmnet.training.core.stage import ClipPools, Stage
from osmnet.training.core.trainer import fit
from osmnet.training.osm_net.driving import Driving
from osmnet.training.osm_net.face_pairs import FacePairs
from osmnet.training.osm_net.mouth_pairs import MouthPairs
from osmnet.training.osm_net.pairs import Pairs
from osmnet.training.osm_net.perceptual import VGG19, find_vgg, load_vgg
from osmnet.training.osm_net.pose_clip import evenly
from osmnet.training.osm_net.trained_components import load_component, load_initial
from osmnet.training.osm_net.video_losses import VideoAdversary, VideoLosses

ADVERSARIAL_WEIGHTS = {"g": 0.3, "feature": 4.0}  # if VGG-19 is not available
VALIDATION_CLIPS, VALIDATION_BATCHES, VALIDATION_SIZE = 24, 6, 8
SHEET_ROWS = 8


@dataclass(frozen=True)
class VideoConfig(StageConfig):
    """Settings of the video generator, besides those of `StageConfig`.

    Args:
        geometry (`str`): `"mesh"` paints the mouth on a warped picture, `"none"` generates the whole square.
        image_size (`int`): Side of the mouth window or of the whole square, pixels.
        window (`int`): 2k + 1 frames of driving numbers; 1 is the frame alone.
        base_channels (`int`): Width of the network at full resolution; it doubles with each halving,
        max_channels (`int`): up to this one.
        stem_stride (`int`): 2 works at half the resolution. With `init`, these six are the initial network's.
        min_size (`int`): Smallest crop, pixels; teeth in smaller ones are too soft.
        driving (`tuple[str, ...]`): `measured` poses; for `"none"` also `motion` and `center`, decoded from F̃_m of
            the clip's motion and F_c of its sound. Each generates a frame; their losses are summed.
        vgg (`str`): Weights of VGG-19 for `per` and `style`: a file, a Hub id (`ID:FILE`), or `""` for none. `"auto"`
            asks the Hub and, if it has none, trains with the discriminator instead.
        adversarial_from (`int`): First step of the discriminator, if `g` or `feature` has a weight.
    """

    steps: int = 5000
    batch_size: int = 8
    learning_rate: float = 4e-4
    floor: float = 0.05
    beta1: float = 0.5
    beta2: float = 0.99
    clip_norm: float = 5.0
    ema: float = 0.999
    weights: dict[str, float] = field(
        default_factory=lambda: {
            "rec": 4.0, "per": 2.5, "style": 1000.0, "gradient": 4.0, "mask": 0.01, "g": 0.3, "feature": 4.0,
        }
    )  # fmt: skip
    geometry: str = "mesh"
    image_size: int = 128
    window: int = 17
    base_channels: int = 16
    max_channels: int = 64
    stem_stride: int = 2
    min_size: int = 250
    driving: tuple[str, ...] = ("measured",)
    vgg: str = ""
    adversarial_from: int = 1500

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.geometry not in GEOMETRIES:
            raise ValueError(f"geometry must be one of {', '.join(GEOMETRIES)}, not '{self.geometry}'.")
        if self.geometry == "mesh" and self.driving != ("measured",):
            raise ValueError("driving must be measured with geometry=mesh, which warps to the pose that is measured.")


class VideoStage(Stage):
    """Training stage of the video generator.

    Args:
        config (`VideoConfig`): Settings; `self.config` has the sizes of the initial network, and weights for the
            discriminator if VGG-19 was not available.
        dataset (`Dataset`): Its clips with crops of `min_size` pixels are used; with speech, if F_c drives.
        model (`Path`): Folder with `face_model` and, if decoded motion drives, the networks of stage `motion`.
        work (`Path`): Folder of the run; `frames` in it caches the pictures of the clips in memory.

    Raises:
        ValueError: If no clip can be used, a component is missing, or VGG-19 cannot be loaded.
    """

    name: ClassVar[str] = "video"

    def __init__(self, config: VideoConfig, dataset: Dataset, model: Path, work: Path):
        face_model = load_component(FaceModel, model, "face_model")
        self.made_for = {"face_model": fingerprint(face_model), "dataset": dataset.fingerprint}
        driving = Driving(config.driving, model)
        speech = True if driving.needs_speech else None
        by = cast(Literal["speaker", "clip"], config.split)
        self._training, self._held_out = dataset.split(speech, config.min_size, by)
        config, vgg = _with_vgg(config)
        torch.manual_seed(config.seed)
        network, self.config = _initial_network(config, face_model)
        self._frames = Path(work) / "frames"
        kind: type[Pairs] = MouthPairs if config.geometry == "mesh" else FacePairs
        size, context = self.config.image_size, self.config.window // 2
        self._pairs = kind(face_model, driving, size, context, self._frames / "training")
        self._unseen = kind(face_model, driving, size, context, self._frames / "held-out")
        self._pools = ClipPools(self._training, self._pairs.make, config, "frames")
        self._validation: list[dict[str, torch.Tensor]] = []
        self.networks: dict[str, OSMNetModel] = {"video_generator": network}
        adversary = VideoAdversary() if config.weights.get("g") or config.weights.get("feature") else None
        self.adversary = adversary
        self.objective = VideoLosses(network, vgg, adversary)

    def begin_step(self, step: int) -> None:
        """Activate the discriminator from `adversarial_from` on."""
        self.adversary_active = self.adversary is not None and step >= self.config.adversarial_from
        cast(VideoLosses, self.objective).adversarial = self.adversary_active

    def batch(self, step: int, rank: int, world: int, micro: int) -> dict[str, torch.Tensor]:
        """Draw augmented pairs of frames."""
        config = self.config
        clips = self._pools.at(step, rank, world)
        rng = np.random.default_rng([config.seed, step, micro, rank])
        return self._pairs.batch(clips, config.batch_size, rng)

    def validate(self, networks: dict[str, OSMNetModel]) -> dict[str, float]:
        """Measure L1 in [0, 1] on held-out speakers.

        Returns:
            `dict[str, float]`: `l1` over the inside of the mouth. With a mesh, also `l1_warp` of the warp alone;
            without, `l1_source` of the unchanged source, and `l1_whole` and `l1_whole_source` of whole pictures.
        """
        network = cast(VideoGenerator, networks["video_generator"])
        mesh = network.config.geometry == "mesh"
        sums: dict[str, np.ndarray] = {}  # of the error, and of the pixels
        for batch in self._held_out_batches(network.device):
            inside = batch["guide"][:, 1:2] if mesh else batch["guide"][:, :1]
            images = {"": _sampled(network, batch)}
            images["_warp" if mesh else "_source"] = batch["warped" if mesh else "source"]
            areas = {"l1": inside} if mesh else {"l1": inside, "l1_whole": torch.ones_like(inside)}
            for area, weight in areas.items():
                for name, image in images.items():
                    error = ((image - batch["target"]).abs() * weight).sum() / 6  # three channels in [-1, 1]
                    both = np.array([float(error), float(weight.sum())])
                    sums[area + name] = sums.get(area + name, np.zeros(2)) + both
        return {name: float(error / max(pixels, 1e-6)) for name, (error, pixels) in sums.items()}

    def figures(self, networks: dict[str, OSMNetModel]) -> dict[str, np.ndarray]:
        """Draw held-out rows: source, warp (with a mesh), network, truth."""
        network = cast(VideoGenerator, networks["video_generator"])
        batch = {name: value[:SHEET_ROWS] for name, value in self._held_out_batches(network.device)[0].items()}
        with_mesh = [batch["warped"]] if "warped" in batch else []
        columns = torch.cat([batch["source"], *with_mesh, _sampled(network, batch), batch["target"]], 3)
        rows = torch.cat(list(columns), 1).permute(1, 2, 0)
        return {"sheet": ((rows.clamp(-1, 1) + 1) * 127.5).round().byte().cpu().numpy()}

    def finish(self, networks: dict[str, OSMNetModel]) -> dict[str, float]:
        """Delete the cached pictures."""
        shutil.rmtree(self._frames, ignore_errors=True)
        return {}

    def _held_out_batches(self, device: torch.device) -> list[dict[str, torch.Tensor]]:
        if not self._validation:
            clips = [self._unseen.make(clip) for clip in evenly(self._held_out, VALIDATION_CLIPS)]
            rng = np.random.default_rng(1)
            self._validation = [
                self._unseen.batch(clips, VALIDATION_SIZE, rng, augment=False) for _ in range(VALIDATION_BATCHES)
            ]
        return [{name: value.to(device) for name, value in batch.items()} for batch in self._validation]


@torch.no_grad()
def _sampled(network: VideoGenerator, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with_mesh = (batch["warped"], batch["guide"]) if "warped" in batch else ()
    return network(batch["source"], batch["driving"][:, 0], *with_mesh).sample


def _initial_network(config: VideoConfig, face_model: FaceModel) -> tuple[VideoGenerator, VideoConfig]:
    """Build or load the network; return settings with its sizes."""
    mesh = config.geometry == "mesh"
    if not config.init:
        network = VideoGenerator(
            geometry=config.geometry, image_size=config.image_size, window=config.window,
            base_channels=config.base_channels, max_channels=config.max_channels,
            stem_stride=config.stem_stride, guide_channels=GUIDE_CHANNELS if mesh else 0,
        )  # fmt: skip
        return network, config
    network = load_initial(VideoGenerator, config.init, "video_generator", face_model)
    if network.config.geometry != config.geometry:
        raise ValueError(
            f"The video_generator of '{config.init}' has geometry={network.config.geometry}, not {config.geometry}; "
            "set it alike, or leave init out."
        )
    if mesh and network.config.guide_channels != GUIDE_CHANNELS:
        raise ValueError(
            f"The video_generator of '{config.init}' has {network.config.guide_channels} guide channels, and training "
            f"gives {GUIDE_CHANNELS}; leave init out."
        )
    names = "image_size", "window", "base_channels", "max_channels", "stem_stride"
    sizes = {name: network.config[name] for name in names}
    return network, dataclasses.replace(config, **sizes)


def _with_vgg(config: VideoConfig) -> tuple[VideoConfig, VGG19 | None]:
    """Load VGG-19 if configured; adapt the settings if unavailable."""
    if not config.vgg:
        return config, None
    try:
        path = find_vgg(config.vgg)
    except ValueError as error:
        if config.vgg != "auto":
            raise
        if os.environ.get("RANK", "0") == "0":  # as `accelerate launch` numbers the processes
            sys.stderr.write(
                f"osmnet: {str(error).partition(';')[0]}; training without per and style, with a discriminator.\n"
            )
        weights = {name: config.weights.get(name) or weight for name, weight in ADVERSARIAL_WEIGHTS.items()}
        return dataclasses.replace(config, vgg="", weights=config.weights | weights), None
    return config, load_vgg(path)


def train(dataset: Dataset, model: Path, config: VideoConfig, work: Path) -> dict[str, float]:
    """Train `video_generator`; see `stages.train_stage`."""
    stage = VideoStage(config, dataset, Path(model), Path(work))
    return fit(stage, stage.config, Path(model), Path(work))
