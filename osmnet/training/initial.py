"""Networks to start from in place of random weights."""

from pathlib import Path
from typing import TypeVar

from osmnet.data.shards import fingerprint
from osmnet.face.morphable import FaceModel
from osmnet.modeling_utils import OSMNetModel
from osmnet.pipeline_utils import packaged_weights

Network = TypeVar("Network", bound=OSMNetModel)


def load_initial(network: type[Network], init: str, name: str, face_model: FaceModel | None = None) -> Network:
    """Load a component of the model that a run starts from.

    Args:
        network (`type`): Class of the component.
        init (`str`): `"packaged"` for the weights in the package, a folder, or a Hub id.
        name (`str`): Name of the component.
        face_model (`FaceModel`, *optional*): The run's, for a component whose numbers have a meaning only with it.

    Returns:
        `OSMNetModel`: The component, in evaluation mode; its sizes are its own.

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
