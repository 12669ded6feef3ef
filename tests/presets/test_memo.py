"""The memo with the embedded model: which models run again, and that the pictures are those of a run without a memo."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import sfumato as sf
from sfumato.components.manager import ComponentsManager
from sfumato.graph import Graph
from sfumato.graph.memo import memo

FOX: dict[str, Any] = {"prompt": "a fox", "num_inference_steps": 2}


@pytest.fixture
def counted() -> Iterator[tuple[Graph, dict[str, int]]]:
    """The embedded pipeline with models of its own, and the number of calls of each model."""
    pipe = sf.load("emoji", manager=ComponentsManager())
    calls: dict[str, int] = {}
    hooks = []
    for name, layer in (("text_encoder", "text_model.final_layer_norm"), ("unet", "conv_in")):

        def count(*_: object, name: str = name) -> None:
            calls[name] = calls.get(name, 0) + 1

        hooks.append(pipe.bindings[name].load().get_submodule(layer).register_forward_pre_hook(count))
    yield pipe, calls
    for hook in hooks:
        hook.remove()


def test_another_seed_or_guider_encodes_no_prompt(counted: tuple[Graph, dict[str, int]]) -> None:
    pipe, calls = counted
    kept = memo()
    pipe(**FOX, seed=1, memo=kept)
    assert calls["text_encoder"] == 2, "the prompt and the negative prompt"
    for change in ({"seed": 2}, {"seed": 1, "guider": "none"}, {"seed": 1, "scheduler": "euler"}):
        calls.clear()
        with_memo = pipe(**FOX, **change, memo=kept)
        assert "text_encoder" not in calls and calls["unet"]
        assert with_memo.images[0].tobytes() == pipe(**FOX, **change).images[0].tobytes()


def test_an_adapter_and_its_strength_are_part_of_the_key(counted: tuple[Graph, dict[str, int]], tmp_path: Path) -> None:
    pipe, calls = counted
    torch.manual_seed(0)
    layers = {n: m for n, m in pipe.bindings["unet"].load().named_modules() if n.endswith("to_v")}
    tensors = {f"unet.{n}.lora_A.weight": torch.randn(2, m.in_features) for n, m in layers.items()}
    tensors |= {f"unet.{n}.lora_B.weight": torch.randn(m.out_features, 2) for n, m in layers.items()}
    save_file(tensors, tmp_path / "style.safetensors")
    style, kept = sf.load_adapter(tmp_path / "style.safetensors"), memo()
    pictures = []
    for adapters in ([], [style], [style.scaled(0.5)], [style]):
        calls.clear()
        pictures.append(pipe(**FOX, seed=1, adapters=adapters, memo=kept).images[0].tobytes())
    assert calls == {}, "the last call repeats the second"
    assert pictures[1] == pictures[3] and len(set(pictures)) == 3
