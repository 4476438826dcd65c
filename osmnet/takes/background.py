"""Video encoding in a background thread."""

from __future__ import annotations

import queue
import threading
from types import TracebackType

import numpy as np

from osmnet.media.video_writer import VideoWriter
from osmnet.utils.profiling import span

AHEAD = 2  # pieces that may wait for the encoder


class BackgroundWriter:
    """Hands frames to a `VideoWriter` in another thread; a context manager.

    `write` blocks while two pieces wait, so that frames do not pile up in memory.

    Args:
        writer (`VideoWriter`): Writer that is not entered yet.

    Raises:
        Exception: The writer's exception, at the next `write` or the end of the block.
    """

    def __init__(self, writer: VideoWriter) -> None:
        self.writer = writer
        # Ctrl-C may come at any point, and a `queue.Queue` is then left locked.
        self._pieces: queue.SimpleQueue[np.ndarray | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(AHEAD)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name=f"osmnet write {writer.path.name}", daemon=True)

    def __enter__(self) -> BackgroundWriter:
        """Open the file and start the thread."""
        self.writer.__enter__()
        try:
            self._thread.start()
        except BaseException as error:
            self.writer.__exit__(type(error), error, None)
            raise
        return self

    def write(self, frames: np.ndarray) -> None:
        """Append frames `(n, H, W, 3)`, uint8; do not change them afterwards."""
        if self._error is not None:
            raise self._error
        self._room.acquire()
        self._pieces.put(frames)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the file, or drop it if the block failed."""
        self._error = self._error or error
        try:
            self._pieces.put(None)
            self._thread.join()
        except BaseException as stop:  # drop pending frames to end soon
            self._error = self._error or stop
            self._pieces.put(None)
            self._thread.join()
        if self._error is None:
            self.writer.__exit__(None, None, None)
            return
        self.writer.__exit__(type(self._error), self._error, None)
        if self._error is not error:
            raise self._error

    def _work(self) -> None:
        # Drain the queue even after an error: `write` must never wait for a dead thread.
        while (frames := self._pieces.get()) is not None:
            if self._error is None:
                try:
                    with span("encode"):
                        self.writer.write(frames)
                except BaseException as error:  # raised in the calling thread
                    self._error = error
            self._room.release()
