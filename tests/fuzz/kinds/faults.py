"""Faults on purpose, one of each outcome: for the tests of the harness."""

from __future__ import annotations

import os
import time
from pathlib import Path


def fail(folder: Path, how: str) -> None:
    """End as the outcome `how` says."""
    if how == "refusal":
        raise ValueError("There is no such input; give another.")
    if how == "unclear":
        raise ValueError("'NoneType' object is not subscriptable")
    if how == "traceback":
        raise KeyError(how)
    if how == "hang":
        time.sleep(60)
    if how == "crash":
        os.abort()
    if how == "memory":
        bytearray(2**31 + 2**28)


TARGETS = {"fail": fail}
