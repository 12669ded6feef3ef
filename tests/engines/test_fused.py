"""The engine "fused": kernels of Triton on CUDA, and weights in another order of memory everywhere."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from sfumato import Graph

from .conftest import pictures, used


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton has no wheel for this system")
def test_the_kernels_give_what_torch_gives() -> None:
    """In a process of its own: when it is imported, Triton decides whether it interprets kernels."""
    file = Path(__file__).with_name("interpreted_kernels.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)]
    done = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "7 passed" in done.stdout


def test_what_is_fused_without_cuda_are_weights_alone(pipe: Graph) -> None:
    fast = pipe.optimize("fused", "unet")
    assert (pictures(fast) - pictures(pipe)).abs().max() <= 1e-3
    assert list(used(fast).fell_back) == ["GroupNorm with SiLU needs a CUDA device"]
    last = fast.bindings["unet"].load().get_submodule("mid_block.resnets.0.conv1").weight
    assert last.is_contiguous(memory_format=torch.channels_last) and not last.is_contiguous()
