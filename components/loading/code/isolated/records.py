"""Values of this library that may be sent to another process: records of plain values and tensors, by name."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any, cast, get_type_hints

from torch import Tensor

from .....graph.validate import fitted
from .... import conditioning
from ....random import Random
from ....schedulers.schedule import Level, Schedule, Step
from ....types import Rows

_MAX_ROWS, _MAX_STEPS = 1024, 10_000
"""More than runs have. A number costs no bytes in a message, and a row or a step costs much after it."""


@cache
def records() -> Mapping[str, type]:
    """The classes by their names in messages: conditionings, schedules and their steps, generator states."""
    classes = [cls for cls in vars(conditioning).values() if isinstance(cls, type)]
    conditionings = [cls for cls in classes if issubclass(cls, conditioning.Conditioning)]
    more = conditioning.OverSteps, conditioning.StepPlan, Random, Schedule, Step, Level, Rows
    return {cls.__name__: cls for cls in (*conditionings, *more)}


def parts_of(record: object) -> dict[str, Any]:
    """The fields of a record; for a schedule also a tensor on its device."""
    if isinstance(record, tuple):
        return cast(Any, record)._asdict()  # a NamedTuple
    assert is_dataclass(record)
    parts = {f.name: getattr(record, f.name) for f in fields(record) if f.init}
    return {**parts, "device_timesteps": record.device_timesteps} if isinstance(record, Schedule) else parts


def remade(name: str, parts: dict[str, Any]) -> Any:  # one of those records
    """The record of these fields. ValueError if they do not fit, or if they are numbers that no run has."""
    cls = records()[name]
    on_device = parts.pop("device_timesteps", None) if cls is Schedule else None
    hints = get_type_hints(cls, include_extras=True)
    try:
        for part, value in parts.items():
            fitted(value, hints[part])  # the value itself is used: a clock of ints stays one
        made = cls(**parts)
        _check(made)
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"is not a {name}: {error}") from None
    if isinstance(made, Schedule):
        return made.to(on_device.device) if isinstance(on_device, Tensor) else made
    return replace(made, states=tuple(state.cpu() for state in made.states)) if isinstance(made, Random) else made


def _check(made: object) -> None:
    match made:
        case Rows(prompts, each) if not (prompts > 0 and each > 0 and prompts * each <= _MAX_ROWS):
            raise ValueError(f"{prompts} prompts with {each} images each, and up to {_MAX_ROWS} rows are possible")
        case Schedule() if len(made.timesteps) > _MAX_STEPS:
            raise ValueError(f"{len(made.timesteps)} steps, and {_MAX_STEPS} are possible")
        case Step() if not 0 <= made.index < len(made.schedule.timesteps):
            raise ValueError(f"step {made.index} of {len(made.schedule.timesteps)}")
        case Random(states) if not 0 < len(states) <= _MAX_ROWS:
            raise ValueError(f"{len(states)} states")
        case Random():
            made.check()
        case _:
            pass
