"""Which commit of osmnet runs, where it runs from a checkout."""

import subprocess
from functools import cache
from pathlib import Path


@cache
def commit() -> str:
    """Return the commit of the checkout, with `+changes` if files differ from it; `""` for an installed package."""
    checkout = Path(__file__).resolve().parents[1]
    if not (checkout / ".git").exists():
        return ""
    try:
        git = lambda *arguments: subprocess.run(  # noqa: E731
            ["git", "-C", str(checkout), *arguments], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):  # no git, or not ours to read
        return ""
