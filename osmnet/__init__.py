"""Many different, natural talking-head videos from one portrait and one recording of speech (OSM-Net).

    from osmnet import OSMNetPipeline

    pipe = OSMNetPipeline.from_pretrained()
    out = pipe("portrait.jpg", "speech.wav", num_videos=4, epsilon=1.0, seed=7, output_type="lazy")
    out.save("out")

Start here, each with its own `help(...)`:

    OSMNetPipeline                      the pipeline: from_pretrained, __call__, stream, live, encode_source, ...
    TalkingHeadPipeline                 from_pretrained picks the family of the model
    MotionOptions, PictureOptions       every option, with units, ranges and defaults
    load_portrait, load_speech          read a picture, read sound

Networks: AudioMotionEncoder, ExpressionExtractor, MotionDecoder, MotionEncoder, MotionSpace, PatchDiscriminator,
VideoGenerator. Command line: `osmnet --help`. Documentation: README.md and docs/.

Names are loaded on first use (PEP 562): `import osmnet` loads no PyTorch.

Source: OSM-Net: One-to-Many One-shot Talking Head Generation with Spontaneous Head Motions, arXiv 2309.16148.
"""

from __future__ import annotations

import sys
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
    from osmnet.pipelines.options import MotionOptions, PictureOptions
    from osmnet.pipelines.osm_net.pipeline_osm_net import OSMNetPipeline, OSMNetPipelineOutput
    from osmnet.pipelines.talking_head import TalkingHeadPipeline

__version__ = "0.2.0"

import_module("osmnet.utils.home").lend_caches()  # before Numba and librosa are imported

_MODULE_OF_NAME = {
    "AudioMotionEncoder": "osmnet.models.osm_net.motion_codec",
    "ExpressionExtractor": "osmnet.models.osm_net.expression",
    "MotionDecoder": "osmnet.models.osm_net.motion_codec",
    "MotionEncoder": "osmnet.models.osm_net.motion_codec",
    "MotionOptions": "osmnet.pipelines.options",
    "MotionSpace": "osmnet.models.osm_net.motion_space",
    "OSMNetPipeline": "osmnet.pipelines.osm_net.pipeline_osm_net",
    "OSMNetPipelineOutput": "osmnet.pipelines.osm_net.pipeline_osm_net",
    "PatchDiscriminator": "osmnet.models.osm_net.discriminator",
    "PictureOptions": "osmnet.pipelines.options",
    "TalkingHeadPipeline": "osmnet.pipelines.talking_head",
    "VideoGenerator": "osmnet.models.osm_net.video_generator",
    "load_portrait": "osmnet.media.image",
    "load_speech": "osmnet.media.audio",
}

__all__ = [
    "AudioMotionEncoder",
    "ExpressionExtractor",
    "MotionDecoder",
    "MotionEncoder",
    "MotionOptions",
    "MotionSpace",
    "OSMNetPipeline",
    "OSMNetPipelineOutput",
    "PatchDiscriminator",
    "PictureOptions",
    "TalkingHeadPipeline",
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
    # pydoc prints every class with all that it inherits, 580,000 characters: `help(osmnet)` is the text above instead.
    frame = sys._getframe().f_back
    while frame is not None:
        if frame.f_globals.get("__name__") == "pydoc":
            return ["__version__"]
        frame = frame.f_back
    return sorted(set(globals()) | set(__all__))
