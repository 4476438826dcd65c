"""What may be asked for: the limits that the command line and the pipeline share (no heavy imports here)."""

MAX_VIDEOS, MAX_EPSILON = 100, 100.0
MIN_SIZE, MAX_SIZE = 64, 2048  # pixels, side of the square around the head
MAX_SCALE = 10  # factor of movement or expression
MAX_OFFSET_DEG = 60.0  # of a turn that is added, and of a portrait's own
