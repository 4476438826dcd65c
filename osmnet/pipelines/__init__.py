"""Pipelines: portrait and speech to takes."""
