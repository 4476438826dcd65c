"""Loading and saving of pipelines: diffusers' file layout (`model_index.json`, one folder a component), checked."""

from __future__ import annotations

import importlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import torch
from huggingface_hub import hf_hub_download, snapshot_download

import osmnet
from osmnet.loading.hub import HUB_ERRORS, checked_download, explained, first_line
from osmnet.loading.model import (
    OSMNetModel,
    check_dtype,
    read_json,
    temporary_folder_in,
    weights_name,
)

INDEX_NAME = "model_index.json"
LANDMARKER_NAME = "face_landmarker.task"
FORMAT_VERSION = 1
BEST_DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")


class PipelineLoader:
    """Base of pipelines: their components, how they are loaded, saved and moved.

    A concrete class lists its components in `components_classes`, as in
    `{"motion_space": "osmnet.models.osm_net.motion_space:MotionSpace"}`; those in `optional_components` may be left
    out and are `None` then. A base of several concrete classes has no components and lists those classes in
    `pipeline_classes`, as in `{"OSMNetPipeline": "osmnet.pipelines.osm_net.pipeline_osm_net:OSMNetPipeline"}`: its
    `from_pretrained` returns the one that `model_index.json` names. Classes are imported from these two tables only;
    names in a downloaded file are just looked up in them.

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
    pipeline_classes: ClassVar[dict[str, str]] = {}

    def __init__(
        self, *, face_landmarker: str | os.PathLike[str] | None = None, **components: OSMNetModel | None
    ) -> None:
        """Keep the components as attributes."""
        for name in components:
            if name not in self.components_classes:
                raise ValueError(f"{type(self).__name__} has no component {name!r}; it has {self._component_names()}.")
        for name, path in self.components_classes.items():
            class_name = path.rpartition(":")[2]
            if components.get(name) is None and name in self.optional_components:
                setattr(self, name, None)
                continue
            if name not in components:
                raise ValueError(f"{type(self).__name__} lacks its component {name!r}, a {class_name}.")
            if not isinstance(components[name], _import_class(path)):
                raise ValueError(f"{name} must be a {class_name}, not a {type(components[name]).__name__}.")
            setattr(self, name, components[name])
        self.face_landmarker_path = Path(face_landmarker) if face_landmarker is not None else None
        self.name_or_path: str | None = None  # from where it was loaded

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
        """Load a pipeline with the weights in the package, from a folder, or from a repository on the Hub.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`, *optional*): A folder that `save_pretrained` wrote,
                or the id of a repository on the Hub. Not given: the weights that came with the package.
            dtype (`torch.dtype`, *optional*): Floating dtype of the networks; float32 when not given. What needs
                float32 keeps it.
            torch_dtype (`torch.dtype`, *optional*): The same, as diffusers calls it, too.
            variant (`str`, *optional*): Load `*.<variant>.safetensors`, e.g. `"fp16"`.
            revision (`str`, *optional*): Branch, tag or commit on the Hub.
            device (`str` or `torch.device`, *optional*): Where to put the networks; the CPU when not given.
            device_map (`str` or mapping, *optional*): Other way to say it: `"auto"` (and `"balanced"` …) takes what
                Accelerate gives this process, which is the machine's GPU, if it has one, and one of its own for each
                process of `accelerate launch`; a device name takes that device. The networks are never split up.
            cache_dir (`str` or `os.PathLike`, *optional*): Download cache; the Hub client's own when not given.
            token (`str` or `bool`, *optional*): Access token for private repositories.
            local_files_only (`bool`): Never contact the Hub.
            face_landmarker (`str` or `os.PathLike`, *optional*): Your own `.task` file in place of the model's.

        Returns:
            `PipelineLoader`: An instance of the class this was called on, or of the one in `pipeline_classes` that
            the model's index names; its networks are in evaluation mode.

        Raises:
            ValueError: If the model cannot be found or does not fit; the sentence says what to do.
        """
        if cls.pipeline_classes and not cls.components_classes:
            family = cls._family(
                pretrained_model_name_or_path,
                revision=revision,
                cache_dir=cache_dir,
                token=token,
                local_files_only=local_files_only,
            )
            return family.from_pretrained(
                pretrained_model_name_or_path,
                dtype=dtype,
                torch_dtype=torch_dtype,
                variant=variant,
                revision=revision,
                device=device,
                device_map=device_map,
                cache_dir=cache_dir,
                token=token,
                local_files_only=local_files_only,
                face_landmarker=face_landmarker,
            )
        dtype, device = check_dtype(torch_dtype if dtype is None else dtype), resolve_device(device, device_map)
        if face_landmarker is not None and not os.path.isfile(face_landmarker):
            raise ValueError(f"There is no face landmarker file {face_landmarker}; give the path of a .task file.")
        folder = cls._find_folder(
            pretrained_model_name_or_path,
            variant=variant,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
        )
        names = cls._check_index(folder)
        if face_landmarker is None:
            face_landmarker = folder / LANDMARKER_NAME
            if not face_landmarker.is_file():
                raise ValueError(
                    f"{folder} has no {LANDMARKER_NAME}; download the model again or give face_landmarker= the path "
                    "of a .task file."
                )
        components = {}
        for name in names:
            network = _import_class(cls.components_classes[name])
            if not (folder / name).is_dir():
                raise ValueError(f"{folder} lacks the folder of its component {name!r}; download the model again.")
            components[name] = network.from_pretrained(folder / name, dtype=dtype, variant=variant, device=device)
        pipeline = cls(**components, face_landmarker=face_landmarker)
        pipeline.name_or_path = _name_of(pretrained_model_name_or_path, folder)
        return pipeline

    @classmethod
    def _family(cls, source: str | os.PathLike[str] | None, *, revision: str | None, **hub: Any) -> type[Self]:
        """Return the class that the model's index names, having downloaded no other file."""
        folder = _local_folder(source, revision)
        if folder is None:
            folder = _from_hub(hf_hub_download, [INDEX_NAME], str(source), revision, filename=INDEX_NAME, **hub)
        path = folder / INDEX_NAME
        class_name = _read_index(path).get("_class_name")
        if not isinstance(class_name, str) or class_name not in cls.pipeline_classes:
            raise ValueError(
                f"{path} describes a {class_name}, but this osmnet ({osmnet.__version__}) knows "
                f"{', '.join(cls.pipeline_classes)}; update osmnet or give the folder of one of these."
            )
        return cast("type[Self]", _import_class(cls.pipeline_classes[class_name]))

    @classmethod
    def _find_folder(
        cls, source: str | os.PathLike[str] | None, *, variant: str | None, revision: str | None, **hub: Any
    ) -> Path:
        """Return the local folder of a model, downloading only the files that are going to be read."""
        folder = _local_folder(source, revision)
        if folder is not None:
            return folder
        files = [INDEX_NAME, LANDMARKER_NAME]
        for name in cls.components_classes:
            files += [f"{name}/{OSMNetModel.config_name}", f"{name}/{weights_name(variant)}"]
        return _from_hub(snapshot_download, files, str(source), revision, allow_patterns=files, **hub)

    @classmethod
    def _check_index(cls, folder: Path) -> list[str]:
        """Name the components that a `model_index.json` has; refuse one of another class, version or components."""
        path = folder / INDEX_NAME
        index = _read_index(path)
        class_name = index.get("_class_name")
        if class_name != cls.__name__:
            raise ValueError(f"{path} describes a {class_name}, not a {cls.__name__}; give the folder of one.")
        version = index.get("format_version")
        if version != FORMAT_VERSION:
            raise ValueError(
                f"{path} has format version {version!r}, but this osmnet ({osmnet.__version__}) reads version "
                f"{FORMAT_VERSION}; update osmnet or save the model again."
            )
        found = {key: entry for key, entry in index.items() if not key.startswith("_") and key != "format_version"}
        for name, entry in found.items():
            if name not in cls.components_classes:
                raise ValueError(f"{path} names the unknown component {name!r}; update osmnet or remove the entry.")
            expected = ["osmnet", cls.components_classes[name].rpartition(":")[2]]
            if entry != expected:
                raise ValueError(f"{path} says that {name} is {entry!r}, but it must be {expected!r}; restore it.")
        missing = [name for name in cls.components_classes if name not in found]
        for name in missing:
            if name not in cls.optional_components:
                raise ValueError(f"{path} lacks the component {name!r}; download the model again.")
        return [name for name in cls.components_classes if name in found]

    def save_pretrained(self, save_directory: str | os.PathLike[str], variant: str | None = None) -> None:
        """Save the pipeline so that `from_pretrained` gives the same numbers, bit for bit.

        Everything is written to a temporary folder first and moved file by file when it is whole, the index last.

        Args:
            save_directory (`str` or `os.PathLike`): The folder; made when it does not exist, other files in it stay.
            variant (`str`, *optional*): Name put into the weights files, e.g. `"fp16"`. The weights are saved in the
                dtype that they have.

        Raises:
            ValueError: If the folder cannot be written.
        """
        folder = Path(save_directory)
        temporary = temporary_folder_in(folder)
        index: dict[str, Any] = {
            "_class_name": type(self).__name__,
            "_osmnet_version": osmnet.__version__,
            "format_version": FORMAT_VERSION,
        }
        try:
            for name, network in self.components.items():
                network.save_pretrained(temporary / name, variant=variant)
                index[name] = ["osmnet", type(network).__name__]
            if self.face_landmarker_path is not None:
                shutil.copyfile(self.face_landmarker_path, temporary / LANDMARKER_NAME)
            (temporary / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
            files = [path.relative_to(temporary) for path in sorted(temporary.rglob("*")) if path.is_file()]
            for file in sorted(files, key=lambda file: file.name == INDEX_NAME):
                (folder / file).parent.mkdir(exist_ok=True)
                os.replace(temporary / file, folder / file)
        except OSError as error:
            raise ValueError(
                f"Cannot save the pipeline in {folder} ({error}); free space or choose another."
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    @property
    def components(self) -> dict[str, OSMNetModel]:
        """The networks by name, in the order of `components_classes`, without optional ones that are not there."""
        components = {name: getattr(self, name) for name in self.components_classes}
        return {name: network for name, network in components.items() if network is not None}

    @property
    def device(self) -> torch.device:
        """The device of the networks."""
        return next(tensor.device for network in self.components.values() for tensor in network.state_dict().values())

    @property
    def dtype(self) -> torch.dtype:
        """The floating dtype of the networks, not counting what is always kept in float32."""
        for network in self.components.values():
            kept = network._kept_in_fp32()
            for name, tensor in network.state_dict().items():
                if name not in kept and tensor.is_floating_point():
                    return tensor.dtype
        return torch.float32

    def to(self, device: str | torch.device | torch.dtype | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move the networks to a device, cast them, or both; what needs float32 keeps it.

        Args:
            device (`str` or `torch.device`, *optional*): Where to; a `torch.dtype` here is taken for `dtype`.
            dtype (`torch.dtype`, *optional*): Floating dtype.

        Returns:
            `PipelineLoader`: The pipeline itself.

        Raises:
            ValueError: If the device is not there or the dtype not a floating one.
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        dtype = check_dtype(dtype)
        target = resolve_device(device) if device is not None else None
        for network in self.components.values():
            network.to(device=target, dtype=dtype)
        return self

    @classmethod
    def _component_names(cls) -> str:
        return ", ".join(cls.components_classes) or "none"


def _local_folder(source: str | os.PathLike[str] | None, revision: str | None) -> Path | None:
    """Return a model's folder on this machine, or `None` if `source` can only be an id on the Hub."""
    if source is not None and not isinstance(source, str | os.PathLike):
        raise ValueError(f"A model is a folder or an id on the Hub, not {type(source).__name__}.")
    if source == "":
        raise ValueError("The path of the model is empty; give a folder, an id on the Hub, or nothing.")
    path = packaged_weights() if source is None else Path(source).expanduser()
    if path.is_dir():
        if revision is not None:
            raise ValueError(f"revision={revision!r} is for models on the Hub, and '{path}' is a folder here.")
        return path
    if path.exists() or path.is_absolute() or not isinstance(source, str) or source.startswith((".", "~")):
        raise ValueError(
            f"{source} is not a folder; give the folder of a saved pipeline or the id of a model on the Hub."
        )
    return None


def _from_hub(
    download: Callable[..., str], names: list[str], repo_id: str, revision: str | None, **options: Any
) -> Path:
    """Call one of the Hub client's downloads, check the files by their checksums, and return the commit's folder."""

    def folder() -> Path:
        path = Path(download(repo_id, revision=revision, **options))
        return path if path.is_dir() else path.parent

    try:
        return checked_download(folder, names, repo_id, options["token"], options["local_files_only"])
    except HUB_ERRORS as error:
        raise ValueError(explained(error, repo_id, revision)) from error


def _read_index(path: Path) -> dict[str, Any]:
    """Read a `model_index.json`; refuse a folder without one, and one that is no JSON object."""
    if not path.is_file():
        raise ValueError(f"{path.parent} has no {path.name}, so it is not a saved pipeline; give the folder of one.")
    index = read_json(path)
    if not isinstance(index, dict):
        raise ValueError(f"{path} describes a {type(index).__name__}, not a pipeline; give the folder of one.")
    return index


def _name_of(source: str | os.PathLike[str] | None, folder: Path) -> str:
    """Say where a model came from: its folder, its id and commit on the Hub, or the package."""
    if source is None:
        return f"weights of osmnet {osmnet.__version__}"
    if not os.path.isdir(Path(source).expanduser()) and folder.parent.name == "snapshots":
        return f"{source}@{folder.name}"  # in the Hub client's cache the folder's name is the commit
    return os.fspath(source)


def packaged_weights() -> Path:
    """Return the folder of the weights that came with the package: inside it, or beside it in a checkout.

    Raises:
        ValueError: If there is none.
    """
    index = _packaged(INDEX_NAME)
    if index is None:
        raise ValueError(
            "This installation of osmnet has no weights; install it again, or give the folder or Hub id of a model."
        )
    return index.parent


def packaged_landmarker() -> Path:
    """Return the face landmarker that came with the package, which is there even while the weights are being made.

    Raises:
        ValueError: If there is none.
    """
    landmarker = _packaged(LANDMARKER_NAME)
    if landmarker is None:
        raise ValueError(
            f"This installation of osmnet has no {LANDMARKER_NAME}; make one with scripts/build_landmarker.py."
        )
    return landmarker


def _packaged(name: str) -> Path | None:
    """A file that came with the package, inside it or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    files = (folder / "weights_card" / name for folder in (package, package.parent))
    return next((file for file in files if file.is_file()), None)


def resolve_device(
    device: str | torch.device | None, device_map: str | Mapping[str, Any] | None = None
) -> torch.device:
    """Return the one device that `device` or `device_map` stands for, checked to be there.

    Args:
        device (`str` or `torch.device`, *optional*): A device or its name.
        device_map (`str` or mapping, *optional*): A device's name, `"auto"` and its like, or a mapping to one device.

    Returns:
        `torch.device`: The CPU when neither is given.

    Raises:
        ValueError: If both are given, the name is unknown, this machine has no such device, or Accelerate, which
            says what `"auto"` is, cannot set up the processes it was launched with.
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
        raise ValueError(f'{wanted!r} is not a device; use "cpu", "cuda", "cuda:0", "mps" or "auto".') from error
    available = {
        "cuda": torch.cuda.is_available() and (resolved.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not available.get(resolved.type, True):
        raise ValueError(f'PyTorch sees no device {str(resolved)!r} on this machine; use device="cpu".')
    return resolved


def _accelerate_device() -> torch.device:
    """The device that Accelerate gives this process: under `accelerate launch` each process has a GPU of its own."""
    from accelerate import PartialState  # here: only those who ask for it wait for its import
    from accelerate.utils import parse_flag_from_env

    try:
        # The flag is what `accelerate launch --cpu` sets.
        return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU")).device
    except (RuntimeError, ValueError, OSError, NotImplementedError) as error:
        PartialState._reset_state()  # half of one would be taken for a whole one the next time
        raise ValueError(
            f'Accelerate cannot place this process on a device ({first_line(error)}); give one, as in device="cpu", '
            "or check how it was launched."
        ) from error


def _import_class(path: str) -> type[Any]:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
