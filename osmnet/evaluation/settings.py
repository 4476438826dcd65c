"""Settings of an evaluation, without heavy imports."""

MAX_TAKES = 20
MINUTES = 5.0  # of speech, for drift
QUICK_SECONDS, QUICK_TAKES, QUICK_MINUTES, QUICK_CLIPS = 4.0, 2, 1.0, 8


def check_counts(workers: int, takes: int, clips: int | None) -> None:
    """Raise `ValueError` if an argument of `evaluate` is out of range."""
    if workers < 1 or not 2 <= takes <= MAX_TAKES or (clips is not None and clips < 1):
        raise ValueError(f"workers and clips must be at least 1 and takes 2 to {MAX_TAKES}.")
