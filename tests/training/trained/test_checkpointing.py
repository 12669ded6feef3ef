"""Gradient checkpointing: equal gradients, and fewer bytes kept for them."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sfumato import Graph
from sfumato.components.models.autoencoder_kl import AutoencoderKL
from sfumato.components.models.clip import CLIPTextModel
from sfumato.components.models.flux import FluxTransformer2DModel
from sfumato.components.models.pixart import PixArtTransformer2DModel
from sfumato.components.models.sd3 import SD3Transformer2DModel
from sfumato.components.models.t5 import T5EncoderModel
from sfumato.components.models.unet_2d_condition import UNet2DConditionModel
from sfumato.components.training.adapters import train_adapter
from sfumato.components.training.checkpointing import CheckpointedBlock, blocks_of, checkpointed, checkpointed_model

from .support import TINY_UNET, fill, preset, unet_loss, view_of


def _unet() -> tuple[nn.Module, Callable[[Any], Tensor]]:
    return UNet2DConditionModel(**TINY_UNET), lambda model: unet_loss(model, 1)


def _sd3() -> tuple[nn.Module, Callable[[Any], Tensor]]:
    model = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=12, caption_projection_dim=16, pooled_projection_dim=10,
        pos_embed_max_size=8,
    )  # fmt: skip
    inputs = torch.randn(2, 4, 8, 8), torch.randn(2, 3, 12), torch.randn(2, 10)
    return model, lambda model: model(*inputs, torch.tensor([3.0, 5.0])).square().mean()


def _flux() -> tuple[nn.Module, Callable[[Any], Tensor]]:
    model = FluxTransformer2DModel(
        num_layers=2, num_single_layers=2, num_attention_heads=2, attention_head_dim=16, in_channels=16,
        axes_dims_rope=(4, 6, 6), joint_attention_dim=12, pooled_projection_dim=10,
    )  # fmt: skip
    inputs = torch.randn(2, 16, 16), torch.randn(2, 3, 12), torch.randn(2, 10), torch.tensor([0.3, 0.5])
    ids = torch.zeros(16, 3), torch.zeros(3, 3)
    return model, lambda model: model(*inputs, *ids).square().mean()


def _pixart() -> tuple[nn.Module, Callable[[Any], Tensor]]:
    model = PixArtTransformer2DModel(
        sample_size=8, num_layers=2, attention_head_dim=8, num_attention_heads=2, in_channels=4, out_channels=8,
        cross_attention_dim=16, caption_channels=12, use_additional_conditions=False,
    )  # fmt: skip
    inputs = torch.randn(2, 4, 8, 8), torch.randn(2, 3, 12), torch.tensor([3, 5])
    return model, lambda model: model(*inputs).square().mean()


def _clip() -> tuple[nn.Module, Callable[[Any], Tensor]]:
    model = CLIPTextModel(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=8,
    )  # fmt: skip
    ids = torch.randint(0, 50, (2, 8))
    return model, lambda model: model(ids).last_hidden_state.square().mean()


def _t5() -> tuple[nn.Module, Callable[[Any], Tensor]]:
    model = T5EncoderModel(vocab_size=50, d_model=16, d_ff=32, d_kv=8, num_layers=2, num_heads=2)
    ids = torch.randint(0, 50, (2, 8))
    return model, lambda model: model(ids).last_hidden_state.square().mean()


def _decoder() -> tuple[nn.Module, Callable[[Any], Tensor]]:
    model = AutoencoderKL(
        block_out_channels=[8, 16], norm_num_groups=4,
        down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
    )  # fmt: skip
    latents = torch.randn(2, 4, 8, 8)
    return model, lambda model: model.decode(latents).square().mean()


FAMILIES: Mapping[str, Callable[[], tuple[nn.Module, Callable[[Any], Tensor]]]] = {
    "unet": _unet, "sd3": _sd3, "flux": _flux, "pixart": _pixart, "clip": _clip, "t5": _t5, "decoder": _decoder,
}  # fmt: skip
BLOCKS = {
    "unet": {"TimeResnetBlock2D", "BasicTransformerBlock"},
    "sd3": {"JointTransformerBlock"},
    "flux": {"FluxTransformerBlock", "FluxSingleTransformerBlock"},
}


def gradients(model: nn.Module, loss: Callable[[Any], Tensor]) -> tuple[list[Tensor], int]:
    """All gradients, and the bytes of the tensors that the forward keeps for them, without the parameters."""
    model.zero_grad()
    parameters = {p.data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in parameters:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        value = loss(model)
    value.backward()  # pyright: ignore[reportUnknownMemberType]  torch's own annotation
    return [p.grad.clone() for p in model.parameters() if p.grad is not None], sum(kept.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_equal_and_less_is_kept(family: str) -> None:
    torch.manual_seed(0)
    model, loss = FAMILIES[family]()
    model.eval().requires_grad_(True)
    plain, bytes_of_plain = gradients(model, loss)
    view = checkpointed_model(model)
    found, bytes_of_view = gradients(view, loss)
    assert len(plain) > 10
    assert all(torch.equal(one, other) for one, other in zip(plain, found, strict=True))
    assert bytes_of_view < bytes_of_plain / 2


@pytest.mark.parametrize("family", BLOCKS)
def test_blocks_are_the_repeated_parts(family: str) -> None:
    model, _ = FAMILIES[family]()
    assert BLOCKS[family] <= {type(block).__name__ for _, block in blocks_of(model)}


def test_a_trained_component_is_checkpointed_with_its_adapter(unet: UNet2DConditionModel) -> None:
    trained = train_adapter(preset(unet=unet), dropout=0.3)
    fill(trained)
    found: list[list[Tensor]] = []
    plain = trained.bindings()["unet"]
    for component in (plain, checkpointed(plain)):
        trained.zero_grad()
        torch.manual_seed(0)
        model = component.load()
        unet_loss(model, 1).backward()  # pyright: ignore[reportUnknownMemberType]  torch's own annotation
        found.append([p.grad.clone() for p in trained.parameters() if p.grad is not None])
    assert len(found[0]) == len(list(trained.parameters()))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_without_gradients_nothing_is_computed_again(unet: UNet2DConditionModel) -> None:
    view = checkpointed_model(unet)
    with torch.no_grad():
        assert torch.equal(unet_loss(view, 1), unet_loss(unet, 1))
    assert not any(isinstance(module, CheckpointedBlock) for module in unet.modules())
    again = checkpointed_model(view)
    assert [type(m) for m in again.modules()] == [type(m) for m in view.modules()]


def test_lazy_components_stay_lazy(emoji: Graph) -> None:
    handle = emoji.bindings["unet"]
    lazy = checkpointed(handle)
    assert lazy.content_key() == handle.content_key()
    assert any(isinstance(module, CheckpointedBlock) for module in lazy.load().modules())
    assert checkpointed(emoji.bindings["tokenizer"]) is emoji.bindings["tokenizer"]
    assert isinstance(view_of(train_adapter(emoji)), nn.Module)
