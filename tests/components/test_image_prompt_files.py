"""IP-Adapters of SD 3 and Flux in one file: recognised, read under both names, and refused where they are damaged."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import sfumato as sf
from sfumato import LoadError
from sfumato.components.loading.single_file.configs import config_of
from sfumato.components.loading.single_file.recognition import parts_of
from sfumato.components.models import FluxImagePromptAdapter, SD3ImagePromptAdapter
from sfumato.components.storage.building import on_meta

SD3: dict[str, Any] = {
    "image_width": 12, "hidden_dim": 24, "num_attention_heads": 2, "depth": 2, "time_dim": 16, "num_tokens": 3,
    "width": 32, "attention_head_dim": 8, "num_layers": 3,
}  # fmt: skip
FLUX: dict[str, Any] = {"image_width": 12, "num_tokens": 4, "token_dim": 24, "width": 32, "num_layers": 2}
ADAPTERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "sd3": (SD3ImagePromptAdapter, SD3),
    "flux": (FluxImagePromptAdapter, FLUX),
}
Tensors = dict[str, Tensor]


def tensors_of(name: str) -> Tensors:
    kind, config = ADAPTERS[name]
    adapter = kind(**config)
    for parameter in adapter.parameters():
        nn.init.normal_(parameter)
    return {key: tensor.detach() for key, tensor in adapter.state_dict().items()}


def by_xlabs(tensors: Mapping[str, Tensor]) -> Tensors:
    """Flux's tensors under the names of XLabs' files."""
    pattern = re.compile(r"ip_adapter\.(\d+)\.to_([kv])_ip\.")
    processor = r"double_blocks.\1.processor.ip_adapter_double_stream_\2_proj."
    renamed = {name: name.replace("image_proj.", "ip_adapter_proj_model.") for name in tensors}
    return {pattern.sub(processor, renamed[name]): tensor for name, tensor in tensors.items()}


def two_dicts(tensors: Mapping[str, Tensor]) -> dict[str, Tensors]:
    made: dict[str, Tensors] = {"image_proj": {}, "ip_adapter": {}}
    for name, tensor in tensors.items():
        half, _, rest = name.partition(".")
        made[half][rest] = tensor
    return made


@pytest.mark.parametrize("layout", ["sd3", "flux", "flux by XLabs", "sd3 in a pickle"])
def test_a_file_is_read(tmp_path: Path, layout: str) -> None:
    name = layout.partition(" ")[0]
    tensors, place = tensors_of(name), tmp_path / "ip-adapter.safetensors"
    if layout.endswith("pickle"):
        torch.save(two_dicts(tensors), place := tmp_path / "ip-adapter.bin")
    else:
        save_file(by_xlabs(tensors) if layout.endswith("XLabs") else tensors, place)
    read = sf.load_component(place, allow_pickle=True)
    kind, config = ADAPTERS[name]
    assert type(read) is kind
    assert {key: value for key, value in read.to_config().items() if key[0] != "_"} == config
    assert all(torch.equal(tensor, tensors[key]) for key, tensor in read.state_dict().items())


def test_an_adapter_is_saved_and_read_as_a_folder(tmp_path: Path) -> None:
    adapter = FluxImagePromptAdapter(**FLUX)
    adapter.save_pretrained(tmp_path)
    again = sf.load_component(tmp_path)
    assert type(again) is FluxImagePromptAdapter and again.to_config() == adapter.to_config()


@pytest.mark.parametrize(("kind", "config"), [
    (SD3ImagePromptAdapter, {}), (FluxImagePromptAdapter, {}), (FluxImagePromptAdapter, {"num_tokens": 16}),
])  # fmt: skip
def test_the_sizes_of_published_files_are_found(kind: Any, config: dict[str, Any]) -> None:
    """InstantX's of SD 3.5 large, and both of XLabs."""
    with on_meta():
        adapter = kind(**config)
    (part,) = parts_of({key: tuple(tensor.shape) for key, tensor in adapter.state_dict().items()})
    assert config_of(part, {}) == {key: value for key, value in adapter.to_config().items() if key[0] != "_"}


def put(name: str, *shape: int) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: torch.zeros(shape)})


def drop(name: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.pop(name)


HOSTILE: dict[str, tuple[str, Callable[[Tensors], object], str]] = {
    "no norm": ("flux", drop("image_proj.norm.weight"), "it lacks image_proj.norm.weight"),
    "an axis less": ("flux", put("image_proj.proj.weight", 96), "has the shape [96], and 2 dimensions are needed"),
    "no numbers": ("flux", put("image_proj.norm.weight", 0), "image_proj.norm.weight has the shape [0]"),
    "half a token": ("flux", put("image_proj.proj.weight", 97, 12), "image_proj.proj.weight is [97, 12]"),
    "a far layer": ("flux", put("ip_adapter.999999999999.to_k_ip.weight", 32, 24), "unexpected: ip_adapter.99999"),
    "a gap": ("flux", put("ip_adapter.900.to_k_ip.weight", 32, 24), "num_layers"),
    "half a layer": ("sd3", drop("ip_adapter.1.to_v_ip.weight"), "missing: ip_adapter.1.to_v_ip.weight"),
    "half a head": ("sd3", put("image_proj.layers.0.0.to_q.weight", 65, 24), "to_q.weight is [65, 24]"),
    "many tokens": ("sd3", put("image_proj.latents", 1, 10**7, 1), "num_tokens"),
    "an odd head": ("sd3", put("ip_adapter.0.norm_q.weight", 7), "attention_head_dim"),
    "another key": ("sd3", put("ip_adapter.0.to_q_ip.weight", 2, 2), "unexpected: ip_adapter.0.to_q_ip.weight"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_damaged_file_is_refused_by_the_name_of_its_tensor(tmp_path: Path, what: str) -> None:
    name, change, message = HOSTILE[what]
    tensors = tensors_of(name)
    change(tensors)
    save_file(tensors, tmp_path / "ip-adapter.safetensors")
    with pytest.raises((LoadError, sf.ConfigError), match=re.escape(message)):
        sf.load_component(tmp_path / "ip-adapter.safetensors")


def test_the_adapter_of_instantx_for_flux_is_refused_by_name(tmp_path: Path) -> None:
    """It has an MLP, and attention in all blocks."""
    layers = {f"ip_adapter.{n}.to_{kind}_ip.weight": torch.zeros(8, 8) for n in range(57) for kind in "kv"}
    norm = {"image_proj.norm.weight": torch.zeros(8), "image_proj.norm.bias": torch.zeros(8)}
    mlp = {f"image_proj.proj.{n}.weight": torch.zeros(8, 8) for n in (0, 2)}
    save_file({**layers, **norm, **mlp}, tmp_path / "ip-adapter.safetensors")
    with pytest.raises(LoadError, match=r"InstantX's IP-Adapter of Flux.* Use XLabs' IP-Adapter of Flux"):
        sf.load_component(tmp_path / "ip-adapter.safetensors")
