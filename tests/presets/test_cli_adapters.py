"""`sfumato adapter`, and `sfumato run --lora`."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

import sfumato as sf
from sfumato.presets.cli.adapters import read_adapters

from .test_cli import sfumato


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    unet: Any = sf.load("emoji").bindings["unet"].load()
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        tensors: dict[str, Tensor] = {}
        for path, layer in unet.named_modules():
            if path.endswith("to_q"):
                tensors[f"unet.{path}.lora_A.weight"] = torch.randn(2, layer.in_features) * 0.2
                tensors[f"unet.{path}.lora_B.weight"] = torch.randn(layer.out_features, 2) * 0.2
        save_file(tensors, tmp_path / f"{name}.safetensors")
    return tmp_path


FEW = ("--seed", "7", "--set", "num_inference_steps=2")


def pixels(name: str) -> bytes:
    with Image.open(name) as image:
        return image.tobytes()


def test_adapters_of_the_command_line_are_those_of_python(folder: Path) -> None:
    options = ("--lora", "one.safetensors:0.6", "--lora", "two.safetensors")
    assert sfumato("run", "a fox", "-o", "both.png", *options, *FEW).code == 0
    adapters = [sf.load_adapter("one.safetensors", scale=0.6), sf.load_adapter("two.safetensors")]
    image = sf.load("emoji")(prompt="a fox", seed=7, num_inference_steps=2, adapters=adapters).images[0]
    assert pixels("both.png") == image.tobytes()
    assert sfumato("run", "a fox", "-o", "plain.png", *FEW).code == 0
    assert pixels("plain.png") != pixels("both.png")


def test_adapters_of_one_name_get_numbers(folder: Path) -> None:
    pipe = sf.load("emoji").with_adapters(sf.load_adapter("one.safetensors"))
    files = ["one.safetensors", "one.safetensors:0.5", "two.safetensors"]
    assert [adapter.name for adapter in read_adapters(files, pipe)] == ["one-2", "one-3", "two"]
    assert [adapter.name for adapter in read_adapters(files)] == ["one", "one-2", "two"]


def test_the_picture_names_its_adapters(folder: Path) -> None:
    found = sfumato("run", "a fox", "-o", "a.png", "--lora", "one.safetensors:0.6", "--json", *FEW).data
    assert found["lora"] == ["one.safetensors:0.6"]


def test_an_adapter_is_inspected_and_converted(folder: Path) -> None:
    result = sfumato("adapter", "inspect", "one.safetensors:0.5")
    assert result.code == 0
    assert result.out.splitlines()[0] == "one"
    assert "  strength    0.5" in result.out
    result = sfumato(
        "adapter", "convert", "one.safetensors", "-o", "k.safetensors", "--layout", "kohya", "--model", "emoji"
    )
    assert result.code == 0 and result.out.startswith("k.safetensors  (kohya, ")
    first = sfumato("run", "a fox", "-o", "one.png", "--lora", "one.safetensors", *FEW)
    again = sfumato("run", "a fox", "-o", "again.png", "--lora", "k.safetensors", *FEW)
    assert (first.code, again.code) == (0, 0)
    assert pixels("one.png") == pixels("again.png")


def test_adapters_are_combined_and_extracted(folder: Path) -> None:
    both = sfumato(
        "adapter",
        "combine",
        "one.safetensors:0.6",
        "two.safetensors",
        "-o",
        "both.safetensors",
        "--model",
        "emoji",
        "--json",
    )
    assert both.data["ranks"] == [4] and both.data["path"] == "both.safetensors"
    pipe = sf.load("emoji").with_adapters(sf.load_adapter("both.safetensors"))
    pipe.merged().save_pretrained("styled")
    made = sfumato("adapter", "extract", "styled", "emoji", "-o", "e.safetensors", "--rank", "4", "--layout", "peft")
    assert made.code == 0, made.err
    assert sf.load_adapter("e.safetensors").ranks == (4,)


def test_errors_name_the_option(folder: Path) -> None:
    result = sfumato("adapter", "convert", "one.safetensors", "-o", "k.safetensors")
    assert result.code == 1
    assert result.err.rstrip().endswith("Pass --model, the model that it was trained for.")
    result = sfumato("run", "a fox", "--lora", "one.safetensors:much")
    assert (
        "one.safetensors:much: 'much' is no strength. Write FILE:STRENGTH, such as one.safetensors:0.6." in result.err
    )
    assert sfumato("adapter").code == 2
    assert "needs peft, kohya, comfy or lycoris" in sfumato("adapter", "convert", "a", "-o", "b", "--layout", "x").err
