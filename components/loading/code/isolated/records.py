"""Values of this library that pass between two processes: records of plain values and tensors, by name."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, cast, get_type_hints

from torch import Tensor

from .....graph.validate import Unfit, fitted
from .... import conditioning
from ....random import Random
from ....schedulers.schedule import Level, Schedule, Step
from ....types import Rows


@cache
def records() -> Mapping[str, type]:
    """The classes, by the names that stand in a message: what prompts become, and what loops count by."""
    told = [cls for cls in vars(conditioning).values() if isinstance(cls, type)]
    texts = [cls for cls in told if issubclass(cls, conditioning.Conditioning)]
    return {cls.__name__: cls for cls in (*texts, Random, Schedule, Step, Level, Rows)}


def parts_of(record: object) -> dict[str, Any]:
    """What a record is made of again, and for a schedule the tensor that says on which device it is."""
    if isinstance(record, tuple):
        return cast(Any, record)._asdict()  # a NamedTuple
    assert is_dataclass(record)
    parts = {f.name: getattr(record, f.name) for f in fields(record) if f.init}
    return {**parts, "device_timesteps": record.device_timesteps} if isinstance(record, Schedule) else parts


def remade(name: str, parts: dict[str, Any]) -> Any:  # one of those records
    """The record again. Raises `ValueError` for parts of which it cannot be made."""
    cls = records()[name]
    here = parts.pop("device_timesteps", None) if cls is Schedule else None
    hints = get_type_hints(cls, include_extras=True)
    try:
        for part, value in parts.items():
            fitted(value, hints[part])  # and what came is kept: a clock of ints stays one
        made = cls(**parts)
    except (Unfit, KeyError, TypeError) as error:
        raise ValueError(f"is no {name}: {error}") from None
    if isinstance(made, Schedule):
        return made.to(here.device) if isinstance(here, Tensor) else made
    return Random(tuple(state.cpu() for state in made.states)) if isinstance(made, Random) else made
