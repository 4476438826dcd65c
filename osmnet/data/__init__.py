"""Prepare raw videos into datasets, and read them."""
