"""T2I-Adapters and tiny autoencoders in the names of their authors, and a tiny autoencoder in two files."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import sfumato as sf
import sfumato.components.models as ours
from sfumato.components.models.base import Model

from .test_single_file_recognition import AUTHORS, SINGLES, taesd_name, tencent_light_name, tencent_name


def drawn(name: str) -> Model[Any]:
    """A model of one of the layouts, with random weights."""
    kind, config = SINGLES[name]
    torch.manual_seed(0)
    return getattr(ours, kind)(**config)


def component(file: Path, **more: Any) -> Any:
    return sf.load_component(file, manager=sf.ComponentsManager(), **more)


def assert_same(made: Model[Any], model: Model[Any]) -> None:
    assert type(made) is type(model)
    assert made.to_config() == model.to_config()
    assert all(torch.equal(made.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("adapter.conv_in.weight", "conv_in.weight"),
        ("adapter.body.0.resnets.1.block1.bias", "body.1.block1.bias"),
        ("adapter.body.1.in_conv.weight", "body.2.in_conv.weight"),
        ("adapter.body.3.resnets.1.block2.weight", "body.7.block2.weight"),
    ],
)
def test_the_names_of_the_test_are_those_of_the_published_files(ours: str, theirs: str) -> None:
    """As the conversion script of diffusers (`convert_original_t2i_adapter.py`) reads them."""
    assert tencent_name(ours) == theirs
    assert tencent_light_name("adapter.body.1.resnets.3.block2.weight") == "body.1.body.3.block2.weight"
    assert taesd_name("decoder.layers.2.conv.0.weight") == "taesd_decoder.3.conv.0.weight"


@pytest.mark.parametrize("prefix", ["", "module.", "adapter."])
@pytest.mark.parametrize("layout", AUTHORS)
def test_small_models_are_read_in_the_names_of_their_authors(layout: str, prefix: str, tmp_path: Path) -> None:
    published, named = AUTHORS[layout]
    model = drawn(published)
    tensors = {f"{prefix}{named(name)}": tensor.clone() for name, tensor in model.state_dict().items()}
    save_file(tensors, tmp_path / "one.safetensors")
    assert_same(component(tmp_path / "one.safetensors"), model)
    assert_same(component(tmp_path / "one.safetensors", class_name=type(model).__name__), model)
    torch.save(tensors, tmp_path / "one.pth")
    assert_same(component(tmp_path / "one.pth", allow_pickle=True), model)


def test_the_numbers_of_comfyui_beside_a_tiny_autoencoder_are_no_tensors_of_an_unknown_model(tmp_path: Path) -> None:
    model = drawn("tiny autoencoder")
    tensors = {taesd_name(name): tensor.clone() for name, tensor in model.state_dict().items()}
    numbers = {"vae_scale": torch.tensor(0.18215), "vae_shift": torch.tensor(0.0)}
    save_file({**tensors, **numbers}, tmp_path / "taesd.safetensors")
    assert "no known model" not in str(sf.inspect(tmp_path / "taesd.safetensors"))
    assert_same(component(tmp_path / "taesd.safetensors"), model)


# ------------------------------------------------------------------------------------------------- two files
def write_halves(folder: Path, name: str, model: Model[Any]) -> dict[str, Path]:
    """TAESD's own two files."""
    files: dict[str, Path] = {}
    for half in ("encoder", "decoder"):
        prefix = f"taesd_{half}."
        named = {taesd_name(key): tensor.clone() for key, tensor in model.state_dict().items()}
        files[half] = folder / f"{name}_{half}.safetensors"
        save_file({k.removeprefix(prefix): t for k, t in named.items() if k.startswith(prefix)}, files[half])
    return files


@pytest.mark.parametrize("name", ["taesd", "taesdxl", "taesd3", "taef1"])
def test_a_tiny_autoencoder_in_two_files_is_read_by_the_name_of_either(name: str, tmp_path: Path) -> None:
    model = drawn("tiny autoencoder")
    files = write_halves(tmp_path, name, model)
    for file in files.values():
        assert_same(component(file), model)
        found = sf.inspect(file)
        assert [part.parameters for part in found.components] == [sum(p.numel() for p in model.parameters())]
    spec = sf.ComponentSpec(pretrained_model_name_or_path=str(files["decoder"]))
    assert_same(sf.ComponentsManager().load(spec), model)


def test_a_half_without_the_other_says_where_the_other_must_be(tmp_path: Path) -> None:
    files = write_halves(tmp_path, "taesd", drawn("tiny autoencoder"))
    files["encoder"].unlink()
    with pytest.raises(sf.LoadError, match=r"encoder or decoder alone\. Put the file of the other half beside it"):
        component(files["decoder"])
    save_file({"x": torch.zeros(2)}, files["encoder"])  # a file of that name that is no half
    with pytest.raises(sf.LoadError, match="a tiny autoencoder's encoder or decoder alone"):
        component(files["decoder"])
    write_halves(tmp_path, "taesd", drawn("tiny autoencoder"))
    assert_same(component(files["decoder"]), drawn("tiny autoencoder"))


@pytest.mark.parametrize(
    ("names", "looks"),
    [
        (("style_embedding", "transformer_layes.0.attn.in_proj_weight"), "a style adapter of T2I-Adapter"),
        (("conv_in.weight", "body.0.block1.weight", "body.0.skep.weight"), "whose blocks skip by a convolution"),
    ],
)
def test_other_models_of_t2i_adapter_are_named(names: tuple[str, ...], looks: str, tmp_path: Path) -> None:
    save_file({name: torch.zeros(2, 2) for name in names}, tmp_path / "other.safetensors")
    with pytest.raises(sf.LoadError, match=looks):
        component(tmp_path / "other.safetensors")
