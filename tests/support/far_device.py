"""A pretended accelerator: tensors that compute on the CPU and may not be mixed with the CPU's own.

What runs here without an error puts every tensor that it makes on the device of its inputs, and brings back what NumPy
gets: it would run on a GPU. The device calls itself `meta`, the only one besides the
CPU that every PyTorch knows what to do with.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from unittest import mock

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

FAR = torch.device("meta")
aten = torch.ops.aten
MOVES = (aten._to_copy.default, aten.copy_.default)
INDEXED = (aten.index.Tensor, aten.index_put_.default, aten.index_put.default)  # by indices of either device


class FarTensor(torch.Tensor):
    """A tensor that says it is on `FAR`."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "FarTensor":
        tensor = torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), dtype=inner.dtype, device=FAR
        )
        tensor.inner = inner
        return tensor

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _computed(func, args, kwargs or {})


def _computed(func, args, kwargs):
    leaves = tree_leaves(args[:1] if func in INDEXED else (args, kwargs))
    far = [leaf for leaf in leaves if isinstance(leaf, FarTensor)]
    near = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and not isinstance(leaf, FarTensor)]
    if func not in MOVES and far:
        changed = func._schema.name.endswith("_") and not isinstance(args[0], FarTensor)
        if changed or any(leaf.ndim for leaf in near):
            raise RuntimeError(f"{func}: tensors on the CPU and on {FAR}")
    device = kwargs.get("device")
    to_far = bool(far) if device is None else torch.device(device).type == FAR.type
    kwargs = {**kwargs, "device": torch.device("cpu")} if device is not None else kwargs
    args, kwargs = tree_map_only(FarTensor, lambda tensor: tensor.inner, (args, kwargs))
    results = func(*args, **kwargs)
    if func._schema.name.endswith("_"):
        return results if not to_far else _FIRST
    return tree_map_only(torch.Tensor, FarTensor, results) if to_far else results


_FIRST = object()  # stands for the first argument, which was changed in place


class _Far(TorchDispatchMode):
    """Sees to what `FarTensor` is not asked: moves to the device, and tensors that are made there."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = _computed(func, args, kwargs or {})
        return args[0] if result is _FIRST else result


def to_far(module: nn.Module) -> None:
    """Move a module, as `module.to` does."""
    for each in module.modules():
        for name, tensor in each._parameters.items():
            if tensor is not None and not isinstance(tensor, FarTensor):
                each._parameters[name] = nn.Parameter(FarTensor(tensor.detach()), tensor.requires_grad)
        for name, tensor in each._buffers.items():
            if tensor is not None and not isinstance(tensor, FarTensor):
                each._buffers[name] = FarTensor(tensor)


@contextmanager
def far_device() -> Iterator[torch.device]:
    """Inside, tensors can be moved to the device that is returned."""
    autocast = lambda device_type, **options: (  # noqa: E731
        nullcontext() if device_type == FAR.type else torch.amp.autocast(device_type, **options)
    )
    # Inference mode does not know such tensors: no gradients are enough.
    skipped = mock.patch.multiple(
        torch.inference_mode, __enter__=lambda self: None, __exit__=lambda self, *error: None
    )
    with torch.no_grad(), mock.patch("torch.autocast", autocast), skipped, _Far():
        yield FAR
