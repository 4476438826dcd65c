"""Versions of packages, the checkout's commit and its example files."""

import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import osmnet


@cache
def commit() -> str:
    """Return the checkout's commit, with `+changes` if modified; `""` if installed."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        return ""
    try:
        git = lambda *arguments: subprocess.run(  # noqa: E731
            ["git", "-C", str(checkout), *arguments], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):  # no git, or not ours to read
        return ""


@cache
def training_versions() -> dict[str, Any]:
    """Return `versions` of Python and packages, and `commit`."""
    packages = {name: metadata.version(name) for name in ("torch", "accelerate", "diffusers", "numpy")}
    found = {"osmnet": osmnet.__version__, "python": platform.python_version(), **packages}
    return {"versions": found, "commit": commit()}


def example_files(pattern: str) -> list[Path]:
    """Find example files by pattern; none if installed."""
    # The working folder comes first, where osmnet is installed beside the checkout.
    clones = Path(), Path(__file__).resolve().parents[2]
    return next(filter(None, (sorted((clone / "examples").glob(pattern)) for clone in clones)), [])
