"""diffusers' base classes without PyTorch's compiler, which it would load beside them.

Everything in the package takes them from here. The compiler costs 70 MB and more than a second, diffusers does without
it where it is missing, and what is compiled loads it then.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

COMPILER = "torch._dynamo"


@contextmanager
def _without_compiler() -> Iterator[None]:
    """Let the compiler's import fail for a moment, unless it is there already."""
    if COMPILER in sys.modules:
        yield
        return
    sys.modules[COMPILER] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[COMPILER]


try:
    with _without_compiler():
        from diffusers import ConfigMixin, ModelMixin
        from diffusers.configuration_utils import register_to_config
        from diffusers.utils import BaseOutput
except (ImportError, RuntimeError):  # something needs the compiler after all; diffusers tells it in its own way
    from diffusers import ConfigMixin, ModelMixin
    from diffusers.configuration_utils import register_to_config
    from diffusers.utils import BaseOutput

__all__ = ["BaseOutput", "ConfigMixin", "ModelMixin", "register_to_config"]
