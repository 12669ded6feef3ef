"""A view is another model over the same parameters, and does not change the model that it was made from."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from sfumato.components.models.attention import Attention
from sfumato.components.models.unet_2d_condition import UNet2DConditionModel
from sfumato.components.models.views import as_class, view
from sfumato.graph.errors import ConfigError

ATTENTION = "mid_block.attentions.0.transformer_blocks.0.attn1"


class IdentityAttention(Attention):
    """Each pixel attends to itself only (perturbed-attention guidance, Ahn et al. 2024, equation 8)."""

    def scaled_dot_product(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, start: int = 0) -> Tensor:
        return v


class Scaled(nn.Module):
    """What a low-rank adapter does to a layer, in short."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) * 1.5


@pytest.fixture
def unet() -> UNet2DConditionModel:
    return UNet2DConditionModel.from_config(
        {
            "block_out_channels": [8, 16],
            "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
            "cross_attention_dim": 8,
            "attention_head_dim": 2,
            "norm_num_groups": 4,
        }
    ).eval()


@pytest.fixture
def given() -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(1, 4, 8, 8), torch.tensor(3), torch.randn(1, 3, 8)


Given = tuple[Tensor, Tensor, Tensor]


def test_a_view_differs_and_its_base_stays(unet: UNet2DConditionModel, given: Given) -> None:
    before = unet(*given)
    perturbed = view(unet, {ATTENTION: as_class(IdentityAttention)})
    assert isinstance(perturbed, UNet2DConditionModel)
    assert not torch.equal(perturbed(*given), before)
    assert torch.equal(unet(*given), before)


def test_a_view_shares_every_parameter_and_copies_ancestors_only(unet: UNet2DConditionModel) -> None:
    perturbed = view(unet, {ATTENTION: as_class(IdentityAttention)})
    pairs = zip(unet.named_parameters(), perturbed.named_parameters(), strict=True)
    assert all(name == other and a is b for (name, a), (other, b) in pairs)
    other = {name for name, module in perturbed.named_modules() if module is not unet.get_submodule(name)}
    parts = ATTENTION.split(".")
    assert other == {".".join(parts[:n]) for n in range(len(parts) + 1)}


def test_a_view_of_no_change_is_the_model(unet: UNet2DConditionModel) -> None:
    assert view(unet, {}) is unet


def test_views_of_views_compose(unet: UNet2DConditionModel, given: Given) -> None:
    adapted = view(unet, {f"{ATTENTION}.to_v": Scaled})
    both = view(adapted, {ATTENTION: as_class(IdentityAttention)})
    at_once = view(unet, {ATTENTION: as_class(IdentityAttention), f"{ATTENTION}.to_v": Scaled})
    assert torch.equal(both(*given), at_once(*given))
    assert not torch.equal(both(*given), adapted(*given))


def test_the_model_itself_can_be_changed(unet: UNet2DConditionModel) -> None:
    class Doubled(UNet2DConditionModel):
        pass

    assert type(view(unet, {"": as_class(Doubled)})) is Doubled
    assert type(unet) is UNet2DConditionModel


def test_what_is_added_to_a_view_is_not_added_to_its_base(unet: UNet2DConditionModel) -> None:
    other = view(unet, {ATTENTION: as_class(IdentityAttention)})
    other.register_parameter("extra", nn.Parameter(torch.zeros(1)))
    other.get_submodule(ATTENTION).register_forward_pre_hook(lambda module, args: None)
    assert "extra" not in dict(unet.named_parameters())
    assert not unet.get_submodule(ATTENTION)._forward_pre_hooks


def test_all_unknown_paths_are_named_with_the_nearest(unet: UNet2DConditionModel) -> None:
    with pytest.raises(ConfigError) as caught:
        view(unet, {"down_block.0": Scaled, "down_blocks.7.resnets": Scaled})
    first, second = str(caught.value).splitlines()
    assert first.startswith(
        "'down_block.0': UNet2DConditionModel has no module 'down_block'. Did you mean 'down_blocks'?"
    )
    assert second == (
        "  'down_blocks.7.resnets': UNet2DConditionModel at 'down_blocks' has no module '7'. There are: 0, 1."
    )


def test_threads_do_not_disturb_each_other(unet: UNet2DConditionModel, given: Given) -> None:
    perturbed = view(unet, {ATTENTION: as_class(IdentityAttention)})
    models = (unet, perturbed)
    wanted = [model(*given) for model in models]
    barrier = threading.Barrier(4)

    def run(i: int) -> bool:
        barrier.wait()
        with torch.no_grad():
            return all(torch.allclose(models[i % 2](*given), wanted[i % 2], atol=1e-6) for _ in range(10))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(run, range(4)))
