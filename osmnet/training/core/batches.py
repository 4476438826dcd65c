"""Batches of a run, in the same order with any `workers`."""

import signal
from collections.abc import Iterator

import cv2
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from osmnet.training.core.stage import Stage

Batch = dict[str, torch.Tensor]


class _Batches(IterableDataset):
    """Each of n loader processes makes every n-th batch."""

    def __init__(self, stage: Stage, start: int, stop: int, micros: int, rank: int, world: int):
        self.stage, self.rank, self.world, self.micros = stage, rank, world, micros
        self.indices = range(start * micros, stop * micros)

    def __iter__(self) -> Iterator[Batch | Exception]:
        worker = get_worker_info()
        for index in self.indices if worker is None else self.indices[worker.id :: worker.num_workers]:
            step, micro = divmod(index, self.micros)
            try:
                yield self.stage.batch(step, self.rank, self.world, micro)
            except (ValueError, OSError) as error:
                yield error  # raised by the reader: the loader would wrap its message into a traceback
                return


def batches(
    stage: Stage, start: int, stop: int, micros: int = 1, rank: int = 0, world: int = 1, workers: int = 0,
    pin_memory: bool = False,
) -> Iterator[Batch]:  # fmt: skip
    """Make the batches of a run.

    Args:
        stage (`Stage`): Provides `batch`.
        start (`int`): First step.
        stop (`int`): Step after the last one.
        micros (`int`): Batches per step.
        rank (`int`): Index of this process.
        world (`int`): Number of training processes.
        workers (`int`): Loader processes.
        pin_memory (`bool`): Whether to use page-locked memory, for a CUDA GPU.

    Yields:
        `dict[str, torch.Tensor]`: `micros` batches for each step.

    Raises:
        ValueError: As raised by the stage (or `OSError`).
    """
    loader = DataLoader(
        _Batches(stage, start, stop, micros, rank, world),
        batch_size=None,
        num_workers=workers,
        worker_init_fn=_begin_worker,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # its own: the loader draws a seed, which must not come from the run's generator
    )
    for batch in loader:
        if isinstance(batch, Exception):
            raise batch
        yield batch


def _begin_worker(_: int) -> None:
    # On SIGTERM the training process saves a checkpoint; a loader just ends. Ctrl-C reaches all of them.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(0)  # OpenCV's threads do not survive a fork, and each loader has one core anyway
