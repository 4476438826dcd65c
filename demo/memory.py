"""Disk and memory of a page that runs for weeks. Imported before Gradio, which notes at import where its cache is."""

import atexit
import contextlib
import ctypes
import os
import shutil
import sys
import tempfile

M_ARENA_MAX = -8  # of malloc.h
ARENAS = 2

if "GRADIO_TEMP_DIR" not in os.environ:  # uploads and results lie here, and go with the page
    CACHE = tempfile.mkdtemp(prefix="osmnet-cache-")
    os.environ["GRADIO_TEMP_DIR"] = CACHE
    atexit.register(shutil.rmtree, CACHE, ignore_errors=True)


def share_arenas() -> None:
    """Let threads share their heaps: glibc gives each its own, and none gives back what another could use.

    After 240 requests from 8 clients the page held 777 MB instead of 968 (benchmarks/soak.py).
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL("libc.so.6").mallopt(M_ARENA_MAX, ARENAS)
