"""Select the renderer for a device."""

from osmnet.face.morphable import FaceModel
from osmnet.models.osm_net.video_generator import VideoGenerator
from osmnet.rendering.mesh_renderer import MeshRenderer
from osmnet.rendering.mesh_renderer_gpu import BatchedMeshRenderer
from osmnet.rendering.renderer import Renderer
from osmnet.structures import Source


def renderer_for(
    source: Source, face_model: FaceModel, video_generator: VideoGenerator, precision: str = "auto"
) -> Renderer:
    """Make the renderer for the video generator's device, see `Renderer`."""
    kind = MeshRenderer if video_generator.device.type == "cpu" else BatchedMeshRenderer
    return kind(source, face_model, video_generator, precision)
