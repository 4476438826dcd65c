"""Log of a run: settings, progress bar, TensorBoard, `log.jsonl`, pictures."""

import io
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from accelerate import Accelerator
from PIL import Image
from tqdm import tqdm

from osmnet.utils.files import why, write_whole

LOG_EVERY = 10  # steps; one point of a curve is the mean of so many
LOG_NAME = "log.jsonl"
SMOOTHING = 0.8  # decay of the losses beside the progress bar, which are noisy


def write_config(work: Path, about: dict[str, Any]) -> None:
    """Write `work/config.yaml`.

    Raises:
        ValueError: If the folder cannot be written.
    """
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in about["settings"].items()}
    text = yaml.safe_dump({**about, "settings": plain}, sort_keys=False)
    write_whole(work / "config.yaml", text.encode())


class RunLog:
    """Logger of mean losses; only the main process writes.

    Args:
        accelerator (`Accelerator`): Of the run.
        name (`str`): Name of the stage.
        work (`Path`): Folder of the run.
        start (`int`): Steps done; later lines of `log.jsonl` are dropped, their steps are repeated.
        stop (`int`): Steps of the run.
    """

    def __init__(self, accelerator: Accelerator, name: str, work: Path, start: int, stop: int):
        self.accelerator, self.work, self.main = accelerator, work, accelerator.is_main_process
        self._sums: dict[str, torch.Tensor] = {}
        self._counts: dict[str, int] = {}
        self._smooth: dict[str, float] = {}
        if self.main:
            _truncate(work / LOG_NAME, start)
            # In a resumed run, `purge_step` hides the points that are written again.
            accelerator.init_trackers("tensorboard", init_kwargs={"tensorboard": {"purge_step": start + 1}})
        self._bar = tqdm(
            total=stop, initial=min(start, stop), desc=name, unit="step", disable=not self.main, mininterval=1,
            file=sys.stderr, dynamic_ncols=True,
        )  # fmt: skip

    def take(self, losses: Mapping[str, torch.Tensor]) -> None:
        """Add the losses of a batch, without synchronising devices."""
        for name, loss in losses.items():
            self._sums[name] = self._sums[name] + loss.float() if name in self._sums else loss.float()
            self._counts[name] = self._counts.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        """Average the losses since the last call; call in every process."""
        if not self._sums:
            return {}
        means = torch.stack([total / self._counts[name] for name, total in self._sums.items()])
        values = self.accelerator.reduce(means, reduction="mean").tolist()
        means_by_name = dict(zip(self._sums, values, strict=True))
        self._sums, self._counts = {}, {}
        return means_by_name

    def step(self) -> None:
        """Advance the progress bar."""
        self._bar.update(1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write values to TensorBoard, `log.jsonl` and the progress bar."""
        if not self.main or not values:
            return
        line = json.dumps({"step": step, **{name: float(f"{value:.6g}") for name, value in values.items()}})
        with self._writing():
            self.accelerator.log(dict(values), step=step)
            with (self.work / LOG_NAME).open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        for name, value in values.items():
            if "/" not in name and name != "lr":
                self._smooth[name] = SMOOTHING * self._smooth.get(name, value) + (1 - SMOOTHING) * value
        self._bar.set_postfix_str(" ".join(f"{name} {value:.3g}" for name, value in self._smooth.items()), False)

    def pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Write pictures `(H, W, 3)`, uint8, to TensorBoard and `WORK/samples`."""
        folder = self.work / "samples"
        for name, picture in pictures.items():
            path = folder / f"{step:06d}-{name.replace('/', '-')}.png"
            with self._writing():
                folder.mkdir(exist_ok=True)
                file = io.BytesIO()
                Image.fromarray(picture).save(file, format="PNG")
                write_whole(path, file.getvalue())
                tracker = self.accelerator.get_tracker("tensorboard")
                tracker.log_images({name: picture[None]}, step=step, dataformats="NHWC")

    def remark(self, sentence: str) -> None:
        """Print a sentence above the progress bar."""
        if self.main:
            tqdm.write(f"osmnet: {sentence}", file=sys.stderr)

    def close(self) -> None:
        """Close the files."""
        # Not `accelerator.end_training()`: that ends the process group, too, which the next stage needs.
        self._bar.close()
        for tracker in self.accelerator.trackers:
            tracker.finish()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            raise ValueError(
                f"Cannot write to the folder {self.work} ({why(error.__cause__ or error)}); free some space (or "
                "repair the disk) and run the same command again to resume from the last checkpoint."
            ) from error


def _truncate(log: Path, step: int) -> None:
    """Drop lines after a step, and an unfinished one."""
    if not log.is_file():
        return
    kept = []
    for line in log.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    write_whole(log, "".join(kept).encode())
