"""Adapters against diffusers 0.42.1 with PEFT, on the embedded model: the same picture where diffusers is right."""

import json
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import sfumato as sf
from sfumato import Graph

from .support import Reference, quiet

CALL: Mapping[str, Any] = {"prompt": "a red apple", "num_inference_steps": 2, "height": 64, "width": 64}


def layers(model: nn.Module, *ends: str) -> Iterator[tuple[str, nn.Module]]:
    return ((name, layer) for name, layer in model.named_modules() if name.endswith(ends))


def factors(layer: nn.Module, rank: int = 2) -> tuple[Tensor, Tensor]:
    """Random factors for a linear layer or a convolution."""
    if isinstance(layer, nn.Conv2d):
        down = torch.randn(rank, layer.in_channels, *layer.kernel_size) * 0.1
        return down, torch.randn(layer.out_channels, rank, 1, 1) * 0.3
    assert isinstance(layer, nn.Linear)
    return torch.randn(rank, layer.in_features) * 0.2, torch.randn(layer.out_features, rank) * 0.2


def diffusers_file(emoji: Graph, file: Path) -> None:
    """A file as diffusers saves it: U-Net and text encoder, the scale in the header."""
    torch.manual_seed(0)
    tensors: dict[str, Tensor] = {}
    stated: dict[str, Any] = {}
    for prefix, ends in (("unet", ("to_q", "to_out.0", "conv1", "proj_in")), ("text_encoder", ("q_proj", "fc2"))):
        settings = {"r": 2, "lora_alpha": 1, "target_modules": [*ends], "peft_type": "LORA"}
        stated |= {f"{prefix}.{key}": value for key, value in settings.items()}
        for name, layer in layers(emoji.bindings[prefix].load(), *ends):
            down, up = factors(layer)
            name = name.removeprefix("text_model.")  # which transformers 5 no longer has
            tensors |= {f"{prefix}.{name}.lora_A.weight": down, f"{prefix}.{name}.lora_B.weight": up}
    save_file(tensors, file, metadata={"format": "pt", "lora_adapter_metadata": json.dumps(stated)})


def kohya_file(emoji: Graph, file: Path, **more: Tensor) -> None:
    """A file as kohya's scripts save it, with `.alpha`."""
    torch.manual_seed(1)
    tensors: dict[str, Tensor] = dict(more)
    for name, layer in layers(emoji.bindings["unet"].load(), "to_k", "to_v", "ff.net.2"):
        down, up = factors(layer)
        body = f"lora_unet_{name.replace('.', '_')}"
        tensors |= {f"{body}.lora_down.weight": down, f"{body}.lora_up.weight": up, f"{body}.alpha": torch.tensor(1.0)}
    save_file(tensors, file)


@contextmanager
def loaded(reference: Reference, file: Path, scale: float = 1.0) -> Generator[None]:
    """The reference with an adapter, which it puts into the shared models and takes out again."""
    try:
        with quiet():
            reference.pipe.load_lora_weights(file.parent, weight_name=file.name, adapter_name="a")
            reference.pipe.set_adapters(["a"], [scale])
        yield
    finally:
        with quiet():
            reference.pipe.unload_lora_weights()


@pytest.mark.parametrize("make", [diffusers_file, kohya_file])
@pytest.mark.parametrize("scale", [1.0, 0.6])
def test_the_picture_is_that_of_diffusers_and_peft(
    emoji: Graph, emoji_reference: Reference, tmp_path: Path, make: Any, scale: float
) -> None:
    """Latents within 1e-4 of their range."""
    file = tmp_path / "lora.safetensors"
    make(emoji, file)
    with loaded(emoji_reference, file, scale):
        theirs = emoji_reference(seed=3, **CALL).latents
    ours = emoji.only("latents")(seed=3, adapters=[sf.load_adapter(file, scale=scale)], **CALL).latents
    plain = emoji.only("latents")(seed=3, **CALL).latents
    assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()
    assert (plain - theirs).abs().max() > 1e-2


def test_a_dora_of_kohya_is_applied_whole(emoji: Graph, tmp_path: Path) -> None:
    """diffusers drops `dora_scale` with a log line and draws the plain LoRA."""
    name, layer = next(layers(emoji.bindings["unet"].load(), "attn1.to_q"))
    body = f"lora_unet_{name.replace('.', '_')}"
    down, up = factors(layer)
    tensors = {f"{body}.lora_down.weight": down, f"{body}.lora_up.weight": up, f"{body}.alpha": torch.tensor(1.0)}
    file, dora = tmp_path / "lora.safetensors", tmp_path / "dora.safetensors"
    save_file(tensors, file)
    save_file({**tensors, f"{body}.dora_scale": torch.rand(len(up), 1) + 0.5}, dora)
    pipe = emoji.only("latents")
    one, other = (pipe(seed=3, adapters=[sf.load_adapter(f)], **CALL).latents for f in (file, dora))
    assert (one - other).abs().max() > 1e-3
    assert sf.load_adapter(dora).kinds == {"DoRA": 1}


def test_a_key_of_no_layer_is_an_error_and_no_warning(emoji: Graph, tmp_path: Path) -> None:
    """diffusers warns and applies the rest."""
    file = tmp_path / "lora.safetensors"
    body = "lora_unet_down_blocks_9_attentions_0_proj_in"
    kohya_file(
        emoji, file, **{f"{body}.lora_down.weight": torch.ones(2, 8), f"{body}.lora_up.weight": torch.ones(8, 2)}
    )
    with pytest.raises(sf.ConfigError, match=rf"1 of its names are in no model of the graph .*: {body}\."):
        emoji.with_adapters(sf.load_adapter(file))


@pytest.mark.parametrize("make", [diffusers_file, kohya_file])
def test_diffusers_draws_the_same_with_a_file_that_we_saved(
    emoji: Graph, emoji_reference: Reference, tmp_path: Path, make: Any
) -> None:
    """Within 1e-6 of what it draws with the first file, whose scales are elsewhere."""
    first, again = tmp_path / "first.safetensors", tmp_path / "again.safetensors"
    make(emoji, first)
    sf.load_adapter(first).save(again, "peft", pipe=emoji)
    drawn: list[Tensor] = []
    for file in (first, again):
        with loaded(emoji_reference, file):
            drawn.append(emoji_reference(seed=3, **CALL).latents)
    assert (drawn[0] - emoji_reference(seed=3, **CALL).latents).abs().max() > 1e-2
    assert (drawn[0] - drawn[1]).abs().max() <= 1e-6 * drawn[0].abs().max()
