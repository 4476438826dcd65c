"""The space of upper-face motion: a second, small motion space, and the habits of eyes.

Source: the equations of head motion (OSM-Net, arXiv 2309.16148, Eq. 1-3 and 5) on clips of brows and lids; ours.
Letters in shape comments: B batch, T frames of a clip, C `motion_dim`, S `num_bases`, E expression coordinates.
"""

from __future__ import annotations

import torch
from diffusers.configuration_utils import register_to_config
from torch import nn

from osmnet.loading.model import OSMNetModel
from osmnet.models.osm_net.motion_codec import MotionDecoder, MotionEncoder
from osmnet.models.osm_net.motion_space import Liveliness, MotionSpace

# What the weights of real clips replace, see docs/notes/experiments.md. Logarithms are natural, times in seconds.
EYES = {
    "blink_rate": 0.33,  # a second
    "blink_rate_spread": 0.45,  # standard deviation of its logarithm over people
    "blink_spread": 0.6,  # the same of the pauses of one person
    "blink_closing": 0.08,
    "blink_opening": 0.28,
    "fixation": 0.8,  # median
    "fixation_spread": 0.7,  # standard deviation of its logarithm
    "fixation_right": 0.004,  # head units; standard deviation of the places looked at on the viewer
    "fixation_down": 0.0025,
    "glance_rate": 0.12,  # a second of speech
    "glance": 0.45,  # median duration
    "glance_spread": 0.5,
    "glance_reach": 0.024,  # head units, median
    "glance_reach_spread": 0.4,
    "lid_follow": 4.0,  # share of the open eye for a head unit that the gaze sinks
    "eye_radius": 0.105,  # head units, from the centre of the eyeball to the iris
}


class UpperFaceSpace(OSMNetModel):
    """Motion space of brows and lids, with the habits of eyes.

    `encoder`, `space` and `decoder` are those of head motion, on the coordinates of `osmnet/face/upper_face.py`.
    """

    # All of it is small, and sixteen bits would move the samples.
    _keep_in_fp32_modules = ["encoder", "space", "decoder", "center_weights", "limits", "liveliness", "eyes"]

    @register_to_config
    def __init__(
        self,
        clip_length: int = 5,
        num_bases: int = 24,
        motion_dim: int = 64,
        hidden_dim: int = 64,
        kappa: float = 16.0,
        prior_dim: int = 8,
        prior_order: int = 6,
        num_expression: int = 6,
    ) -> None:
        super().__init__()
        sizes = {"clip_length": clip_length, "motion_dim": motion_dim, "hidden_dim": hidden_dim}
        self.encoder = MotionEncoder(**sizes, pose_dim=num_expression)
        self.space = MotionSpace(num_bases, motion_dim, kappa, prior_dim, prior_order)
        self.decoder = MotionDecoder(**sizes, pose_dim=num_expression)
        # (S,): weights of the centre F_c; the sound does not tell it.
        self.register_buffer("center_weights", torch.full((num_bases,), 1 / num_bases))
        # (E,): bounds of the coordinates.
        self.register_buffer("limits", torch.ones(num_expression))
        # Mood, burst (standard deviation and correlation each), voice and force of `Liveliness`.
        self.register_buffer("liveliness", torch.tensor([0.25, 0.985, 0.65, 0.55, 0.0, 0.7]))
        self.eyes = nn.ParameterDict(
            {name: nn.Parameter(torch.tensor(value), requires_grad=False) for name, value in EYES.items()}
        )

    def forward(self, clips: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Encode clips `(B, T, E)` of coordinates relative to their first frame.

        Returns:
            `tuple`: F_m and F̃_m `(B, C)`, weights `(B, S)`, and clips decoded from both `(2, B, T, E)`.
        """
        feature = self.encoder(clips).float()
        mixed, weights = self.space(feature)
        return feature, mixed, weights, torch.stack([self.decoder(feature), self.decoder(mixed)])

    def center(self) -> torch.Tensor:
        """Return the centre F_c `(C,)`."""
        return self.space.reconstruct(self.center_weights)

    def habit(self, name: str) -> float:
        """Return a number of `EYES` as learned."""
        return float(self.eyes[name])

    def pace(self) -> Liveliness:
        """Return how lively brows and lids are."""
        mood, mood_memory, burst, burst_memory, voice, force = self.liveliness.tolist()
        return Liveliness((mood, mood_memory), (burst, burst_memory), voice, force)
