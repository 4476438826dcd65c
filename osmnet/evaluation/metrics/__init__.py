"""Metrics, one family a module: pure functions on frames, landmarks and sound."""
