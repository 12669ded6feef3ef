"""The presets that `sf.load` knows by name. Importing this module imports no model."""

import json
from pathlib import Path
from typing import TypeGuard

from ..registry import presets as families

EMBEDDED = Path(__file__).parent / "embedded"
"""One folder for each model that this package includes."""


def names() -> list[str]:
    """The presets that `load` knows by name: the included models, then the families."""
    return [*sorted(path.name for path in EMBEDDED.iterdir() if path.is_dir()), *families]


def is_embedded(x: str | Path) -> TypeGuard[str]:
    """Whether this is the name of an included model."""
    return isinstance(x, str) and x.isidentifier() and (EMBEDDED / x).is_dir()


def family_name(name: str) -> str:
    """The family of a preset: its own name, or that of the family whose pipeline class an included model names."""
    if not is_embedded(name):
        return name
    pipeline = json.loads((EMBEDDED / name / "model_index.json").read_text(encoding="utf-8"))["_class_name"]
    return next(family.name for family in families.values() if pipeline in family.classes)
