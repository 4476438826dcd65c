"""Checks of what a pipeline is asked for: curves, generators, seeds."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from osmnet.pipelines.limits import MAX_OFFSET_DEG

HeadTurn = float | Sequence[float] | np.ndarray


def curve(name: str, turn: HeadTurn, frames: int) -> np.ndarray:
    """A constant or a curve as `(frames,)` float32."""
    expected = f"{name} must be a finite number or {frames} of them, one a frame"
    try:
        curve = np.asarray(turn, np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{expected}, not {turn!r}.") from error
    if curve.shape not in ((), (frames,)):
        raise ValueError(f"{expected}, not of shape {curve.shape}.")
    if not np.isfinite(curve).all():
        raise ValueError(f"{expected}; there is NaN or infinity in it.")
    if np.abs(curve).max(initial=0) > math.radians(MAX_OFFSET_DEG):
        raise ValueError(f"{name} must stay within ±{MAX_OFFSET_DEG:.0f}° ({math.radians(MAX_OFFSET_DEG):.2f} rad).")
    return np.broadcast_to(curve, (frames,))


def take_seeds(generator: torch.Generator | list[torch.Generator] | None, count: int) -> tuple[int, ...]:
    """One seed a take, so that each take can be made again alone and take i does not depend on how many there are."""
    given = generator if isinstance(generator, list | tuple) else [] if generator is None else [generator]
    for each in given:
        if not isinstance(each, torch.Generator):
            raise ValueError(f"generator must be a torch.Generator or a list of them, not {type(each).__name__}.")
    if isinstance(generator, list | tuple):
        if len(generator) != count:
            raise ValueError(f"{len(generator)} generators were given for {count} videos; give one, or one for each.")
        return tuple(each.initial_seed() for each in generator)
    device = generator.device if generator is not None else "cpu"
    # 53 bits: every reader of the JSON files holds them exactly.
    draws = [torch.randint(0, 2**53, (), generator=generator, device=device, dtype=torch.int64) for _ in range(count)]
    return tuple(int(draw) for draw in draws)


def checked_seeds(near: Any) -> tuple[int, ...]:
    """Return the seeds of `near=` as a tuple; refuse anything else."""
    seeds = tuple(near) if isinstance(near, Sequence | np.ndarray) else (near,)
    if not all(isinstance(seed, int | np.integer) and 0 <= seed < 2**63 for seed in seeds):
        raise ValueError(f"near must be a take's own near, then its seed, whole numbers of at least 0; not {near!r}.")
    return tuple(int(seed) for seed in seeds)


def known_seed(generator: Any) -> int | None:
    """The seed of a generator that nothing has been drawn from yet."""
    if not isinstance(generator, torch.Generator):
        return None
    seed = generator.initial_seed()
    fresh = torch.Generator(generator.device).manual_seed(seed)
    return seed if torch.equal(fresh.get_state(), generator.get_state()) else None
