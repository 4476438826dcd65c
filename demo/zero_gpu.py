"""Hugging Face's ZeroGPU Spaces lend a GPU for the length of a call; everywhere else this does nothing."""

import importlib
import importlib.util
import os
from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])
LENT = os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "true")


def on_gpu(duration: Callable[..., int]) -> Callable[[Function], Function]:
    """Decorate a function that needs the GPU.

    Args:
        duration (`Callable`): From the function's arguments, how many seconds it may take: shorter ones wait less.

    Returns:
        `Callable`: A decorator.
    """
    if LENT and importlib.util.find_spec("spaces") is not None:
        return importlib.import_module("spaces").GPU(duration=duration)
    return lambda function: function
