"""Whole models in training, their parts, and several things together."""

from pathlib import Path

import pytest
import torch

import sfumato as sf
from sfumato import ConfigError, Graph
from sfumato.components.models.unet_2d_condition import UNet2DConditionModel
from sfumato.components.training.adapters import train_adapter
from sfumato.components.training.together import TrainedTogether
from sfumato.components.training.whole import train_whole

from .support import diffusers_unet, digest, fill, optimized, preset, trained_steps, view_of


def test_ten_steps_are_those_of_diffusers(unet: UNet2DConditionModel, tmp_path: Path) -> None:
    before = digest(unet)
    pipe = preset(unet=unet)
    trained = train_whole(pipe, ["unet"])
    model = diffusers_unet(unet).requires_grad_(True).train()
    theirs = optimized(model, dict(model.named_parameters()), 10, lr=1e-4)
    ours = trained_steps(trained, 10, lr=1e-4)
    assert ours.losses == pytest.approx(theirs.losses, abs=1e-6)
    assert ours.weights.keys() == theirs.weights.keys()
    assert all(torch.allclose(ours.weights[name], tensor, atol=1e-6) for name, tensor in theirs.weights.items())
    assert digest(unet) == before
    folder = trained.save(tmp_path / "fine")
    saved = UNet2DConditionModel.from_pretrained(folder / "unet")
    assert digest(saved) == digest(view_of(trained)) != before
    assert trained.attached(pipe).bindings["unet"] is view_of(trained)


def test_a_copy_of_half_precision_is_float32(unet: UNet2DConditionModel) -> None:
    half = UNet2DConditionModel.from_config(unet.to_config()).bfloat16()
    trained = train_whole(preset(unet=half), ["unet"])
    assert {p.dtype for p in trained.parameters()} == {torch.float32}
    assert half.dtype == torch.bfloat16
    assert [(g.name, len(g.parameters)) for g in trained.groups()] == [("unet", len(list(half.parameters())))]


def test_the_decoder_alone_is_trained(emoji: Graph, tmp_path: Path) -> None:
    pipe = sf.load("emoji")
    trained = train_whole(pipe, ["vae"], parts={"vae": ["decoder", "post_quant_conv"]})
    vae = view_of(trained, "vae")
    names = {name for name, p in vae.named_parameters() if p.requires_grad}
    assert {name.partition(".")[0] for name in names} == {"decoder", "post_quant_conv"}
    assert {f"vae.{name}" for name in names} == trained.state_dict().keys()
    fill(trained)
    attached = trained.attached(pipe)
    assert attached.bindings["vae"] is vae
    assert attached.bindings["unet"] is pipe.bindings["unet"]
    again = sf.load_component(trained.save(tmp_path / "vae") / "vae")
    assert digest(again) == digest(vae)


def test_together_a_part_changes_what_another_one_binds(unet: UNet2DConditionModel, tmp_path: Path) -> None:
    pipe = preset(unet=unet)
    one, other = (train_adapter(pipe, name=name, seed=seed) for seed, name in enumerate(("one", "other")))
    both = TrainedTogether({"one": one, "other": other})
    fill(both)
    inputs = torch.randn(1, 4, 8, 8), 7, torch.randn(1, 3, 24)
    with torch.no_grad():
        together = view_of(both)(*inputs)
        attached = both.attached(pipe).adapted_bindings["unet"].load()(*inputs)
    assert torch.allclose(together, attached, atol=1e-5)
    assert len(both.groups()) == 2
    folder = both.save(tmp_path / "both")
    assert sorted(file.name for file in folder.iterdir()) == ["one.safetensors", "other.safetensors"]


def test_bad_choices_are_refused(unet: UNet2DConditionModel) -> None:
    pipe = preset(unet=unet)
    with pytest.raises(ConfigError, match=r"components: the graph has no model 'unett'. Did you mean 'unet'\?"):
        train_whole(pipe, ["unett"])
    with pytest.raises(ConfigError, match=r"parts: unet has no module 'conv_inn'. Did you mean 'conv_in'\?"):
        train_whole(pipe, ["unet"], parts={"unet": ["conv_inn"]})
    with pytest.raises(ConfigError, match=r"parts: vae is not trained. Name it in components=."):
        train_whole(pipe, ["unet"], parts={"vae": ["decoder"]})
    both = TrainedTogether({"a": train_whole(pipe, ["unet"]), "b": train_whole(pipe, ["unet"])})
    with pytest.raises(ConfigError, match=r"Another part of the training changes unet. Train it in one part."):
        both.bindings()
