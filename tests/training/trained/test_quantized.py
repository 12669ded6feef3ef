"""Adapters are trained on quantized bases: the loss falls, and the base keeps its bytes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sfumato as sf
from sfumato import ConfigError, Graph
from sfumato.components.models.unet_2d_condition import UNet2DConditionModel
from sfumato.components.quantization.config import read_quantization
from sfumato.components.training.adapters import train_adapter
from sfumato.components.training.whole import train_whole

from ...quantization.conftest import EMOJI, PACKAGES
from ...quantization.conftest import package as package
from ...quantization.test_gguf_models import pack_with, write_folder
from .support import digest, optimized, view_of

NAMES = ["nf4", "llm_int8", "quanto_int8", "int8_weight_only", "gguf"]


@pytest.fixture
def base(request: pytest.FixtureRequest, package: Any, tmp_path: Path) -> UNet2DConditionModel:
    """The embedded U-Net, quantized."""
    name = request.param
    if name != "gguf":
        config = read_quantization(name)
        assert config is not None
        package(PACKAGES[config.quant_method])
        return UNet2DConditionModel.from_pretrained(EMOJI / "unet", quantization=name)
    gguf = pytest.importorskip("gguf", reason="pip install gguf")
    write_folder(UNet2DConditionModel.from_pretrained(EMOJI / "unet"), tmp_path / "q8", pack_with(gguf, "Q8_0"))
    return UNet2DConditionModel.from_pretrained(tmp_path / "q8")


def loss(model: Any, _: int = 0) -> Tensor:
    """The loss of one batch."""
    made = torch.Generator().manual_seed(1)
    latents, target = (torch.randn(1, 8, 8, 8, generator=made) for _ in range(2))
    prompt = torch.randn(1, 9, 128, generator=made)
    return nn.functional.mse_loss(model(latents, torch.tensor([500]), prompt), target)


@pytest.mark.parametrize("base", NAMES, indirect=True)
def test_the_loss_falls_and_the_base_keeps_its_bytes(emoji: Graph, base: UNet2DConditionModel, tmp_path: Path) -> None:
    before = digest(base)
    pipe = emoji.bind(unet=base)
    trained = train_adapter(pipe, rank=4, targets=["attn1.to_q", "attn1.to_v", "attn2.to_k"])
    losses = optimized(view_of(trained), dict(trained.named_parameters()), 2, loss=loss).losses
    assert losses[-1] < losses[0] * 0.99
    loaded = sf.load_adapter(trained.save(tmp_path / "file.safetensors"))
    with torch.no_grad():
        made, saved = (
            graph.adapted_bindings["unet"].load()(torch.ones(1, 8, 8, 8), 3, torch.ones(1, 4, 128))
            for graph in (trained.attached(pipe), pipe.with_adapters(loaded))
        )
    assert torch.equal(made, saved)
    assert digest(base) == before


@pytest.mark.parametrize("base", ["gguf"], indirect=True)
def test_no_decoded_weight_is_kept_for_the_backward_pass(base: UNet2DConditionModel) -> None:
    layer: Any = base.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn1.to_q")
    sizes: list[tuple[int, ...]] = []
    x = torch.randn(2, layer.in_features, requires_grad=True)

    def keep(tensor: Tensor) -> Tensor:
        sizes.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        found = layer(x)
    found.sum().backward()
    assert tuple(layer.shape) not in sizes
    assert x.grad is not None
    assert torch.allclose(x.grad, layer.weight.sum(0).expand(2, -1), atol=1e-5)


@pytest.mark.parametrize("base", ["nf4", "gguf"], indirect=True)
def test_dora_reads_the_decoded_weights(emoji: Graph, base: UNet2DConditionModel) -> None:
    trained = train_adapter(emoji.bind(unet=base), kind="dora", targets=["attn1.to_q"])
    with torch.no_grad():
        fresh = view_of(trained)
        assert torch.allclose(loss(fresh), loss(base), atol=1e-5)
    losses = optimized(fresh, dict(trained.named_parameters()), 2, loss=loss).losses
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("base", ["nf4"], indirect=True)
def test_whole_weights_need_plain_numbers(emoji: Graph, base: UNet2DConditionModel) -> None:
    with pytest.raises(ConfigError) as raised:
        train_whole(emoji.bind(unet=base), ["unet"])
    assert str(raised.value) == (
        "components: unet is quantized, and packed weights cannot be trained. Load it without quantization, or train "
        "an adapter."
    )
