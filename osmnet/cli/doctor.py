"""`osmnet doctor`: check an installation and print a fix for each problem.

Checks run the real thing: installed packages may lack system libraries.
"""

from __future__ import annotations

import platform
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module, metadata
from pathlib import Path

from packaging.requirements import Requirement

import osmnet
from osmnet.cli.parser import Parser, add_model

TEST_PICTURE = Path(__file__).with_name("assets") / "face.jpg"  # from a NASA photograph, public domain

# Modules to import, by the name of their distribution.
MODULES = {
    "torch": "torch",
    "diffusers": "diffusers",
    "safetensors": "safetensors",
    "huggingface_hub": "huggingface_hub",
    "numpy": "numpy",
    "scipy": "scipy",
    "pillow": "PIL",
    "opencv-contrib-python": "cv2",
    "mediapipe": "mediapipe",
    "numba": "numba",
    "av": "av",
    "c2pa-python": "c2pa",
    "matplotlib": "matplotlib",
}
SYSTEM_LIBRARIES = "apt-get install libgl1 libegl1 libgles2 libglib2.0-0"
REINSTALL = "pip install --force-reinstall osmnet, from where it came"


@dataclass(frozen=True)
class Finding:
    """Result of one check.

    Args:
        name (`str`): Subject of the check.
        detail (`str`): The version, the result, or the problem.
        remedy (`str`, *optional*): Command or step that fixes the problem; `None` without one.
    """

    name: str
    detail: str
    remedy: str | None = None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def check_python() -> Finding:
    """Check the version of Python."""
    supported = (3, 11) <= sys.version_info[:2] <= (3, 12)
    remedy = None if supported else "make the virtual environment with Python 3.11 or 3.12"
    return Finding("python", platform.python_version(), remedy)


def check_package(name: str) -> Finding:
    """Check a package's import and version.

    Args:
        name (`str`): A distribution in `MODULES`.

    Returns:
        `Finding`: With the installed version.
    """
    requirement = _requirement(name)
    try:
        import_module(MODULES[name])
    except ModuleNotFoundError as error:
        return Finding(name, _one_line(error), f"pip install '{requirement or name}'")
    except (ImportError, OSError) as error:  # a missing shared library
        return Finding(name, _one_line(error), f"{SYSTEM_LIBRARIES}  (names on Debian and Ubuntu)")
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        # A build of the same module under another name, such as opencv-python-headless.
        return Finding(name, "in place under another name")
    if requirement is not None and not requirement.specifier.contains(version, prereleases=True):
        return Finding(name, f"{version}, but osmnet needs {requirement.specifier}", f"pip install '{requirement}'")
    return Finding(name, version)


def _requirement(name: str) -> Requirement | None:
    """Return the versions osmnet requires; `None` if it is not installed."""
    try:
        requirements = [Requirement(text) for text in metadata.requires("osmnet") or []]
    except metadata.PackageNotFoundError:
        return None
    return next((item for item in requirements if item.name == name and item.marker is None), None)


def check_device() -> Finding:
    """Name the device of `--device auto`."""
    import torch

    if torch.cuda.is_available():
        return Finding("device", f"cuda: {torch.cuda.get_device_name()}")
    if torch.backends.mps.is_available():
        return Finding("device", "mps")
    return Finding("device", f"cpu, {torch.get_num_threads()} threads")


def check_weights(model: str | None = None, revision: str | None = None) -> Finding:
    """Load all weights strictly.

    Args:
        model (`str`, *optional*): A folder or a Hub id; the weights inside the package by default.
        revision (`str`, *optional*): Branch, tag or commit of a Hub id.

    Returns:
        `Finding`: With the number of parameters.
    """
    from osmnet.pipelines.osm_net.pipeline_osm_net import OSMNetPipeline

    try:
        pipe = OSMNetPipeline.from_pretrained(model, revision=revision)
    except (ValueError, OSError) as error:
        return Finding("weights", _one_line(error), "name another folder or Hub id" if model else REINSTALL)
    networks = [component for component in pipe.components.values() if hasattr(component, "parameters")]
    parameters = sum(parameter.numel() for network in networks for parameter in network.parameters())
    return Finding("weights", f"{model or 'inside the package'}: {parameters / 1e6:.1f} million parameters, all fit")


def check_landmarker() -> Finding:
    """Find the test picture's face."""
    import numpy as np
    from PIL import Image

    from osmnet.face.landmarker import FaceLandmarker
    from osmnet.loading.packaged import LANDMARKER_NAME, packaged_weights

    try:
        with FaceLandmarker(packaged_weights() / LANDMARKER_NAME) as landmarker:
            faces = landmarker.detect(np.asarray(Image.open(TEST_PICTURE).convert("RGB")))
    except (ValueError, OSError, RuntimeError) as error:
        return Finding("landmarker", _one_line(error), REINSTALL)
    if len(faces) != 1:
        return Finding("landmarker", f"finds {len(faces)} faces in the test picture, where there is one", REINSTALL)
    return Finding("landmarker", "finds the face in the test picture")


def check_video() -> Finding:
    """Write and read back a video with sound."""
    import numpy as np

    from osmnet.media.video_reader import read_frames
    from osmnet.media.video_writer import VideoWriter

    frames = np.stack([np.full((64, 64, 3), level, np.uint8) for level in (40, 120, 200)])
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "three.mp4"
            with VideoWriter(path, (64, 64), waveform=np.zeros(3 * 640, np.float32)) as writer:
                writer.write(frames)
            levels = [float(frame.mean()) for frame in read_frames(path)]
    except (ValueError, OSError) as error:
        return Finding("video", _one_line(error), "pip install --force-reinstall av")
    if len(levels) != 3 or max(abs(level - want) for level, want in zip(levels, (40, 120, 200), strict=True)) > 8:
        return Finding("video", "three frames come back altered", "pip install --force-reinstall av")
    return Finding("video", "writes and reads H.264 with AAC")


def examine(model: str | None = None, revision: str | None = None) -> list[Finding]:
    """Run every check; a failed check does not stop the others.

    Args:
        model (`str`, *optional*): Weights to load: a folder or a Hub id.
        revision (`str`, *optional*): Branch, tag or commit of a Hub id.

    Returns:
        `list[Finding]`: Findings in the order of the table.
    """
    checks: list[tuple[str, Callable[[], Finding]]] = [("python", check_python)]
    checks += [(name, partial(check_package, name)) for name in MODULES]
    checks += [
        ("device", check_device),
        ("weights", partial(check_weights, model, revision)),
        ("landmarker", check_landmarker),
        ("video", check_video),
    ]
    findings = []
    for name, check in checks:
        try:
            findings.append(check())
        except (ImportError, OSError) as error:
            findings.append(Finding(name, f"not checked: {_one_line(error)}", "fix the packages above first"))
    return findings


def report(findings: list[Finding]) -> int:
    """Print the findings; return 1 if any failed."""
    width = max(len(finding.name) for finding in findings)
    sys.stdout.write(f"osmnet {osmnet.__version__} in {Path(osmnet.__file__).parent}\n")
    for finding in findings:
        mark = "ok   " if finding.remedy is None else "WRONG"
        sys.stdout.write(f"  {mark}  {finding.name:<{width}}  {finding.detail}\n")
        if finding.remedy is not None:
            sys.stdout.write(f"  {'':<5}  {'':<{width}}  fix: {finding.remedy}\n")
    wrong = sum(finding.remedy is not None for finding in findings)
    sys.stdout.write("All is well.\n" if wrong == 0 else f"{wrong} of {len(findings)} checks failed.\n")
    return 0 if wrong == 0 else 1


def main(argv: list[str] | None = None) -> int:
    """Run `osmnet doctor`."""
    parser = Parser(
        prog="osmnet doctor", description="Check this installation; exit status 1 when something is wrong."
    )
    add_model(parser)
    arguments = parser.parse_args(argv)
    return report(examine(arguments.model, arguments.revision))
