"""The networks, one topic a file; importing this package imports none of them (PEP 562)."""

from __future__ import annotations

import importlib
from typing import Any

_NAMES = {
    "OSMNetModel": "modeling_utils",
    "MotionEncoder": "motion",
    "MotionSpace": "motion",
    "AudioMotionEncoder": "motion",
    "MotionDecoder": "motion",
    "kl_loss": "motion",
    "compose_clips": "motion",
    "ExpressionExtractor": "expression",
    "expression_loss": "expression",
    "landmark_loss": "expression",
    "landmark_weights": "expression",
    "DrivingEncoder": "video_generator",
    "VideoGenerator": "video_generator",
    "VideoGeneratorOutput": "video_generator",
    "PatchDiscriminator": "discriminator",
    "d_loss": "discriminator",
    "g_loss": "discriminator",
    "feature_matching_loss": "discriminator",
}
__all__ = list(_NAMES)


def __getattr__(name: str) -> Any:
    """Import a network the first time it is named."""
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)


def __dir__() -> list[str]:
    """List the networks beside the module's own names."""
    return sorted([*globals(), *__all__])
