"""Views: another module tree over the same parameters. Runs change a model in this way only."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import TypeVar, cast

from torch import nn

from ...graph.errors import ConfigError
from ...registry import did_you_mean

M = TypeVar("M", bound=nn.Module)
Replacement = Callable[[nn.Module], nn.Module]
"""Takes a module and returns the one to use in its place. It does not change the module that it takes."""


def view(model: M, changes: Mapping[str, Replacement]) -> M:
    """Return a model over the same parameters with other modules at some paths.

    Only the ancestors of a change are copied, and every parameter is shared. So a view needs no memory, and the model
    itself does not change, whatever other threads do. A view of a view is a view. Where one path is inside another,
    the inner change is made first. The path "" is the model itself.

    >>> class Doubled(nn.Linear):
    ...     def forward(self, input):
    ...         return 2 * super().forward(input)
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    >>> doubled = view(model, {"0": as_class(Doubled)})
    >>> type(doubled[0]).__name__, type(model[0]).__name__, doubled[0].weight is model[0].weight
    ('Doubled', 'Linear', True)

    Args:
        model: any module.
        changes: for each path (as in `model.get_submodule`), what to do with the module there.

    Raises:
        ConfigError: paths at which the model has no module; all of them at once.
    """
    if wrong := [problem for path in changes if (problem := _problem(model, path))]:
        raise ConfigError("\n  ".join(wrong))
    return cast("M", _changed(model, changes))


def as_class(kind: type[nn.Module]) -> Replacement:
    """A change that gives a module another class, such as a subclass that overrides one method."""

    def change(module: nn.Module) -> nn.Module:
        return shallow_copy(module, kind)

    return change


def shallow_copy(module: M, kind: type[nn.Module] | None = None) -> M:
    """Copy a module, but not its parameters and children; `kind` is the class of the copy."""
    twin = cast("M", object.__new__(kind or type(module)))
    # torch keeps parameters, buffers, children and hooks in dicts. Shared dicts would be changed in both modules.
    twin.__dict__.update((k, v.copy() if isinstance(v, dict) else v) for k, v in module.__dict__.items())
    return twin


@cache
def combined_class(first: type[nn.Module], second: type[nn.Module]) -> type[nn.Module]:
    """Make a class that inherits from both; methods of the first override those of the second."""
    return cast("type[nn.Module]", type(f"{first.__name__}{second.__name__}", (first, second), {}))


def _changed(module: nn.Module, changes: Mapping[str, Replacement]) -> nn.Module:
    inner: dict[str, dict[str, Replacement]] = {}
    for path, change in changes.items():
        if path:
            head, _, rest = path.partition(".")
            inner.setdefault(head, {})[rest] = change
    if inner:
        module = shallow_copy(module)
        for head, below in inner.items():
            module._modules[head] = _changed(cast("nn.Module", module._modules[head]), below)
    return changes[""](module) if "" in changes else module


def _problem(model: nn.Module, path: str) -> str | None:
    module, walked = model, ""
    for name in path.split(".") if path else ():
        children = dict(module.named_children())
        if name not in children:
            where = f"{type(model).__name__}{f' at {walked!r}' if walked else ''}"
            return f"{path!r}: {where} has no module {name!r}. {did_you_mean(name, children)}"
        module, walked = children[name], f"{walked}.{name}".lstrip(".")
    return None
