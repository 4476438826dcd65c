"""Batched tensor operations of the GPU renderer."""
