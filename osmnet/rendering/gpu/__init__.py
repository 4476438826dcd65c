"""Parts of the GPU renderer in batched tensor operations."""
