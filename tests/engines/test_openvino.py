"""OpenVINO: results near those of torch, models that are converted once, and torch where it cannot run a call."""

from pathlib import Path

import pytest
import torch
from torch import nn

import sfumato as sf
from sfumato import ConfigError, Graph
from sfumato.components.engines.openvino import OpenVINO
from sfumato.components.engines.openvino_files import read_ir
from sfumato.components.engines.optimized import Optimized

from .conftest import Changes, lora, pictures, used


def inputs(rows: int, side: int, tokens: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(rows * side)
    sample, prompt = (
        torch.randn(rows, 8, side, side, generator=generator),
        torch.randn(rows, tokens, 128, generator=generator),
    )
    return sample, torch.full((rows,), 500.0), prompt


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference, as a fraction of the largest number."""
    return float((a - b).abs().max() / a.abs().max())


def test_one_program_serves_all_shapes_and_another_one_residuals(unet: nn.Module) -> None:
    """Those of control nets have a program of their own, since the U-Net then reads further inputs."""
    fast = Optimized(unet, "unet", OpenVINO())
    model = fast.load()
    more = {
        "down_block_additional_residuals": [torch.randn(2, 16, 8, 8), torch.randn(2, 16, 8, 8)],
        "mid_block_additional_residual": torch.randn(2, 16, 8, 8),
    }
    with torch.no_grad():
        for rows, side, tokens in ((2, 8, 5), (3, 16, 9), (1, 12, 77)):
            call = inputs(rows, side, tokens)
            assert distance(unet(*call), model(*call)) <= OpenVINO().tolerance
        assert (fast.programs.report.made, fast.programs.report.ran) == (1, 3)
        call = inputs(2, 8, 5)
        assert distance(unet(*call, **more), model(*call, **more)) <= OpenVINO().tolerance
    assert str(fast.programs.report) == "2 made, 0 read, 4 calls"
    assert model is fast.load() and type(model).__name__ == "UNet2DConditionModel"


def test_twenty_changes_at_one_shape_convert_once_for_each_strength(
    pipe: Graph, unet: nn.Module, twenty_changes: Changes
) -> None:
    """Guiders, scales, schedulers, prompts, seeds and steps convert nothing. Adapters are merged before converting: two
    adapters with five strengths in all are five models beside the plain one, which is how this engine is made."""
    fast = pipe.optimize("openvino", components="unet")
    for change, expected in twenty_changes:
        assert (pictures(fast, **change) - expected).abs().max() <= 1e-3, change
    assert used(fast).made == 1 + 5
    assert not used(fast).fell_back
    varying = {"adapters": [lora(unet, 1).during(0, 0.5)]}
    assert torch.equal(pictures(fast, **varying), pictures(pipe, **varying))
    assert list(used(fast).fell_back) == ["the strengths of its adapters differ between steps or prompts"]


def test_converted_models_are_read_from_the_cache(unet: nn.Module, tmp_path: Path) -> None:
    call = inputs(2, 8, 5)
    first, second = (Optimized(unet, "unet", OpenVINO(cache=tmp_path)) for _ in range(2))
    with torch.no_grad():
        assert torch.equal(first.load()(*call), second.load()(*call))
    assert [str(one.programs.report) for one in (first, second)] == [
        "1 made, 0 read, 1 calls",
        "0 made, 1 read, 1 calls",
    ]
    (folder,) = tmp_path.iterdir()
    (folder / "model.xml").write_text("<net>")
    assert read_ir(folder) is None


def test_text_encoder_and_autoencoder_of_the_embedded_checkpoint() -> None:
    """Within 1e-3 of the range of pixels. The encoder of the autoencoder, which the call does not need, stays."""
    pipe = sf.load("emoji", manager=sf.ComponentsManager())  # else another test's calls are counted
    fast = pipe.optimize("openvino", ["text_encoder", "vae"])
    assert (pictures(fast) - pictures(pipe)).abs().max() <= 1e-3
    assert {name: str(one) for name, one in sf.engines.report(fast).items()} == {
        "text_encoder": "openvino: 1 made, 0 read, 2 calls", "vae": "openvino: 1 made, 0 read, 1 calls",
    }  # fmt: skip


def test_weights_in_8_bits(unet: nn.Module) -> None:
    engine = OpenVINO(weights="int8", shapes="fixed")
    call = inputs(2, 8, 5)
    with torch.no_grad():
        found = distance(unet(*call), Optimized(unet, "unet", engine).load()(*call))
    assert 1e-5 < found <= engine.tolerance


def test_what_cannot_run_is_refused_with_a_reason(pipe: Graph) -> None:
    with pytest.raises(ConfigError) as caught:
        pipe.optimize("openvino", components=["unet", "tokenizer"])
    assert str(caught.value) == (
        "optimize: openvino cannot run these components.\n"
        "  tokenizer is a CLIPTokenizer, which is no model of this library."
    )
    with pytest.raises(ConfigError, match=r"^openvino: weights needs one of f32, bf16, int8, int4\. Got 'int2'\.$"):
        pipe.optimize("openvino", weights="int2")
