"""Tiny random networks for tests and examples."""

from __future__ import annotations

from typing import Any

import torch

from osmnet.face.morphable import FaceModel
from osmnet.loading.packaged import packaged_landmarker, packaged_weights
from osmnet.models.osm_net.expression import ExpressionExtractor
from osmnet.models.osm_net.motion_codec import AudioMotionEncoder, MotionDecoder, MotionEncoder
from osmnet.models.osm_net.motion_space import MotionSpace
from osmnet.models.osm_net.speech_encoder import SpeechEncoder
from osmnet.models.osm_net.upper_face_space import UpperFaceSpace
from osmnet.models.osm_net.video_generator import VideoGenerator


def tiny_components(seed: int, geometry: str, speech_encoder: bool) -> dict[str, Any]:
    """Build tiny components, leaving the global random state unchanged."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        space = MotionSpace(num_bases=6, motion_dim=16)
        decoder = MotionDecoder(motion_dim=16, hidden_dim=16)
        # Random networks hardly react to their input: let ε = 1 reach about as far as people move.
        decoder.pose_scale.copy_(torch.tensor([0.2, 0.15, 0.1, 0.05, 0.05, 0.1]))
        extractor = ExpressionExtractor(hidden_dim=16, context_layers=2, speech_dim=16 if speech_encoder else 0)
        generator = VideoGenerator(
            geometry=geometry,
            image_size=32,
            window=5,
            base_channels=4,
            max_channels=16,
            num_down=2,
            num_residual=1,
            guide_channels=4 if geometry == "mesh" else 0,
            vector_dim=16,
        )
        for name, parameter in generator.named_parameters():
            if name.endswith(("conv_in.weight", "adain.linear.weight")) or name == "conv_out.weight":
                parameter.data *= 5  # likewise: make the output depend on the driving window
        sizes = {"hidden_dim": 16, "num_layers": 2, "num_heads": 2, "rotary_dim": 4, "mlp_dim": 24}
        components = {
            "face_model": FaceModel.from_pretrained(packaged_weights() / "face_model"),
            "motion_encoder": MotionEncoder(motion_dim=16, hidden_dim=16),
            "motion_space": space,
            "audio_motion_encoder": AudioMotionEncoder(num_bases=6, hidden_dim=16),
            "motion_decoder": decoder,
            "speech_encoder": SpeechEncoder(**sizes) if speech_encoder else None,
            "expression_extractor": extractor,
            "video_generator": generator,
            "upper_face_space": _upper_face_space(),
        }
    for network in components.values():
        if network is not None:
            network.eval()
    return {**components, "face_landmarker": packaged_landmarker()}


def _upper_face_space() -> UpperFaceSpace:
    space: UpperFaceSpace = UpperFaceSpace(num_bases=6, motion_dim=16, hidden_dim=16)
    space.decoder.pose_scale.copy_(torch.tensor([0.02, 0.02, 0.01, 0.01, 0.01, 0.1]))
    space.limits.copy_(torch.tensor([0.06, 0.06, 0.03, 0.03, 0.03, 0.4]))
    return space
