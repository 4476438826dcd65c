"""A training stage as the trainer sees it: networks, batches, losses, validation, pictures."""

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
    """A training stage. `fit` calls it; a stage never steps an optimizer, saves or logs by itself.

    A subclass sets in its constructor:

    - `networks` (`dict[str, OSMNetModel]`): Trained, averaged and saved, by component folder. Build them after
      `torch.manual_seed(config.seed)`. Parameters with `requires_grad=False` are not trained.
    - `objective` (`nn.Module`): `forward(batch)` returns every loss as a scalar tensor by its logged name, without its
      weight. The networks (and frozen helpers: a face model, VGG) are its submodules; DDP wraps it, so call networks
      inside its `forward` only.
    - `adversary` (`nn.Module`, *optional*): `forward(batch)` returns the discriminator's losses, each of weight 1. It
      runs in float32 right after `objective` on the same batch, so it may use pictures that `objective.forward` kept
      (detached, as float32). The discriminator may be a submodule of both: its parameters need no gradient while the
      objective runs, those of `networks` none while the adversary runs. It has an Adam of its own.
    - `made_for` (`dict[str, str]`, *optional*): Fingerprints of what the run depends on, e.g. the face model and the
      dataset. A run with others is not resumed.
    - `adversary_active` (`bool`): Whether the adversary takes part in this step; `begin_step` may switch it.
    """

    name: ClassVar[str]
    networks: dict[str, OSMNetModel]
    objective: nn.Module
    adversary: nn.Module | None = None
    made_for: Mapping[str, str] = MappingProxyType({})
    adversary_active: bool = True

    @abstractmethod
    def batch(self, step: int, rank: int, world: int, micro: int) -> dict[str, torch.Tensor]:
        """Make a batch on the CPU, as a pure function of the arguments; loader processes call it.

        Draw from `np.random.default_rng([seed, step, micro, rank])` only, so that a resumed run gets the same batches,
        whatever `workers` is.

        Args:
            step (`int`): Optimizer step, from 0.
            rank (`int`): This process, from 0.
            world (`int`): Number of processes.
            micro (`int`): Batch within the step, from 0 (gradient accumulation).

        Returns:
            `dict[str, torch.Tensor]`: As `objective` takes it.
        """

    def begin_step(self, step: int) -> None:  # noqa: B027 (nothing to do for most stages)
        """Prepare for a step, e.g. switch the adversary on; a function of `step` alone, since runs resume anywhere."""

    @abstractmethod
    def validate(self, networks: dict[str, OSMNetModel]) -> dict[str, float]:
        """Measure the averaged networks on held-out clips; in the main process only.

        Args:
            networks (`dict[str, OSMNetModel]`): Averages of `networks`, in evaluation mode, on their device.

        Returns:
            `dict[str, float]`: Figures by name. With a `"score"` (higher is better), the best networks are kept rather
            than the last.
        """

    def figures(self, networks: dict[str, OSMNetModel]) -> dict[str, np.ndarray]:
        """Draw pictures `(H, W, 3)`, uint8, by name, for TensorBoard and `WORK/samples`; like `validate`."""
        return {}

    def finish(self, networks: dict[str, OSMNetModel]) -> dict[str, float]:
        """Post-process after the last step, e.g. calibrate the networks in place before they are saved.

        Args:
            networks (`dict[str, OSMNetModel]`): The best averages, or the last ones.

        Returns:
            `dict[str, float]`: Figures for the report.
        """
        return {}


class ClipPools(Generic[Item]):
    """Pools of training clips in memory, one a process; each is filled on first use, i.e. in the loader processes.

    Args:
        clips (sequence of `Clip`): All training clips.
        make (`Callable`): Prepares a clip; `None` leaves it out.
        config (`StageConfig`): Number, turnover and seed.
        description (`str`): Label of the progress bar while a pool is filled.
    """

    def __init__(
        self, clips: Sequence[Clip], make: Callable[[Clip], Item | None], config: StageConfig, description: str
    ):
        self.clips, self.make, self.config, self.description = clips, make, config, description
        self._pools: dict[tuple[int, int], ClipPool[Item]] = {}

    def at(self, step: int, rank: int = 0, world: int = 1) -> list[Item]:
        """Return the pool of process `rank` of `world` at a step, see `ClipPool.at`."""
        if (rank, world) not in self._pools:
            capacity, turnover, seed = self.config.pool_clips, self.config.pool_turnover, self.config.seed
            self._pools[rank, world] = ClipPool(
                self.clips, self.make, capacity, turnover, seed, rank, world, self.description
            )
        return self._pools[rank, world].at(step)
