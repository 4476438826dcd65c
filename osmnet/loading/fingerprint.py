"""Fingerprints of weights and versions of packages."""

import hashlib
import platform
import zlib
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import osmnet
from osmnet.loading.model import OSMNetModel
from osmnet.utils.versions import commit

# Packages that influence results. OpenCV has several names, of which one is installed.
PACKAGES = (
    "torch", "numpy", "scipy", "numba", "mediapipe", "diffusers", "scikit-image", "av", "soundfile",
    "opencv-python", "opencv-contrib-python", "opencv-python-headless",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Return versions of osmnet, Python and `PACKAGES`, and the commit of a checkout."""
    found = {"osmnet": osmnet.__version__, "python": platform.python_version()}
    if commit():
        found["commit"] = commit()
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def weights_fingerprint(networks: Mapping[str, OSMNetModel]) -> str:
    """Hash weights to eight hexadecimal digits, independent of the device."""
    digest = 0
    for name, network in sorted(networks.items()):
        for key, tensor in sorted(network.state_dict().items()):
            digest = zlib.crc32(f"{name}.{key}".encode(), digest)
            digest = zlib.crc32(tensor.detach().cpu().float().contiguous().numpy().tobytes(), digest)
    return f"{digest:08x}"


def file_record(path: str | Path | None) -> dict[str, str] | None:
    """Return the name and SHA-256 of a file, `None` without one."""
    if path is None:
        return None
    with open(path, "rb") as file:
        return {"file": Path(path).name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
