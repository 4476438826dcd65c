"""Work, errors and signals shared by processes."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list, gather_object, parse_flag_from_env

Result = TypeVar("Result")
PATIENCE = timedelta(hours=3)  # for the other processes while the main one validates


class Stopped(KeyboardInterrupt):
    """A run stopped by a signal, after saving a checkpoint.

    Attributes:
        status (`int`): Exit status: 143 for SIGTERM, 130 for Ctrl-C.
    """

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.status = 128 + signal_number


class SharedError(ValueError):
    """An error that the main process has raised and reported."""


def join_processes() -> PartialState:
    """Join the launcher's other processes, if any.

    Raises:
        ValueError: If the launcher started several processes and Accelerate has no device for them.
    """
    processes = PartialState(parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=PATIENCE)
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched > 1 and processes.num_processes == 1:
        raise ValueError(
            f"{launched} processes were launched, and there is no GPU for them. To train on CPUs, put "
            "ACCELERATE_USE_CPU=true before the command."
        )
    return processes


def on_main(processes: Accelerator | PartialState, act: Callable[[], Result]) -> Result:
    """Call `act` in the main process and share its outcome."""
    if processes.num_processes == 1:
        return act()
    outcome: list[Any] = [None, None]
    error: Exception | None = None
    if processes.is_main_process:
        try:
            outcome[0] = act()
        except Exception as caught:
            error, outcome[1] = caught, str(caught)
    broadcast_object_list(outcome)
    if error is not None:
        raise error
    if outcome[1] is not None:
        raise SharedError(outcome[1])
    return outcome[0]


def on_all(processes: Accelerator | PartialState, act: Callable[[], object]) -> None:
    """Call `act` in every process; share errors.

    Raises:
        OSError: In the main process, with the message of another one.
        SharedError: In the others.
    """
    error: Exception | None = None
    try:
        act()
    except Exception as caught:
        error = caught
    messages = gather_object([str(error) if error is not None else None])
    first = next((message for message in messages if message is not None), None)
    if first is None:
        return
    if not processes.is_main_process:
        raise SharedError(first)
    raise error or OSError(first)


class StopSignals:
    """Recorder of SIGTERM and Ctrl-C, for a stop between steps.

    Args:
        accelerator (`Accelerator`): Of the run.
    """

    def __init__(self, accelerator: Accelerator):
        self.accelerator, self.received = accelerator, 0

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Record signals in the main thread; a second Ctrl-C stops immediately."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def record(number: int, _: object) -> None:
            if self.received and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.received = number

        before = {number: signal.signal(number, record) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def any_received(self) -> int:
        """Return the signal received by any process, or 0."""
        if self.accelerator.num_processes == 1:
            return self.received
        received = torch.tensor([self.received], device=self.accelerator.device)
        return int(self.accelerator.gather(received).max())
