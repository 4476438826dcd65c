"""Base class of all networks, with strict loading."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from diffusers import ConfigMixin, ModelMixin
from safetensors import SafetensorError
from safetensors.torch import load_file

from osmnet.loading.hub import find_folder

WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


def weights_name(variant: str | None = None) -> str:
    """Return the name of a weights file, e.g. `diffusion_pytorch_model.fp16.safetensors` for `variant="fp16"`."""
    stem, suffix = WEIGHTS_NAME.rsplit(".", 1)
    return f"{stem}.{variant}.{suffix}" if variant else WEIGHTS_NAME


def temporary_folder_in(folder: Path) -> Path:
    """Make a temporary folder inside `folder`, which is made if necessary.

    Raises:
        ValueError: If the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=".saving-", dir=folder))
    except OSError as error:
        raise ValueError(f"Cannot write to the folder {folder} ({error}); choose another one.") from error


@contextmanager
def written_whole(folder: Path, last: str = "") -> Iterator[Path]:
    """Yield a temporary folder whose files move into `folder` after the block, `last` at the end.

    Raises:
        ValueError: If the folder cannot be written; it is then left as it was.
    """
    temporary = temporary_folder_in(folder)
    try:
        yield temporary
        files = [path.relative_to(temporary) for path in sorted(temporary.rglob("*")) if path.is_file()]
        for file in sorted(files, key=lambda file: file.name == last):
            (folder / file).parent.mkdir(exist_ok=True)
            os.replace(temporary / file, folder / file)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"Cannot save in {folder} ({error}); free space or choose another folder.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
        # 2. Build the network.
        config = cls._checked_config(config_path)
        try:
            with torch.random.fork_rng(devices=[]):  # building draws initial weights: leave the caller's seed alone
                model = cls.from_config(config)
        except (TypeError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"The configuration beside {path} does not describe a {cls.__name__} ({error}); restore its "
                f"{cls.config_name} or download the model again."
            ) from error
        # 3. Load the weights.
        try:
            state = load_file(path)
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"{path} is not a whole safetensors file ({error}); download it again or save the model again with "
                "save_pretrained. Pickled weights are never loaded."
            ) from error
        _check_state(cls.__name__, path, model.state_dict(), state)
        model.load_state_dict(state)
        return model.to(device=device, dtype=dtype).eval()

    @classmethod
    def _checked_config(cls, path: Path) -> dict[str, Any]:
        config = read_json(path)
        if not isinstance(config, dict) or config.get("_class_name", cls.__name__) != cls.__name__:
            name = config.get("_class_name") if isinstance(config, dict) else type(config).__name__
            raise ValueError(f"{path} describes a {name}, not a {cls.__name__}; load it with its own class.")
        known = cls._get_init_keys(cls)
        unknown = [key for key in config if not key.startswith("_") and key not in known]
        if unknown:
            raise ValueError(
                f"{path} has the unknown argument {unknown[0]!r} for {cls.__name__}; update osmnet or remove it."
            )
        return config

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
        with written_whole(Path(save_directory)) as temporary:
            ModelMixin.save_pretrained(self, temporary, variant=variant, max_shard_size="1000GB")
            for file in temporary.iterdir():
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


def read_json(path: Path) -> Any:
    """Read a JSON file, or raise `ValueError`."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not readable JSON ({error}); restore it or download it again.") from error


def check_dtype(dtype: torch.dtype | None) -> torch.dtype | None:
    """Return `dtype`, or raise `ValueError` unless it is a floating one."""
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(f"dtype must be a floating torch.dtype such as torch.float16, not {dtype!r}.")
    return dtype


def _check_state(
    class_name: str, path: Path, expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]
) -> None:
    problems = {
        "lacks": [name for name in expected if name not in found],
        "has the surplus": [name for name in found if name not in expected],
        "has a wrong shape for": [
            f"{name} ({tuple(found[name].shape)} instead of {tuple(tensor.shape)})"
            for name, tensor in expected.items()
            if name in found and found[name].shape != tensor.shape
        ],
    }
    for what, names in problems.items():
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ValueError(
                f"{path} {what} tensor {', '.join(names[:3])}{more}, so it is no {class_name} with this "
                "configuration; download the model again or load the weights that belong to it."
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
