"""Another task's graph is what the index of the checkpoint would have made of it."""

from itertools import permutations

import pytest

from sfumato.presets.family import Family
from sfumato.registry import presets as families

KEYS = {"force_zeros_for_empty_prompt": False, "requires_aesthetics_score": True, "is_distilled": True}
"""Plain keys of published indexes, each with a value that is not the preset's own."""


@pytest.mark.parametrize("name", families)
def test_a_sister_task_has_what_the_index_said(name: str) -> None:
    """`sister` is given no index: what it said lies in the blocks, and goes over with them, there and back."""
    family: Family = families[name]
    for key, value in KEYS.items():
        for first, second in permutations(family.tasks, 2):
            one, other = (family.make(task, {}, **{key: value}) for task in (first, second))
            assert family.sister(one, second) == other
            assert family.sister(family.sister(one, second), first) == one


def test_the_keys_say_something() -> None:
    family: Family = families["sdxl"]
    said = [family.make("image2image", {}, **{key: value}) for key, value in KEYS.items()]
    assert [graph == family.make("image2image", {}) for graph in said] == [False, False, True]
