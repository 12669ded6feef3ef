"""Another task's graph is what the index of the checkpoint would have made of it."""

import logging
from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import pytest

import sfumato as sf
from sfumato import ConfigError
from sfumato.presets.family import Family
from sfumato.presets.settings import IGNORED_KEYS
from sfumato.registry import presets as families

KEYS = {"force_zeros_for_empty_prompt": False, "requires_aesthetics_score": True}
"""Plain keys of published indexes of SDXL, each with a value that is not the preset's own."""


@pytest.mark.parametrize("key", KEYS)
def test_a_sister_task_has_what_the_index_said(key: str) -> None:
    """`sister` is given no index: what it said lies in the blocks, and goes over with them, there and back."""
    family: Family = families["sdxl"]
    for first, second in permutations(family.tasks, 2):
        one, other = (family.make(task, {}, **{key: KEYS[key]}) for task in (first, second))
        assert family.sister(one, second) == other
        assert family.sister(family.sister(one, second), first) == one


def test_the_keys_say_something() -> None:
    family: Family = families["sdxl"]
    assert all(family.make("image2image", {}, **{k: v}) != family.make("image2image", {}) for k, v in KEYS.items())


@pytest.mark.parametrize("name", families)
def test_keys_that_are_ignored_change_nothing(name: str) -> None:
    family: Family = families[name]
    keys = dict.fromkeys(IGNORED_KEYS, True)
    assert all(family.make(task, {}, **keys) == family.make(task, {}) for task in family.tasks)


@pytest.mark.parametrize("name", families)
def test_a_misspelt_key_is_refused(name: str) -> None:
    family: Family = families[name]
    with pytest.raises(
        ConfigError, match=r"key 'require_safety_checker', which .*Settings does not know\. Did you mean 'requires_saf"
    ):
        family.make("text2image", {}, require_safety_checker=False)


@pytest.mark.parametrize("key", ["require_safety_checker", "made_by"])
def test_an_index_with_a_stray_key_loads_and_a_note_names_it(
    a_folder: Path, reconfigure: Callable[..., None], caplog: pytest.LogCaptureFixture, key: str
) -> None:
    reconfigure(a_folder / "model_index.json", **{key: True})
    with caplog.at_level(logging.INFO, "sfumato"):
        pipe = sf.load(a_folder, manager=sf.ComponentsManager())
        assert sf.inspect(a_folder).family == "sd"
    assert pipe.preset == ("sd", "text2image")
    notes = [record.message for record in caplog.records if repr(key) in record.message]
    near = "Did you mean 'requires_safety_checker'? " if key.startswith("require") else ""
    assert notes == [
        f"{a_folder}: The index has the key {key!r}, which SDSettings does not know. {near}"
        "There are: requires_safety_checker, is_distilled. The key is ignored."
    ]


@pytest.mark.parametrize("key", ["size", "channels", "embeds_guidance"])
def test_an_index_sets_nothing_that_the_configs_say(key: str) -> None:
    with pytest.raises(ConfigError, match=f"The index has the key '{key}', which SDXLSettings does not know"):
        families["sdxl"].make("text2image", {}, **{key: 8})


def test_a_value_of_another_type_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"SDXLSettings\.requires_aesthetics_score takes bool, got 'yes'\."):
        families["sdxl"].make("text2image", {}, requires_aesthetics_score="yes")
