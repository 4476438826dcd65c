"""Takes: pipeline output and its files."""
