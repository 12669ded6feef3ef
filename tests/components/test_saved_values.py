"""Values in files: they come back as they were, and a file of a stranger makes nothing but values."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

import sfumato as sf
from sfumato.components.conditioning import SDConditioning, SDXLConditioning, StepPlan
from sfumato.components.pictures import each_picture, size_of
from sfumato.components.random import Random
from sfumato.components.types import Rows
from sfumato.graph.memo.contents import content_key
from sfumato.graph.stored.file import _hash

VALUES: dict[str, Any] = {
    "latents": torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "positive": SDXLConditioning(torch.ones(1, 2, 3), pooled=torch.zeros(1, 4), time_ids=torch.ones(1, 6)),
    "random": Random.seeded([1, 2]),
    "steps": sf.schedulers.EulerDiscreteScheduler().steps(5)[2:],
    "rows": Rows(1, 2),
    "mask_image": Image.new("L", (3, 2), 7),
    "pixels": np.arange(6, dtype=np.uint8).reshape(1, 2, 3),
    "plan": StepPlan(fractions=(0.5,), table=(0, 1)),
    "plain": {"a": [1, 1.0, True, None, "x", (1, float("inf"))], 2: Path("here")},
}


def test_values_come_back_as_they_were(tmp_path: Path) -> None:
    file = sf.save_values(tmp_path / "values.safetensors", **VALUES)
    back = sf.load_values(file)
    assert list(back) == list(VALUES)
    for name, value in VALUES.items():
        assert content_key(back[name]) == content_key(value), name


def test_a_saved_conditioning_is_passed_in_place_of_its_prompt(tmp_path: Path) -> None:
    pipe = sf.load("emoji")
    prompt = {"prompt": "a fox", "negative_prompt": ""}
    encoded = pipe.only("positive", "negative")(**prompt)
    values = sf.load_values(sf.save_values(tmp_path / "fox.safetensors", **encoded))
    assert type(values["positive"]) is SDConditioning
    pictures = [pipe(**given, seed=7, num_inference_steps=2).images[0].tobytes() for given in (prompt, values)]
    assert pictures[0] == pictures[1]


def test_what_is_no_value_is_refused(tmp_path: Path) -> None:
    with pytest.raises(sf.SaveError, match=r"^model: is torch.nn.modules.linear.Linear, which a file of values cannot"):
        sf.save_values(tmp_path / "x.safetensors", model=torch.nn.Linear(1, 1))
    assert not (tmp_path / "x.safetensors").exists()


def test_a_picture_keeps_its_orientation(tmp_path: Path) -> None:
    turned, exif = Image.linear_gradient("L").crop((0, 0, 3, 2)), Image.Exif()
    exif[274] = 6
    turned.info["exif"] = exif.tobytes()
    back = sf.load_values(sf.save_values(tmp_path / "x.safetensors", image=turned))["image"]
    assert content_key(back) == content_key(turned)
    assert size_of(each_picture(back)[0]) == size_of(each_picture(turned)[0]) == (3, 2)


@pytest.mark.parametrize(
    "value",
    [np.ones(2, dtype=">f4"), np.ones(2, dtype=np.longdouble), torch.ones(2, device="meta"), Image.new("P", (1, 1))],
    ids=["big-endian", "long double", "meta", "palette"],
)
def test_numbers_that_no_tensor_has_are_refused(value: Any, tmp_path: Path) -> None:
    with pytest.raises(sf.SaveError, match=r"^value: is .*, which a file of values cannot have\. Leave it out\.$"):
        sf.save_values(tmp_path / "x.safetensors", value=value)


def test_a_picture_with_broken_exif_or_a_transparent_colour_has_a_key_and_is_not_changed(tmp_path: Path) -> None:
    broken = Image.new("RGB", (2, 2), "red")
    broken.info["exif"] = b"Exif\0\0garbage"
    assert content_key(broken) != content_key(Image.new("RGB", (2, 2), "red"))
    assert (
        sf.load_values(sf.save_values(tmp_path / "x.safetensors", image=broken))["image"].tobytes() == broken.tobytes()
    )
    broken.info["transparency"] = (255, 0, 0)
    with pytest.raises(sf.SaveError, match=r"^image: is a picture with a transparent colour, which a file of values"):
        sf.save_values(tmp_path / "x.safetensors", image=broken)


# ------------------------------------------------------------------------------------------------ from strangers
def written(path: Path, change: Callable[[dict[str, Any]], Any], tensors: dict[str, Any] | None = None) -> Path:
    """A file with a changed tree for the value x, and with the right hash."""
    sf.save_values(path, x=[torch.zeros(2)])
    with safe_open(path, "pt") as opened:
        header = dict(opened.metadata())
    tensors = tensors or {"x 0": torch.zeros(2)}
    content = json.loads(header["content"])
    content["values"]["x"][1] = change(content["values"]["x"][1])
    text = json.dumps(content)
    save_file(tensors, path, {**header, "content": text, "hash": _hash(text, tensors)})
    return path


CLASS = "sfumato.components.conditioning:SDConditioning"
HOSTILE: dict[str, tuple[Any, str]] = {
    "a class of another package": ({"class": "subprocess:Popen", "fields": {"args": "ls"}}, "no class 'subprocess"),
    "a function": ({"class": "sfumato:load", "fields": {"x": "emoji"}}, "no class 'sfumato:load' of values"),
    "a class that is no value": (
        {"class": "sfumato.components.manager:ComponentsManager", "fields": {}}, "no class 'sfumato.components.manager",
    ),
    "a block": ({"class": "sfumato.blocks.latents.start:SeedRandom", "fields": {}}, "no class 'sfumato.blocks.latents"),
    "a module that is not imported": ({"class": "sfumato.presets.cli.app:X", "fields": {}}, "no class"),
    "a field of another type": ({"class": CLASS, "fields": {"tokens": "text"}}, "SDConditioning.tokens takes Float"),
    "a field of another shape": (
        {"class": CLASS, "fields": {"tokens": {"tensor": 0, "device": "cpu"}}}, "with the dimensions rows tokens width",
    ),
    "a field that is unknown": ({"class": CLASS, "fields": {"evil": None}}, "SDConditioning"),
    "one tensor many times": ({"list": [{"tensor": 0, "device": "cpu"}] * 2}, "tensor 0 is there twice"),
    "a tensor that is not there": ({"tensor": 9, "device": "cpu"}, "is no stored value: list index"),
    "a picture without pixels": ({"picture": 0, "mode": "L", "size": [8000, 8000]}, "has other pixels"),
    "a huge picture": ({"picture": 0, "mode": "L", "size": [10**6, 10**6]}, "pixels, and the limit is"),
    "a key that is a list": ({"dict": [[{"list": []}, None]]}, "unhashable"),
    "a number that is none": ({"float": "nothing"}, "hexadecimal"),
    "another tree": ({"eval": "1"}, "no value looks like"),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_a_file_of_a_stranger_makes_nothing_but_values(what: str, tmp_path: Path) -> None:
    tree, reason = HOSTILE[what]
    with pytest.raises(sf.LoadError, match="has a value that cannot be made") as error:
        sf.load_values(written(tmp_path / "x.safetensors", lambda _: tree))
    assert reason in str(error.value)


def test_a_tensor_of_a_device_that_is_missing_is_on_the_cpu(tmp_path: Path) -> None:
    for device in ("cuda:0" if not torch.cuda.is_available() else "cpu", "meta", "nonsense"):
        file = written(tmp_path / "x.safetensors", lambda _, d=device: {"tensor": 0, "device": d})
        assert sf.load_values(file)["x"].device.type == "cpu"


def test_a_file_that_is_broken_or_of_another_kind_is_refused(tmp_path: Path) -> None:
    file = sf.save_values(tmp_path / "x.safetensors", x=torch.zeros(2))
    data = file.read_bytes()
    for wrong, reason in (
        (data[:-1], ""), (data[:-1] + b"\x01", "its hash is another one"), (b"", ""), (b"\xff" * 100, "and the limit"),
    ):  # fmt: skip
        file.write_bytes(wrong)
        with pytest.raises(sf.LoadError, match=f"cannot be read as values: .*{reason}"):
            sf.load_values(file)
    save_file({"x": torch.zeros(2)}, file)
    with pytest.raises(sf.LoadError, match="its form is None, not 'sfumato values 1'"):
        sf.load_values(file)
    with pytest.raises(sf.LoadError, match="there is no such file"):
        sf.load_values(tmp_path / "y.safetensors")
