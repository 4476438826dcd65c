"""Seeds: each take has its own and can be reproduced alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from osmnet.pipelines.options import MAX_SEED, is_seed
from osmnet.utils.checks import short


def as_generator(
    seed: int | Sequence[int] | None, generator: torch.Generator | list[torch.Generator] | None
) -> torch.Generator | list[torch.Generator] | None:
    """Convert `seed=` or `generator=` to generators.

    Args:
        seed (`int` or sequence of `int`, *optional*): One seed for all takes, or a list of the takes' own seeds.
        generator (`torch.Generator` or a list of them, *optional*): Instead of `seed`.

    Raises:
        ValueError: If both are given or a seed is invalid.
    """
    if seed is None:
        return generator
    if generator is not None:
        raise ValueError("seed and generator say the same; give one of them.")
    if isinstance(seed, Sequence) and not isinstance(seed, str | bytes):
        return [_generator(each) for each in seed]
    return _generator(seed)


def _generator(seed: Any) -> torch.Generator:
    if not is_seed(seed):
        raise ValueError(f"seed must be a whole number from 0 to {MAX_SEED}, or a list of them, not {short(seed)}.")
    return torch.Generator().manual_seed(int(seed))


def draw_seeds(generator: torch.Generator | list[torch.Generator] | None, count: int) -> tuple[int, ...]:
    """Draw one seed a take, independent of the count.

    Args:
        generator (`torch.Generator` or a list of them, *optional*): One for all takes, or one a take, of which
            only the initial seed is used.
        count (`int`): Number of takes.

    Raises:
        ValueError: If `generator` has another type or length.
    """
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


def known_seed(generator: Any) -> int | None:
    """Return the seed of an unused generator."""
    if not isinstance(generator, torch.Generator):
        return None
    seed = generator.initial_seed()
    fresh = torch.Generator(generator.device).manual_seed(seed)
    return seed if torch.equal(fresh.get_state(), generator.get_state()) else None
