"""Files that come with the package, inside it or beside it in a checkout."""

import hashlib
from pathlib import Path

INDEX_NAME = "model_index.json"
LANDMARKER_NAME = "face_landmarker.task"
# SHA-256 of the bundles that load without being named: MediaPipe crashes on some damaged ones.
KNOWN_LANDMARKERS = (
    "86ebb386a043e884008c6d0b803cf15922aa02c532732b4ec3b507009e6a33cc",  # scripts/build_landmarker.py's
    # Google's own face_landmarker.task, float16, version 1: MediaPipe's documentation links to it, and other projects
    # pin it by this sum.
    "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
)
MAX_LANDMARKER = 2**26  # bytes


def packaged_weights() -> Path:
    """Return the folder of the weights.

    Raises:
        ValueError: If this installation has none.
    """
    index = _find(INDEX_NAME)
    if index is None:
        raise ValueError(
            "This installation of osmnet has no weights; install it again, or give the folder or Hub id of a model."
        )
    return index.parent


def packaged_landmarker() -> Path:
    """Return the face landmarker's bundle, which needs no weights beside it.

    Raises:
        ValueError: If this installation has none.
    """
    landmarker = _find(LANDMARKER_NAME)
    if landmarker is None:
        raise ValueError(
            f"This installation of osmnet has no {LANDMARKER_NAME}; make one with scripts/build_landmarker.py."
        )
    return landmarker


def is_known_landmarker(path: Path) -> bool:
    """Return whether a bundle is one of `KNOWN_LANDMARKERS`."""
    if path.stat().st_size > MAX_LANDMARKER:
        return False
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() in KNOWN_LANDMARKERS


def _find(name: str) -> Path | None:
    package = Path(__file__).resolve().parents[1]
    files = (folder / "weights_card" / name for folder in (package, package.parent))
    return next((file for file in files if file.is_file()), None)
