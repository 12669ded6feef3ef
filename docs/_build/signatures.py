"""An extension of griffe, which reads our source for the reference pages: it adds signatures that the text lacks.

A block becomes a dataclass in `Block.__init_subclass__`, a model takes the keys of its `config_class`, and a pydantic
model takes its fields. Without this extension griffe shows these classes without parameters.
"""

from collections.abc import Iterator
from typing import Any

import griffe

BLOCK, MODEL, PYDANTIC = "Block", "Model", "BaseModel"


def classes(scope: griffe.Module | griffe.Class) -> Iterator[griffe.Class]:
    """All classes in a package."""
    for member in scope.members.values():
        if isinstance(member, griffe.Class):
            yield member
        if isinstance(member, griffe.Module | griffe.Class):
            yield from classes(member)


def lineage(cls: griffe.Class) -> list[griffe.Class]:
    """The class and those of its bases that are in this package, most general first."""
    try:
        return [*reversed(cls.mro()), cls]
    except ValueError:  # griffe cannot order the bases of a few generic classes
        return [cls]


def default_of(value: Any) -> Any:  # Any: an expression, a text or None
    """The default of a field; of `Field(default=…, description=…)` only the first part."""
    if isinstance(value, griffe.ExprCall) and str(value.function) == "Field":
        return next((a.value for a in value.arguments if getattr(a, "name", "") == "default"), None)
    return value


def fields(cls: griffe.Class) -> dict[str, griffe.Parameter]:
    """The annotated attributes of a class and its bases as keyword parameters."""
    found: dict[str, griffe.Parameter] = {}
    for owner in lineage(cls):
        for name, member in owner.members.items():
            field = isinstance(member, griffe.Attribute) and member.annotation is not None and name[0] != "_"
            if not field or "property" in member.labels or "instance-attribute" not in member.labels:
                continue  # a ClassVar is labelled "class-attribute" alone
            kind, default = griffe.ParameterKind.keyword_only, default_of(member.value)
            found[name] = griffe.Parameter(name, annotation=member.annotation, kind=kind, default=default)
    return found


def config_of(cls: griffe.Class) -> griffe.Class | None:
    """The config class of a model."""
    for owner in reversed(lineage(cls)):
        value = getattr(owner.members.get("config_class"), "value", None)
        if value is not None:
            config = owner.module[str(value)]
            return config.final_target if config.is_alias else config
    return None


class Signatures(griffe.Extension):
    """Give each block, model and pydantic model an `__init__` with its fields."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        for cls in [*classes(pkg)]:
            names = {base.name for base in lineage(cls)[:-1]} | {str(base) for base in cls.bases}
            if "__init__" in cls.members or not names & {BLOCK, MODEL, PYDANTIC}:
                continue
            source = config_of(cls) if MODEL in names else cls
            if source is None:
                continue
            me = griffe.Parameter("self", kind=griffe.ParameterKind.positional_or_keyword)
            parameters = griffe.Parameters(me, *fields(source).values())
            cls.set_member("__init__", griffe.Function("__init__", parent=source, parameters=parameters))
