"""A fixed kernel to measure speed against; a busy or slow machine slows both, so ratios compare."""

import statistics
import time

import numpy as np

SIZE, ROUNDS = 256, 24


class Kernel:
    """Products of 256 × 256 float32 matrices on one thread, 0.8 GFLOP: some 10 ms of one core of a server."""

    def __init__(self) -> None:
        import torch

        self._torch = torch
        self._matrix = torch.from_numpy(np.random.default_rng(0).standard_normal((SIZE, SIZE)).astype(np.float32))
        self.seconds()  # the first product allocates what the others use

    def seconds(self) -> float:
        """Return the median of five runs."""
        torch = self._torch
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            took = []
            for _ in range(5):
                start = time.perf_counter()
                for _ in range(ROUNDS):
                    torch.mm(self._matrix, self._matrix)
                took.append(time.perf_counter() - start)
        finally:
            torch.set_num_threads(threads)
        return statistics.median(took)
