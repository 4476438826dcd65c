"""Interface between a training stage and the trainer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar, Generic, TypeVar

import numpy as np
import torch
from torch import nn

from osmnet.data.dataset import Clip
from osmnet.data.pool import ClipPool
from osmnet.loading.model import OSMNetModel
from osmnet.training.core.config import StageConfig

Item = TypeVar("Item")


class Stage(ABC):
    """A training stage; its constructor sets the attributes.

    Attributes:
        networks (`dict[str, OSMNetModel]`): Trained, averaged and saved, by component folder. Build them after
            `torch.manual_seed(config.seed)`. Parameters with `requires_grad=False` are not trained.
        objective (`nn.Module`): `forward(batch)` returns every loss as an unweighted scalar tensor by its logged name.
            The networks (and frozen helpers: a face model, VGG) are its submodules. DDP wraps it: call networks only
            inside its `forward`.
        adversary (`nn.Module`, *optional*): `forward(batch)` returns the discriminator's losses, each of weight 1. It
            runs in float32 right after `objective` on the same batch, so it may use pictures that `objective.forward`
            kept (detached, as float32). The discriminator may be a submodule of both: its parameters are frozen while
            the objective runs, those of `networks` while the adversary runs. It has its own Adam.
        made_for (`dict[str, str]`, *optional*): Fingerprints of the run's dependencies, e.g. face model and dataset. A
            run with other fingerprints is not resumed.
        adversary_active (`bool`): Whether the adversary takes part in this step; `begin_step` may switch it.
    """

    name: ClassVar[str]
    networks: dict[str, OSMNetModel]
    objective: nn.Module
    adversary: nn.Module | None = None
    made_for: Mapping[str, str] = MappingProxyType({})
    adversary_active: bool = True

    @abstractmethod
    def batch(self, step: int, rank: int, world: int, micro: int) -> dict[str, torch.Tensor]:
        """Make a batch on the CPU; loader processes call it.

        Draw only from `np.random.default_rng([seed, step, micro, rank])`: resumed runs repeat batches.

        Args:
            step (`int`): Optimizer step, from 0.
            rank (`int`): Index of this process, from 0.
            world (`int`): Number of processes.
            micro (`int`): Batch within the step, from 0 (gradient accumulation).

        Returns:
            `dict[str, torch.Tensor]`: Input of `objective`.
        """

    def begin_step(self, step: int) -> None:  # noqa: B027 (nothing to do for most stages)
        """Prepare a step as a function of `step`."""

    @abstractmethod
    def validate(self, networks: dict[str, OSMNetModel]) -> dict[str, float]:
        """Validate on held-out clips, in the main process.

        Args:
            networks (`dict[str, OSMNetModel]`): Averages of `networks`, in evaluation mode, on their device.

        Returns:
            `dict[str, float]`: Figures by name. With a `"score"` (higher is better), the best networks are kept rather
            than the last.
        """

    def figures(self, networks: dict[str, OSMNetModel]) -> dict[str, np.ndarray]:
        """Draw pictures `(H, W, 3)`, uint8, by name; called like `validate`."""
        return {}

    def finish(self, networks: dict[str, OSMNetModel]) -> dict[str, float]:
        """Post-process the final networks in place, e.g. calibrate them.

        Args:
            networks (`dict[str, OSMNetModel]`): The best averages, or the last ones.

        Returns:
            `dict[str, float]`: Figures for the report.
        """
        return {}


class ClipPools(Generic[Item]):
    """Per-process pools of training clips, filled on first use.

    Args:
        clips (sequence of `Clip`): All training clips.
        make (`Callable`): Prepares a clip; `None` leaves it out.
        config (`StageConfig`): Size, turnover and seed.
        description (`str`): Label of the progress bar.
    """

    def __init__(
        self, clips: Sequence[Clip], make: Callable[[Clip], Item | None], config: StageConfig, description: str
    ):
        self.clips, self.make, self.config, self.description = clips, make, config, description
        self._pools: dict[tuple[int, int], ClipPool[Item]] = {}

    def at(self, step: int, rank: int = 0, world: int = 1) -> list[Item]:
        """Return the pool of a process at a step, see `ClipPool.at`."""
        if (rank, world) not in self._pools:
            capacity, turnover, seed = self.config.pool_clips, self.config.pool_turnover, self.config.seed
            self._pools[rank, world] = ClipPool(
                self.clips, self.make, capacity, turnover, seed, rank, world, self.description
            )
        return self._pools[rank, world].at(step)
