"""Pool of loaded clips that training samples from."""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import numpy as np
from tqdm import tqdm

from osmnet.data.dataset import Clip

Item = TypeVar("Item")


class ClipPool(Generic[Item]):
    """At most `capacity` loaded clips.

    A pure function of arguments and step, also on resume. A larger dataset is held as a sliding range of shuffled
    epochs: every `turnover` steps the next clip replaces the oldest.

    Args:
        clips (sequence of `Clip`): All clips, in the same order in every process.
        make (`Callable`): Loads a clip; `None` leaves it out.
        capacity (`int`): Largest number of clips held.
        turnover (`int`): Steps between two replacements.
        seed (`int`): Seed of the order.
        rank (`int`): Number of this process among `world`.
        world (`int`): Processes that share the clips; with fewer clips than processes each has all.
        description (`str`): Label of the progress bar while the pool is first filled.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        make: Callable[[Clip], Item | None],
        capacity: int = 512,
        turnover: int = 50,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        description: str = "clips",
    ):
        if capacity < 1 or turnover < 1:
            raise ValueError(f"capacity and turnover must be at least 1, not {capacity} and {turnover}.")
        self.clips = list(clips[rank::world] if len(clips) >= world else clips)
        self.make, self.capacity, self.turnover, self.seed = make, capacity, turnover, seed
        self.description = description
        self._items: dict[int, Item | None] = {}  # by index of the clip

    def at(self, step: int) -> list[Item]:
        """Return the clips of a step, in a reproducible order.

        Raises:
            ValueError: If no clip of the pool can be used.
        """
        wanted = self._window(step)
        self._items = {index: item for index, item in self._items.items() if index in wanted}
        missing = [index for index in wanted if index not in self._items]
        # The bar is for the first filling; later clips come one at a time.
        for index in tqdm(missing, desc=self.description, unit="clip", disable=len(missing) < 10, leave=False):
            self._items[index] = self.make(self.clips[index])
        items = [item for index in sorted(wanted) if (item := self._items[index]) is not None]
        if not items:
            raise ValueError(f"None of the {len(wanted)} clips of '{self.clips[0].where}' in the pool can be used.")
        return items

    def _window(self, step: int) -> set[int]:
        count = len(self.clips)
        if count <= self.capacity:
            return set(range(count))
        first = step // self.turnover
        wanted: set[int] = set()
        orders: dict[int, np.ndarray] = {}
        for position in range(first, first + self.capacity):
            epoch, place = divmod(position, count)
            if epoch not in orders:
                orders[epoch] = np.random.default_rng([self.seed, epoch]).permutation(count)
            wanted.add(int(orders[epoch][place]))
        return wanted
