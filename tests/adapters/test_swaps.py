"""Adapters of a graph hold for components that are swapped in, or the swap is refused."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sfumato as sf
from sfumato import Adapter, Graph, WireError
from sfumato.components.adapters.reading import adapter_of


def lora(model: nn.Module, prefix: str, ends: tuple[str, ...]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    found: dict[str, Tensor] = {}
    for name, layer in model.named_modules():
        if name.endswith(ends) and isinstance(layer, nn.Linear):
            found[f"{prefix}.{name}.lora_A.weight"] = torch.randn(2, layer.in_features, generator=generator) * 0.2
            found[f"{prefix}.{name}.lora_B.weight"] = torch.randn(layer.out_features, 2, generator=generator) * 0.2
    return found


@pytest.fixture(scope="module")
def pipe() -> Graph:
    return sf.load("emoji").only("latents")


@pytest.fixture(scope="module")
def style(pipe: Graph) -> Adapter:
    unet, text = (pipe.bindings[name].load() for name in ("unet", "text_encoder"))
    tensors = lora(unet, "unet", ("to_q", "to_v")) | lora(text, "text_encoder", ("q_proj", "fc1"))
    return adapter_of(tensors.items(), name="style", source="made here")


@pytest.fixture(scope="module")
def other(pipe: Graph) -> Any:
    """A U-Net of the same config with other weights."""
    unet = pipe.bindings["unet"].load()
    twin = type(unet).from_config(unet.to_config())
    twin.load_state_dict({name: tensor * 0.9 for name, tensor in unet.state_dict().items()})
    return twin.eval().requires_grad_(False)


def latents(pipe: Graph, **more: Any) -> Tensor:
    return pipe(prompt="a red apple", num_inference_steps=2, seed=1, **more).latents


def test_a_swapped_component_has_the_adapters_of_the_graph(pipe: Graph, style: Adapter, other: Any) -> None:
    attached = pipe.with_adapters(style)
    expected = latents(pipe.bind(unet=other), adapters=[style])
    assert torch.equal(latents(attached, unet=other), expected)
    assert torch.equal(latents(attached.bind(unet=other)), expected)
    assert torch.equal(latents(attached.using(unet=other)), expected)
    assert torch.equal(latents(attached, unet=other, adapters={"style": 0.5}),
                       latents(pipe, unet=other, adapters=[style.scaled(0.5)]))  # fmt: skip
    assert (expected - latents(pipe.bind(unet=other))).abs().max() > 0.05
    assert torch.equal(latents(attached), latents(pipe, adapters=[style]))


def test_swapping_there_and_back_is_the_identity(pipe: Graph, style: Adapter, other: Any) -> None:
    attached = pipe.with_adapters(style)
    back = attached.bind(unet=other).bind(unet=pipe.bindings["unet"])
    assert back == attached
    assert not attached.diff(back)
    assert {*attached.diff(pipe).components} == {"unet", "text_encoder"}


def test_edits_and_swaps_of_blocks_keep_the_adapters(pipe: Graph, style: Adapter) -> None:
    attached = pipe.with_adapters(style)
    expected = latents(attached, scheduler="euler", guider="none")
    assert torch.equal(latents(attached.using(scheduler="euler", guider="none")), expected)
    replaced = attached.replace("denoise.guider", sf.guiders.NoGuidance())
    assert torch.equal(latents(replaced, scheduler="euler"), expected)
    assert (expected - latents(pipe, scheduler="euler", guider="none")).abs().max() > 0.01


def test_sister_tasks_and_parts_keep_the_adapters(pipe: Graph, style: Adapter) -> None:
    whole = sf.load("emoji").with_adapters(style)
    sister = whole.task("image2image").task("text2image").only("latents")
    assert torch.equal(latents(sister), latents(pipe, adapters=[style]))
    text = whole.only("positive")
    assert "unet" not in text.bindings
    plain = sf.load("emoji").only("positive")(prompt="a fox").positive
    assert not torch.equal(text(prompt="a fox").positive.tokens, plain.tokens)


def test_a_graph_inside_a_graph_keeps_its_adapters(pipe: Graph, style: Adapter) -> None:
    around = Graph(inner=pipe.with_adapters(style), outputs=["latents"])
    assert torch.equal(latents(around), latents(pipe, adapters=[style]))


def test_an_encoder_that_is_bound_later_has_its_patches(pipe: Graph, style: Adapter) -> None:
    encoder = pipe.bindings["text_encoder"]
    late = pipe.with_bindings({n: v for n, v in pipe.bindings.items() if n != "text_encoder"}).with_adapters(style)
    assert torch.equal(latents(late.bind(text_encoder=encoder)), latents(pipe, adapters=[style]))


def test_a_component_that_the_adapters_do_not_fit_is_refused(pipe: Graph, style: Adapter) -> None:
    attached = pipe.with_adapters(style)
    config = dict(pipe.bindings["unet"].config)
    wider = [channels * 2 for channels in config["block_out_channels"]]
    wide = sf.models.UNet2DConditionModel.from_config({**config, "block_out_channels": wider})
    text = r"The adapter 'style' \(made here\) does not fit: \d+ of its patches have other shapes"
    with pytest.raises(WireError, match=text):
        attached.bind(unet=wide)
    with pytest.raises(WireError, match=text):
        latents(attached, unet=wide)
