"""The parts of the renderer in batched tensor operations, for a GPU."""
