"""The kernels of the engine "fused" give what torch gives. test_fused.py runs this file with `TRITON_INTERPRET=1`."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato import Graph
from sfumato.components.engines import fused
from sfumato.components.engines.group_norm import group_norm_silu

from .conftest import lora, pictures


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels last"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_the_kernels_give_what_torch_gives(dtype: torch.dtype, tolerance: float, last: bool) -> None:
    """The expected numbers are computed in float64. The tolerance of a half dtype is the rounding of the result. Groups
    of 4,800 numbers are read in two parts; a mean far from 0 would cancel in a sum of squares, as in torch's own kernel
    for channels last on a CPU, which is 1e-4 away."""
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(1, 12, 40, 40, generator=generator) * 3 + 50).to(dtype)
    weight, bias = (torch.randn(12, generator=generator).to(dtype) for _ in range(2))
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    found = group_norm_silu(x, 4, weight, bias, 1e-5)
    expected = F.silu(F.group_norm(x.double().contiguous(), 4, weight.double(), bias.double(), 1e-5))
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=torch.channels_last) == last
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


def test_residual_blocks_run_the_kernels_and_layers_with_adapters_run_as_before(
    pipe: Graph, unet: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the five residual blocks has two norms with SiLU. Here the CPU is taken for CUDA."""
    launched: list[int] = []

    def counted(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        launched.append(groups)
        return group_norm_silu(x, groups, weight, bias, eps)

    def always(*_: object) -> bool:
        return True

    monkeypatch.setattr(fused.Fused, "_has_kernel", always)
    monkeypatch.setattr(fused, "kernel_fits", always)
    monkeypatch.setattr(fused, "group_norm_silu", counted)
    fast = pipe.optimize("fused", "unet")
    call = {"num_inference_steps": 1, "adapters": [lora(unet, 1)]}
    assert (pictures(fast, **call) - pictures(pipe, **call)).abs().max() <= 1e-3
    assert launched == [8] * 10
