"""Executors of the video generator."""
