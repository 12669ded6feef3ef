"""The reference pages are complete: every public name is on one of them, and has a docstring to show there."""

import inspect
import re
from functools import reduce
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import sfumato as sf
from sfumato.registry import Names, guiders, models, schedulers

PAGES = sorted((Path(__file__).parents[2] / "docs" / "reference").glob("*.md"))
ENTRIES = [name for page in PAGES for name in re.findall(r"^::: ([\w.]+)$", page.read_text("utf-8"), re.MULTILINE)]
TABLES = {"schedulers": schedulers, "guiders": guiders, "models": models}


def named(path: str) -> Any:  # Any: whatever stands at that path
    """The object at a dotted path: the longest part that is a module, and attributes from there on."""
    parts = path.split(".")
    for end in range(len(parts) - 1, 0, -1):
        try:
            return reduce(getattr, parts[end:], import_module(".".join(parts[:end])))
        except ModuleNotFoundError:
            continue
    return import_module(path)


def documented(thing: Any) -> bool:
    """Whether a class or function has a docstring of its own."""
    return bool(thing.__dict__.get("__doc__") if isinstance(thing, type) else inspect.getdoc(thing))


@pytest.mark.parametrize("path", ENTRIES)
def test_every_entry_of_the_reference_is_importable(path: str) -> None:
    assert named(path) is not None


def test_no_name_is_twice_in_the_reference() -> None:
    assert len(ENTRIES) == len(set(ENTRIES))


@pytest.mark.parametrize("name", sf.__all__)
def test_every_public_name_is_in_the_reference(name: str) -> None:
    thing = getattr(sf, name)
    if isinstance(thing, ModuleType):
        page = next(p for p in PAGES if p.stem == "index").read_text("utf-8")
        assert documented(thing)
        assert f"`sf.{name}" in page
        return
    assert any(named(path) is thing for path in ENTRIES), f"no page of docs/reference has `::: sfumato.{name}`"
    if isinstance(thing, type) or inspect.isfunction(thing):  # others are described where they are assigned
        assert documented(thing), f"sf.{name} has no docstring"


@pytest.mark.parametrize("room", TABLES)
def test_every_published_class_is_in_the_reference(room: str) -> None:
    table: Names = TABLES[room]
    published = [name for name in table if table[name].__module__.startswith("sfumato.")]  # other tests add their own
    assert published and [name for name in published if f"sfumato.{room}.{name}" not in ENTRIES] == []
    assert [name for name in published if not documented(table[name])] == []


def public_members(thing: Any) -> list[str]:
    """The methods and properties that a class defines itself and that have no docstring, none inherited either."""
    bare: list[str] = []
    for name, member in vars(thing).items():
        found = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if name.startswith("_") or not (inspect.isfunction(found) or isinstance(found, property)):
            continue
        if not inspect.getdoc(getattr(thing, name)):
            bare.append(name)
    return bare


@pytest.mark.parametrize("name", [name for name in sf.__all__ if isinstance(getattr(sf, name), type)])
def test_every_public_method_has_a_docstring(name: str) -> None:
    assert public_members(getattr(sf, name)) == []
