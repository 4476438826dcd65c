"""Several processes of one run: what the main one does for all, and when all of them stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

Result = TypeVar("Result")


class Stopped(KeyboardInterrupt):
    """The run was told to stop, and has saved a checkpoint.

    Attributes:
        status (`int`): The exit status that a shell expects: 143 for SIGTERM, 130 for Ctrl-C.
    """

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.status = 128 + signal_number


class MainProcessError(ValueError):
    """What went wrong in the main process, raised in the others: it is said once already."""


def on_main(accelerator: Accelerator, act: Callable[[], Result]) -> Result:
    """Do something in the main process while the others wait; what it returns or raises, all processes do."""
    if accelerator.num_processes == 1:
        return act()
    outcome: list[Any] = [None, None]
    error: Exception | None = None
    if accelerator.is_main_process:
        try:
            outcome[0] = act()
        except Exception as caught:
            error, outcome[1] = caught, str(caught)
    broadcast_object_list(outcome)
    if error is not None:
        raise error
    if outcome[1] is not None:
        raise MainProcessError(outcome[1])
    return outcome[0]


class StopSignals:
    """Notes SIGTERM and Ctrl-C, so that a step is finished and saved before the run stops.

    Args:
        accelerator (`Accelerator`): Knows the other processes.
    """

    def __init__(self, accelerator: Accelerator):
        self.accelerator, self.received = accelerator, 0

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note signals from here on; a second Ctrl-C stops at once. Only a main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(number: int, _: object) -> None:
            if self.received and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.received = number

        before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def any_received(self) -> int:
        """Return the signal that any process has received, or 0: all must stop after the same step."""
        if self.accelerator.num_processes == 1:
            return self.received
        received = torch.tensor([self.received], device=self.accelerator.device)
        return int(self.accelerator.gather(received).max())
