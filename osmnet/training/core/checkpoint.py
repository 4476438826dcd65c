"""Checkpoints, written by `Accelerator.save_state` and complete or absent."""

import json
import random
import re
import shutil
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import SAFE_WEIGHTS_NAME, set_seed
from safetensors.torch import load_file

from osmnet.training.core.processes import on_all, on_main
from osmnet.utils.bounded_json import MAX_JSON, parse_json
from osmnet.utils.checks import reason, short
from osmnet.utils.files import WRITE_ERRORS, discard, put_folder_in_place, temporary_folder_in, why

PREFIX, UNFINISHED = "checkpoint-", ".saving-"
ABOUT, TENSORS = "config.json", SAFE_WEIGHTS_NAME


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint.

    Attributes:
        folder (`Path`): `WORK/checkpoint-000500`.
        step (`int`): Steps done.
        about (`dict`): Settings, versions and progress of the run that wrote it.
    """

    folder: Path
    step: int
    about: dict[str, Any]

    def tensors(self) -> dict[str, torch.Tensor]:
        """Read the tensors of `RunState`."""
        return load_file(self.folder / TENSORS)


def save_checkpoint(accelerator: Accelerator, work: Path, step: int, about: dict[str, Any], keep: int) -> Path:
    """Write a checkpoint and delete the oldest; call in every process.

    Args:
        accelerator (`Accelerator`): Its optimizers, scaler, random states and hooks are saved.
        work (`Path`): Folder of the run.
        step (`int`): Steps done.
        about (`dict`): JSON content.
        keep (`int`): Checkpoints to keep.

    Returns:
        `Path`: The folder, `work/checkpoint-STEP`.

    Raises:
        ValueError: If it cannot be written, e.g. because the disk is full; earlier checkpoints are unchanged.
    """
    # Accelerate's `total_limit` deletes the oldest checkpoint before it writes the next one, under its final name.
    # Here a kill at any moment leaves a complete one. Hooks of `RunState` write the tensors: Accelerate's names depend
    # on the number of processes, and `register_for_checkpointing` unpickles.
    folder, temporary = work / f"{PREFIX}{step:06d}", None
    try:
        temporary = on_main(accelerator, lambda: temporary_folder_in(work))
        on_all(accelerator, lambda: accelerator.save_state(str(temporary)))
        on_main(accelerator, lambda: _publish(temporary, folder, {**about, "step": step}))
    except (*WRITE_ERRORS, RuntimeError) as error:  # torch.save raises RuntimeError for a full disk
        before = [each.name for each in _folders(work)[:1]]
        rest = f"run the same command again to resume from {before[0]}" if before else "start again"
        raise ValueError(
            f"Cannot save a checkpoint of step {step} in '{work}' ({why(error)}); free some space "
            f"(or repair the disk) and {rest}."
        ) from error
    finally:
        if temporary is not None and accelerator.is_main_process:
            discard(temporary)
    if accelerator.is_main_process:
        # Those with higher numbers are damaged, otherwise the run would have resumed from them.
        kept = [each for each in _folders(work) if _step(each) <= step][:keep]
        for each in _folders(work):
            if each not in kept:
                shutil.rmtree(each, ignore_errors=True)
    return folder


def _publish(temporary: Path, folder: Path, about: dict[str, Any]) -> None:
    sums = {file.name: _checksum(file) for file in sorted(temporary.iterdir())}
    (temporary / ABOUT).write_text(json.dumps({**about, "files": sums}, indent=1), encoding="utf-8")
    temporary.chmod(0o755)  # temporary folders are private to their owner
    shutil.rmtree(folder, ignore_errors=True)  # only there if damaged: the run resumed from an earlier one
    put_folder_in_place(temporary, folder)


def newest_checkpoint(work: Path) -> tuple[Checkpoint | None, list[str]]:
    """Find the newest complete checkpoint of a run; delete half-written ones.

    Args:
        work (`Path`): Folder of the run; need not exist.

    Returns:
        `tuple[Checkpoint | None, list[str]]`: The checkpoint, if any, and a sentence for each damaged one.
    """
    sweep(work)
    damaged: list[str] = []
    for folder in _folders(work):
        try:
            about = _about(folder)
            for name, checksum in about["files"].items():
                if _checksum(folder / name) != checksum:
                    raise ValueError(f"{name} has another checksum")
            return Checkpoint(folder, about["step"], about), damaged
        except (OSError, ValueError) as error:
            damaged.append(f"'{folder}' is damaged ({reason(error)}) and skipped.")
    return None, damaged


def _about(folder: Path) -> dict[str, Any]:
    """Read a checkpoint's `config.json`, and check what will be used of it."""
    with (folder / ABOUT).open("rb") as file:
        about = parse_json(file.read(MAX_JSON + 1), finite=False)  # a validation may be NaN
    if not isinstance(about, dict):
        raise ValueError(f"{ABOUT} is no object")
    if about.get("step") != _step(folder):
        raise ValueError(f"{ABOUT} is of another step")
    files = about.get("files")
    if not isinstance(files, dict):
        raise ValueError(f"{ABOUT} lists no files")
    for name in files:
        if "/" in name or "\\" in name or not stat.S_ISREG((folder / name).lstat().st_mode):
            raise ValueError(f"{short(name)} is no file in it")
    for name in ("settings", "made_for"):
        if not isinstance(about.get(name, {}), dict):
            raise ValueError(f"{name} must be an object")
    if "progress" in about:  # of earlier versions `RunState.check` says more
        _check_progress(about["progress"])
        if type(about.get("processes")) is not int:
            raise ValueError("processes must be a whole number")
    return about


def _check_progress(progress: Any) -> None:
    best = progress.get("best") if isinstance(progress, dict) else None
    if not isinstance(best, dict):
        raise ValueError("progress has no best")
    numbers = {name: progress.get(name) for name in ("validation", "losses")}
    numbers["best.validation"] = best.get("validation", {})
    numbers["best"] = {name: value for name, value in best.items() if name != "validation"}
    for name, values in numbers.items():
        if not (isinstance(values, dict) and all(type(value) in (int, float) for value in values.values())):
            raise ValueError(f"progress.{name} must hold numbers")


def sweep(folder: Path) -> None:
    """Delete half-written files of a killed run."""
    for unfinished in folder.glob(f"{UNFINISHED}*"):
        shutil.rmtree(unfinished, ignore_errors=True)


def seed_all(seed: int, process: int) -> None:
    """Seed all generators, differently in each process."""
    # Dropout must differ between processes.
    set_seed(int(np.random.SeedSequence([seed, process]).generate_state(1)[0]))


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Restore all random states on exit."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def _folders(work: Path) -> list[Path]:
    return sorted((each for each in work.glob(f"{PREFIX}*") if _step(each) >= 0), key=_step, reverse=True)


def _step(folder: Path) -> int:
    number = re.fullmatch(rf"{PREFIX}(\d+)", folder.name)
    return int(number[1]) if number else -1


def _checksum(file: Path) -> list[int]:
    crc = 0
    with file.open("rb") as stream:
        while block := stream.read(2**22):
            crc = zlib.crc32(block, crc)
    return [file.stat().st_size, crc]
