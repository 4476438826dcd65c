"""Two processes on one CPU, as docs/training.md starts them."""

import socket
import subprocess
import sys

import psutil


def two_processes(environment: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """A command that a script (or `-m MODULE`) follows, and the environment for it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    return [*launch, "--main_process_port", str(port)], {**environment, "ACCELERATE_USE_CPU": "true"}


def kill_all(launcher: subprocess.Popen) -> None:
    """Kill a launcher and its processes, as `kill -9` does."""
    processes = [psutil.Process(launcher.pid), *psutil.Process(launcher.pid).children(recursive=True)]
    for process in processes:
        process.kill()
    launcher.wait()
    psutil.wait_procs(processes, timeout=60)
