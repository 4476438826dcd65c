"""Opens the page as on a Space with lent GPUs, with one example; a pipeline on a GPU refuses to run without one."""

import app  # isort: skip  # it imports `spaces`, and must do so in time

import spaces

from osmnet import OSMNetPipeline


class OnGPU:
    """A pipeline that works in a process with a GPU only."""

    def __init__(self, pipe):
        self.pipe = pipe

    def __getattr__(self, name):
        if not spaces.lent:
            raise RuntimeError(f"'{name}' of a pipeline on a GPU that is not lent.")
        return getattr(self.pipe, name)


def load(model, device=None):
    """`OSMNetPipeline.from_pretrained`, with a GPU."""
    pipe = from_pretrained(model)
    return OnGPU(pipe) if device == "cuda" else pipe


examples = app.examples()
app.examples = lambda: examples[:1]
from_pretrained, OSMNetPipeline.from_pretrained = OSMNetPipeline.from_pretrained, load
app.main()
