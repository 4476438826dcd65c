"""Base class of all networks, with strict loading."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from diffusers import ConfigMixin, ModelMixin
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch.overrides import TorchFunctionMode

from osmnet.loading.hub import find_folder
from osmnet.utils.bounded_json import leaves, read_json
from osmnet.utils.checks import check_path, reason, short
from osmnet.utils.files import written_whole

WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")

# Bounds for files of strangers. Those of the package stay far below.
MAX_HEADER = 2**20  # bytes of a safetensors header: some ten thousand tensors
MAX_BYTES = 2**32  # of a network's tensors
MAX_NUMBER = 2**14  # in a configuration: sizes, counts and scales
# Calls of PyTorch while a network is built: our networks need at most 7 a tensor.
CALLS, CALLS_PER_TENSOR = 500, 20
FLOATS = ("F64", "F32", "F16", "BF16")  # safetensors' names
KINDS = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,)}


def weights_name(variant: str | None = None) -> str:
    """Return the name of a weights file, e.g. `diffusion_pytorch_model.fp16.safetensors` for `variant="fp16"`."""
    if variant is not None and not (isinstance(variant, str) and re.fullmatch(r"[\w.-]{0,64}", variant)):
        raise ValueError(f"variant must be a name such as 'fp16', not {short(variant)}.")
    stem, suffix = WEIGHTS_NAME.rsplit(".", 1)
    return f"{stem}.{variant}.{suffix}" if variant else WEIGHTS_NAME


class OSMNetModel(ModelMixin, ConfigMixin):
    """A network whose constructor arguments are its `config.json`.

    Loads safetensors only, and raises `ValueError` unless the tensors fit exactly. Tensors named in
    `_keep_in_fp32_modules` stay at least float32 under any cast.
    """

    config_name: Any = "config.json"

    if TYPE_CHECKING:  # diffusers' base class is untyped

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            """Call `forward`."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        subfolder: str | None = None,
        dtype: torch.dtype | None = None,
        variant: str | None = None,
        revision: str | None = None,
        device: str | torch.device | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """Load the network, in evaluation mode, from a folder or the Hub.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`): A folder with `config.json` and
                `diffusion_pytorch_model.safetensors`, or a Hub id.
            subfolder (`str`, *optional*): Folder of this network inside it.
            dtype (`torch.dtype`, *optional*): Like all below, as for `PipelineLoader.from_pretrained`.
            variant (`str`, *optional*): Variant of the weights.
            revision (`str`, *optional*): Revision on the Hub.
            device (`str` or `torch.device`, *optional*): Device of the network.
            cache_dir (`str` or `os.PathLike`, *optional*): Download cache.
            token (`str` or `bool`, *optional*): Access token.
            local_files_only (`bool`): Never contact the Hub.

        Returns:
            `OSMNetModel`: An instance of the class this was called on.

        Raises:
            ValueError: If a file is missing, damaged, pickled or of another class, or a tensor is missing, surplus
                or of another shape.
        """
        # 1. Find the files.
        dtype = check_dtype(dtype)
        names = [Path(subfolder or "", name).as_posix() for name in (cls.config_name, weights_name(variant))]
        folder = find_folder(
            pretrained_model_name_or_path, names,
            revision=revision, cache_dir=cache_dir, token=token, local_files_only=local_files_only,
        )  # fmt: skip
        config_path, path = (_file_in(folder, name, pretrained_model_name_or_path) for name in names)
        # 2. Compare configuration and weights before anything large is allocated.
        config = cls._checked_config(config_path)
        with _safetensors_errors(path):
            found = _read_header(path)
        with _CallLimit(CALLS + CALLS_PER_TENSOR * len(found)), torch.device("meta"):
            expected = cls._built(config, path).state_dict()
        _check_state(cls.__name__, path, expected, found)
        # 3. Build the network and load the weights.
        model = cls._built(config, path)
        with _safetensors_errors(path):
            model.load_state_dict(load_file(path))
        model = model.to(dtype=dtype)
        _check_finite(path, model.state_dict(), dtype)
        return model.to(device=device).eval()

    @classmethod
    def _built(cls, config: dict[str, Any], path: Path) -> Self:
        try:
            with torch.random.fork_rng(devices=[]):  # building draws initial weights: leave the caller's seed alone
                model: Self = cls.from_config(config)
                return model
        except Exception as error:  # a constructor may fail in any way with a stranger's numbers
            raise ValueError(
                f"The configuration beside {path} does not describe a {cls.__name__} ({reason(error)}); restore "
                f"its {cls.config_name} or download the model again."
            ) from error

    @classmethod
    def _checked_config(cls, path: Path) -> dict[str, Any]:
        config = read_json(path)
        if not isinstance(config, dict):
            raise ValueError(f"{path} holds no settings, but {short(config)}; restore it or download it again.")
        name = config.get("_class_name", cls.__name__)
        if name != cls.__name__:
            raise ValueError(f"{path} describes a {shown(name)}, not a {cls.__name__}; load it with its own class.")
        arguments = {key: value for key, value in config.items() if not key.startswith("_")}
        known = inspect.signature(cls.__init__).parameters
        for key, value in arguments.items():
            if key not in known:
                raise ValueError(
                    f"{path} has the unknown argument {short(key)} for {cls.__name__}; update osmnet or remove it."
                )
            annotation = known[key].annotation
            kind = getattr(annotation, "__name__", annotation)
            if kind in KINDS and type(value) not in KINDS[kind]:
                raise ValueError(f"{path} gives {key} as {short(value)}, which is no {kind}; restore it.")
            if any(isinstance(number, int | float) and abs(number) > MAX_NUMBER for number, _ in leaves(value)):
                raise ValueError(
                    f"{path} gives {key} as {short(value)}, which is beyond the limit of {MAX_NUMBER}; restore it."
                )
        return arguments

    @property
    def config(self) -> Any:
        """Constructor arguments, as attributes."""
        return self._internal_dict

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], variant: str | None = None, safe_serialization: bool = True
    ) -> None:
        """Write `config.json` and the safetensors file, each only when complete.

        Args:
            save_directory (`str` or `os.PathLike`): The folder, made if necessary.
            variant (`str`, *optional*): Part of the weights file's name, e.g. `"fp16"`.
            safe_serialization (`bool`): Must be true: weights are never pickled.

        Raises:
            ValueError: If the folder cannot be written or a pickle is asked for.
        """
        if not safe_serialization:
            raise ValueError("Weights are only saved as safetensors: leave safe_serialization=True.")
        with written_whole(check_path("save_directory", save_directory)) as temporary:
            self._write(temporary, variant)

    def _write(self, folder: Path, variant: str | None) -> None:
        weights_name(variant)  # checks it
        ModelMixin.save_pretrained(self, folder, variant=variant, max_shard_size="1000GB")
        for file in folder.iterdir():
            file.chmod(0o644)  # safetensors' files are readable by their owner only

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move or cast as `torch.nn.Module.to` does, except for `_keep_in_fp32_modules`."""
        # Not ModelMixin.to, which warns that the kept tensors would be cast: here they are not.
        return super(ModelMixin, self).to(*args, **kwargs)  # type: ignore[misc]

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        kept = self._kept_in_fp32()
        before = {name: tensor.detach() for name, tensor in kept.items()}
        super(ModelMixin, self)._apply(fn, recurse)  # type: ignore[misc]
        for name, tensor in self._kept_in_fp32().items():
            if tensor.is_floating_point() and tensor.element_size() < 4:
                # Taken from the tensor as it was: casting back would keep the rounding.
                tensor.data = before[name].to(device=tensor.device, dtype=torch.float32)
        return self

    def _kept_in_fp32(self) -> dict[str, torch.Tensor]:
        names = set(self._keep_in_fp32_modules or ())
        tensors = dict(self.named_parameters()) | dict(self.named_buffers())
        return {name: tensor for name, tensor in tensors.items() if names & set(name.split("."))}


def shown(name: Any) -> str:
    """Return a name from a file for a message: as it is if it is harmless, else quoted and cut."""
    return name if isinstance(name, str) and re.fullmatch(r"[\w.:-]{1,100}", name, re.ASCII) else short(name)


class _CallLimit(TorchFunctionMode):
    """Raise `ValueError` when this thread has called PyTorch `limit` times."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._left = limit

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._left -= 1
        if self._left == 0:  # once: what `no_grad` and `fork_rng` call on the way out must pass
            raise ValueError("it has far more tensors than the weights")
        return func(*args, **(kwargs or {}))


def check_dtype(dtype: torch.dtype | None) -> torch.dtype | None:
    """Return `dtype`, or raise `ValueError` unless it is a floating one."""
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(f"dtype must be a floating torch.dtype such as torch.float16, not {short(dtype)}.")
    return dtype


@contextmanager
def _safetensors_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError, MemoryError) as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({reason(error)}); download it again or save the model again "
            "with save_pretrained. Pickled weights are never loaded."
        ) from error


def _read_header(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return the shapes and dtypes of the tensors in a safetensors file, whose length they match."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > MAX_HEADER:
        raise SafetensorError(f"its header would have {length} bytes")
    with safe_open(path, framework="np") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return {name: (tuple(piece.get_shape()), piece.get_dtype()) for name, piece in slices.items()}


def _check_finite(path: Path, state: dict[str, torch.Tensor], dtype: torch.dtype | None) -> None:
    for name, tensor in state.items():
        if not torch.isfinite(tensor).all():
            cast = f" as {dtype}" if dtype else ""
            raise ValueError(
                f"{path} has values in tensor {name} that are NaN or infinite{cast}; download the model "
                "again or train it again."
            )


def _check_state(
    class_name: str, path: Path, expected: dict[str, torch.Tensor], found: dict[str, tuple[tuple[int, ...], str]]
) -> None:
    """Compare the tensors of a network on the meta device with those of a file."""
    problems = {
        "lacks": [name for name in expected if name not in found],
        "has the surplus": [shown(name) for name in found if name not in expected],
        "has a wrong shape for": [
            f"{name} ({short(found[name][0])} instead of {short(tuple(tensor.shape))})"
            for name, tensor in expected.items()
            if name in found and found[name][0] != tuple(tensor.shape)
        ],
        "has a wrong dtype for": [
            f"{name} ({found[name][1]})"
            for name, tensor in expected.items()
            if name in found and tensor.is_floating_point() and found[name][1] not in FLOATS
        ],
    }
    for what, names in problems.items():
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ValueError(
                f"{path} {what} tensor {', '.join(names[:3])}{more}, so it is no {class_name} with this "
                "configuration; download the model again or load the weights that belong to it."
            )
    size = sum(tensor.nbytes for tensor in expected.values())
    if size > MAX_BYTES:
        raise ValueError(
            f"{path} holds {size} bytes of tensors, beyond the limit of {MAX_BYTES}; give a smaller model."
        )


def _file_in(folder: Path, name: str, source: str | os.PathLike[str]) -> Path:
    path = folder / name
    if path.is_file():
        return path
    present = sorted(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else []
    pickles = [entry for entry in present if entry.endswith(PICKLE_SUFFIXES)]
    if pickles and path.suffix == ".safetensors":
        raise ValueError(
            f"{source} has {pickles[0]} where {name} belongs; pickled weights can run code and are never loaded: "
            "convert the file to safetensors."
        )
    raise ValueError(
        f"{source} has no {name} (the folder holds {', '.join(present[:6]) or 'nothing'}); give a saved model, or "
        "another variant."
    )
