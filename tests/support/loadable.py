"""Tiny pipelines of a few real networks to load and save, and fingerprints of all they hold."""

import hashlib
from pathlib import Path

import torch

from osmnet.loading.pipeline import PipelineLoader
from osmnet.models.osm_net.motion_codec import MotionDecoder
from osmnet.models.osm_net.motion_space import MotionSpace
from osmnet.models.osm_net.video_generator import VideoGenerator

REPO_ID = "someone/tiny"  # on the Hub of the tests


class TinyPipeline(PipelineLoader):
    components_classes = {
        "motion_space": "osmnet.models.osm_net.motion_space:MotionSpace",
        "motion_decoder": "osmnet.models.osm_net.motion_codec:MotionDecoder",
        "video_generator": "osmnet.models.osm_net.video_generator:VideoGenerator",
    }


class SpacePipeline(PipelineLoader):
    needs_landmarker = False
    components_classes = {"motion_space": "osmnet.models.osm_net.motion_space:MotionSpace"}


class AnyPipeline(PipelineLoader):
    pipeline_classes = {name: f"{__name__}:{name}" for name in ("TinyPipeline", "SpacePipeline")}


def loadable_pipeline(landmarker, seed=0):
    torch.manual_seed(seed)
    space, decoder = MotionSpace(num_bases=3, motion_dim=8), MotionDecoder(motion_dim=8, hidden_dim=4)
    space.prior_innovation.uniform_()
    decoder.pose_scale.uniform_()
    video = VideoGenerator(image_size=16, driving_dim=4, window=3, base_channels=2, num_residual=1, vector_dim=4)
    return TinyPipeline(motion_space=space, motion_decoder=decoder, video_generator=video, face_landmarker=landmarker)


def digest(pipeline):
    """Fingerprint of everything a pipeline holds: names, dtypes, shapes and bits."""
    state = hashlib.sha256()
    for component, network in pipeline.components.items():
        for name, tensor in network.state_dict().items():
            state.update(f"{component} {name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            state.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    state.update(Path(pipeline.face_landmarker_path).read_bytes())
    return state.hexdigest()
