"""LoRA in training: the numbers of PEFT, the base as it was, and the picture of the saved file."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import Tensor, nn

import sfumato as sf
from sfumato import ConfigError, Graph, SaveError
from sfumato.components.models.unet_2d_condition import UNet2DConditionModel
from sfumato.components.training.adapters import train_adapter
from sfumato.components.training.checkpointing import checkpointed

from .support import digest, fill, in_peft, optimized, preset, trained_steps, unet_loss, view_of


def picture(pipe: Graph) -> Tensor:
    return pipe(prompt="a red apple", num_inference_steps=2, seed=1).latents


@pytest.mark.parametrize("rslora", [False, True])
def test_ten_steps_are_those_of_peft(unet: UNet2DConditionModel, rslora: bool) -> None:
    trained = train_adapter(preset(unet=unet), rank=4, alpha=6, dropout=0.2, rslora=rslora)
    targets = ["to_k", "to_q", "to_v", "to_out.0"]
    config = LoraConfig(r=4, lora_alpha=6, lora_dropout=0.2, use_rslora=rslora, target_modules=targets)
    model, parameters = in_peft(unet, trained, config)
    theirs = optimized(model, parameters, 10)
    ours = trained_steps(trained, 10)
    assert ours.losses == pytest.approx(theirs.losses, abs=1e-6)
    for name, tensor in theirs.weights.items():
        assert torch.allclose(ours.weights[name], tensor, atol=1e-6), name
    with torch.no_grad():
        assert theirs.losses[-1] != pytest.approx(float(unet_loss(unet, 9)), abs=1e-4)


def test_convolutions_are_those_of_peft(unet: UNet2DConditionModel) -> None:
    trained = train_adapter(preset(unet=unet), rank=2, alpha=1, targets=["conv1", "conv_shortcut", "time_emb_proj"])
    config = LoraConfig(r=2, lora_alpha=1, target_modules=["conv1", "conv_shortcut", "time_emb_proj"])
    model, parameters = in_peft(unet, trained, config)
    theirs = optimized(model, parameters, 3)
    assert trained_steps(trained, 3).losses == pytest.approx(theirs.losses, abs=1e-6)


@pytest.mark.parametrize(("initialization", "deviation"), [("kaiming", 1 / (3 * 24) ** 0.5), ("gaussian", 1 / 4)])
def test_initial_numbers_are_those_of_peft(unet: nn.Module, initialization: Any, deviation: float) -> None:
    trained = train_adapter(preset(unet=unet), rank=4, initialization=initialization, targets=["attn2.to_k"], seed=3)
    again = train_adapter(preset(unet=unet), rank=4, initialization=initialization, targets=["attn2.to_k"], seed=3)
    factors = dict(trained.named_parameters())
    down = torch.cat([p.flatten() for name, p in factors.items() if name.endswith("down")])
    assert float(down.detach().std()) == pytest.approx(deviation, rel=0.15)
    assert not any(p.any() for name, p in factors.items() if name.endswith("up"))
    assert all(torch.equal(p, factors[name]) for name, p in again.named_parameters())


def test_the_base_needs_no_gradients_and_does_not_change(unet: UNet2DConditionModel) -> None:
    before = digest(unet)
    trained = train_adapter(preset(unet=unet))
    assert all(p.requires_grad for p in unet.parameters())  # a model that was made and not loaded
    trained_steps(trained, 2)
    assert digest(unet) == before
    assert all(p.grad is None for p in unet.parameters())
    assert {p.dtype for p in trained.parameters()} == {torch.float32}


def test_a_fresh_adapter_changes_nothing(emoji: Graph) -> None:
    trained = train_adapter(emoji)
    assert trained.attached(emoji) is emoji
    latents, prompt = torch.randn(1, 8, 8, 8), torch.randn(1, 4, 128)
    plain = emoji.bindings["unet"].load()
    assert torch.equal(view_of(trained)(latents, 3, prompt), plain(latents, 3, prompt))


@pytest.mark.parametrize(("layout", "dtype"), [("peft", torch.float32), ("kohya", torch.bfloat16)])
def test_attached_is_the_saved_file(emoji: Graph, layout: Any, dtype: torch.dtype, tmp_path: Path) -> None:
    components = ["unet", "text_encoder"]
    trained = train_adapter(emoji, components, rank=3, alpha=1.7, layout=layout, dtype=dtype)
    fill(trained)
    attached = picture(trained.attached(emoji))
    file = trained.save(tmp_path / "style.safetensors", header={"ss_steps": "10"})
    loaded = sf.load_adapter(file)
    assert set(loaded.components) == {"denoiser", "text_encoder"}
    assert torch.equal(picture(emoji.with_adapters(loaded)), attached)
    assert (attached - picture(emoji)).abs().max() > 0.01
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.zero_()
    assert torch.equal(picture(emoji), picture(trained.attached(emoji)))


def test_training_and_attached_compute_the_same(emoji: Graph) -> None:
    trained = train_adapter(emoji, rank=3, alpha=1.7)
    fill(trained)
    latents, prompt = torch.randn(1, 8, 8, 8), torch.randn(1, 4, 128)
    with torch.no_grad():
        one = view_of(trained)(latents, 3, prompt)
        other = trained.attached(emoji).adapted_bindings["unet"].load()(latents, 3, prompt)
    assert torch.allclose(one, other, atol=1e-5)


def test_a_view_is_made_once_and_again_after_a_move(unet: UNet2DConditionModel) -> None:
    model = UNet2DConditionModel.from_config(unet.to_config()).requires_grad_(False)
    component = train_adapter(preset(unet=model)).bindings()["unet"]
    lazy = checkpointed(component)
    first, second = component.load(), lazy.load()
    assert component.load() is first and lazy.load() is second
    model.to(torch.float64)
    assert component.load().dtype == lazy.load().dtype == torch.float64
    path = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    layer = model.get_submodule(path)
    layer.register_parameter("weight", nn.Parameter(torch.zeros(16, 16), requires_grad=False))
    assert component.load() is component.load()
    assert not component.load().get_submodule(path).weight.any()


def test_an_adapter_is_trained_over_those_of_the_preset(emoji: Graph) -> None:
    first = train_adapter(emoji, name="first")
    fill(first, size=0.2)
    styled = first.attached(emoji)
    second = train_adapter(styled, name="second")
    latents, prompt = torch.randn(1, 8, 8, 8), torch.randn(1, 4, 128)
    with torch.no_grad():
        trained, drawn = view_of(second)(latents, 3, prompt), styled.adapted_bindings["unet"].load()(latents, 3, prompt)
    assert torch.equal(trained, drawn)
    assert (trained - emoji.bindings["unet"].load()(latents, 3, prompt)).abs().max() > 0.01
    fill(second)
    assert str(second.attached(styled).adapters).count("Adapter(") == 2


def test_groups_have_each_parameter_once(emoji: Graph) -> None:
    trained = train_adapter(emoji, ["unet", "text_encoder"], up_lr_factor=16)
    groups = trained.groups()
    assert [(g.name, g.lr_factor) for g in groups] == [
        ("unet", 1),
        ("unet", 16),
        ("text_encoder", 1),
        ("text_encoder", 16),
    ]
    found = [p for group in groups for p in group.parameters]
    assert len(found) == len({id(p) for p in found}) == len(list(trained.parameters()))
    assert all(p.shape[1] == 4 for p in groups[1].parameters)
    assert [g.name for g in train_adapter(emoji).groups()] == ["unet"]


def test_bad_settings_are_refused(emoji: Graph, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"components: the graph has no model 'vae' that adapters change. It has"):
        train_adapter(emoji, ["vae"])
    with pytest.raises(
        ConfigError, match=r"no linear layer or convolution of unet has the name 'attn3.to_k'. There are: conv_in,"
    ):
        train_adapter(emoji, targets=["attn3.to_k", "to_k"])
    with pytest.raises(ConfigError, match=r"rank: needs a whole number of 1 or more. Got 0."):
        train_adapter(emoji, rank=0)
    with pytest.raises(ConfigError, match=r"alpha: needs a number above 0. Got -1."):
        train_adapter(emoji, alpha=-1)
    with pytest.raises(ConfigError, match=r"dropout: needs a share from 0 to below 1. Got 1."):
        train_adapter(emoji, dropout=1)
    with pytest.raises(ConfigError, match=r"up_lr_factor: needs a number above 0. Got 0."):
        train_adapter(emoji, up_lr_factor=0)
    with pytest.raises(SaveError, match=r"needs a name that ends with .safetensors"):
        train_adapter(emoji).save(tmp_path / "style.bin")
