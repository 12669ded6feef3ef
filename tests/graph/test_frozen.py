"""Setting an attribute of a value that does not change: the error says what to write."""

from dataclasses import FrozenInstanceError
from typing import Any

import pytest

import sfumato as sf
from sfumato.graph.ports import Outputs

ANY: Any = sf  # Any: so that wrong calls can be written
PIPE = sf.load("emoji")
WAYS: dict[str, tuple[Any, str, str]] = {
    "a component": (PIPE, "unet", "A graph does not change. Make another one: pipe = pipe.bind(unet=…)."),
    "a slot": (PIPE, "guider", "pipe = pipe.using(guider=…), or pass it in a call: pipe(…, guider=…)."),
    "an input": (PIPE, "prompt", "A graph does not change. Pass it in the call: pipe(…, prompt=…)."),
    "a node": (PIPE, "decode", "Make another one: pipe = pipe.replace('decode', block)."),
    "outputs": (PIPE, "outputs", "Make another one: pipe = pipe.only('images')."),
    "an attribute of diffusers": (PIPE, "load_lora_weights", "A graph does not change. An adapter (LoRA)"),
    "another": (PIPE, "nodes", "pipe.bind, replace, insert, remove, rename, wire, only and using do that."),
    "a field": (PIPE["decode"], "tile", "A block does not change. Make another one: block = block.with_(tile=…)."),
    "a misspelt field": (PIPE["decode"], "tiles", "DecodeLatents has no field 'tiles'. Did you mean 'tile'?"),
    "a spec": (sf.ComponentSpec(), "dtype", "A spec does not change. Make another one: spec = spec.using(dtype=…)."),
    "an output": (Outputs({"images": 1}), "images", "Write images = … for a variable of your own"),
}


@pytest.mark.parametrize("case", WAYS)
def test_an_attribute_that_is_set_names_the_way(case: str) -> None:
    value, name, text = WAYS[case]
    with pytest.raises(FrozenInstanceError) as error:
        setattr(value, name, 1)
    assert text in str(error.value)


def test_nothing_is_deleted() -> None:
    with pytest.raises(FrozenInstanceError, match="does not change"):
        delattr(PIPE, "nodes")


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: ANY.Loop(over="steps", each="step", body=sf.Graph()), r"Loop.carry needs a value: tuple\[str, …\]\."),
        (lambda: ANY.Map(over="items", each="item"), r"Map.body needs a value: "),
        (lambda: ANY.Map(ovr="items", each="item", body=sf.Graph()), r"Map has no 'ovr'\. Did you mean 'over'\?"),
        (lambda: ANY.Switch(cases={}), r"Switch.on needs a value: str\."),
        (lambda: ANY.Loop(), "Loop.over needs a value: .* Loop.each .* Loop.carry .* Loop.body"),
        (
            lambda: ANY.Loop("steps"),
            r"Loop takes its fields by name, got 'steps' without a name\. Write Loop\(over=…\)",
        ),
    ],
)
def test_a_container_names_the_field_that_is_missing_or_misspelt(make: Any, text: str) -> None:
    with pytest.raises(sf.ConfigError, match=text):
        make()
