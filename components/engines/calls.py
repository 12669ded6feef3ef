"""Calls of a module as flat lists of tensors, which engines read and write."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, NamedTuple, cast, get_type_hints

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from ..models.constants import Constants

Shapes = tuple[tuple[int, ...], ...]
_PLAIN = (type(None), bool, int, float, str, torch.dtype, torch.device)


class Call(NamedTuple):
    """The arguments of one call of a module.

    tensors: all tensors among them, in order. rest: the other values, and where each tensor goes: calls with equal
    ones differ in the values of their tensors alone. odd: the type of an argument that no engine takes; "" if there is
    none.
    """

    tensors: tuple[Tensor, ...]
    rest: "Rest"
    odd: str = ""

    @classmethod
    def of(cls, args: Sequence[Any], named: Mapping[str, Any]) -> "Call":  # any arguments
        """The call with these arguments."""
        # Programs make the constants in each call.
        inputs = {name: named[name] for name in sorted(named) if not isinstance(named[name], Constants)}
        leaves, spec = tree_flatten((tuple(args), inputs))
        tensors = tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))
        others = tuple(None if isinstance(leaf, Tensor) else leaf for leaf in leaves)
        odd = next((type(leaf).__name__ for leaf in others if not isinstance(leaf, _PLAIN)), "")
        places = tuple(isinstance(leaf, Tensor) for leaf in leaves)
        return cls(tensors, Rest(spec, () if odd else others, places), odd)

    @property
    def dtypes(self) -> tuple[torch.dtype, ...]:
        """The dtype of each tensor."""
        return tuple(tensor.dtype for tensor in self.tensors)

    @property
    def shapes(self) -> Shapes:
        """The shape of each tensor."""
        return tuple(tuple(tensor.shape) for tensor in self.tensors)


@dataclass(frozen=True)
class Rest:
    """The arguments of a call without the values of its tensors."""

    spec: TreeSpec
    others: tuple[Any, ...]  # None, numbers and texts
    places: tuple[bool, ...]

    def arguments(self, tensors: Sequence[Tensor]) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """The arguments, with these tensors."""
        given = iter(tensors)
        leaves = [next(given) if place else o for place, o in zip(self.places, self.others, strict=True)]
        return tree_unflatten(leaves, self.spec)

    def __hash__(self) -> int:
        return hash((self.others, self.places))

    def __str__(self) -> str:
        return f"{self.spec} {self.others} {self.places}"


Layout = Any
"""The form of an output as JSON: None, "tensor", a list of forms, or {"field": form} for a dataclass."""


def flattened(output: Any) -> tuple[list[Tensor], Layout]:  # the output of any forward
    """The tensors of an output, and its form. TypeError for an output that no engine gives."""
    if output is None:
        return [], None
    if isinstance(output, Tensor):
        return [output], "tensor"
    if is_dataclass(output):
        named = {f.name: flattened(getattr(output, f.name)) for f in fields(output)}
        return [t for tensors, _ in named.values() for t in tensors], {name: form for name, (_, form) in named.items()}
    if type(output) in (tuple, list):
        parts = [flattened(part) for part in cast("Sequence[Any]", output)]
        return [t for tensors, _ in parts for t in tensors], [form for _, form in parts]
    raise TypeError(f"an output of type {type(output).__name__}")


def unflattened(tensors: Sequence[Tensor], form: Layout, made: Callable[..., Any]) -> Any:
    """The output of this form. made: the class of a dataclass."""
    given = iter(tensors)

    def one(part: Layout) -> Any:
        if part is None:
            return None
        if part == "tensor":
            return next(given)
        if isinstance(part, Mapping):
            return made(**{name: one(inner) for name, inner in cast("Mapping[str, Layout]", part).items()})
        return tuple(map(one, part))

    return one(form)


def class_of_output(kind: type[nn.Module]) -> Callable[..., Any]:
    """The class that a forward returns."""
    return cast("Callable[..., Any]", get_type_hints(kind.forward).get("return", tuple))
