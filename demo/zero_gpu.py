"""Hugging Face's ZeroGPU Spaces lend a GPU for the length of a call; everywhere else this does nothing."""

import importlib
import os
from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])
LENT = os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "true")
# Of these Spaces alone; it has to be there before anything asks for a GPU.
SPACES: Any = importlib.import_module("spaces") if LENT else None


def on_gpu(duration: Callable[..., int]) -> Callable[[Function], Function]:
    """Decorate a function that needs the GPU.

    Args:
        duration (`Callable`): From the function's arguments, how many seconds it may take: shorter ones wait less.

    Returns:
        `Callable`: A decorator.
    """
    if SPACES is not None:
        return SPACES.GPU(duration=duration)
    return lambda function: function
