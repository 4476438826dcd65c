"""What stages share: components of earlier stages, the moving average of the weights."""

from pathlib import Path
from typing import TypeVar

import torch

from osmnet.modeling_utils import OSMNetModel

Network = TypeVar("Network", bound=OSMNetModel)

STAGE_OF_COMPONENT = {
    "face_model": "face-model",
    "motion_encoder": "motion",
    "motion_space": "motion",
    "audio_motion_encoder": "motion",
    "motion_decoder": "motion",
    "expression_extractor": "expression",
    "video_generator": "video",
}


def load_component(network: type[Network], model: Path, name: str) -> Network:
    """Load what an earlier stage made.

    Args:
        network (`type`): Class of the component.
        model (`Path`): Folder with one folder a component.
        name (`str`): Name of the component.

    Returns:
        `OSMNetModel`: The component, in evaluation mode.

    Raises:
        ValueError: If it is not there (says which stage makes it) or is not whole.
    """
    folder = Path(model) / name
    if not folder.is_dir():
        stage = STAGE_OF_COMPONENT[name]
        raise ValueError(f"'{model}' has no {name}; make it with `osmnet train {stage} --model {model}` first.")
    return network.from_pretrained(folder)


def moving_average(network: Network) -> Network:
    """Return a copy of a network, in evaluation mode, for `update_average`."""
    # diffusers takes positional arguments for defaults, in this entry, and would leave them out.
    config = {name: value for name, value in network.config.items() if name != "_use_default_values"}
    with torch.random.fork_rng(devices=[]):  # building draws weights: the run's random numbers must not depend on it
        average = type(network).from_config(config)
    average.load_state_dict(network.state_dict())
    return average.to(network.device).eval().requires_grad_(False)


@torch.no_grad()
def update_average(average: OSMNetModel, network: OSMNetModel, step: int, decay: float) -> None:
    """Move the average of the weights towards the network, faster at first so that it forgets where it began.

    Args:
        average (`OSMNetModel`): Changed in place.
        network (`OSMNetModel`): Of the same class.
        step (`int`): Steps done before this one.
        decay (`float`): Share of the average that stays, once `step` is large.
    """
    stays = min(decay, (step + 1) / (step + 10))
    for slow, fast in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if slow.is_floating_point():
            slow.lerp_(fast, 1 - stays)
        else:
            slow.copy_(fast)


def set_learning_rate(*optimisers: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all groups of some optimisers."""
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = rate
