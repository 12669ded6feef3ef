"""Changes: values that say how layers of a denoiser work in one pass. A user's own are subclasses, as ours are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial, wraps
from typing import Any, ClassVar, NoReturn, cast, dataclass_transform, get_args, get_type_hints

from torch import nn

from ...graph.errors import ConfigError, LoadError, Malformed, UnfitValue
from ...graph.files.code import class_files
from ...graph.files.values import Values
from ...graph.validate import Unfit, fitted, value_text
from ...registry import changes as CHANGES
from ...registry import did_you_mean
from ..models.perturbable import PerturbableLayers
from ..models.views import Replacement
from .place import Part, Place, TappedBlock


def _check_names(cls: Any) -> None:  # a class of changes
    """Make a class of changes raise ConfigError for settings that it does not have."""
    init, names = cls.__init__, [f.name for f in fields(cls)]

    @wraps(init)
    def checked(self: Any, *args: Any, **settings: Any) -> None:
        for name in settings:
            if name not in names:
                raise ConfigError(f"{cls.__name__} has no {name!r}. {did_you_mean(name, names)}")
        init(self, *args, **settings)

    cls.__init__ = checked


@dataclass_transform(frozen_default=True)
class Change:
    """A change of some layers of a denoiser in one pass. Subclass it, or `AttentionChange`, and write `replaced`.

    The subclass is made a frozen dataclass: its fields are its settings, and it is equal to another one with equal
    settings. Passes with equal changes share a forward. Fields are hashable: numbers, text and tuples of them. Define
    the class at the top level of a module, so that it can be pickled and saved by its name. `class Base(Change,
    abstract=True)` holds what several changes share.
    """

    part: ClassVar[Part] = "block"
    """The part of each block that `replaced` is called for."""
    perturbs: ClassVar[bool] = False
    """Whether a tap without layers changes the layers that guiders perturb by default, and not all layers."""
    per_pass: ClassVar[bool] = False
    """Whether each row has the same result whatever shares its forward, so that passes of other runs and steps may. A
    change that reads the step of the forward, or all rows, has not."""

    def __init_subclass__(cls, abstract: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        dataclass(frozen=True)(cls)
        _check_names(cls)
        if abstract:
            return
        if lacking := cls._lacking():
            raise Malformed(f"{cls.__module__}.{cls.__qualname__} has no {lacking}. Write it: the change itself.")
        if cls.part not in (parts := get_args(Part)):
            raise Malformed(
                f"{cls.__module__}.{cls.__qualname__} has no layers for part = {cls.part!r}. "
                f"{did_you_mean(str(cls.part), parts)}"
            )
        if CHANGES.name_of(cls) is None:
            CHANGES.add(f"{cls.__module__}.{cls.__qualname__}", cls)

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self), include_extras=True)
        for f in fields(cast("Any", self)):
            value = getattr(self, f.name)
            try:
                object.__setattr__(self, f.name, fitted(value, hints[f.name]))
            except Unfit as error:
                raise ConfigError(f"{type(self).__name__}.{f.name} {error}, got {value_text(value)}.") from None

    @classmethod
    def _lacking(cls) -> str:
        """The method that a subclass did not write."""
        wrote = cls.replaced is not Change.replaced or cls.replacements is not Change.replacements
        return "" if wrote else "replaced"

    def replaced(self, layer: nn.Module, at: Place) -> nn.Module:
        """Return the layer to use in place of this one. It may use this one, but must not change it."""
        raise NotImplementedError  # a class without it is refused when it is made

    def select(self, layers: PerturbableLayers, chosen: "Chosen", model: str) -> Sequence[str]:
        """Return the paths of the blocks to change. It reads no weights: a graph is checked with it.

        Args:
            layers: those of the model.
            chosen: the blocks that the tap names.
            model: the name of the model's class, for errors.

        Raises:
            ConfigError: blocks that the model does not have, or that lack the part.
        """
        blocks = chosen.blocks(layers, model)
        named = bool(chosen.layers)
        if not named and self.perturbs:
            blocks = [path for path in layers.default if path in blocks] or blocks
        if self.part == "cross":
            return _with_part(blocks, blocks if layers.cross_attention else (), "attention to the prompt", model)
        if self.part != "self":
            return blocks
        able = layers.with_self_attention
        if not named:
            return [path for path in blocks if path in able] or list(able)[:1]
        return _with_part(blocks, able, "self-attention", model)

    def replacements(self, block: TappedBlock) -> Mapping[str, Replacement]:
        """Return the layers to replace in a selected block, by their paths in the model."""
        return {place.path: partial(self._layer, at=place) for place in block.parts(self.part)}

    def _layer(self, layer: nn.Module, at: Place) -> nn.Module:
        made: Any = self.replaced(layer, at)  # a user's method
        if not isinstance(made, nn.Module):
            raise UnfitValue(
                f"{type(self).__name__}.replaced must return a module for {at.path}. Got {type(made).__name__}."
            )
        return made

    def to_json(self) -> Mapping[str, Any]:
        """Return the entry in a graph file. Unfit for a class that no reader of the file could find."""
        return to_json(self)

    @classmethod
    def from_json(cls, data: Any) -> "Change":  # Any: JSON of a stranger
        """Make the change of such an entry. ConfigError for another class, an unknown one, or unfit settings."""
        made = from_json(data)
        if not isinstance(made, cls):
            raise ConfigError(f"needs a {cls.__name__}, got a {type(made).__name__}.")
        return made


def _with_part(blocks: Sequence[str], able: Sequence[str], part: str, model: str) -> Sequence[str]:
    if lacking := [path for path in blocks if path not in able]:
        named = ", ".join(able) or "none"
        raise ConfigError(f"{', '.join(lacking)} of {model} has no {part}. Name blocks that have it: {named}.")
    return blocks


@dataclass(frozen=True)
class Chosen:
    """The blocks that a tap names. layers, stack: see `Tap`."""

    layers: tuple[int | str, ...] = ()
    stack: str = "auto"

    def blocks(self, layers: PerturbableLayers, model: str) -> list[str]:
        """Return the paths of the blocks, all of the model where none is named.

        Raises:
            ConfigError: a model without transformer blocks, or without these ones.
        """
        if not layers.blocks:
            raise ConfigError(f"This {model} has no transformer blocks. Use a guider that perturbs no layers.")
        stack = list(layers.blocks)
        if self.stack != "auto":
            stack = [path for path in stack if path.rpartition(".")[0] == self.stack]
            if not stack:
                stacks = dict.fromkeys(path.rpartition(".")[0] for path in layers.blocks)
                raise ConfigError(f"{model} has no stack of layers {self.stack!r}. {did_you_mean(self.stack, stacks)}")
        named: dict[str, None] = {}
        for layer in self.layers:
            matches = _matches(layer, stack)
            if not matches:
                inside = "" if self.stack == "auto" else f" in {self.stack!r}"
                indices = f"0 to {len(stack) - 1}, which are: " if isinstance(layer, int) else ""
                listed = did_you_mean(str(layer), stack).replace("There are: ", f"There are: {indices}")
                raise ConfigError(f"{model} has no layer {layer!r}{inside}. {listed}")
            named |= dict.fromkeys(matches)
        return list(named) if self.layers else stack


def _matches(layer: int | str, stack: Sequence[str]) -> Sequence[str]:
    if isinstance(layer, int):
        return stack[layer : layer + 1] if layer >= 0 else ()
    short = {"mid": "mid_block", "down": "down_blocks", "up": "up_blocks"}
    head, dot, rest = layer.partition(".")
    name = short.get(head, head) + dot + rest
    return [path for path in stack if path == name or path.startswith(f"{name}.")]


# --------------------------------------------------------------------------------------------------------------- files
def to_json(change: Change) -> dict[str, Any]:  # JSON values
    """A change as in graph files: its name, and its settings. Unfit for a class that no reader could find."""
    cls = type(change)
    name = CHANGES.name_of(cls)
    if name is None or CHANGES.find(name) is not cls:
        raise Unfit(f"has a {cls.__qualname__}, whose name another change took. Give it a name of its own")
    try:
        files = class_files(cls)
    except LoadError as error:
        raise Unfit(f"has a change that a file can only name. {error}") from None
    if files is not None:
        raise Unfit(
            f"has the change {name!r}, which is in no installed package, and a file can only name a change. Install "
            "its module as a package, or save the graph without the block"
        )
    values = Values(_refuse_block, _refuse_block)
    return {
        "change": name,
        "config": {f.name: values.encode(getattr(change, f.name), f.name) for f in fields(cast("Any", change))},
    }


def from_json(data: Any) -> Change:  # Any: JSON of a stranger
    """Read the JSON of `to_json`. ConfigError for an unknown change, or unfit settings."""
    if not isinstance(data, Mapping) or set(cast("Mapping[str, Any]", data)) - {"change", "config"}:
        raise ConfigError('needs a change: {"change": name, "config": {…}}.')
    entry = cast("Mapping[str, Any]", data)
    name, config = entry.get("change"), entry.get("config", {})
    if not isinstance(name, str) or not isinstance(config, Mapping):
        raise ConfigError('needs a change: {"change": name, "config": {…}}.')
    cls = CHANGES.find(name)
    if not isinstance(cls, type) or not issubclass(cls, Change):
        raise ConfigError(
            f"No change is called {name!r}. {did_you_mean(name, CHANGES)} Import the module that defines it, before "
            "loading."
        )
    settings = cast("Mapping[str, Any]", config)
    hints = get_type_hints(cls, include_extras=True)
    known = [f.name for f in fields(cast("Any", cls))]
    if unknown := [key for key in settings if key not in known]:
        raise ConfigError(f"{cls.__name__} has no {unknown[0]!r}. {did_you_mean(unknown[0], known)}")
    values = Values(_refuse_block, _refuse_block)
    try:
        return cls(**{key: values.decode(value, hints[key], key) for key, value in settings.items()})
    except (Unfit, TypeError, ValueError) as error:
        raise ConfigError(f"{cls.__name__} {error}.") from None


def _refuse_block(block: Any, at: str) -> NoReturn:  # a block, or its JSON
    raise Unfit("has a block, which a change cannot hold")
