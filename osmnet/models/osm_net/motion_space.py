"""The space of natural head motion: learned bases and random walks.

Source: OSM-Net (arXiv 2309.16148), Section III-A, Eq. 1-5. Letters in shape comments: B batch, C `motion_dim`,
S `num_bases`, D prior axes, P prior order, K clips, N `num_videos`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.nn import functional as F

from osmnet.loading.model import OSMNetModel
from osmnet.utils.checks import check_positive, short

NEAR = 0.35  # fraction of fresh noise when resampling near a take; ~1/3 of the usual distance between takes
CHUNK = 1024  # clips; bounds the memory on an hour of speech
# Heads rest, move, and are livelier at times: a factor scales the steps (docs/notes/experiments.md). Its logarithm
# sums two autoregressions, (standard deviation, correlation from clip to clip) each, and the share of speech.
MOOD, BURST = (0.25, 0.985), (0.65, 0.55)  # last some ten seconds, and a third of a second
VOICE = 0.7  # change of the logarithm from silence to speech
TALKING = 0.8  # share of speech in the clips in which moods and bursts were measured
FORCE = 0.7  # median of the factor; chosen with large movements cut at the sphere of ε
WARM_UP = 64  # clips; walked before the first that is used, so that a take begins anywhere in a movement
BALL_CORRELATION = 0.8  # of neighbouring draws with "ball"


class Liveliness(NamedTuple):
    """How a walk's steps vary: see `MOOD`, `BURST`, `VOICE` and `FORCE`."""

    mood: tuple[float, float] = MOOD
    burst: tuple[float, float] = BURST
    voice: float = VOICE
    force: float = FORCE


class MotionSpace(OSMNetModel):
    """Learned bases b_i of head motion, and draws around a centre.

    `kappa` is κ of Eq. 2.
    """

    # Sixteen bits would move the samples.
    _keep_in_fp32_modules = ["motion_bases", "prior_axes", "prior_transitions", "prior_innovation"]

    @register_to_config
    def __init__(
        self,
        num_bases: int = 48,
        motion_dim: int = 512,
        kappa: float = 16.0,
        prior_dim: int = 16,
        prior_order: int = 6,
    ) -> None:
        super().__init__()
        check_positive(
            num_bases=num_bases, motion_dim=motion_dim, kappa=kappa, prior_dim=prior_dim, prior_order=prior_order
        )
        self.motion_bases = nn.Parameter(torch.randn(num_bases, motion_dim) / math.sqrt(motion_dim))
        # The prior: how real clips follow one another, from `fit_prior` in `training/osm_net/motion_prior.py`. Before
        # training each clip is 0.8 of the one before.
        width = min(prior_dim, num_bases)
        transitions = torch.zeros(prior_order, width, width)
        transitions[0] = 0.8 * torch.eye(width)
        # (D, S): mixtures of bases along which clips lie around their centre, one standard deviation long.
        self.register_buffer("prior_axes", torch.eye(width, num_bases) / math.sqrt(width))
        # (P, D, D): linear maps from the last P clips, the latest first.
        self.register_buffer("prior_transitions", transitions)
        # (D, D): a square root of the innovations' covariance.
        self.register_buffer("prior_innovation", 0.6 * torch.eye(width))

    def log_attention(self, feature: torch.Tensor) -> torch.Tensor:
        """Return log w_m `(..., num_bases)`, float32, of features F_m `(..., motion_dim)`.

        Raises:
            ValueError: If the last dimension is not `motion_dim`.

        Source:
            arXiv 2309.16148, Eq. 1 (cosine similarity) and Eq. 2 (softmax with the scale κ).
        """
        self._check_last("feature", feature, self.config.motion_dim)
        bases = F.normalize(self.motion_bases.float(), dim=-1)
        cosine = F.normalize(feature.float(), dim=-1) @ bases.T  # (..., S)
        return F.log_softmax(self.config.kappa * cosine, dim=-1)

    def attention(self, feature: torch.Tensor) -> torch.Tensor:
        """Return weights w_m `(..., num_bases)`, sum 1, see `log_attention`."""
        return self.log_attention(feature).exp()

    def reconstruct(self, weights: torch.Tensor) -> torch.Tensor:
        """Mix the bases (Section III-A.1): weights `(..., num_bases)` to `(..., motion_dim)`.

        Raises:
            ValueError: If the last dimension is not `num_bases`.
        """
        self._check_last("weights", weights, self.config.num_bases)
        return weights.float() @ self.motion_bases.float()

    def forward(self, feature: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return reconstructions F̃_m `(..., motion_dim)` and weights `(..., num_bases)`."""
        weights = self.attention(feature)
        return self.reconstruct(weights), weights

    def basis_loss(self, feature: torch.Tensor) -> torch.Tensor:
        """Return the mean L1 reconstruction error; arXiv 2309.16148, Eq. 3."""
        return F.l1_loss(self.reconstruct(self.attention(feature)), feature.float())

    @torch.no_grad()
    def sample(
        self,
        center: torch.Tensor,
        epsilon: float = 1.0,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        num_videos: int = 1,
        sampling: str = "span",
        activity: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Draw motion features around a centre, a sequence of clips a take.

        Draws obey ‖F − F_c‖₂ ≤ ε. With the same `generator`, offsets are proportional to `epsilon`, and take i does
        not depend on `num_videos`.

        Args:
            center (`torch.Tensor` of shape `(clips, motion_dim)` or `(num_videos, clips, motion_dim)`): F_c.
            epsilon (`float`): Radius ε ≥ 0.
            generator (`torch.Generator` or a list of `num_videos` of them, *optional*): Source of the noise; a single
                one is drawn from take by take.
            num_videos (`int`): Number of takes.
            sampling (`str`): `"span"` walks within the span of the bases, see `MotionWalk`; `"ball"` draws uniformly
                in all dimensions, most of which the decoder ignores.
            activity (`torch.Tensor` of shape `(clips,)`, *optional*): Share of speech in each clip, 0 to 1, for
                `"span"`: heads move less in silence.

        Returns:
            `torch.Tensor` of shape `(num_videos, clips, motion_dim)`, float32, on the device of `center`.

        Raises:
            ValueError: If an argument is out of range or its shape does not fit.

        Source:
            arXiv 2309.16148, Eq. 5. The paper does not say how to draw from the ball; the walk is ours.
        """
        epsilon = self._check_draw(epsilon, sampling)
        center, generators = self._check_takes(center, generator, num_videos)
        takes = []
        for take, each in enumerate(generators):  # each take for itself, so that it is the same in any number
            steps = self._steps(center.shape[1], (each,), sampling, activity)
            parts = zip(center[take % len(center)].split(CHUNK), steps.split(CHUNK), strict=True)
            takes.append(torch.cat([self.around(*part, epsilon, sampling) for part in parts]))
        return torch.stack(takes)

    def sample_chunks(
        self,
        weights: torch.Tensor,
        epsilon: float = 1.0,
        generator: torch.Generator | None = None,
        sampling: str = "span",
        activity: torch.Tensor | None = None,
        near: Sequence[torch.Generator] = (),
    ) -> Iterator[torch.Tensor]:
        """Draw one take around `reconstruct(weights)`, at most 1024 clips at a time.

        Args:
            weights (`torch.Tensor` of shape `(clips, num_bases)`): Weights of the bases.
            epsilon (`float`): See `sample`, as for `generator`, `sampling` and `activity`.
            generator (`torch.Generator`, *optional*): Source of the noise.
            sampling (`str`): `"span"` or `"ball"`.
            activity (`torch.Tensor` of shape `(clips,)`, *optional*): Share of speech.
            near (sequence of `torch.Generator`): Draw near the take of the first one, moved a little by each further
                one and then by `generator`; the distribution, and so ε, stays the same.

        Returns:
            Iterator of `torch.Tensor` of shape `(n, motion_dim)`: `sample` around `reconstruct(weights)`, in order.

        Raises:
            ValueError: If an argument is out of range or its shape does not fit.
        """
        epsilon = self._check_draw(epsilon, sampling)
        self._check_last("weights", weights, self.config.num_bases)
        steps = self._steps(len(weights), (*near, generator), sampling, activity)
        parts = zip(weights.split(CHUNK), steps.split(CHUNK), strict=True)
        device = self.motion_bases.device
        return (self.around(self.reconstruct(part.to(device)), n, epsilon, sampling) for part, n in parts)

    def _steps(
        self,
        clips: int,
        generators: Sequence[torch.Generator | None],
        sampling: str,
        activity: torch.Tensor | None,
    ) -> torch.Tensor:
        """Draw a take's path: `(clips, D)`, or `(clips, motion_dim + 1)` for `"ball"`."""
        if sampling == "span":
            return MotionWalk(self, *generators).advance(clips, activity)
        noise = near_noise((clips, self.config.motion_dim + 1), generators)
        rows = noise.numpy()
        rows[1:] *= math.sqrt(1 - BALL_CORRELATION**2)
        for clip in range(1, clips):  # first-order autoregression that keeps the variance 1
            rows[clip] += BALL_CORRELATION * rows[clip - 1]
        return noise

    @torch.no_grad()
    def around(
        self, center: torch.Tensor, steps: torch.Tensor, epsilon: float, sampling: str = "span"
    ) -> torch.Tensor:
        """Return features `(clips, motion_dim)` within ε of their centres, float32.

        Args:
            center (`torch.Tensor` of shape `(clips, motion_dim)`): F_c, float32.
            steps (`torch.Tensor` of shape `(clips, D)`): From `MotionWalk`, on the CPU; cut to the sphere. With
                `"ball"`: `(clips, motion_dim + 1)`, standard normal, the last column for the radius.
            epsilon (`float`): Radius ε.
            sampling (`str`): `"span"` or `"ball"`.
        """
        # 1. Direction and radius of each draw, within the unit ball.
        if sampling == "span":
            bases = self.motion_bases.detach().float().cpu()
            direction = steps @ (self.prior_axes.float().cpu() @ (bases - bases.mean(0)))  # (K, C)
            radius = direction.norm(dim=-1, keepdim=True).clamp(max=1)
        else:
            direction = steps[:, :-1]
            radius = torch.special.ndtr(steps[:, -1:]) ** (1 / self.config.motion_dim)  # (K, 1)
        # 2. Scale the ball, less a margin for rounding: of the sum by at most 2⁻²⁴ of its length, and of the
        # direction's length by a few units in the last place.
        center_cpu = center.cpu()
        slack = 1e-6 * epsilon + 2**-23 * (center_cpu.norm(dim=-1, keepdim=True) + epsilon)
        radius = torch.minimum(radius * epsilon, (epsilon - slack).clamp(min=0))
        return (center_cpu + F.normalize(direction, dim=-1) * radius).to(center.device)

    @staticmethod
    def _check_draw(epsilon: float, sampling: str) -> float:
        if isinstance(epsilon, bool) or not isinstance(epsilon, int | float) or not 0 <= epsilon < math.inf:
            raise ValueError(f"epsilon must be a finite number of at least 0, not {short(epsilon)}.")
        if sampling not in ("span", "ball"):
            raise ValueError(f'sampling must be "span" or "ball", not {short(sampling)}.')
        return float(epsilon)

    def _check_takes(
        self,
        center: torch.Tensor,
        generator: torch.Generator | Sequence[torch.Generator] | None,
        num_videos: int,
    ) -> tuple[torch.Tensor, Sequence[torch.Generator | None]]:
        if isinstance(num_videos, bool) or not isinstance(num_videos, int) or num_videos < 1:
            raise ValueError(f"num_videos must be a whole number of at least 1, not {short(num_videos)}.")
        if center.ndim == 2:
            center = center.unsqueeze(0)
        if center.ndim != 3 or center.shape[0] not in (1, num_videos) or center.shape[1] < 1:
            raise ValueError(
                f"center must have shape (clips, {self.config.motion_dim}) or ({num_videos}, clips, "
                f"{self.config.motion_dim}), not {tuple(center.shape)}."
            )
        self._check_last("center", center, self.config.motion_dim)
        generators = (
            [generator] * num_videos
            if generator is None or isinstance(generator, torch.Generator)
            else (list(generator))
        )
        if len(generators) != num_videos:
            raise ValueError(f"generator has {len(generators)} entries for num_videos={num_videos}; give one a video.")
        return center.float(), generators

    @staticmethod
    def _check_last(name: str, tensor: torch.Tensor, size: int) -> None:
        if tensor.ndim < 1 or tensor.shape[-1] != size:
            raise ValueError(f"The last dimension of {name} must be {size}; its shape is {tuple(tensor.shape)}.")


class MotionWalk:
    """Random walk over clips that moves like real heads.

    A vector autoregression in the span of the bases, scaled by a slow mood, short bursts and the share of speech.

    Args:
        space (`MotionSpace`): With the learned prior.
        *generators (`torch.Generator` or `None`): Source of randomness; see `near` of `MotionSpace.sample_chunks`.
        liveliness (`Liveliness`, *optional*): How the steps vary; that of heads by default.
    """

    def __init__(self, space: MotionSpace, *generators: torch.Generator | None, liveliness: Liveliness | None = None):
        self._liveliness = liveliness
        transitions = space.prior_transitions.double().cpu().numpy()  # (P, D, D), the latest first
        self._order, self._width = transitions.shape[:2]
        self._transitions = np.ascontiguousarray(np.concatenate(transitions[::-1], 1))  # (D, P·D), the oldest first
        self._innovation = space.prior_innovation.double().cpu().numpy()
        self._generators = generators or (None,)
        self._past = np.zeros((self._order, self._width))  # the oldest first
        self._mood, self._burst = near_noise((2,), self._generators).double().tolist()
        self.advance(WARM_UP)

    def advance(self, clips: int, activity: torch.Tensor | None = None) -> torch.Tensor:
        """Advance the walk.

        Args:
            clips (`int`): Number of clips.
            activity (`torch.Tensor` of shape `(clips,)`, *optional*): Share of speech in each clip, 0 to 1.

        Returns:
            `torch.Tensor` of shape `(clips, D)`: Position along each of the prior's axes; float32, on the CPU.

        Raises:
            ValueError: If the shape of `activity` does not fit.
        """
        if activity is not None and activity.shape != (clips,):
            raise ValueError(f"activity must have shape ({clips},), one number a clip, not {tuple(activity.shape)}.")
        # 1. Draw noise, row by row, so that a walk of any number of clips draws the same.
        drawn = np.stack([near_noise((self._width + 2,), self._generators).double().numpy() for _ in range(clips)])
        force = self._force(drawn[:, :2], np.full(clips, TALKING) if activity is None else activity.double().numpy())
        # 2. Run the autoregression in place: states (P + clips, D), the past first.
        states = np.concatenate([self._past, drawn[:, 2:] @ self._innovation.T])
        flat = states.reshape(-1)
        for clip in range(self._order, len(states)):
            before = flat[(clip - self._order) * self._width : clip * self._width]
            states[clip] += self._transitions @ before
        self._past = states[clips:].copy()
        # 3. Scale every step by its force.
        return torch.from_numpy(force[:, None] * states[self._order :]).float()

    def _force(self, drawn: np.ndarray, activity: np.ndarray) -> np.ndarray:
        """Return the factor of each clip's movement, `(clips,)`."""
        pace = self._liveliness or Liveliness(MOOD, BURST, VOICE, FORCE)
        courses = []
        for (deviation, correlation), name, new in zip(pace[:2], ("_mood", "_burst"), drawn.T, strict=True):
            value, course = getattr(self, name), []
            for each in new.tolist():
                value = correlation * value + math.sqrt(1 - correlation**2) * each
                course.append(value)
            setattr(self, name, value)
            courses.append(deviation * np.array(course))
        return pace.force * np.exp(sum(courses) + pace.voice * (activity - TALKING))


def kl_loss(log_weights: torch.Tensor, log_weights_audio: torch.Tensor) -> torch.Tensor:
    """Return KL(w_m ‖ w_a), averaged over the batch; arXiv 2309.16148, Eq. 4.

    Args:
        log_weights (`torch.Tensor` of shape `(..., num_bases)`): log w_m, from `MotionSpace.log_attention`.
        log_weights_audio (`torch.Tensor` of shape `(..., num_bases)`): log w_a, from `AudioMotionEncoder`.

    Raises:
        ValueError: If the shapes differ.
    """
    if log_weights.shape != log_weights_audio.shape:
        raise ValueError(
            f"The two log-weights must have one shape, not {tuple(log_weights.shape)} and "
            f"{tuple(log_weights_audio.shape)}."
        )
    return (log_weights.exp() * (log_weights - log_weights_audio)).sum(-1).mean()


def near_noise(shape: tuple[int, ...], generators: Sequence[torch.Generator | None]) -> torch.Tensor:
    """Draw normal noise near the first generator's, moved a little by each further one."""
    noise = _randn(shape, generators[0])
    for generator in generators[1:]:
        noise = math.sqrt(1 - NEAR**2) * noise + NEAR * _randn(shape, generator)
    return noise


def _randn(shape: tuple[int, ...], generator: torch.Generator | None) -> torch.Tensor:
    device = generator.device if generator is not None else "cpu"
    return torch.randn(shape, generator=generator, device=device, dtype=torch.float32).cpu()
