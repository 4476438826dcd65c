"""Chunks of frames, rendered independently on several threads."""

import operator
from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np

from osmnet.utils.checks import short
from osmnet.utils.threads import in_order

# Chunks of several takes are in memory at a time, so large frames make short chunks.
CPU_CHUNK, GPU_CHUNK = (16, 2**23), (64, 2**25)  # frames, bytes of frames; the smaller of the two limits a chunk
FIRST_CHUNK = 4  # frames; short, because somebody waits for the first of them
Chunk = tuple[int, int]  # first frame, and the one after the last


def chunk_length(frame_size: tuple[int, int], device: str = "cpu") -> int:
    """Return the frames of a chunk, for their height and width."""
    longest, most_bytes = CPU_CHUNK if device == "cpu" else GPU_CHUNK
    return min(longest, max(most_bytes // (3 * frame_size[0] * frame_size[1]), 1))


def chunk_bounds(frames: int, length: int, begin: int = 0) -> list[Chunk]:
    """Divide frames `begin … frames − 1` into chunks; edges do not depend on `begin`.

    Returns:
        `list[tuple[int, int]]`: First frame of each chunk and the one after its last.
    """
    edges = sorted({min(FIRST_CHUNK, length), *range(0, frames, length), frames})
    edges = [begin, *(edge for edge in edges if begin < edge <= frames)]
    return list(zip(edges, edges[1:], strict=False))


def check_chunks(chunks: Any) -> list[Chunk]:
    """Check that given chunks are pairs of whole numbers; none if `None`."""
    try:
        return [] if chunks is None else [(operator.index(start), operator.index(stop)) for start, stop in chunks]
    except (TypeError, ValueError) as error:
        raise ValueError(f"chunks must be pairs of a start and a stop frame, not {short(chunks)}.") from error


def render_chunks(
    render: Callable[[int, int, int], np.ndarray], num_videos: int, chunks: Sequence[Chunk], workers: int
) -> Generator[np.ndarray]:
    """Render chunks of all takes on several threads.

    Args:
        render (`Callable`): Maps take, start and stop to frames `(n, height, width, 3)`.
        num_videos (`int`): Number of takes.
        chunks (sequence of `(int, int)`): See `chunk_bounds`.
        workers (`int`): Number of threads.

    Yields:
        `np.ndarray` of shape `(num_videos, n, height, width, 3)`: One chunk of all takes.
    """
    jobs = ((take, *chunk) for chunk in chunks for take in range(num_videos))
    # Whole rounds of takes may lie ready, so that no worker waits while a round is put together.
    rendered = in_order(lambda job: render(*job), jobs, workers, ahead=max(workers, num_videos))
    try:
        for first in rendered:
            yield np.stack([first, *(next(rendered) for _ in range(num_videos - 1))])
    finally:
        rendered.close()
