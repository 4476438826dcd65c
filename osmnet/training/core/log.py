"""What a run leaves to look at: progress bar, TensorBoard, `log.jsonl`, pictures."""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from tqdm import tqdm

LOG_EVERY = 10  # steps of which the losses are averaged to one point of a curve
LOG_NAME = "log.jsonl"
SMOOTHING = 0.8  # of the losses beside the progress bar, which jump about


class RunLog:
    """Collects the losses of every step and writes them down every so often; only the main process writes.

    Args:
        accelerator (`Accelerator`): Knows the other processes.
        name (`str`): Of the stage.
        work (`Path`): Folder of the run.
        start (`int`): Steps done before; later lines of `log.jsonl` belong to steps that are done again.
        stop (`int`): Steps of the run.
    """

    def __init__(self, accelerator: Accelerator, name: str, work: Path, start: int, stop: int):
        self.accelerator, self.work, self.main = accelerator, work, accelerator.is_main_process
        self._sums: dict[str, torch.Tensor] = {}
        self._counts: dict[str, int] = {}
        self._smooth: dict[str, float] = {}
        if self.main:
            _forget_after(work / LOG_NAME, start)
            # Curves under the losses' own names; of a run that went on, the points that are made again are hidden.
            accelerator.init_trackers("tensorboard", init_kwargs={"tensorboard": {"purge_step": start + 1}})
        self._bar = tqdm(
            total=stop, initial=min(start, stop), desc=name, unit="step", disable=not self.main, mininterval=1,
            file=sys.stderr, dynamic_ncols=True,
        )  # fmt: skip

    def take(self, losses: Mapping[str, torch.Tensor]) -> None:
        """Note the losses of a batch; they stay on their device, which need not wait."""
        for name, loss in losses.items():
            self._sums[name] = self._sums[name] + loss.float() if name in self._sums else loss.float()
            self._counts[name] = self._counts.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        """Average the losses since the last call over batches and processes; every process must call it."""
        if not self._sums:
            return {}
        means = torch.stack([total / self._counts[name] for name, total in self._sums.items()])
        values = self.accelerator.reduce(means, reduction="mean").tolist()
        means_by_name = dict(zip(self._sums, values, strict=True))
        self._sums, self._counts = {}, {}
        return means_by_name

    def step(self) -> None:
        """Move the progress bar by a step."""
        self._bar.update(1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write figures of a step to TensorBoard and `log.jsonl`, and losses beside the progress bar."""
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
        """Write pictures `(H, W, 3)`, uint8, to TensorBoard and, as PNG, to `WORK/samples`."""
        folder = self.work / "samples"
        for name, picture in pictures.items():
            path = folder / f"{step:06d}-{name.replace('/', '-')}.png"
            part = path.with_suffix(".part")
            with self._writing():
                folder.mkdir(exist_ok=True)
                Image.fromarray(picture).save(part, format="PNG")
                part.replace(path)
                tracker = self.accelerator.get_tracker("tensorboard")
                tracker.log_images({name: picture[None]}, step=step, dataformats="NHWC")

    def say(self, sentence: str) -> None:
        """Print a sentence above the progress bar, on stderr."""
        if self.main:
            tqdm.write(f"osmnet: {sentence}", file=sys.stderr)

    def close(self) -> None:
        """Finish the files."""
        # Not `accelerator.end_training()`: that ends the process group, too, which the next stage needs.
        self._bar.close()
        for tracker in self.accelerator.trackers:
            tracker.finish()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ValueError(
                f"Cannot write to the folder {self.work} ({error}); free some space (or mend the disk) and run the "
                "same command again to go on from the last checkpoint."
            ) from error


def _forget_after(log: Path, step: int) -> None:
    """Drop the lines of a log that come after a step, and one that a killed run left unfinished."""
    if not log.is_file():
        return
    kept = []
    for line in log.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    part = log.with_suffix(".part")
    part.write_text("".join(kept), encoding="utf-8")
    part.replace(log)
