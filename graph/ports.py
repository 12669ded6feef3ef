"""Ports: the named and typed inputs and outputs of a block, read once from its `__call__`."""

import inspect
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol, TypeVar, get_type_hints

from ..registry import printable
from .errors import Malformed
from .frozen import refuse_changes
from .typing import Port, tags_of, type_text

T = TypeVar("T")
Q = TypeVar("Q")
A = TypeVar("A")


class _Required:
    """The default of a port without one. It is false, and no value equals it."""

    def __repr__(self) -> str:
        return "required"

    def __bool__(self) -> bool:
        return False

    def __reduce__(self) -> str:
        return "REQUIRED"


class _Varies(_Required):
    """The default of a graph input whose readers each keep a default of their own."""

    def __repr__(self) -> str:
        return "varies"

    def __reduce__(self) -> str:
        return "VARIES"


REQUIRED: Any = _Required()
VARIES: Any = _Varies()


class _Memory:
    """The tag of a memory port."""

    def __repr__(self) -> str:
        return "Memory"


_MEMORY = _Memory()
Memory = Annotated[T, _MEMORY]
"""`Memory[T]`: an input and output of one name that only its own node sees, one loop turn later."""


class Running(Protocol):
    """The run that a block is in. A block gets it by a parameter of this type, which no edge reaches."""

    @property
    def finishing(self) -> bool:
        """Whether the turn is the last of its loop, since `run.finish_now()` was called: give clean latents then."""
        ...

    def check(self) -> None:
        """Raise `Cancelled` if the run was cancelled."""

    def note(self, text: str) -> None:
        """Add a note to the events of the run. Outside a run it becomes a Python warning."""

    def preview(self, clean: Callable[[], Any]) -> None:
        """Offer the clean latents that this turn points to. They are computed only if somebody looks at a preview."""

    def shared(self, key: Hashable, request: Q, answer: Callable[[Sequence[Q]], Sequence[A]]) -> A:
        """The answer to a request, computed in one call with the requests of runs side by side (`sf.together`).

        Args:
            key: requests of other runs with equal keys are answered with this one.
            request: any value.
            answer: computes one answer for each of several requests, of any of these runs.
        """
        ...


class _Alone:
    """The `Running` of a block that is called directly."""

    finishing = False

    def check(self) -> None:
        pass

    def note(self, text: str) -> None:
        import warnings

        warnings.warn(printable(text), UserWarning, stacklevel=3)

    def preview(self, clean: Callable[[], Any]) -> None:
        pass

    def shared(self, key: Hashable, request: Q, answer: Callable[[Sequence[Q]], Sequence[A]]) -> A:
        return answer([request])[0]


ALONE: Running = _Alone()


@dataclass(frozen=True)
class Input:
    """One typed input, with its default."""

    type: Any
    default: Any = REQUIRED

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.default is REQUIRED

    def __str__(self) -> str:
        return type_text(self.type) + ("" if self.required else f" = {self.default!r}")


@dataclass(frozen=True)
class Output:
    """One typed output."""

    type: Any

    def __str__(self) -> str:
        return type_text(self.type)


@dataclass(frozen=True)
class Component:
    """A component that a block needs: its class, whether it is required, and the name of one of its own.

    own: the name under which the block can have another component than blocks that share this one; None for no name.
    """

    type: Any
    required: bool = True
    own: str | None = None

    def __str__(self) -> str:
        return type_text(self.type) + ("" if self.required else " (optional)")


@dataclass(frozen=True)
class Signature:
    """The inputs, outputs and components of a block. Only its own node sees `memory` and `running`."""

    inputs: Mapping[str, Input]
    outputs: Mapping[str, Output]
    components: Mapping[str, Component] = field(default_factory=dict[str, Component])
    memory: Mapping[str, Input] = field(default_factory=dict[str, Input])
    running: str | None = None


class Outputs(Mapping[str, Any]):
    """The outputs of a graph: a mapping whose names are also attributes.

    >>> out = Outputs({"images": [1, 2]})
    >>> out.images is out["images"], dict(out)
    (True, {'images': [1, 2]})
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.__dict__.update(values)

    def __getitem__(self, name: str) -> Any:
        return self.__dict__[name]

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"There is no output {name!r}. There are: {', '.join(self.__dict__) or 'none'}.")

    def _way_to_change(self, name: str) -> str:
        text = "The outputs of a run do not change."
        return f"{text} Write {name} = … for a variable of your own, or dict(outputs) for a dict." if self else text

    def __iter__(self) -> Iterator[str]:
        return iter(self.__dict__)

    def __len__(self) -> int:
        return len(self.__dict__)

    def __repr__(self) -> str:
        return f"Outputs({', '.join(self.__dict__)})"

    def _repr_html_(self) -> str:
        from .notebook import mapping_html  # here, since programs outside notebooks need none of it

        return mapping_html(self)


refuse_changes(Outputs)

_HOW = "def __call__(self, latents: Latents) -> Scaled: ...   # class Scaled(NamedTuple): latents: Latents"


def class_name(cls: type) -> str:
    """The name of a class in errors: without the function that defines it."""
    return cls.__qualname__.rpartition("<locals>.")[2]


def check_call(cls: type) -> None:
    """Raise `Malformed` if `__call__` is no typed signature. Hints in quotes are checked later, by `read_call`."""
    where = f"{class_name(cls)}.__call__"
    call = inspect.getattr_static(cls, "__call__")
    if not inspect.isfunction(call):
        raise Malformed(f"{where} must be a plain method. Write: {_HOW}")
    plain = inspect.unwrap(call)
    if inspect.isgeneratorfunction(plain) or inspect.isasyncgenfunction(plain):
        raise Malformed(f"{where} is a generator, but a block gives all its outputs at once. Replace yield by return.")
    if inspect.iscoroutinefunction(plain):
        raise Malformed(f"{where} is async, but a run calls blocks one after the other. Write: {_HOW}")
    signature = inspect.signature(call)
    for p in list(signature.parameters.values())[1:]:
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            stars = "*" if p.kind is p.VAR_POSITIONAL else "**"
            raise Malformed(f"{where} takes {stars}{p.name}, but each input needs a name and a type. Write: {_HOW}")
        if p.kind is p.POSITIONAL_ONLY:
            raise Malformed(f"{where} takes {p.name!r} by position only. Inputs are passed by name: remove the '/'.")
        if p.annotation is p.empty:
            raise Malformed(f"{where} has no type for {p.name!r}. Write one, for example `{p.name}: float`.")
    returns = signature.return_annotation
    if returns is signature.empty:
        raise Malformed(f"{where} has no return type. Return a NamedTuple, one field per output. Write: {_HOW}")
    if not isinstance(returns, str):
        _fields(returns, where)


def _fields(returns: Any, where: str) -> Mapping[str, Any]:
    if returns is None or returns is type(None):
        return {}  # a block without outputs
    if not (isinstance(returns, type) and issubclass(returns, tuple) and hasattr(returns, "_fields")):
        raise Malformed(
            f"{where} returns {type_text(returns)}, but outputs need names: return a NamedTuple. Write: {_HOW}"
        )
    hints = get_type_hints(returns, include_extras=True)
    if untyped := [name for name in getattr(returns, "_fields") if name not in hints]:  # noqa: B009  pyright sees a tuple
        raise Malformed(
            f"{where} returns {returns.__name__}, whose {', '.join(untyped)} has no type. Use typing.NamedTuple."
        )
    return hints


def is_memory(hint: Any) -> bool:
    """Whether a type is `Memory[…]`."""
    return _MEMORY in tags_of(hint)


def read_call(cls: type) -> tuple[dict[str, Input], dict[str, Output], dict[str, Input], str | None, type | None]:
    """Inputs, outputs, memory, the name of the `Running` parameter, and the NamedTuple class of a block class."""
    call: Callable[..., Any] = cls.__call__
    where = f"{class_name(cls)}.__call__"
    try:
        hints = get_type_hints(call, include_extras=True)
    except NameError as error:
        raise Malformed(f"{where}: {error}. Import port types at run time, not under TYPE_CHECKING.") from error
    returns = hints.pop("return")
    gives = _fields(returns, where)
    inputs: dict[str, Input] = {}
    memory: dict[str, Input] = {}
    running: str | None = None
    for p in list(inspect.signature(call).parameters.values())[1:]:
        default = REQUIRED if p.default is p.empty else p.default
        if hints[p.name] is Running:
            running = p.name
        elif is_memory(hints[p.name]):
            if default is REQUIRED:
                raise Malformed(f"{where}: memory {p.name!r} needs a default for the first turn.")
            if not (p.name in gives and is_memory(gives[p.name])):
                raise Malformed(
                    f"{where}: memory {p.name!r} must also be an output of type Memory[…], for the next turn."
                )
            memory[p.name] = Input(hints[p.name], default)
        else:
            inputs[p.name] = Input(hints[p.name], default)
    if lost := [n for n, t in gives.items() if is_memory(t) and n not in memory]:
        raise Malformed(
            f"{where}: memory output {', '.join(lost)} must also be an input of type Memory[…] with a default."
        )
    outputs = {name: Output(t) for name, t in gives.items() if not is_memory(t)}
    return inputs, outputs, memory, running, returns if gives else None


__all__ = [
    "ALONE", "REQUIRED", "VARIES", "Component", "Input", "Malformed", "Memory", "Output", "Outputs", "Port",
    "Running", "Signature", "check_call", "class_name", "is_memory", "read_call",
]  # fmt: skip
