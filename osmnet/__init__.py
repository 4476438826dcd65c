"""osmnet: many different, natural talking-head videos from one portrait and one recording of speech (OSM-Net).

Names are loaded on first use (PEP 562), so `import osmnet` costs nothing and loads no torch.

Source:
    OSM-Net: One-to-Many One-shot Talking Head Generation with Spontaneous Head Motions, arXiv 2309.16148.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from osmnet.media.audio import load_speech
    from osmnet.media.image import load_portrait
    from osmnet.models.osm_net.discriminator import PatchDiscriminator
    from osmnet.models.osm_net.expression import ExpressionExtractor
    from osmnet.models.osm_net.motion_codec import AudioMotionEncoder, MotionDecoder, MotionEncoder
    from osmnet.models.osm_net.motion_space import MotionSpace
    from osmnet.models.osm_net.video_generator import VideoGenerator
    from osmnet.pipelines.osm_net.pipeline_osm_net import OSMNetPipeline

__version__ = "0.1.0"

_MODULE_OF_NAME = {
    "AudioMotionEncoder": "osmnet.models.osm_net.motion_codec",
    "ExpressionExtractor": "osmnet.models.osm_net.expression",
    "MotionDecoder": "osmnet.models.osm_net.motion_codec",
    "MotionEncoder": "osmnet.models.osm_net.motion_codec",
    "MotionSpace": "osmnet.models.osm_net.motion_space",
    "OSMNetPipeline": "osmnet.pipelines.osm_net.pipeline_osm_net",
    "PatchDiscriminator": "osmnet.models.osm_net.discriminator",
    "VideoGenerator": "osmnet.models.osm_net.video_generator",
    "load_portrait": "osmnet.media.image",
    "load_speech": "osmnet.media.audio",
}

__all__ = [
    "AudioMotionEncoder",
    "ExpressionExtractor",
    "MotionDecoder",
    "MotionEncoder",
    "MotionSpace",
    "OSMNetPipeline",
    "PatchDiscriminator",
    "VideoGenerator",
    "__version__",
    "load_portrait",
    "load_speech",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF_NAME:
        raise AttributeError(f"module 'osmnet' has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF_NAME[name]), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
