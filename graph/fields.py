"""The fields of a block: config and components. They are checked when a block is made."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, InitVar, dataclass, field
from functools import cache, wraps
from inspect import get_annotations
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast, get_origin, get_type_hints

from ..registry import did_you_mean
from .errors import ConfigError, GraphFileError, Malformed, Unbound
from .layout import Layout
from .lender import Lender
from .ports import class_name
from .space import LatentSpace
from .typing import assignable, is_protocol, tags_of, type_text, untagged
from .validate import Unfit, fitted, value_text


class _Empty:
    """Stands where a component will be."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise Unbound(
            f"Asked an empty component for {name!r}. Pass the component to the block, or bind it to its graph: "
            "graph.bind(name=object)."
        )

    def __repr__(self) -> str:
        return "…"

    def __reduce__(self) -> str:
        return "EMPTY"


EMPTY: Any = _Empty()


class Lazy(ABC):
    """A component that a graph can bind before it is loaded. `ComponentsManager.handle` makes them.

    A subclass says what it knows before loading. Only `load` reads weights.
    """

    @property
    @abstractmethod
    def type(self) -> Any:
        """The class of the loaded object; None if it is not known."""

    @property
    def space(self) -> LatentSpace | None:
        """The latent space that the component works in; None if its config names none."""
        return None

    @property
    def layout(self) -> Layout | None:
        """The sizes that a component which adds to this one must share; None if the config has none."""
        return None

    @property
    def config(self) -> Mapping[str, Any]:
        """The component's published config; empty if it has none."""
        return {}

    @property
    def lender(self) -> Lender | None:
        """Who leases the component to runs; None if nobody does."""
        return None

    @property
    def leased(self) -> "Sequence[Lazy]":
        """The objects that the lender leases: the component itself, or those that this one is made of."""
        return (self,)

    def derived(self, derivation: "Derivation") -> "Lazy | None":
        """A component that is computed from this one, and that the lender keeps beside it; None if nobody does."""
        return None

    def content_key(self) -> str | None:
        """A text that is equal only for components that compute the same, in any process; None if there is none.

        A memo keeps no outputs of nodes with a component that has none.
        """
        return None

    def ready(self) -> None:  # noqa: B027  a component that cannot fail to load has nothing to check
        """Raise LoadError if `load` would fail. Reads no weights."""

    @abstractmethod
    def load(self) -> Any:
        """The object itself, the same one at each call."""

    def to_json(self) -> Mapping[str, Any]:
        """The component's entry in a graph file. GraphFileError if a file cannot name it."""
        raise GraphFileError(f"is a {type(self).__name__} without to_json(), so no file can say what it is.")


class Derivation(NamedTuple):
    """How a component is computed from another one: the patches of a model's layers, for example.

    name: for people ("patches"). key: equal only for equal computations. make: computes it from the other one, loaded.
    numbers: the estimated count of its numbers, which have the dtype of the other one.
    """

    name: str
    key: str
    make: Callable[[Any], Any]  # any objects
    numbers: Callable[[], int]


class SavedAdapter(NamedTuple):
    """An adapter as a graph file has it: its settings, the name of its file, and how that is written into a folder."""

    settings: Mapping[str, Any]  # JSON values
    file: str
    write: Callable[[Path], object]


class Adapters(ABC):
    """The adapters of a graph. They change its models by views, and not the objects."""

    @property
    @abstractmethod
    def prompts(self) -> int:
        """The number of prompts with adapters of their own; 1 if all prompts have the same."""

    @abstractmethod
    def fitted(self, bindings: Mapping[str, Any]) -> "Adapters":
        """The same adapters for a graph with these bindings. ConfigError if they do not fit its models."""

    @abstractmethod
    def on(self, bindings: Mapping[str, Any]) -> Mapping[str, Any]:
        """The bindings, with the adapters on the models. They are `fitted` to these bindings."""

    @property
    @abstractmethod
    def widens(self) -> bool:
        """Whether a model has more channels with these adapters, so that its tasks have other inputs."""

    @abstractmethod
    def saved(self, graph: Any) -> Sequence[SavedAdapter]:  # a Structure
        """The adapters for the file of their graph. GraphFileError if a file cannot have them."""


def same_component(a: Any, b: Any) -> bool:
    """Whether two components are one: objects by identity, handles and frozen values (a scheduler) by their values."""
    if a is b:
        return True
    if isinstance(a, Lazy) and isinstance(b, Lazy):
        return bool(a == b)
    params = getattr(type(a), "__dataclass_params__", None)
    return type(a) is type(b) and params is not None and params.frozen and bool(a == b)


def component(*, default: Any = EMPTY, own: str | None = None) -> Any:
    """Declare a field to be a model, scheduler or tokenizer: shared, bound by the field's name, compared by identity.

    `component(default=None)` is one that may be absent. `vae: Autoencoder = component(own="decoder")` shares `vae` with
    other blocks, and has another one than they where a caller passes `decoder=`.
    """
    return field(default=default, metadata={"component": True, "own": own})


def knob(default: Any = MISSING) -> Any:
    """Declare a config field that is also an input of the same name, which defaults to the field."""
    return field(default=default, metadata={"knob": True})


@dataclass(frozen=True)
class Above:
    """A tag on the type of a field: its value is above that of another field, or equal where `or_equal`.

    `stop: Annotated[float, Above("start", or_equal=True)] = 1.0`. Of tuples, each number is.
    """

    field: str
    or_equal: bool = False

    def allows(self, value: Any, other: Any) -> bool:
        """Whether these values of the field and of the other one agree."""
        if isinstance(value, tuple) or isinstance(other, tuple):
            many = max(len(v) for v in (value, other) if isinstance(v, tuple))
            values, others = (v if isinstance(v, tuple) else (v,) * many for v in (value, other))
            return all(map(self.allows, values, others))
        return value is None or other is None or value > other or (self.or_equal and value == other)

    def __str__(self) -> str:
        return f"{'at least' if self.or_equal else 'more than'} {self.field}"


def is_component(f: Field[Any]) -> bool:
    """Whether a field was declared with `component()`."""
    return "component" in f.metadata


@dataclass(frozen=True)
class Fields:
    """The fields of a block class; read once per class."""

    config: Mapping[str, Any]
    """The types of config fields."""
    components: Mapping[str, Any]
    """The types of component fields."""
    required: tuple[str, ...]
    """Config fields without a default."""
    defaults: Mapping[str, Any]
    """The defaults of config fields."""
    order: Mapping[str, Above]
    """Config fields that are above others."""
    init_only: tuple[str, ...]
    """Parameters that only `__post_init__` gets."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of arguments with which a block is made."""
        return (*self.config, *self.components, *self.init_only)


@cache
def fields_of(cls: Any) -> Fields:
    """Read the fields of a block class. Raises `Malformed` for a default that its type does not take."""
    try:
        hints = get_type_hints(cls, include_extras=True)
    except NameError as error:
        raise Malformed(
            f"{class_name(cls)}: {error}. Import field types at run time, not under TYPE_CHECKING."
        ) from error
    everything = cast(dict[str, Field[Any]], cls.__dataclass_fields__)
    init_only = tuple(name for name, f in everything.items() if isinstance(f.type, InitVar))
    ours = {n: f for n, f in everything.items() if n not in init_only and get_origin(hints[n]) is not ClassVar}
    config = {name: hints[name] for name, f in ours.items() if not is_component(f)}
    defaults = {name: ours[name].default for name in config if ours[name].default is not MISSING}
    for name, default in defaults.items():
        try:
            fitted(default, config[name])
        except Unfit as error:
            text = f"{class_name(cls)}.{name} {error}, but its default is {value_text(default)}."
            raise Malformed(text) from None
    required = tuple(n for n in config if ours[n].default is MISSING and ours[n].default_factory is MISSING)
    components = {name: hints[name] for name, f in ours.items() if is_component(f)}
    order = {name: tag for name, hint in config.items() for tag in tags_of(hint) if isinstance(tag, Above)}
    return Fields(config, components, required, defaults, order, init_only)


def fitted_fields(cls: type, values: Mapping[str, Any], *, components: bool = True) -> dict[str, Any]:
    """The values of a new block's fields as their types want them. Raises `ConfigError` with everything that is wrong.

    `components`: whether components are among them.
    """
    fields, name = fields_of(cls), cls.__name__
    problems = _name_problems(cls, values, fields.names if components else (*fields.config, *fields.init_only))
    made = dict(values)
    for key, value in values.items():
        if key in fields.config:
            try:
                made[key] = fitted(value, fields.config[key])
            except Unfit as error:
                problems.append(f"{name}.{key} {error}, got {value_text(value)}.")
        elif components and key in fields.components and not _may_be(value, fields.components[key]):
            problems.append(
                f"{name}.{key} needs {type_text(fields.components[key])}, got {value_text(value)}. "
                f"Pass the object, or bind it to the graph: graph.bind({key}=…)."
            )
    if not problems:
        all_values = {**fields.defaults, **made}
        problems = [
            f"{name}.{key} needs {tag} ({value_text(all_values[tag.field])}), got {value_text(all_values[key])}."
            for key, tag in fields.order.items() if not tag.allows(all_values[key], all_values[tag.field])
        ]  # fmt: skip
    if problems:
        raise ConfigError(" ".join(problems))
    return made


def _may_be(value: Any, hint: Any) -> bool:
    """Whether a value may be such a component. Only a graph takes names, configs, handles and specs for components.

    An object of any class passes: what a block does with it is its own affair.
    """
    if value is EMPTY:
        return True
    if isinstance(value, Lazy) or hasattr(value, "bindable"):
        return False
    if value is not None and not isinstance(value, str | bytes | int | float | Mapping | type):
        return True
    base = untagged(hint)
    if is_protocol(base):
        return assignable(type(value), base)
    try:
        fitted(value, hint)
    except Unfit:
        return False
    return True


def named_fields(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a new block's fields. `ConfigError` for missing and unknown names. The block checks types."""
    if problems := _name_problems(cls, values, fields_of(cls).names):
        raise ConfigError(" ".join(problems))
    return dict(values)


def _name_problems(cls: type, values: Mapping[str, Any], known: Sequence[str]) -> list[str]:
    """The fields that a block lacks, and the values that are for no field."""
    fields, name = fields_of(cls), cls.__name__
    unknown = [f"{name} has no {key!r}. {did_you_mean(key, known)}" for key in values if key not in known]
    missing = [key for key in fields.required if key not in values]
    return unknown + [f"{name}.{key} needs a value: {type_text(fields.config[key])}." for key in missing]


def check_fields_when_made(cls: Any, check: Callable[[type, Mapping[str, Any]], dict[str, Any]]) -> None:
    """Make a dataclass check its fields before it sets them: `fitted_fields`, or `named_fields` for names alone."""
    init = cls.__init__

    @wraps(init)
    def checked(self: Any, *args: Any, **values: Any) -> None:
        if args:
            example = next(iter(fields_of(cls).names), "field")
            raise ConfigError(
                f"{cls.__name__} takes its fields by name, got {value_text(args[0])} without a name. "
                f"Write {cls.__name__}({example}=…)."
            )
        init(self, **check(cls, values))

    cls.__init__ = checked


def untyped_fields(cls: type) -> Iterator[str]:
    """Values in the body of a class that look like fields but have no type, so that no block would hold them."""
    own = get_annotations(cls)
    bases = [get_annotations(base) for base in cls.__mro__[1:]]
    constants = {name for hints in bases for name, hint in hints.items() if _is_constant(hint)}
    for name, value in vars(cls).items():
        if name in own or name in constants or (name.startswith("__") and name.endswith("__")):
            continue
        if isinstance(value, Field) or not (isinstance(value, type) or hasattr(type(value), "__get__")):
            yield name


def _is_constant(hint: Any) -> bool:
    return "ClassVar" in hint if isinstance(hint, str) else hint is ClassVar or get_origin(hint) is ClassVar
