"""Components by stage, and their loading."""

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from osmnet.data.shards import fingerprint
from osmnet.face.morphable import FaceModel
from osmnet.loading.model import OSMNetModel
from osmnet.loading.packaged import packaged_weights
from osmnet.models.osm_net.expression import ExpressionExtractor
from osmnet.models.osm_net.speech_encoder import SpeechEncoder
from osmnet.pipelines.osm_net.pipeline_osm_net import OSMNetPipeline

Network = TypeVar("Network", bound=OSMNetModel)

COMPONENTS = {  # by the stage that makes them, in the order of the stages
    "face-model": ("face_model",),
    "motion": ("motion_encoder", "motion_space", "motion_decoder", "audio_motion_encoder"),
    "upper-face": ("upper_face_space",),
    "expression": ("expression_extractor",),
    "video": ("video_generator",),
}


def load_component(network: type[Network], model: Path, name: str) -> Network:
    """Load a component of an earlier stage.

    Args:
        network (`type`): Class of the component.
        model (`Path`): Folder with one folder a component.
        name (`str`): Name of the component.

    Returns:
        `OSMNetModel`: The component, in evaluation mode.

    Raises:
        ValueError: If it is missing (the message names its stage) or damaged.
    """
    folder = Path(model) / name
    if not folder.is_dir():
        stage = next(stage for stage, names in COMPONENTS.items() if name in names)
        raise ValueError(f"'{model}' has no {name}; make it with `osmnet train {stage} --model {model}` first.")
    return network.from_pretrained(folder)


def load_components(model: Path, names: Iterable[str]) -> dict[str, Any]:
    """Load components of a pipeline by name, see `load_component`."""
    components = {}
    for name in names:
        module, _, class_name = OSMNetPipeline.components_classes[name].partition(":")
        components[name] = load_component(getattr(import_module(module), class_name), model, name)
    return components


def speech_encoder_for(network: ExpressionExtractor, source: str | Path) -> SpeechEncoder | None:
    """Load the speech encoder of an expression extractor, if used."""
    if not network.config.speech_dim:
        return None
    return load_initial(SpeechEncoder, str(source), "speech_encoder")


def load_initial(network: type[Network], init: str, name: str, face_model: FaceModel | None = None) -> Network:
    """Load a component of the starting model.

    Args:
        network (`type`): Class of the component.
        init (`str`): `"packaged"` for the weights in the package, a folder, or a Hub id.
        name (`str`): Name of the component.
        face_model (`FaceModel`, *optional*): The run's, for components that depend on it.

    Returns:
        `OSMNetModel`: The component, in evaluation mode.

    Raises:
        ValueError: If it cannot be found, or belongs to another face model.
    """
    source: str | Path = packaged_weights() if init == "packaged" else init
    if face_model is not None:
        other = FaceModel.from_pretrained(source, subfolder="face_model")
        if fingerprint(other) != fingerprint(face_model):
            raise ValueError(
                f"The {name} of '{init}' belongs to another face model than the one being trained for; copy the "
                "face_model of the former into the model folder before the other stages, or leave init out."
            )
    return network.from_pretrained(source, subfolder=name)
