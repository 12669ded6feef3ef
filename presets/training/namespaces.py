"""The settings of a training in one namespace: those of the trainer, of the data and of the method."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast, get_type_hints

from ...graph import ConfigError, Graph
from ...registry import did_you_mean, printable
from .data import Buckets, Captions, Source, TrainingData, load_data
from .options import checked_options
from .settings import TrainingSettings, Values, fitted_values, raise_problems

OF_SOURCES = ("prompt", "image", "text", "mask", "control", "masks", "controls", "split", "revision")
"""Fields of `Source` that are settings where the data is one source."""


@dataclass(frozen=True)
class Divided:
    """Settings by whom they are for. Some, such as `seed`, are for several."""

    training: TrainingSettings
    method: Values
    data: Values
    source: Values


def divided(values: Values, of_method: Mapping[str, Any]) -> Divided:  # Any: type hints
    """Divide settings, and check those of the trainer and of the data.

    Args:
        values: by name.
        of_method: the settings of the method, which checks them itself.

    Raises:
        ConfigError: unknown names, and values of other types. It lists all of them.
    """
    data = {name: hint for name, hint in get_type_hints(load_data).items() if name in _keywords(load_data)}
    source = {name: hint for name, hint in get_type_hints(Source).items() if name in OF_SOURCES}
    training = TrainingSettings.names()
    known = dict.fromkeys((*training, *of_method, *data, *source))
    problems = [f"{printable(name)} is no setting. {did_you_mean(name, known)}" for name in values if name not in known]
    read = {**values, **{name: _read(name, values[name]) for name in ("size", "captions") if name in values}}
    hints = {**source, **data}
    own = {name: value for name, value in read.items() if name in hints and name not in of_method}
    read |= fitted_values(own, hints, problems)
    raise_problems("the settings of a training", problems)
    return Divided(
        TrainingSettings(**{name: values[name] for name in training if name in values}),
        {name: values[name] for name in of_method if name in values},
        {name: read[name] for name in data if name in values},
        {name: read[name] for name in source if name in values and name not in of_method},
    )


def _keywords(function: Any) -> set[str]:
    return {p.name for p in inspect.signature(function).parameters.values() if p.kind == p.KEYWORD_ONLY}


def _read(name: str, value: Any) -> Any:
    """`size` and `captions` as files have them: a table of the fields of their class."""
    if not isinstance(value, Mapping):
        return value
    kind = {"size": Buckets, "captions": Captions}[name]
    return kind(**checked_options(name, kind, cast("Values", value)))


def read_data(data: Any, more: list[Source], divided: Divided, pipe: Graph) -> TrainingData:
    """The data of a training, at the size that the preset draws where none is set.

    Args:
        data: what `load_data` takes, or `TrainingData`, which is used as it is.
        more: further sources.
        divided: the settings.
        pipe: the preset.
    """
    if isinstance(data, TrainingData):
        if lost := [*divided.data, *divided.source, *(["class_prompt"] if more else [])]:
            raise ConfigError(f"{', '.join(lost)}: has no use, because the data is read already. {_PASS}")
        return data
    sources: Any = data if isinstance(data, list | tuple) and data and isinstance(data[0], Source) else [data]
    if divided.source and all(isinstance(each, Source) for each in sources):
        raise ConfigError(f"{', '.join(divided.source)}: is a setting of a source, and sources were passed. {_PASS}")
    shares: dict[str, Any] = {"weight": 1.0} if more else {}
    own = [each if isinstance(each, Source) else Source(each, **divided.source, **shares) for each in sources]
    return load_data([*own, *more], **{"size": _drawn_size(pipe), **divided.data})


_PASS = "Pass a folder as data, or set it there: sf.load_data(…), sf.data.Source(…)."


def read_validation(data: Any, divided: Divided, pipe: Graph) -> TrainingData:
    """Data whose loss is measured: it is the same in each epoch, and captions keep their words."""
    if isinstance(data, TrainingData):
        return data
    captions: Captions = divided.data.get("captions", Captions())
    plain = {"crop": "center", "flip": 0.0, "captions": replace(captions, dropout=0.0, shuffle=False, tag_dropout=0.0)}
    return read_data(data, [], replace(divided, data={**divided.data, **plain}), pipe)


def check_prior(data: TrainingData, recipe: Graph) -> None:
    """Raise ConfigError for a recipe with prior preservation and data without pictures of a class."""
    if "is_prior" in recipe.inputs and not any(part.source.is_prior for part in data.parts):
        raise ConfigError(
            "The data has no pictures of the class of the subject. Pass class_prompt=, or a Source(…, is_prior=True); "
            "prior_weight=0 needs none."
        )


def _drawn_size(pipe: Graph) -> Any:
    """The size that a preset draws by itself: (rows, columns)."""
    sides = [pipe.inputs[name].default for name in ("height", "width") if name in pipe.inputs]
    return tuple(sides) if len(sides) == 2 and all(isinstance(side, int) for side in sides) else 512
