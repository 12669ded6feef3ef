"""The block: a frozen dataclass of components and config, whose inputs are the parameters of `__call__`."""

from collections.abc import Mapping
from dataclasses import Field, dataclass, fields, replace
from functools import cache
from typing import Any, ClassVar, Self, cast, dataclass_transform

from ..registry import blocks as BLOCKS
from ..registry import did_you_mean
from .cache import CACHE, cached
from .code import HUB
from .errors import ConfigError
from .fields import (
    EMPTY,
    check_fields_when_made,
    fields_of,
    fitted_fields,
    is_component,
    named_fields,
    same_component,
    untyped_fields,
)
from .frozen import refuse_changes
from .pickled import refuse_code_of_others, refuse_weights
from .ports import Component, Input, Malformed, Signature, check_call, class_name, read_call


def _fields(block: Any) -> tuple[Field[Any], ...]:
    """The dataclass fields of a block or its class; pyright cannot know that `__init_subclass__` makes it one."""
    return fields(block)


@dataclass(frozen=True)
class ClassPorts:
    """The ports that all instances of a block class share; read once per class."""

    inputs: Mapping[str, Input]
    signature: Signature
    returns: type | None
    components: Mapping[str, Component]
    knobs: tuple[str, ...]


@cache
def ports_of(cls: type["Block"]) -> ClassPorts:
    """Read a block class: its call, its knobs and its components."""
    inputs, outputs, memory, running, returns = read_call(cls)
    all_fields = _fields(cls)
    held = fields_of(cls)
    parts = {
        f.name: Component(held.components[f.name], f.default is EMPTY, f.metadata["own"])
        for f in all_fields
        if is_component(f)
    }
    knobs = tuple(f.name for f in all_fields if "knob" in f.metadata)
    if clash := [name for name in (*knobs, *parts) if name in inputs]:
        raise Malformed(f"{class_name(cls)}: {', '.join(clash)} is both a field and a parameter of __call__. Keep one.")
    inputs |= {name: Input(held.config[name]) for name in knobs}
    return ClassPorts(inputs, Signature(inputs, outputs, parts, memory, running), returns, parts, knobs)


def tagged(value: Any) -> Any:
    """A value that is equal only to values of the same type: True, 1 and 1.0 are three things.

    >>> tagged(1) == tagged(1.0), tagged((1, True)) == tagged((1, True))
    (False, True)
    """
    if isinstance(value, Mapping):
        return dict, frozenset((key, tagged(v)) for key, v in value.items())
    if isinstance(value, tuple | list):
        return type(value), tuple(tagged(v) for v in value)
    return type(value), value


def _same(a: Any, b: Any) -> bool:
    return a is b or bool(tagged(a) == tagged(b))


def _refuse_abstract(self: "Block", **_: Any) -> None:
    raise TypeError(f"{type(self).__name__} is abstract. Make one of its subclasses.")


# component() and knob() are no field specifiers for type checkers: as plain values they say that a field has a default.
@dataclass_transform(frozen_default=True, kw_only_default=True, eq_default=False)
class Block:
    """A typed step. Subclass it, declare components and config as fields, and write `__call__`.

    The subclass is made a frozen dataclass. `class MyBlock(Block, name="acme.MyBlock")` chooses the name that graph
    files use; without it that is the module's path and the class. `class Base(Block, abstract=True)` holds what several
    blocks share: it needs no `__call__`, it cannot be made itself, and no file can name it. Its subclasses must write
    its methods that are marked with `abc.abstractmethod`.
    """

    registered_name: ClassVar[str] = "Block"
    """The name of the class in graph files."""
    pure: ClassVar[bool] = True
    """Whether equal inputs always give equal outputs. A memo keeps no outputs of a block that is not pure."""
    quick: ClassVar[bool] = False
    """Whether making the outputs anew is cheaper than keeping them. A memo keeps none, but knows those made of them."""
    random_without: ClassVar[tuple[str, ...]] = ()
    """Inputs without which, or with None for which, a pure block gives other outputs each time, such as a seed."""
    adds_channels: ClassVar[bool] = False
    """Whether a block that changes `predict` adds channels to the passes. A denoiser that reads a mask needs one."""
    no_file: ClassVar[str] = ""
    """Why no graph file can name the class; "" where one can."""

    def __init_subclass__(cls, name: str | None = None, abstract: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if untyped := list(untyped_fields(cls)):
            raise Malformed(
                f"{class_name(cls)}.{untyped[0]} has no type, so it would be no field. Write {untyped[0]}: float = …, "
                "or ClassVar[float] for a constant of the class."
            )
        own_init = "__init__" in cls.__dict__
        if cls.signature is Block.signature and cls.__call__ is not Block.__call__:
            check_call(cls)
        dataclass(frozen=True, kw_only=True, eq=False)(cls)
        refuse_changes(cls)
        if abstract:
            if not own_init:
                cls.__init__ = _refuse_abstract  # subclasses get one of their own
            return
        if lacking := [name for name in dir(cls) if getattr(getattr(cls, name), "__isabstractmethod__", False)]:
            purpose = str(getattr(cls, lacking[0]).__doc__).partition("\n")[0]
            raise Malformed(f"{class_name(cls)} has no {lacking[0]}. Write it: {purpose}")
        if cls.signature is Block.signature:  # else it holds graphs: its ports are theirs, and it checks its fields
            if cls.__call__ is Block.__call__:
                raise Malformed(
                    f"{class_name(cls)} has no __call__. Write what it does: def __call__(self, …) -> Result"
                )
            if not own_init:
                check_fields_when_made(cls, fitted_fields)
        elif not own_init:
            check_fields_when_made(cls, named_fields)
        cls.registered_name = name or block_name(cls)
        # Names inside a repo mean nothing outside of it, so its code cannot replace a block of another package.
        if BLOCKS.aliases.get(cls.registered_name) is None and cls.__module__.partition(".")[0] != HUB:
            BLOCKS.add(cls.registered_name, cls)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Do the step. A subclass writes its own, whose parameters are the inputs."""
        raise NotImplementedError  # __init_subclass__ refuses a class without it

    @property
    def signature(self) -> Signature:
        """The ports and components of this block. Knobs default to their fields; set components are optional."""
        ports = ports_of(type(self))
        if not ports.knobs and not ports.components:
            return ports.signature
        return cached(self, "signature", self._read_signature)

    def _read_signature(self) -> Signature:
        ports, mine = ports_of(type(self)), self.__dict__
        knobs = {name: Input(ports.inputs[name].type, mine[name]) for name in ports.knobs}
        missing = {name: part for name, part in ports.components.items() if not part.required or mine[name] is EMPTY}
        s = ports.signature
        return Signature({**s.inputs, **knobs}, s.outputs, missing, s.memory, s.running)

    def with_(self, **changes: Any) -> Self:
        """The same block with other fields. Raises `ConfigError` as making one does."""
        return cast(Self, replace(cast(Any, self), **changes))

    def filled(self, values: Mapping[str, Any]) -> Self:
        """The same block with components put in and knobs set, unchecked, as a run needs it in each turn."""
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__)
        new.__dict__.pop(CACHE, None)
        new.__dict__.update(values)
        return new

    def simplified(self) -> "Block | None":
        """A block that does the same with fewer inputs, if the fields of this one allow it; else None.

        A call runs it in place of this one, and does not run blocks whose outputs then have no reader.
        """
        return None

    def without_values(self) -> "Block":
        """The block that a plan runs in place of this one, with tensors that have shapes and no values.

        A block that reads numbers, such as one that makes PIL images, gives one here that does not.
        """
        return self

    def config(self) -> dict[str, Any]:
        """The fields that are not components."""
        return {f.name: getattr(self, f.name) for f in _fields(self) if not is_component(f)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Make one from a config dict; keys that begin with "_" are about the file. Raises `ConfigError`."""
        values = {key: value for key, value in config.items() if not key.startswith("_")}
        return cls(**fitted_fields(cls, values, components=False))

    def to_config(self) -> dict[str, Any]:
        """The config as published files have it: sorted keys, `_class_name` first."""
        return {"_class_name": type(self).__name__, **dict(sorted(self.config().items()))}

    def _way_to_change(self, name: str) -> str:
        """Advice for setting an attribute: the expression that makes another block."""
        known = [f.name for f in _fields(self)]
        if name in known:
            return f"A block does not change. Make another one: block = block.with_({name}=…)."
        return f"{type(self).__name__} has no field {name!r}. {did_you_mean(name, known)}"

    def children(self) -> Mapping[str, "Block"]:
        """The graphs inside this block, by the part of a path that leads to them ("" adds nothing to the path)."""
        return {}

    def with_children(self, children: Mapping[str, "Block"]) -> Self:
        """The same block holding other graphs."""
        if children:
            raise ConfigError(f"{type(self).__name__} holds no blocks.")
        return self

    def __getstate__(self) -> dict[str, Any]:
        """The state in a pickle: the fields, not the cache. GraphError for weights, and for code from a repo."""
        refuse_code_of_others(type(self))
        refuse_weights(self._components())
        known = {f.name for f in _fields(self)}
        return {name: value for name, value in self.__dict__.items() if name in known}

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: Any) -> Self:
        return self

    def _components(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in _fields(self) if is_component(f)}

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Block) or type(self) is not type(other):
            return False
        mine, theirs = self._components(), other._components()
        if not all(same_component(mine[name], theirs[name]) for name in mine):
            return False
        return all(_same(a, b) for a, b in zip(self.config().values(), other.config().values(), strict=True))

    def __hash__(self) -> int:
        classes = tuple(type(v) for v in self._components().values())
        try:
            return hash((type(self), classes, tagged(tuple(self.config().values()))))
        except TypeError:
            kinds = ", ".join(f"{k}: {type(v).__name__}" for k, v in self.config().items())
            raise ConfigError(
                f"{type(self).__name__} holds config that cannot be hashed ({kinds}). Use tuples."
            ) from None


def block_name(cls: type) -> str:
    """The name of a class in graph files: `denoise.loop.Advance` for ours, `package.module.Class` for others.

    The module distinguishes families: `text.sd.EncodePrompt`, `text.sdxl.EncodePrompt`.
    """
    module = cls.__module__.removeprefix("sfumato.").removeprefix("blocks.")
    return f"{module}.{cls.__qualname__}"
