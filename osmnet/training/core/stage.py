"""What a stage is to the trainer: networks, batches, losses, and what to look at."""

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
    """One stage of training. `fit` calls it; a stage never steps an optimiser, saves or logs by itself.

    A subclass sets in its constructor:

    - `networks` (`dict[str, OSMNetModel]`): What is trained, averaged and saved, by component folder name. Build them
      after `torch.manual_seed(config.seed)`. Parameters with `requires_grad=False` stay as they are.
    - `objective` (`nn.Module`): `forward(batch)` returns every loss as a scalar tensor by its logged name. It holds
      the networks (and frozen helpers: a face model, VGG) as submodules; it is what is wrapped for several processes,
      so networks are called inside its `forward` only. Loss weights are applied by `fit`, not here.
    - `adversary` (`nn.Module`, *optional*): `forward(batch)` returns the discriminator's losses, each of weight 1. It
      is called right after `objective` on the same batch, so it may use pictures that `objective.forward` kept aside
      (detached, as float32: the adversary always runs in float32). The discriminator may be a submodule of both: while
      the objective runs, its parameters need no gradient; while the adversary runs, those of `networks` need none.
      Both take their step on the same gradients' batch, the adversary with an Adam of its own.
    - `made_for` (`dict[str, str]`, *optional*): What else the run depends on, by name: the fingerprints of the face
      model and of the dataset, say. A run is not gone on with when it is another one.
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
        """Make a batch: a pure function of its arguments, on the CPU; it runs in loader processes.

        Draw with `np.random.default_rng([seed, step, micro, rank])` and from nothing else, so that a run that was
        stopped sees the same batches again, whatever `workers` is.

        Args:
            step (`int`): Optimiser step, from 0.
            rank (`int`): This process, from 0.
            world (`int`): Number of processes.
            micro (`int`): Batch within the step, from 0 (gradient accumulation).

        Returns:
            `dict[str, torch.Tensor]`: As `objective` takes it.
        """

    def begin_step(self, step: int) -> None:  # noqa: B027 (nothing to do for most stages)
        """Prepare for a step, e.g. switch the adversary on; a function of `step` alone, since runs go on anywhere."""

    @abstractmethod
    def validate(self, networks: dict[str, OSMNetModel]) -> dict[str, float]:
        """Measure the averaged networks on held-out clips; in the main process only.

        Args:
            networks (`dict[str, OSMNetModel]`): Averages of `networks`, in evaluation mode, maybe on a GPU.

        Returns:
            `dict[str, float]`: Figures by name. If `"score"` is among them (higher is better), the best networks are
            kept in place of the last.
        """

    def figures(self, networks: dict[str, OSMNetModel]) -> dict[str, np.ndarray]:
        """Draw pictures `(H, W, 3)`, uint8, by name, for TensorBoard and `WORK/samples`; like `validate`."""
        return {}

    def finish(self, networks: dict[str, OSMNetModel]) -> dict[str, float]:
        """Do what is left after the last step, e.g. calibrate the networks in place before they are saved.

        Args:
            networks (`dict[str, OSMNetModel]`): The best averages, or the last ones, as `validate` gets them.

        Returns:
            `dict[str, float]`: Figures for the report.
        """
        return {}


class ClipPools(Generic[Item]):
    """The training clips at hand, by process; each pool is filled where it is first asked for: in the loaders.

    Args:
        clips (sequence of `Clip`): All training clips.
        make (`Callable`): Turns a clip into what is kept of it; `None` leaves it out.
        config (`StageConfig`): Says how many, for how long, and the seed of their order.
        description (`str`): What the progress bar of a first filling says.
    """

    def __init__(
        self, clips: Sequence[Clip], make: Callable[[Clip], Item | None], config: StageConfig, description: str
    ):
        self.clips, self.make, self.config, self.description = clips, make, config, description
        self._pools: dict[tuple[int, int], ClipPool[Item]] = {}

    def at(self, step: int, rank: int = 0, world: int = 1) -> list[Item]:
        """What process `rank` of `world` draws from at a step, see `ClipPool.at`."""
        if (rank, world) not in self._pools:
            capacity, turnover, seed = self.config.pool_clips, self.config.pool_turnover, self.config.seed
            self._pools[rank, world] = ClipPool(
                self.clips, self.make, capacity, turnover, seed, rank, world, self.description
            )
        return self._pools[rank, world].at(step)
