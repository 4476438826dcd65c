"""Stage `expression`: the expression extractor, from sound."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
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
from osmnet.face.topology import CHIN, INNER_LIPS, NOSE, NUM_VERTICES, OUTER_LIPS
from osmnet.loading.model import OSMNetModel
from osmnet.media.audio import SAMPLES_PER_FRAME, SAMPLING_RATE
from osmnet.models.osm_net.expression import (
    ExpressionExtractor,
    SpeechInput,
    expression_loss,
    landmark_loss,
    landmark_weights,
)
from osmnet.models.osm_net.speech_encoder import SpeechEncoder
from osmnet.training.core.config import StageConfig
from osmnet.training.core.stage import ClipPools, Stage
from osmnet.training.core.trainer import fit
from osmnet.training.osm_net import lip_amplitude as lips
from osmnet.training.osm_net.pose_clip import evenly
from osmnet.training.osm_net.sound import SOUND, SoundAugmentation, check_ranges
from osmnet.training.osm_net.speech_clip import SpeechClip, draw_shares, encoded_clip, set_aside
from osmnet.training.osm_net.trained_components import load_component, load_initial, speech_encoder_for

PIXELS_PER_HEAD_UNIT = 71.0  # px; in a crop of 256, since the paper's landmark loss is in pixels
MOUTH_SCALE = 20.0  # 1 / head units; a mouth opens by about a twentieth
MIN_AGREEMENT = 0.2  # correlation; below it the sound hardly belongs to the face
MAX_VALIDATION_CLIPS = 64  # held in memory
MAX_HELD_OUT_CLIPS = 512  # read one at a time
NUM_FIGURES = 4
STANDARD_SECONDS = 20  # s of each clip, for mean and spread of the speech features
SOUND_FIELDS = {name: f"sound_{name}" for name in SOUND}


@dataclass(frozen=True)
class ExpressionConfig(StageConfig):
    """Settings of the stage, besides those of `StageConfig`.

    Args:
        frames (`int`): Length of a stretch of speech in a batch.
        hidden_dim (`int`): Channels of the network; with `init`, the network's own.
        context_layers (`int`): Context layers; likewise.
        dropout (`float`): Dropout; likewise.
        identity_noise (`float`): Standard deviation of the noise on α, in α's own units.
        identity_dropout (`float`): Probability that α is set to 0.
        own_mean (`float`): Weight of a speaker's habitual expression; 1 in the paper.
        amplitude (`float`): Final spread of the mouth's opening, relative to that of real mouths; 0 does not rescale.
        aside (`float`): Share of the training speakers that choose the best step and the amplitude.
        speech_encoder (`str`): Model with the speech encoder: `"packaged"`, a folder or a Hub id; `""` for none, as in
            the paper.
        speech_dropout (`float`): Dropout on the speech features; with `init`, the network's own.
        recordings (`int`): Augmented recordings of each clip for the speech encoder.
        sound_gain (`tuple[float, float]`): Range of the gain, dB.
        sound_equaliser (`tuple[float, float]`): dB at each knot.
        sound_noise (`tuple[float, float]`): Signal-to-noise ratio, dB.
        sound_reverberation (`tuple[float, float]`): Time to fade by 60 dB, s.
        sound_pitch (`tuple[float, float]`): Semitones.
        sound_speed (`tuple[float, float]`): Factor, for sound and mouth together.
    """

    steps: int = 500
    batch_size: int = 16
    learning_rate: float = 5e-4
    warm_up: int = 100
    weight_decay: float = 0.02
    clip_norm: float = 1.0
    ema: float = 0.995
    validate_every: int = 50
    sample_every: int = 250
    checkpoint_every: int = 250
    weights: dict[str, float] = field(
        # The paper's Eq. 7 with its λ_ldmk; the last two are ours.
        default_factory=lambda: {"l2": 1.0, "ldmk": 0.02, "mouth": 1.0, "concordance": 1.0}
    )
    frames: int = 64
    hidden_dim: int = 128
    context_layers: int = 4
    dropout: float = 0.4
    identity_noise: float = 0.7
    identity_dropout: float = 0.5
    own_mean: float = 0.2
    amplitude: float = 0.7
    aside: float = 0.12
    speech_encoder: str = "packaged"
    speech_dropout: float = 0.2
    recordings: int = 8
    sound_gain: tuple[float, float] = SOUND["gain"]
    sound_equaliser: tuple[float, float] = SOUND["equaliser"]
    sound_noise: tuple[float, float] = SOUND["noise"]
    sound_reverberation: tuple[float, float] = SOUND["reverberation"]
    sound_pitch: tuple[float, float] = SOUND["pitch"]
    sound_speed: tuple[float, float] = SOUND["speed"]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frames < 2:
            raise ValueError(f"frames must be at least 2, not {self.frames}.")
        for name in ("own_mean", "identity_dropout", "dropout", "speech_dropout"):
            if getattr(self, name) > 1:
                raise ValueError(f"{name} must be at most 1, not {getattr(self, name)}.")
        if not 0 < self.aside <= 0.5:
            raise ValueError(f"aside must be above 0 and at most 0.5, not {self.aside}.")
        check_ranges(self.sound)

    @property
    def sound(self) -> dict[str, tuple[float, float]]:
        """Ranges of the six augmentations."""
        return {name: getattr(self, setting) for name, setting in SOUND_FIELDS.items()}


class ExpressionStage(Stage):
    """Training stage of the expression extractor.

    Args:
        config (`ExpressionConfig`): Settings.
        dataset (`Dataset`): Its clips with speech are used.
        model (`Path`): Folder with `face_model`.

    Raises:
        ValueError: If no clip can be used, or a component is missing.
    """

    name: ClassVar[str] = "expression"

    def __init__(self, config: ExpressionConfig, dataset: Dataset, model: Path):
        self.config, self._model = config, Path(model)
        self.face_model = load_component(FaceModel, model, "face_model")
        self.made_for = {"face_model": fingerprint(self.face_model), "dataset": dataset.fingerprint}
        training, self._held_out = dataset.split(speech=True, by=cast(Any, config.split))
        training, aside, self._parted = set_aside(training, config.aside)
        self._training = [clip for clip in training if self._frames_of(clip) > config.frames // 2]
        if not self._training:
            raise ValueError(
                f"All training clips with speech in '{dataset.where}' are shorter than {config.frames // 2} frames; "
                "set frames to fewer."
            )
        self._aside = evenly(aside, MAX_VALIDATION_CLIPS)
        self._validation: list[SpeechClip] = []
        self._pools = ClipPools(self._training, self._speech_clip, config, "clips")
        torch.manual_seed(config.seed)
        if config.init:
            network = load_initial(ExpressionExtractor, config.init, "expression_extractor", self.face_model)
            self._encoder = speech_encoder_for(network, config.init)
        else:
            self._encoder = None
            if config.speech_encoder:
                self._encoder = load_initial(SpeechEncoder, config.speech_encoder, "speech_encoder")
            network = ExpressionExtractor(
                identity_dim=self.face_model.config.identity_dim, expression_dim=self.face_model.config.expression_dim,
                hidden_dim=config.hidden_dim, context_layers=config.context_layers, dropout=config.dropout,
                speech_dim=self._encoder.config.hidden_dim if self._encoder is not None else 0,
                speech_dropout=config.speech_dropout,
            )  # fmt: skip
            if self._encoder is not None:
                self._standardise(network)
        self.networks: dict[str, OSMNetModel] = {"expression_extractor": network}
        # A face model of its own: the objective moves to the GPU, validation stays on the CPU.
        self.objective = ExpressionLosses(network, load_component(FaceModel, model, "face_model"), config.own_mean)

    def _frames_of(self, clip: Clip) -> int:
        return int(clip.frames * self._parted)

    def _speech_clip(self, clip: Clip) -> SpeechClip:
        made = SpeechClip(clip, self.face_model, (0.0, self._parted))
        if self._encoder is not None:
            made.encode(self._encoder, self.config.sound, self.config.recordings, self.config.seed)
        return made

    def _standardise(self, network: ExpressionExtractor) -> None:
        """Set mean and spread of the speech features."""
        encoder, some = cast(SpeechEncoder, self._encoder), evenly(self._training, MAX_VALIDATION_CLIPS)
        features = []
        for clip in tqdm(some, desc="speech", unit="clip", leave=False):
            waveform = clip.speech()[: STANDARD_SECONDS * SAMPLING_RATE]
            features.append(encoder.encode(waveform, 0, len(waveform) // SAMPLES_PER_FRAME))
        stacked = np.concatenate(features)
        speech_input = cast(SpeechInput, network.speech_input)
        speech_input.mean.copy_(torch.from_numpy(stacked.mean(0)))
        speech_input.spread.copy_(torch.from_numpy(stacked.std(0)).clamp_min(1e-3))

    def batch(self, step: int, rank: int, world: int, micro: int) -> dict[str, torch.Tensor]:
        """Draw augmented stretches of speech.

        Returns:
            `dict[str, torch.Tensor]`: `mel` (B, frames, 16, 16), `expression` (B, frames, 64), `identity` (B, 40),
            `known_identity` (B, 40), the network's noisy input, and with a speech encoder its features `speech` (B,
            frames, 288).
        """
        config = self.config
        rng = np.random.default_rng([config.seed, step, micro, rank])
        clips = self._pools.at(step, rank, world)
        chosen = [clips[i] for i in rng.choice(len(clips), config.batch_size, p=draw_shares(clips))]
        cuts = [clip.cut(config.frames, SoundAugmentation.draw(config.sound, rng), rng) for clip in chosen]
        mel, expression, *features = (np.stack(parts) for parts in zip(*cuts, strict=True))
        # From a random frame, noisy and often 0: the network must not memorise a few dozen faces.
        identity = np.stack([clip.identities[rng.integers(len(clip.identities))] for clip in chosen])
        known = rng.random((len(chosen), 1)) >= config.identity_dropout
        identity = known * identity + config.identity_noise * rng.normal(size=identity.shape)
        arrays = {
            "mel": mel, "expression": expression, "identity": np.stack([clip.identity for clip in chosen]),
            "known_identity": identity.astype(np.float32),
        }  # fmt: skip
        if features:
            arrays["speech"] = features[0]
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def validate(self, networks: dict[str, OSMNetModel]) -> dict[str, float]:
        """Measure on clips set aside; `score` sums both correlations."""
        result = lips.measure(_extractor(networks), self.face_model, self._validation_clips())
        return {**result, "score": result["opening"] + result["width"]}

    def _validation_clips(self) -> list[SpeechClip]:
        if not self._validation:
            part = (self._parted if self._parted < 1 else 0.0, 1.0)
            bar = tqdm(self._aside, desc="clips set aside", unit="clip", leave=False)
            self._validation = [encoded_clip(clip, self.face_model, self._encoder, part) for clip in bar]
        return self._validation

    def figures(self, networks: dict[str, OSMNetModel]) -> dict[str, np.ndarray]:
        """Plot mouth openings and widths, predicted and true."""
        clips = self._validation_clips()[:NUM_FIGURES]
        network = _extractor(networks)
        return {"lips": lips.plot_curves({clip.name: lips.curves(network, self.face_model, clip) for clip in clips})}

    def finish(self, networks: dict[str, OSMNetModel]) -> dict[str, float]:
        """Set the amplitude, then measure on held-out clips.

        Returns:
            `dict[str, float]`: `lips.measure` of held-out clips; `gain`, the factor of the output; and `misfits`, the
            number of training clips in memory whose sound hardly fits their lips (named on stderr).
        """
        network = _extractor(networks)
        # Clips set aside choose the amplitude, held-out ones nothing.
        gain = 1.0
        aside = self._validation_clips()
        if self.config.amplitude:
            # The spread of real openings needs no network, so all clips in memory count: those aside are few.
            spread = lips.usual_spread(self.face_model, [*self._pools.at(self.config.steps - 1), *aside])
            gain = lips.set_amplitude(network, self.face_model, aside, self.config.amplitude * spread)
        held_out = islice(self._held_out, MAX_HELD_OUT_CLIPS)
        clips = (encoded_clip(clip, self.face_model, self._encoder) for clip in held_out)
        result = lips.measure(network, self.face_model, clips)
        if self._encoder is not None:
            self._encoder.save_pretrained(self._model / "speech_encoder")
        return {**result, "gain": gain, "misfits": len(self._misfits(network))}

    def _misfits(self, network: ExpressionExtractor) -> list[str]:
        names = []
        for clip in self._pools.at(self.config.steps - 1):
            agreement = lips.agreement(*lips.curves(network, self.face_model, clip))
            if agreement < MIN_AGREEMENT:
                names.append(clip.name)
                line = f"{clip.name}: sound and lips agree only to {agreement:.2f}; is this the voice of this face?"
                tqdm.write(line, file=sys.stderr)
        return names


def _extractor(networks: dict[str, OSMNetModel]) -> ExpressionExtractor:
    return cast(ExpressionExtractor, networks["expression_extractor"])


class ExpressionLosses(nn.Module):
    """The paper's losses (Eq. 7-9), and two of the mouth."""

    component_weights: torch.Tensor
    landmark_weights: torch.Tensor

    def __init__(self, network: ExpressionExtractor, face_model: FaceModel, own_mean: float):
        super().__init__()
        self.network, self.face_model, self.own_mean = network, face_model, own_mean
        # Components are weighted by how much they move the mouth; the rest is inaudible.
        mouth: Sequence[int] = np.concatenate([INNER_LIPS, OUTER_LIPS, [CHIN]]).tolist()
        basis_norm = face_model.geometry["expression_basis"][:, mouth].flatten(1).norm(dim=1)
        weights = landmark_weights(NUM_VERTICES, INNER_LIPS.tolist(), NOSE.tolist())
        self.register_buffer("component_weights", basis_norm / basis_norm.max(), persistent=False)
        self.register_buffer("landmark_weights", weights / weights.mean(), persistent=False)

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Compute `l2`, `ldmk`, `mouth` and `concordance`."""
        expression = self.network(batch["mel"], batch["known_identity"], batch.get("speech")).float()  # (B, F, 64)
        with torch.autocast(expression.device.type, enabled=False):  # half precision would move vertices by pixels
            return self._losses(expression, batch["expression"], batch["identity"][:, None])

    def _losses(
        self, expression: torch.Tensor, truth: torch.Tensor, identity: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        # Sound does not determine a speaker's habitual expression, so its mean has a small weight.
        expression = expression - (1 - self.own_mean) * (expression - truth).mean(1, keepdim=True)
        shape, true_shape = (self.face_model(identity, beta) for beta in (expression, truth))  # (B, F, 478, 3)
        mouth, true_mouth = lips.mouth(shape), lips.mouth(true_shape)  # (B, F, 2)
        change = F.l1_loss(mouth.diff(dim=1), true_mouth.diff(dim=1))
        pixels, true_pixels = shape * PIXELS_PER_HEAD_UNIT, true_shape * PIXELS_PER_HEAD_UNIT
        return {
            "l2": expression_loss(expression, truth, self.component_weights),
            "ldmk": landmark_loss(pixels, true_pixels, self.landmark_weights),
            "mouth": MOUTH_SCALE * (F.l1_loss(mouth, true_mouth) + change),
            "concordance": lips.concordance_loss(mouth, true_mouth),
        }


def train(dataset: Dataset, model: Path, config: ExpressionConfig, work: Path) -> dict[str, float]:
    """Train `expression_extractor` and save its speech encoder; see `stages.train_stage`."""
    return fit(ExpressionStage(config, dataset, model), config, model, work)
