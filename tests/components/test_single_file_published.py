"""What shapes do not show: the family files have the keys of published configs, and of the reference's tables."""

import json
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import sfumato as sf
import sfumato.components.models as ours
from sfumato.components.loading.single_file.checkpoint import FAMILIES, checkpoint_of, facts_of
from sfumato.components.loading.single_file.configs import config_of

from .test_single_file_recognition import Zeros, shapes_of

DATA: dict[str, Any] = json.loads((Path(__file__).parent.parent / "data" / "published_configs.json").read_text())
PUBLISHED: dict[str, dict[str, dict[str, Any]]] = {name: parts for name, parts in DATA.items() if name != "about"}
"""By family and component: keys of the published config that shapes do not show, and the file that they are from."""
NO_KEYS_OF_OURS = {"bos_token_id", "eos_token_id", "architectures", "attention_dropout", "dropout_rate"}
"""Older numbers of tokens, which transformers reads as the real ones; the class; and numbers of training."""
WITHOUT_SOURCE = {
    "sdxl_refiner": {
        "unet": {"addition_time_embed_dim"}, "vae": {"scaling_factor", "force_upcast"},
        "text_encoder_2": {"hidden_act", "layer_norm_eps", "pad_token_id"},
    },
    "flux": {"transformer": {"axes_dims_rope"}},
}  # fmt: skip
"""Keys for which no published file was found. Those of the refiner are SDXL's; Flux's axes are the class's default."""
SIZES = {
    "sd1": "v1", "sd2": "v2", "sdxl": "xl_base", "sdxl_refiner": "xl_refiner",
}  # fmt: skip
"""The names of families in the reference's table of sizes."""


def reference(name: str) -> dict[str, Any]:
    return getattr(import_module("diffusers.loaders.single_file_utils"), name)


def by_shapes(family: str) -> dict[str, dict[str, Any]]:
    """The keys of each model's config that follow from the shapes of a tiny file."""
    found = checkpoint_of(Path("none"), Zeros(shapes_of(family)), {})
    return {name: config_of(part, {}) for name, part in found.models().items()}


def values_of(config: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The class of a scheduler and the values of its fields."""
    made = sf.schedulers.Scheduler.coerce(config)
    names = [field.name for field in fields(made) if not field.name.startswith("_")]
    return type(made).__name__, {name: getattr(made, name) for name in names}


def test_all_families_are_compared_and_all_entries_have_a_source() -> None:
    assert PUBLISHED.keys() == {file.stem for file in FAMILIES.glob("*.json")}
    assert all(entry["source"] and entry["config"] for parts in PUBLISHED.values() for entry in parts.values())


@pytest.mark.parametrize("family", PUBLISHED)
def test_a_family_has_the_index_and_the_scheduler_that_were_published(family: str) -> None:
    published, own = PUBLISHED[family], facts_of(family)
    index = dict(published["index"]["config"])
    assert (own["class_name"], own["keys"]) == (index.pop("_class_name"), index)
    if "scheduler" in published:
        assert values_of(own["scheduler"]) == values_of(published["scheduler"]["config"])
        assert own["scheduler"].items() <= published["scheduler"]["config"].items()


@pytest.mark.parametrize("family", PUBLISHED)
def test_a_family_has_the_published_keys_that_shapes_do_not_show(family: str) -> None:
    published, own, shown = PUBLISHED[family], facts_of(family), by_shapes(family)
    for name in published.keys() - {"index", "scheduler"}:
        model = own["models"][name]
        config_class = getattr(ours, model["class"][1]).config_class
        made = {**config_class().model_dump(), **model["config"]}
        wanted = {key: value for key, value in published[name]["config"].items() if key not in NO_KEYS_OF_OURS}
        wanted = {key: value for key, value in wanted.items() if key not in shown[name]}
        assert {key: made[key] for key in wanted if key in config_class.model_fields} == {
            key: value for key, value in wanted.items() if key in config_class.model_fields
        }, name


@pytest.mark.parametrize("family", PUBLISHED)
def test_each_key_of_a_family_file_has_a_source(family: str) -> None:
    for name, model in facts_of(family)["models"].items():
        config = getattr(ours, model["class"][1]).config_class
        known = PUBLISHED[family].get(name, {"config": {}})["config"].keys() | NO_KEYS_OF_OURS | {"head_size"}
        known |= {"sample_size"} if family in SIZES else set()
        defaults = config().model_dump()
        known |= {key for key, value in model["config"].items() if key in defaults and defaults[key] == value}
        assert model["config"].keys() - known == WITHOUT_SOURCE.get(family, {}).get(name, set()) - known, name


@pytest.mark.parametrize("family", SIZES)
def test_sizes_are_those_of_the_references_table(family: str) -> None:
    size = reference("DIFFUSERS_TO_LDM_DEFAULT_IMAGE_SIZE_MAP")[SIZES[family]]
    models = facts_of(family)["models"]
    assert models["vae"]["config"]["sample_size"] == size
    assert models["unet"]["config"]["sample_size"] * 8 == (512 if family == "sd2" else size)  # the base model's


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "sdxl_refiner"])
def test_schedulers_agree_with_the_references_default(family: str) -> None:
    default, own = reference("SCHEDULER_DEFAULT_CONFIG"), facts_of(family)["scheduler"]
    assert {key: own[key] for key in default if key in own} == {key: default[key] for key in default if key in own}
