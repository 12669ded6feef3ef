"""A compiled model with adapters: what compiles it again, and what does not."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sfumato as sf
from sfumato import Adapter, ConfigError
from sfumato.components.adapters.reading import adapter_of
from sfumato.components.models.unet_2d_condition import UNet2DConditionModel

CONFIG: dict[str, Any] = {
    "in_channels": 8, "out_channels": 8, "sample_size": 8, "block_out_channels": [16], "layers_per_block": 1,
    "down_block_types": ["CrossAttnDownBlock2D"], "up_block_types": ["UpBlock2D"], "mid_block_type": None,
    "norm_num_groups": 8, "attention_head_dim": 2, "cross_attention_dim": 128,
}  # fmt: skip


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(**CONFIG).eval().requires_grad_(False)


def lora(unet: nn.Module, rank: int, seed: int) -> Adapter:
    """A LoRA of linear layers and convolutions."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for path, layer in unet.named_modules():
        if path.endswith(("to_q", "to_v", "conv1")):
            out, *inner = getattr(layer, "weight").shape  # noqa: B009  any layer
            tensors[f"unet.{path}.lora_down.weight"] = torch.randn(rank, *inner, generator=generator)
            up = torch.randn(out, rank, *[1] * (len(inner) - 1), generator=generator)
            tensors[f"unet.{path}.lora_up.weight"] = up
    return adapter_of(tensors.items(), name="style", source="made here")


def adapted(unet: nn.Module, *adapters: Adapter) -> Any:
    """The view that a run uses."""
    return sf.load("emoji").bind(unet=unet).with_adapters(*adapters).adapted_bindings["unet"].load()


def test_other_adapters_strengths_and_smaller_ranks_do_not_compile_a_model_again(unet: UNet2DConditionModel) -> None:
    compiled: list[int] = []

    def backend(module: Any, inputs: Sequence[Tensor]) -> Callable[..., Any]:
        compiled.append(len(inputs))
        return module.forward

    inputs = torch.randn(2, 8, 8, 8), torch.tensor(500.0), torch.randn(2, 5, 128)

    def run(model: UNet2DConditionModel) -> Tensor:
        return model(*inputs)

    forward = torch.compile(run, backend=backend, fullgraph=True)
    style = lora(unet, 4, 1)
    padded = lora(unet, 2, 3).padded(4), lora(unet, 3, 4).padded()
    used = style, lora(unet, 4, 2), style.scaled(0.3), style.scaled(0), *padded
    views = [adapted(unet, adapter) for adapter in used]
    with torch.no_grad():
        answers = [forward(model) for model in views]
        assert len(compiled) == 1
        for model, answer in zip(views, answers, strict=True):
            assert torch.equal(answer, model(*inputs))
        assert len({float(answer.sum()) for answer in answers}) == len(views)
        forward(adapted(unet, lora(unet, 2, 3)))
        assert len(compiled) == 2  # another rank is another shape


def test_padding_adds_zeros_only(unet: UNet2DConditionModel) -> None:
    """Within 1e-6 of the range: a product of matrices of another size may sum in another order."""
    style = lora(unet, 3, 1)
    inputs = torch.randn(2, 8, 8, 8), torch.tensor(500.0), torch.randn(2, 5, 128)
    with torch.no_grad():
        plain, padded = (adapted(unet, one)(*inputs) for one in (style, style.padded(16)))
    assert (plain - padded).abs().max() <= 1e-6 * plain.abs().max()
    assert (style.padded(16).ranks, style.padded().ranks, style.ranks) == ((16,), (4,), (3,))
    with pytest.raises(ConfigError, match=r"^padded: style has rank 3\. Got 2\. Pass a rank that is no smaller\.$"):
        style.padded(2)
