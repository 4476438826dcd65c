"""Checkpoints: folders that are there whole or not at all, newest first."""

import json
import os
import re
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from osmnet.loading.model import temporary_folder_in

PREFIX, UNFINISHED = "checkpoint-", ".saving-"
ABOUT, STATE = "config.json", "state.pt"
WRITE_ERRORS = (OSError, SafetensorError, RuntimeError)  # a full disk, as Python, safetensors and torch.save say it


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint.

    Attributes:
        folder (`Path`): `WORK/checkpoint-000500`.
        step (`int`): Steps done.
        about (`dict`): The settings and versions it was written with.
    """

    folder: Path
    step: int
    about: dict[str, Any]

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        """Read one of the files of tensors, e.g. `"networks"`; empty if it was not written."""
        file = self.folder / f"{name}.safetensors"
        return load_file(file) if file.is_file() else {}

    def state(self) -> dict[str, Any]:
        """Read optimisers, random states and the like; never runs code of the file."""
        return torch.load(self.folder / STATE, map_location="cpu", weights_only=True)


def save_checkpoint(
    work: Path,
    step: int,
    about: dict[str, Any],
    tensors: dict[str, dict[str, torch.Tensor]],
    state: dict[str, Any],
    keep: int,
) -> Path:
    """Write `work/checkpoint-STEP` and delete the oldest ones.

    Args:
        work (`Path`): Folder of the run.
        step (`int`): Steps done.
        about (`dict`): What JSON can hold.
        tensors (`dict[str, dict[str, torch.Tensor]]`): Files by name.
        state (`dict`): What `torch.load(weights_only=True)` can read.
        keep (`int`): How many checkpoints stay.

    Returns:
        `Path`: The folder.

    Raises:
        ValueError: If it cannot be written, e.g. for a full disk; earlier checkpoints are as they were.
    """
    folder = work / f"{PREFIX}{step:06d}"
    temporary = temporary_folder_in(work)
    try:
        for name, entries in tensors.items():
            contiguous = {key: tensor.detach().cpu().contiguous() for key, tensor in entries.items()}
            save_file(contiguous, temporary / f"{name}.safetensors")
        with (temporary / STATE).open("wb") as file:
            torch.save(state, file)
        sums = {file.name: _checksum(file) for file in sorted(temporary.iterdir())}
        (temporary / ABOUT).write_text(json.dumps({**about, "step": step, "files": sums}, indent=1), encoding="utf-8")
        temporary.chmod(0o755)  # made for its owner alone, as temporary folders are
        shutil.rmtree(folder, ignore_errors=True)  # only there if it is damaged: the run went back to one before
        os.rename(temporary, folder)
    except WRITE_ERRORS as error:
        before = [each.name for each in _folders(work)[:1]]
        rest = f"run the same command again to go on from {before[0]}" if before else "start again"
        raise ValueError(
            f"Cannot save a checkpoint of step {step} in '{work}' ({' '.join(str(error).split())}); free some space "
            f"(or mend the disk) and {rest}."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    # Those with higher numbers were damaged, else the run had gone on from them.
    kept = [each for each in _folders(work) if _step(each) <= step][:keep]
    for each in _folders(work):
        if each not in kept:
            shutil.rmtree(each, ignore_errors=True)
    return folder


def newest_checkpoint(work: Path) -> tuple[Checkpoint | None, list[str]]:
    """Find the newest whole checkpoint of a run, and sweep up what a killed run left half-written.

    Args:
        work (`Path`): Folder of the run; need not exist.

    Returns:
        `tuple[Checkpoint | None, list[str]]`: The checkpoint, if there is one, and a sentence for each damaged one.
    """
    sweep(work)
    damaged: list[str] = []
    for folder in _folders(work):
        try:
            about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
            for name, checksum in about["files"].items():
                if _checksum(folder / name) != checksum:
                    raise ValueError(f"{name} is not as it was written")
            return Checkpoint(folder, int(about["step"]), about), damaged
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            what = " ".join(str(error).split()) or type(error).__name__
            damaged.append(f"'{folder}' is damaged ({what}) and left aside.")
    return None, damaged


def sweep(folder: Path) -> None:
    """Delete what a killed run left half-written in a folder."""
    for unfinished in folder.glob(f"{UNFINISHED}*"):
        shutil.rmtree(unfinished, ignore_errors=True)


def _folders(work: Path) -> list[Path]:
    """Checkpoints of a run, the newest first."""
    return sorted((each for each in work.glob(f"{PREFIX}*") if _step(each) >= 0), key=_step, reverse=True)


def _step(folder: Path) -> int:
    number = re.fullmatch(rf"{PREFIX}(\d+)", folder.name)
    return int(number[1]) if number else -1


def _checksum(file: Path) -> list[int]:
    """Size and CRC-32 of a file."""
    crc = 0
    with file.open("rb") as stream:
        while block := stream.read(2**22):
            crc = zlib.crc32(block, crc)
    return [file.stat().st_size, crc]
