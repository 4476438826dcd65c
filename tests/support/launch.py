"""Two processes on one CPU, as docs/training.md starts them."""

import contextlib
import random
import socket
import subprocess
import sys

import psutil


def two_processes(environment: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """A command that a script (or `-m MODULE`) follows, and the environment for it."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    return [*launch, "--main_process_port", str(_free_port())], {**environment, "ACCELERATE_USE_CPU": "true"}


def _free_port() -> int:
    """A port that no outgoing connection takes before the launcher does."""
    for port in random.SystemRandom().sample(range(20_000, 32_000), 100):
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port
    raise OSError("All ports that were tried are in use.")


def kill_all(launcher: subprocess.Popen) -> None:
    """Kill a launcher and its processes, as `kill -9` does."""
    processes = [psutil.Process(launcher.pid), *psutil.Process(launcher.pid).children(recursive=True)]
    for process in processes:
        process.kill()
    launcher.wait()
    psutil.wait_procs(processes, timeout=60)
