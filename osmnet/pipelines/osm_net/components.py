"""Networks of OSM-Net by name."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from osmnet.face.morphable import FaceModel
from osmnet.models.osm_net.expression import ExpressionExtractor
from osmnet.models.osm_net.motion_codec import AudioMotionEncoder, MotionDecoder, MotionEncoder
from osmnet.models.osm_net.motion_space import MotionSpace
from osmnet.models.osm_net.speech_encoder import SpeechEncoder
from osmnet.models.osm_net.upper_face_space import UpperFaceSpace
from osmnet.models.osm_net.video_generator import VideoGenerator
from osmnet.pipelines.talking_head import TalkingHeadPipeline
from osmnet.structures import Source

SMILE_KEPT = 0.5  # share of the portrait's mouth expression kept; all of it would talk through a grin


class OSMNetComponents(TalkingHeadPipeline):
    """Components of `OSMNetPipeline`."""

    components_classes: ClassVar[dict[str, str]] = {
        "face_model": "osmnet.face.morphable:FaceModel",
        "motion_encoder": "osmnet.models.osm_net.motion_codec:MotionEncoder",
        "motion_space": "osmnet.models.osm_net.motion_space:MotionSpace",
        "audio_motion_encoder": "osmnet.models.osm_net.motion_codec:AudioMotionEncoder",
        "motion_decoder": "osmnet.models.osm_net.motion_codec:MotionDecoder",
        "upper_face_space": "osmnet.models.osm_net.upper_face_space:UpperFaceSpace",
        "speech_encoder": "osmnet.models.osm_net.speech_encoder:SpeechEncoder",
        "expression_extractor": "osmnet.models.osm_net.expression:ExpressionExtractor",
        "video_generator": "osmnet.models.osm_net.video_generator:VideoGenerator",
    }
    # Without the upper face's space brows, lids and gaze stay the portrait's, as in older models; the expression
    # extractor may use mel windows alone, as the paper's does.
    optional_components: ClassVar[frozenset[str]] = frozenset({"upper_face_space", "speech_encoder"})

    face_model: FaceModel
    motion_encoder: MotionEncoder
    motion_space: MotionSpace
    audio_motion_encoder: AudioMotionEncoder
    motion_decoder: MotionDecoder
    upper_face_space: UpperFaceSpace | None
    speech_encoder: SpeechEncoder | None
    expression_extractor: ExpressionExtractor
    video_generator: VideoGenerator

    def __init__(self, **components: Any) -> None:
        """Assemble networks, see `PipelineLoader`.

        Raises:
            ValueError: If a component is missing, unknown or of another class, or if the expression extractor needs
                another speech encoder.
        """
        super().__init__(**components)
        wanted = self.expression_extractor.config.speech_dim
        found = self.speech_encoder.config.hidden_dim if self.speech_encoder is not None else 0
        if wanted not in (0, found):
            raise ValueError(
                f"The expression extractor takes {wanted} speech features a frame, but "
                + (f"this speech encoder gives {found}" if found else "there is no speech encoder")
                + "; take the speech_encoder of the model that it comes from."
            )

    @property
    def uses_speech_encoder(self) -> bool:
        """Whether the expression extractor takes speech-encoder features."""
        return bool(self.expression_extractor.config.speech_dim > 0)

    def rest_expression(self, source: Source) -> np.ndarray:
        """Return β `(64,)` of the portrait's face in silence, lips together."""
        fit = source.fit
        upper = self.face_model.upper_face(fit.expression)
        rest = upper + SMILE_KEPT * (fit.expression - upper)
        shape = self.face_model.move(fit.shape, (rest - fit.expression)[None])[0]  # (478, 3)
        closed: np.ndarray = rest + self.face_model.close_lips(shape)
        return closed
