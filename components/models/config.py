"""The base of model configs: a frozen class whose fields are the published keys and defaults."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Self, cast

from annotated_types import Ge, Gt, Le
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from ...graph.errors import ConfigError
from ...graph.limits import AboveLimit, check_limit
from ...graph.typing import type_text
from ...graph.validate import value_text
from ...registry import closest


def _at_most(name: str) -> AfterValidator:
    """A check that a number is within the limit of this name."""

    def check(number: int) -> int:
        check_limit(name, number)
        return number

    return AfterValidator(check)


Width = Annotated[int, Ge(1), _at_most("width")]
"""Channels, features, heads, groups, or the side of a kernel."""
Channels = Annotated[int, Ge(0), _at_most("width")]
"""Channels that a model may lack."""
Layers = Annotated[int, Ge(0), _at_most("layers")]
"""A number of layers or blocks."""
Rows = Annotated[int, Ge(1), _at_most("rows")]
"""Rows of an embedding: pieces of a vocabulary, positions, pixels a side."""
TokenId = Annotated[int, Ge(-1), _at_most("rows")]
"""The id of a token; -1 for none."""
Epsilon = Annotated[float, Gt(0), Le(1)]
"""The number that a norm adds to its divisor, against division by zero."""
Scale = Annotated[float, Gt(0), Le(1e6)]
"""A factor that is divided by elsewhere."""
Chance = Annotated[float, Ge(0), Le(1)]
"""A probability, such as that of dropout."""


class Config(BaseModel):
    """Base of model configs. A field is a published key with its default; its type is what is supported.

    Lists become tuples, so that a config is hashable. Types are strict: a number in quotes is refused. Where a type
    excludes published values, the description of the field is the reason, and part of the error. Keys that must agree
    are checked in `problems`.

    >>> from typing import Literal
    >>> from pydantic import Field
    >>> class NetConfig(Config):
    ...     channels: int = 32
    ...     groups: int = 8
    ...     act_fn: Literal["silu"] = Field(default="silu", description="Other activations belong to older nets.")
    ...
    ...     def problems(self) -> Iterator[tuple[str, str]]:
    ...         if self.channels % self.groups:
    ...             yield "groups", f"{self.groups} groups do not divide {self.channels} channels."
    >>> NetConfig.read("Net", {"channels": 64, "_name_or_path": "a note"}).to_dict()
    {'act_fn': 'silu', 'channels': 64, 'groups': 8}
    >>> NetConfig.read("Net", {"channels": 30})
    Traceback (most recent call last):
    sfumato.graph.errors.ConfigError: Net cannot be made from this config (1 problem):
      groups  8 groups do not divide 30 channels.
    >>> NetConfig.read("Net", {"chanels": 64, "act_fn": "relu"})
    Traceback (most recent call last):
    sfumato.graph.errors.ConfigError: Net cannot be made from this config (2 problems):
      chanels  no such key. Did you mean 'channels'?
      act_fn   needs 'silu', got 'relu'. Other activations belong to older nets.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield (key, what is wrong) for keys that do not agree with each other. A subclass overrides it."""
        yield from ()

    @classmethod
    def read(cls, owner: str, keys: Mapping[str, Any]) -> Self:
        """Make a config from the keys of a file; missing keys take the published defaults.

        Keys that start with an underscore are notes of the program that wrote the file, and are ignored.

        Args:
            owner: the name of the model class, for errors.
            keys: JSON values.

        Raises:
            ConfigError: unknown keys, values that are not supported, or keys that disagree; all of them at once.
        """
        try:
            check_limit("config_keys", len(keys))
        except AboveLimit as error:
            raise ConfigError(f"{owner}: the config {error}") from None
        notes = {key for key in keys if key.startswith("_")}
        # `quantization_config` is about the weights, and what loads those reads it.
        read = {key: value for key, value in keys.items() if key not in notes and key != "quantization_config"}
        bad = [(key, _unknown(key, cls.model_fields)) for key in read if key not in cls.model_fields]
        values: dict[str, Any] = {}
        for key, value in read.items():
            try:
                values[key] = _frozen(value)
            except AboveLimit as error:
                bad.append((key, str(error)))
        config: Self | None = None
        try:
            config = cls.model_validate({key: value for key, value in values.items() if key in cls.model_fields})
        except ValidationError as error:
            found: dict[str, list[Any]] = {}
            for each in error.errors():
                found.setdefault(str(each["loc"][0]), []).append(each)
            bad += [(key, cls._unsupported(key, values.get(key), errors)) for key, errors in found.items()]
        if config is not None:
            bad += config.problems()
        if bad or config is None:
            raise ConfigError(_table(f"{owner} cannot be made from this config", bad))
        return config

    def to_dict(self) -> dict[str, Any]:
        """Return all keys, sorted, as JSON values."""
        return dict(sorted(self.model_dump(mode="json").items()))

    @classmethod
    def _unsupported(cls, key: str, value: object, errors: Iterable[Any]) -> str:  # Any: pydantic's error details
        for error in errors:
            if error["type"] == "value_error":  # a limit; the others are those of a number's own range
                return str(error["ctx"]["error"])
            if (needed := _RANGES.get(error["type"])) is not None:
                return f"needs {needed.format(*error.get('ctx', {}).values())}, got {value_text(value)}."
        field = cls.model_fields[key]
        kind = cast("object", field.annotation)
        wanted = kind.__name__ if isinstance(kind, type) else type_text(kind).replace("typing.", "")
        reason = f" {field.description}" if field.description else ""
        return f"needs {wanted}, got {value_text(value)}.{reason}"


_RANGES = {
    "greater_than_equal": "{} or more",
    "greater_than": "more than {}",
    "less_than_equal": "{} or less",
    "finite_number": "a finite number",
}
"""The needed range in words, by the type of pydantic's error."""


def per_level(key: str, value: object, levels: int) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with a key that is one value for all levels, or a tuple with one for each."""
    if isinstance(value, tuple) and (count := len(cast("tuple[object, ...]", value))) != levels:
        yield key, f"needs one entry for each of {levels} levels (down_block_types), got {count}."


def _frozen(value: Any) -> Any:  # Any: a JSON value
    if not isinstance(value, list | tuple):
        return value
    check_limit("levels", len(cast("list[Any]", value)))
    return tuple(map(_frozen, cast("list[Any]", value)))


def _unknown(key: str, known: Iterable[str]) -> str:
    near = closest(key, known, 1)
    return f"no such key. Did you mean {near[0]!r}?" if near else "no such key."


def _table(title: str, rows: list[tuple[str, str]]) -> str:
    width = max(len(key) for key, _ in rows)
    count = "1 problem" if len(rows) == 1 else f"{len(rows)} problems"
    return "\n".join([f"{title} ({count}):", *(f"  {key:<{width}}  {text}" for key, text in rows)])
