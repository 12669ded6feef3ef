"""What shapes do not show: the family files have the keys of the published configs, and of the reference's tables."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import sfumato.components.models as ours
from sfumato.components.loading.single_file.checkpoint import FAMILIES, facts_of

PUBLISHED: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent.parent / "data" / "published_configs.json").read_text()
)
"""The keys of published configs that do not follow from shapes, by family, with the repo that they are from."""
OLDER_TOKENS = {"bos_token_id", "eos_token_id"}
"""Published with numbers that CLIP's vocabulary does not have there; transformers reads them as the real ones."""


def test_all_families_are_compared() -> None:
    assert PUBLISHED.keys() == {file.stem for file in FAMILIES.glob("*.json")}


@pytest.mark.parametrize("family", PUBLISHED)
def test_a_family_has_the_published_keys(family: str) -> None:
    published, own = PUBLISHED[family], facts_of(family)
    assert own["class_name"] == published["class_name"]
    assert own["keys"].items() >= published.get("keys", {}).items()
    assert own["scheduler"].items() == published["scheduler"].items()
    for name, model in own["models"].items():
        wanted = {key: value for key, value in published[name].items() if key not in OLDER_TOKENS}
        assert model["config"].items() >= wanted.items(), name
        config_class = getattr(ours, model["class"][1]).config_class
        assert model["config"].keys() - {"head_size"} <= config_class.model_fields.keys(), name


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "sdxl_refiner"])
def test_schedulers_agree_with_the_references_default(family: str) -> None:
    default: dict[str, Any] = import_module("diffusers.loaders.single_file_utils").SCHEDULER_DEFAULT_CONFIG
    own = facts_of(family)["scheduler"]
    assert {key: own[key] for key in default if key in own} == {key: default[key] for key in default if key in own}
