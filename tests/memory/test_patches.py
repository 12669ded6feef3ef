"""The patches of adapters beside a model: counted, moved, dropped and leased with it by the manager."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

import sfumato as sf
from sfumato import Adapter, ComponentsManager, LoadError
from sfumato.components.adapters.reading import adapter_of
from sfumato.components.manager import Held
from sfumato.components.memory.sizes import show_size

from .conftest import GPU, Simulated, draw

NAME = "patches of unet"


@pytest.fixture(scope="module")
def style(five: list[Path]) -> Adapter:
    return lora_and_loha(five[0], 1)


def lora_and_loha(folder: Path, seed: int) -> Adapter:
    """A LoRA of the keys, and a LoHa of the values, whose patches are whole matrices."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * 0.3

    tensors: dict[str, Tensor] = {}
    for path, layer in sf.load(folder, manager=ComponentsManager()).bindings["unet"].load().named_modules():
        if path.endswith("to_k"):
            tensors[f"unet.{path}.lora_down.weight"] = drawn(4, layer.in_features)
            tensors[f"unet.{path}.lora_up.weight"] = drawn(layer.out_features, 4)
        if path.endswith("to_v"):
            for half in ("hada_w1", "hada_w2"):
                tensors[f"unet.{path}.{half}_a"] = drawn(layer.out_features, 2)
                tensors[f"unet.{path}.{half}_b"] = drawn(2, layer.in_features)
    return adapter_of(tensors.items(), name=f"style{seed}", source="made here")


def row(manager: ComponentsManager) -> Held:
    (found,) = [row for row in manager.summary() if row.name == NAME]
    return found


def test_the_patches_are_a_row_of_the_table_and_leave_with_the_model(five: list[Path], style: Adapter) -> None:
    manager = ComponentsManager()
    pipe = sf.load(five[0], manager=manager).with_adapters(style)
    before = manager.bytes
    first = draw(pipe)
    held = row(manager)
    assert (held.class_name, held.source, held.where, held.loaded) == ("patches", "made for unet", "cpu", True)
    assert manager.bytes >= before + held.bytes
    assert manager.free(NAME) >= held.bytes
    assert not row(manager).loaded
    assert torch.equal(draw(pipe), first)  # computed again
    assert row(manager).bytes == held.bytes
    manager.remove("unet")
    assert NAME not in [row.name for row in manager.summary()]
    assert torch.equal(draw(pipe), first)


def test_the_estimate_is_what_the_patches_take(five: list[Path], style: Adapter) -> None:
    """But for the columns and scales of ranks."""
    manager = ComponentsManager("1GB")
    pipe = sf.load(five[0], manager=manager).with_adapters(style)
    handle = pipe.adapted_bindings["unet"].patches
    estimate = manager._memory.entry(handle).estimate.bytes
    draw(pipe)
    assert estimate <= row(manager).bytes <= 1.1 * estimate


def test_the_patches_are_dropped_under_pressure_and_made_again(
    five: list[Path], style: Adapter, simulated: Simulated
) -> None:
    free = ComponentsManager()
    expected = [draw(sf.load(folder, manager=free).with_adapters(style)) for folder in five[:2]]
    sizes = {row.name: row.bytes for row in free.summary()}
    budget = {"cuda": sizes["unet"] + sizes[NAME], "cpu": sizes["text_encoder"] + sizes["vae"]}
    manager = ComponentsManager(budget, device="cuda", mover=simulated)
    pipes = [sf.load(folder, manager=manager).with_adapters(style) for folder in five[:2]]
    for pipe, picture in [*zip(pipes, expected, strict=True)] * 2:
        assert torch.equal(draw(pipe), picture)
    assert simulated.log.count(f"move ModelPatches to {GPU}") >= 3  # they were made, dropped, and made again
    assert 0 < simulated.peak[GPU] <= budget["cuda"]
    tight = ComponentsManager({"cuda": budget["cuda"] - 1}, device="cuda", mover=simulated)
    with pytest.raises(LoadError) as caught:
        draw(sf.load(five[0], manager=tight).with_adapters(style))
    assert f"{NAME} {show_size(sizes[NAME])}" in str(caught.value)


def test_beside_a_streamed_model_they_stay_on_the_cpu(five: list[Path], style: Adapter, simulated: Simulated) -> None:
    manager = ComponentsManager(device="cuda", mover=simulated)
    pipe = sf.load(five[0], manager=manager).with_adapters(style)
    expected = draw(pipe)
    assert row(manager).where == GPU
    manager.offload("*", by="blocks")
    assert NAME not in [row.name for row in manager.summary()]  # those on the device are gone
    assert torch.equal(draw(pipe), expected)
    assert (row(manager).where, row(manager).device) == ("cpu", "cpu")


def test_the_newest_sets_of_adapters_are_kept(five: list[Path]) -> None:
    manager = ComponentsManager()
    pipe = sf.load(five[0], manager=manager).only("latents")
    styles = [lora_and_loha(five[0], seed) for seed in range(10)]
    views = [pipe.with_adapters(style).adapted_bindings["unet"] for style in styles]
    for view in views:
        view.load()
    assert sum(row.name == NAME and row.loaded for row in manager.summary()) == 8
    assert views[-1].patches.load() is views[-1].patches.load()
