"""Executors of the video generator: eager PyTorch, and fused loops for a CPU."""
