"""Disk and memory of a page that runs for weeks. Import it before Gradio, which reads its cache folder at import."""

import atexit
import ctypes
import os
import sys
from contextlib import suppress

from osmnet.serving.workspace import Workspace, sweep

M_ARENA_MAX = -8  # parameter of mallopt, from malloc.h
ARENAS = 2
MAX_FILES = 65_536  # open at a time, connections among them; many systems start processes with 1,024
CACHE_PREFIX = "osmnet-cache-"

if "GRADIO_TEMP_DIR" not in os.environ:  # Gradio's folder of uploads and results; removed with the page
    sweep(CACHE_PREFIX)
    _cache = Workspace(CACHE_PREFIX)
    os.environ["GRADIO_TEMP_DIR"] = str(_cache.folder)
    atexit.register(_cache.remove)


def share_arenas() -> None:
    """Let threads share glibc's heaps: each thread has its own by default, and memory freed there is not reused.

    After 240 requests from 8 clients the page held 777 MB instead of 968 (benchmarks/soak.py).
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL("libc.so.6").mallopt(M_ARENA_MAX, ARENAS)


def allow_connections() -> None:
    """Let this process open as many files as the system allows it: visitors' connections are files, too."""
    with suppress(ImportError, ValueError, OSError):  # Windows
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
