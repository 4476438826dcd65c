"""What stages share: components of earlier stages, the moving average of the weights, the log of the losses."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

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
LOG_DECAY = 0.98


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
    average = type(network).from_config(network.config).eval()
    average.load_state_dict(network.state_dict())
    return average


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, step: int, decay: float) -> None:
    """Move the average of the weights towards the network, faster at first so that it forgets where it began.

    Args:
        average (`nn.Module`): Changed in place.
        network (`nn.Module`): Of the same class.
        step (`int`): Steps done before this one.
        decay (`float`): Share of the average that stays, once `step` is large.
    """
    stays = min(decay, (step + 1) / (step + 10))
    for slow, fast in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if slow.is_floating_point():
            slow.lerp_(fast, 1 - stays)
        else:
            slow.copy_(fast)


def update_log(log: dict[str, float], losses: Mapping[str, torch.Tensor]) -> None:
    """Let a log of smoothed losses take in those of one step."""
    for name, loss in losses.items():
        value = float(loss.detach())
        log[name] = LOG_DECAY * log.get(name, value) + (1 - LOG_DECAY) * value


def set_learning_rate(*optimisers: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all groups of some optimisers."""
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = rate
