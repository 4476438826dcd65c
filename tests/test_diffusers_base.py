"""diffusers' base classes come without PyTorch's compiler, and leave it usable."""

import subprocess
import sys

CODE = """
import sys
from osmnet.pipeline import OSMNetPipeline
from osmnet.models.motion import MotionSpace

space = MotionSpace(num_bases=2, motion_dim=4).double()
assert (str(space.device), str(space.dtype)) == ("cpu", "torch.float64")
assert "torch._dynamo" not in sys.modules, "the compiler was loaded"
import torch._dynamo
assert torch._dynamo.is_compiling() is False
"""


def test_the_compiler_is_loaded_by_who_needs_it(subprocess_environment):
    run = subprocess.run([sys.executable, "-c", CODE], env=subprocess_environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
