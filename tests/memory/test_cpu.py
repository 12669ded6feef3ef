"""What the library does with the CPU of its user: a note about slow dtypes, and no change of threads."""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch

import sfumato as sf
from sfumato.components.memory import devices

CALL: dict[str, Any] = {"prompt": "a fox", "seed": 7, "num_inference_steps": 1, "output_type": "pt"}
OLD = {"architecture": "x86_64", "avx2": True, "avx512_bf16": False}


@pytest.fixture(autouse=True)
def nothing_noted() -> Iterator[None]:
    devices.note_slow_dtype.cache_clear()
    yield
    devices.note_slow_dtype.cache_clear()


# ---------------------------------------------------------------------------------------------------- narrow dtypes
@pytest.mark.parametrize(
    ("capabilities", "dtype", "slow"),
    [
        (OLD, "bfloat16", True),
        (OLD, "float16", True),
        (OLD, "float32", False),
        ({**OLD, "avx512_bf16": True}, "bfloat16", False),
        ({**OLD, "avx512_bf16": True}, "float16", True),
        ({**OLD, "amx_fp16": True}, "float16", False),
        ({"architecture": "aarch64", "neon": True, "bf16": True}, "bfloat16", False),
        ({"architecture": "unknown"}, "bfloat16", False),
    ],
)
def test_a_dtype_is_slow_without_its_instructions(
    capabilities: Mapping[str, Any], dtype: str, slow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert devices.is_slow_on_cpu(dtype) is slow


def test_a_narrow_model_is_noted_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: OLD)
    with caplog.at_level(logging.WARNING, logger="sfumato"):
        for _ in range(2):
            sf.load("emoji", dtype={"vae": "bfloat16"}, manager=sf.ComponentsManager())(**CALL)
    assert caplog.messages == [
        "This CPU has no instructions for bfloat16, so models take 8 to 50 times as long as in float32. "
        "Pass dtype='float32'."
    ]


# ------------------------------------------------------------------------------------------------------------ threads
def test_no_way_to_run_changes_the_threads_of_torch() -> None:
    """Threads are the user's: for all work of the process, not only ours."""
    before = torch.get_num_threads(), torch.get_num_interop_threads(), torch.is_grad_enabled()
    torch.set_num_threads(3)
    try:
        pipe = sf.load("emoji", manager=sf.ComponentsManager())
        pipe.optimize("openvino", components="text_encoder")(**CALL)
        pipe.optimize("compile", backend="eager")(**CALL)
        pipe.cached("first_block", threshold=0.1).start(**CALL).result()
        sf.together([pipe.stream(**CALL), pipe.stream(**{**CALL, "seed": 8})])
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before[0])
    assert (torch.get_num_threads(), torch.get_num_interop_threads(), torch.is_grad_enabled()) == before
