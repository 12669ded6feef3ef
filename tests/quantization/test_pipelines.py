"""A pipeline whose components are quantized each in its own way, and what that changes in a picture."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sfumato as sf
from sfumato.components.quantization.config import BitsAndBytesConfig
from sfumato.graph.errors import ConfigError

from .conftest import EMOJI
from .test_load import Package, quantized


def picture(pipe: sf.Graph) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    image = pipe(prompt="fox", seed=7, num_inference_steps=6).images[0]
    return np.asarray(image, dtype=np.float32)


def test_components_are_quantized_each_in_its_own_way(package: Package) -> None:
    package("bitsandbytes")
    package("torchao")
    manager = sf.ComponentsManager()
    asked = {"unet": "int8_weight_only", "text_encoder": BitsAndBytesConfig(load_in_4bit=True)}
    pipe = sf.load("emoji", manager=manager, quantization=asked)
    plain = sf.load("emoji", manager=manager)
    assert pipe.bindings["vae"] == plain.bindings["vae"] and pipe.bindings["unet"] != plain.bindings["unet"]
    drawn, exact = picture(pipe), picture(plain)
    assert quantized(pipe.bindings["text_encoder"].load()) and quantized(pipe.bindings["unet"].load())
    difference = float(np.abs(drawn - exact).mean())
    assert 0 < difference < 12  # of 255
    assert np.array_equal(picture(plain), exact)


def test_a_saved_graph_says_how_its_components_are_held(package: Package, tmp_path: Path) -> None:
    package("bitsandbytes")
    pipe = sf.load("emoji", manager=sf.ComponentsManager(), quantization={"unet": "nf4"})
    pipe.save(tmp_path)
    again = sf.load(tmp_path, manager=sf.ComponentsManager())
    assert again.bindings["unet"].spec == pipe.bindings["unet"].spec
    assert quantized(again.bindings["unet"].load())


def test_one_component_is_loaded_quantized(package: Package) -> None:
    package("torchao")
    unet = sf.load_component(EMOJI, subfolder="unet", quantization="int8_weight_only", manager=sf.ComponentsManager())
    assert quantized(unet)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nf4", r"needs a kind for each component, got 'nf4'\. Write it as a dict: \{'"),
        ({"unett": "nf4"}, r"no component 'unett'\. Did you mean 'unet'\?"),
        ({"unet": "nf5"}, r"unet: quantization: 'nf5' is unknown\. Did you mean 'nf4'\?"),
        ({"load_in_4bit": True}, "no component 'load_in_4bit'"),
    ],
)
def test_what_is_asked_of_a_pipeline_is_checked_before_it_loads(given: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sf.load("emoji", manager=sf.ComponentsManager(), quantization=given)
