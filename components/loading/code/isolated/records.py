"""Values of this library that may be sent to another process: records of plain values and tensors, by name."""

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
    """The classes by their names in messages: conditionings, schedules and their steps, generator states."""
    classes = [cls for cls in vars(conditioning).values() if isinstance(cls, type)]
    conditionings = [cls for cls in classes if issubclass(cls, conditioning.Conditioning)]
    return {cls.__name__: cls for cls in (*conditionings, Random, Schedule, Step, Level, Rows)}


def parts_of(record: object) -> dict[str, Any]:
    """The fields of a record; for a schedule also a tensor on its device."""
    if isinstance(record, tuple):
        return cast(Any, record)._asdict()  # a NamedTuple
    assert is_dataclass(record)
    parts = {f.name: getattr(record, f.name) for f in fields(record) if f.init}
    return {**parts, "device_timesteps": record.device_timesteps} if isinstance(record, Schedule) else parts


def remade(name: str, parts: dict[str, Any]) -> Any:  # one of those records
    """The record of these fields. ValueError if they do not fit."""
    cls = records()[name]
    on_device = parts.pop("device_timesteps", None) if cls is Schedule else None
    hints = get_type_hints(cls, include_extras=True)
    try:
        for part, value in parts.items():
            fitted(value, hints[part])  # the value itself is used: a clock of ints stays one
        made = cls(**parts)
    except (Unfit, KeyError, TypeError) as error:
        raise ValueError(f"is not a {name}: {error}") from None
    if isinstance(made, Schedule):
        return made.to(on_device.device) if isinstance(on_device, Tensor) else made
    return Random(tuple(state.cpu() for state in made.states)) if isinstance(made, Random) else made
