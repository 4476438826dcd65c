"""The moving average of a network's weights, which is what is validated and saved."""

from typing import TypeVar

import torch

from osmnet.loading.model import OSMNetModel

Network = TypeVar("Network", bound=OSMNetModel)


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
