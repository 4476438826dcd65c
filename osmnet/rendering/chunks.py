"""How frames are divided into chunks that are rendered independently of one another."""

# Frames and bytes rendered at a time at most.
CHUNK, DEVICE_CHUNK = (16, 2**23), (64, 2**25)
FIRST_CHUNK = 4  # frames at the beginning, for whoever waits for the first of them
Chunk = tuple[int, int]  # first frame, and the one behind the last


def chunk_length(frame_size: tuple[int, int], device: str = "cpu") -> int:
    """Frames that are rendered at a time: fewer of large ones, since several chunks of several takes are in memory.

    Args:
        frame_size (`tuple[int, int]`): Height and width.
        device (`str`): Type of the device that renders; a GPU takes more at a time.
    """
    longest, most_bytes = CHUNK if device == "cpu" else DEVICE_CHUNK
    return min(longest, max(most_bytes // (3 * frame_size[0] * frame_size[1]), 1))


def chunk_bounds(frames: int, length: int, begin: int = 0) -> list[Chunk]:
    """Divide frames `begin … frames − 1` into chunks; wherever one begins, those behind are the same.

    Args:
        frames (`int`): Of the whole.
        length (`int`): Of a chunk; the first is shorter, for whoever waits for it.
        begin (`int`): First frame.

    Returns:
        `list[tuple[int, int]]`: First frame of each chunk and the one behind its last.
    """
    edges = sorted({min(FIRST_CHUNK, length), *range(0, frames, length), frames})
    edges = [begin, *(edge for edge in edges if begin < edge <= frames)]
    return list(zip(edges, edges[1:], strict=False))
