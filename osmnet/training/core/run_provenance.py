"""What a run was made with: settings, versions, commit."""

import platform
from functools import cache
from pathlib import Path
from typing import Any

import accelerate
import diffusers
import numpy as np
import torch
import yaml

import osmnet
from osmnet.utils.versions import commit


@cache
def versions() -> dict[str, Any]:
    """Return the versions of what computes, and the git commit of a checkout."""
    made_with = {
        "osmnet": osmnet.__version__, "python": platform.python_version(), "torch": str(torch.__version__),
        "accelerate": accelerate.__version__, "diffusers": diffusers.__version__, "numpy": np.__version__,
    }  # fmt: skip
    return {"versions": made_with, "commit": commit()}


def write_config(work: Path, about: dict[str, Any]) -> None:
    """Write `work/config.yaml`: everything needed to see, years later, what this run was.

    Raises:
        ValueError: If the folder cannot be written.
    """
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in about["settings"].items()}
    part = work / ".config.part"
    try:
        work.mkdir(parents=True, exist_ok=True)
        part.write_text(yaml.safe_dump({**about, "settings": plain}, sort_keys=False), encoding="utf-8")
        part.replace(work / "config.yaml")
    except OSError as error:
        raise ValueError(f"Cannot write to the folder {work} ({error}); choose another one with --work.") from error
    finally:
        part.unlink(missing_ok=True)
