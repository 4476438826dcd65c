"""A stand-in for the package of this name that a Space with lent GPUs has.

As there, it must be imported before anything asks for a GPU, and PyTorch says from then on that there is one. What is
decorated runs in a forked process, so what goes there and what comes back is pickled.
"""

import multiprocessing
import os
import sys
from pathlib import Path

import gradio
import torch

launch = gradio.Blocks.launch  # Gradio imports this package, too; as there, nothing comes of it before Gradio is ready
if "diffusers" in sys.modules:  # it asks
    raise RuntimeError("CUDA has been initialized before importing the `spaces` package.")
torch.cuda.is_available = lambda: True

lent = False  # whether this process has the GPU
forking = multiprocessing.get_context("fork")


def GPU(duration):  # noqa: N802 (its name there)
    """Decorate a generator function."""

    def decorate(task):
        def run(*args):
            with Path(os.environ["LENT_FOR"]).open("a") as log:
                log.write(f"{duration(*args)}\n")
            given, made = forking.SimpleQueue(), forking.SimpleQueue()
            process = forking.Process(target=_work, args=(task, given, made), daemon=True)
            process.start()
            try:
                given.put(args)
                while (result := made.get()) is not None:
                    if isinstance(result, BaseException):
                        raise result
                    yield result
            finally:
                process.kill()
                process.join()

        return run

    return decorate


def _work(task, given, made):
    global lent
    lent = True
    try:
        for result in task(*given.get()):
            made.put(result)
        made.put(None)
    except BaseException as error:
        made.put(error)
