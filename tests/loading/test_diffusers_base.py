"""diffusers' base classes come without PyTorch's compiler, and leave it usable."""

import subprocess
import sys

import pytest

CODE = """
import sys
from osmnet.pipelines.osm_net.pipeline_osm_net import OSMNetPipeline
from osmnet.models.osm_net.motion_space import MotionSpace

space = MotionSpace(num_bases=2, motion_dim=4).double()
assert (str(space.device), str(space.dtype)) == ("cpu", "torch.float64")
assert "torch._dynamo" not in sys.modules, "the compiler was loaded"
import torch._dynamo
assert torch._dynamo.is_compiling() is False
"""

NEEDED = """
import importlib.abc
import sys

class NeedsTheCompiler(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "diffusers.models.modeling_utils":  # as where every call of PyTorch is looked at
            import torch._dynamo

sys.meta_path.insert(0, NeedsTheCompiler())
from osmnet.models.osm_net.motion_space import MotionSpace

assert MotionSpace(num_bases=2, motion_dim=4).config.num_bases == 2
assert "torch._dynamo" in sys.modules
"""


@pytest.mark.parametrize("code", [CODE, NEEDED])
def test_the_compiler_is_loaded_by_who_needs_it(subprocess_environment, code):
    run = subprocess.run([sys.executable, "-c", code], env=subprocess_environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
