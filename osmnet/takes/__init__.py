"""Takes: what a pipeline returns, and how it is written to files."""
