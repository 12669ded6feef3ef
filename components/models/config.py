"""The config of a model: one frozen class whose fields are the published keys and defaults, and nothing else."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from ...graph.errors import ConfigError
from ...registry import closest


class Config(BaseModel):
    """Base of model configs. A field is a published key, its type what we support, its description why not more.

    Lists become tuples, so a config is hashable. Types are checked strictly: a number in quotes is refused.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    def problems(self) -> Iterator[tuple[str, str]]:
        """(key, what is wrong) for what no single field can tell: keys that must agree. Subclasses say what."""
        yield from ()

    @classmethod
    def read(cls, owner: str, keys: Mapping[str, Any]) -> Self:
        """The config of the model class `owner` that these keys give; missing keys take the published defaults.

        Keys that start with an underscore are notes of whoever wrote the file and are passed over.

        Raises:
            ConfigError: unknown keys, unfit values or keys that disagree; all of them at once.
        """
        given = {key: _frozen(value) for key, value in keys.items() if not key.startswith("_")}
        given.pop("quantization_config", None)  # of the weights, not of the model: whoever loads those reads it
        bad = [(key, _unknown(key, cls.model_fields)) for key in given if key not in cls.model_fields]
        config: Self | None = None
        try:
            config = cls.model_validate({key: value for key, value in given.items() if key in cls.model_fields})
        except ValidationError as error:
            bad += [
                (key, cls._unfit(key, given[key])) for key in dict.fromkeys(str(e["loc"][0]) for e in error.errors())
            ]
        if config is not None:
            bad += config.problems()
        if bad or config is None:
            raise ConfigError(_table(f"{owner} cannot be made from this config", bad))
        return config

    def to_dict(self) -> dict[str, Any]:
        """All keys, sorted, as JSON has them."""
        return dict(sorted(self.model_dump(mode="json").items()))

    @classmethod
    def _unfit(cls, key: str, value: object) -> str:
        field = cls.model_fields[key]
        kind = cast("object", field.annotation)
        wanted = kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")
        reason = f" {field.description}" if field.description else ""
        return f"is {value!r}, but what is supported is {wanted}.{reason}"


def per_level(key: str, value: object, levels: int) -> Iterator[tuple[str, str]]:
    """What is wrong with a value that may be one for all levels, or a tuple with one for each."""
    if isinstance(value, tuple) and len(cast("tuple[object, ...]", value)) != levels:
        yield (
            key,
            f"has {len(cast('tuple[object, ...]', value))} entries, but there are {levels} levels (down_block_types).",
        )


def _frozen(value: Any) -> Any:  # JSON: any value may come
    return tuple(_frozen(v) for v in value) if isinstance(value, list | tuple) else value


def _unknown(key: str, known: Iterable[str]) -> str:
    near = closest(key, known, 1)
    return f"no such key. Did you mean {near[0]!r}?" if near else "no such key, and none that is near."


def _table(title: str, rows: list[tuple[str, str]]) -> str:
    width = max(len(key) for key, _ in rows)
    count = "1 problem" if len(rows) == 1 else f"{len(rows)} problems"
    return "\n".join([f"{title} ({count}):", *(f"  {key:<{width}}  {text}" for key, text in rows)])
