"""Loading and saving of pipelines in diffusers' file layout."""

from __future__ import annotations

import importlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch

import osmnet
from osmnet.loading.hub import find_folder
from osmnet.loading.model import OSMNetModel, check_dtype, shown, weights_name
from osmnet.loading.packaged import INDEX_NAME, LANDMARKER_NAME, is_known_landmarker, packaged_weights
from osmnet.utils.bounded_json import read_json
from osmnet.utils.checks import check_path, reason, short
from osmnet.utils.files import written_whole

FORMAT_VERSION = 1
BEST_DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")


class PipelineLoader:
    """Base of pipelines: loads, saves and moves their components.

    A concrete class lists its components in `components_classes`, as in
    `{"motion_space": "osmnet.models.osm_net.motion_space:MotionSpace"}`; those in `optional_components` may be `None`.
    A base of several pipelines lists them in `pipeline_classes` instead; its `from_pretrained` returns the one that
    `model_index.json` names. Names in a downloaded file are only looked up in these tables, never imported.

    Args:
        face_landmarker (`str` or `os.PathLike`, *optional*): The face landmarker's `.task` file, kept as
            `face_landmarker_path`; `save_pretrained` copies it.
        **components (`OSMNetModel` or `None`): One network for every entry of `components_classes`; each becomes an
            attribute.

    Raises:
        ValueError: If a component is missing, unknown or of another class.
    """

    components_classes: ClassVar[dict[str, str]] = {}
    optional_components: ClassVar[frozenset[str]] = frozenset()
    needs_landmarker: ClassVar[bool] = True  # False: a saved pipeline may lack the landmarker's file
    pipeline_classes: ClassVar[dict[str, str]] = {}

    def __init__(
        self, *, face_landmarker: str | os.PathLike[str] | None = None, **components: OSMNetModel | None
    ) -> None:
        for name in components:
            if name not in self.components_classes:
                known = ", ".join(self.components_classes) or "none"
                raise ValueError(f"{type(self).__name__} has no component {name!r}; it has {known}.")
        for name, path in self.components_classes.items():
            network, class_name = components.get(name), path.rpartition(":")[2]
            if name not in components and name not in self.optional_components:
                raise ValueError(f"{type(self).__name__} lacks its component {name!r}, a {class_name}.")
            is_left_out = network is None and name in self.optional_components
            if not is_left_out and not isinstance(network, _import_class(path)):
                raise ValueError(f"{name} must be a {class_name}, not a {type(network).__name__}.")
            setattr(self, name, network)
        self.face_landmarker_path = Path(face_landmarker) if face_landmarker is not None else None
        self.name_or_path: str | None = None  # where it was loaded from

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] | None = None,
        *,
        dtype: torch.dtype | None = None,
        torch_dtype: torch.dtype | None = None,
        variant: str | None = None,
        revision: str | None = None,
        device: str | torch.device | None = None,
        device_map: str | Mapping[str, Any] | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        face_landmarker: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Load a pipeline from the package, a folder or the Hub.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`, *optional*): A folder that `save_pretrained` wrote,
                or a Hub id; the weights in the package by default.
            dtype (`torch.dtype`, *optional*): Floating dtype of the networks, float32 by default. Tensors that need
                float32 keep it.
            torch_dtype (`torch.dtype`, *optional*): diffusers' older name of `dtype`.
            variant (`str`, *optional*): Load `*.<variant>.safetensors`, e.g. `"fp16"`.
            revision (`str`, *optional*): Branch, tag or commit on the Hub.
            device (`str` or `torch.device`, *optional*): Device of the networks, the CPU by default.
            device_map (`str` or mapping, *optional*): A device name, or `"auto"` (`"balanced"` …) for the device that
                Accelerate gives this process: the GPU if there is one, and one GPU for each process of
                `accelerate launch`. Networks are never split up.
            cache_dir (`str` or `os.PathLike`, *optional*): Download cache; the Hub client's own by default.
            token (`str` or `bool`, *optional*): Access token for private repositories.
            local_files_only (`bool`): Never contact the Hub.
            face_landmarker (`str` or `os.PathLike`, *optional*): Your own `.task` file in place of the model's. A file
                in the model other than the package's is used only if it is given here.

        Returns:
            `PipelineLoader`: An instance of this class, or of the one in `pipeline_classes` that the index names, in
            evaluation mode.

        Raises:
            ValueError: If the model cannot be found or does not fit.
        """
        source = packaged_weights() if pretrained_model_name_or_path is None else pretrained_model_name_or_path
        hub: dict[str, Any] = {
            "revision": revision, "cache_dir": cache_dir, "token": token, "local_files_only": local_files_only,
        }  # fmt: skip
        if cls.pipeline_classes and not cls.components_classes:
            chosen: type[Self] = cls._choose_class(find_folder(source, [INDEX_NAME], **hub) / INDEX_NAME)
            return chosen.from_pretrained(
                pretrained_model_name_or_path, dtype=dtype, torch_dtype=torch_dtype, variant=variant, device=device,
                device_map=device_map, face_landmarker=face_landmarker, **hub,
            )  # fmt: skip
        # 1. Find the files.
        dtype, device = check_dtype(torch_dtype if dtype is None else dtype), resolve_device(device, device_map)
        if face_landmarker is not None and not check_path("face_landmarker", face_landmarker).is_file():
            raise ValueError(f"There is no face landmarker file {face_landmarker}; give the path of a .task file.")
        files = [
            f"{name}/{file}" for name in cls.components_classes for file in ("config.json", weights_name(variant))
        ]
        folder = find_folder(source, [INDEX_NAME, LANDMARKER_NAME, *files], **hub)
        names = cls._check_index(folder / INDEX_NAME)
        if face_landmarker is None:
            saved = folder / LANDMARKER_NAME
            face_landmarker = saved if saved.is_file() else None
            if face_landmarker is None and cls.needs_landmarker:
                raise ValueError(
                    f"{folder} has no {LANDMARKER_NAME}; download the model again or give face_landmarker= the path "
                    "of a .task file."
                )
            if face_landmarker is not None and not is_known_landmarker(saved):
                raise ValueError(
                    f"{saved} is another face landmarker than the package's, and a damaged one can crash; download "
                    "the model again or, if you trust the file, give its path as face_landmarker=."
                )
        # 2. Load the components.
        components = {}
        for name in names:
            if not (folder / name).is_dir():
                raise ValueError(f"{folder} lacks the folder of its component {name!r}; download the model again.")
            network = _import_class(cls.components_classes[name])
            components[name] = network.from_pretrained(folder / name, dtype=dtype, variant=variant, device=device)
        pipeline = cls(**components, face_landmarker=face_landmarker)
        pipeline.name_or_path = _name_of(pretrained_model_name_or_path, folder)
        return pipeline

    @classmethod
    def _choose_class(cls, path: Path) -> Any:
        name = _read_index(path).get("_class_name")
        if not isinstance(name, str) or name not in cls.pipeline_classes:
            raise ValueError(
                f"{path} describes a {shown(name)}, but this osmnet ({osmnet.__version__}) knows "
                f"{', '.join(cls.pipeline_classes)}; update osmnet or give the folder of one of these."
            )
        return _import_class(cls.pipeline_classes[name])

    @classmethod
    def _check_index(cls, path: Path) -> list[str]:
        """Return the components that an index names; refuse another class or version."""
        index = _read_index(path)
        if index.get("_class_name") != cls.__name__:
            raise ValueError(
                f"{path} describes a {shown(index.get('_class_name'))}, not a {cls.__name__}; give the folder of one."
            )
        version = index.get("format_version")
        if version != FORMAT_VERSION:
            raise ValueError(
                f"{path} has format version {short(version)}, but this osmnet ({osmnet.__version__}) reads version "
                f"{FORMAT_VERSION}; update osmnet or save the model again."
            )
        found = {key: entry for key, entry in index.items() if not key.startswith("_") and key != "format_version"}
        for name, entry in found.items():
            if name not in cls.components_classes:
                raise ValueError(
                    f"{path} names the unknown component {short(name)}; update osmnet or remove the entry."
                )
            expected = ["osmnet", cls.components_classes[name].rpartition(":")[2]]
            if entry != expected:
                raise ValueError(
                    f"{path} says that {name} is {short(entry)}, but it must be {expected!r}; restore it."
                )
        for name in cls.components_classes:
            if name not in found and name not in cls.optional_components:
                raise ValueError(f"{path} lacks the component {name!r}; download the model again.")
        return [name for name in cls.components_classes if name in found]

    def save_pretrained(self, save_directory: str | os.PathLike[str], variant: str | None = None) -> None:
        """Save the pipeline; `from_pretrained` restores it bit for bit.

        Args:
            save_directory (`str` or `os.PathLike`): The folder, made if necessary; other files in it stay.
            variant (`str`, *optional*): Name put into the weights files, e.g. `"fp16"`. The weights are saved in the
                dtype that they have.

        Raises:
            ValueError: If the folder cannot be written.
        """
        bundle = self.face_landmarker_path
        if bundle is not None and not Path(bundle).is_file():
            raise ValueError(f"Cannot save the face landmarker '{bundle}', which is not there any more; restore it.")
        with written_whole(check_path("save_directory", save_directory), last=INDEX_NAME) as temporary:
            index: dict[str, Any] = {
                "_class_name": type(self).__name__,
                "_osmnet_version": osmnet.__version__,
                "format_version": FORMAT_VERSION,
            }
            for name, network in self.components.items():
                network._write(temporary / name, variant)
                index[name] = ["osmnet", type(network).__name__]
            if bundle is not None:
                shutil.copyfile(bundle, temporary / LANDMARKER_NAME)
            (temporary / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

    @property
    def components(self) -> dict[str, OSMNetModel]:
        """Networks by name, in the order of `components_classes`, without missing ones."""
        components = {name: getattr(self, name) for name in self.components_classes}
        return {name: network for name, network in components.items() if network is not None}

    @property
    def device(self) -> torch.device:
        """Device of the networks."""
        return next(tensor.device for network in self.components.values() for tensor in network.state_dict().values())

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the networks, except for tensors that stay in float32."""
        for network in self.components.values():
            kept = network._kept_in_fp32()
            for name, tensor in network.state_dict().items():
                if name not in kept and tensor.is_floating_point():
                    return tensor.dtype
        return torch.float32

    def to(self, device: str | torch.device | torch.dtype | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move or cast the networks, and return the pipeline.

        Args:
            device (`str` or `torch.device`, *optional*): Target device; a `torch.dtype` here counts as `dtype`.
            dtype (`torch.dtype`, *optional*): Floating dtype.

        Raises:
            ValueError: If this machine has no such device, or the dtype is not a floating one.
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        dtype = check_dtype(dtype)
        target = resolve_device(device) if device is not None else None
        for network in self.components.values():
            network.to(device=target, dtype=dtype)
        return self


def _read_index(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path.parent} has no {path.name}, so it is not a saved pipeline; give the folder of one.")
    index = read_json(path)
    if not isinstance(index, dict):
        raise ValueError(f"{path} describes a list or value instead of a pipeline; give the folder of one.")
    return index


def _name_of(source: str | os.PathLike[str] | None, folder: Path) -> str:
    if source is None:
        return f"weights of osmnet {osmnet.__version__}"
    if not os.path.isdir(Path(os.path.expanduser(source))) and folder.parent.name == "snapshots":
        return f"{source}@{folder.name}"  # in the Hub client's cache the folder's name is the commit
    return os.fspath(source)


def resolve_device(
    device: str | torch.device | None, device_map: str | Mapping[str, Any] | None = None
) -> torch.device:
    """Return the device for `device` or `device_map`, the CPU by default.

    Raises:
        ValueError: If both are given, the name is unknown, this machine has no such device, or Accelerate cannot set
            up the processes it was launched with.
    """
    if device is not None and device_map is not None:
        raise ValueError("Give device or device_map, not both.")
    wanted = device_map if device is None else device
    if isinstance(wanted, Mapping):
        devices = set(map(str, wanted.values()))
        if len(devices) != 1:
            raise ValueError(f"device_map must put everything on one device, not on {sorted(devices)}.")
        wanted = devices.pop()
    if wanted is None:
        return torch.device("cpu")
    if isinstance(wanted, str) and wanted in BEST_DEVICE_MAPS:
        return _accelerate_device()
    try:
        resolved = torch.device(wanted)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f'{short(wanted)} is not a device; use "cpu", "cuda", "cuda:0", "mps" or "auto".') from error
    available = {
        "cuda": torch.cuda.is_available() and (resolved.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not available.get(resolved.type, True):
        raise ValueError(f'PyTorch sees no device {str(resolved)!r} on this machine; use device="cpu".')
    return resolved


def _accelerate_device() -> torch.device:
    from accelerate import PartialState  # slow to import
    from accelerate.utils import parse_flag_from_env

    try:
        # The flag is what `accelerate launch --cpu` sets.
        return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU")).device
    except (RuntimeError, ValueError, OSError, NotImplementedError) as error:
        PartialState._reset_state()  # a half-built state would pass for a whole one at the next call
        raise ValueError(
            f'Accelerate cannot place this process on a device ({reason(error)}); give one, as in device="cpu", '
            "or check how it was launched."
        ) from error


def _import_class(path: str) -> type[Any]:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
