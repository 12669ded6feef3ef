"""Views: another model over the same parameters. A run changes a model this way and no other."""

from collections.abc import Callable, Mapping
from typing import TypeVar, cast

from torch import nn

from ...graph.errors import ConfigError
from ...registry import did_you_mean

M = TypeVar("M", bound=nn.Module)
Change = Callable[[nn.Module], nn.Module]
"""Takes the module at a path and gives the one to stand there instead. It leaves the one it takes as it is."""


def view(model: M, changes: Mapping[str, Change]) -> M:
    """The same model with other modules at some paths.

    Only the ancestors of a change are copied, and every parameter is shared, so a view costs no memory and the model
    it was made from never notices, whatever other threads do. Views of views compose. Where one path lies inside
    another, the inner change comes first. The path "" is the model itself.

        view(unet, {"mid_block.attentions.0.transformer_blocks.0.attn1": as_class(IdentityAttention)})

    Raises:
        ConfigError: paths at which the model has no module; all of them, with the nearest ones.
    """
    if wrong := [problem for path in changes if (problem := _problem(model, path))]:
        raise ConfigError("\n".join(wrong))
    return cast("M", _changed(model, changes))


def as_class(kind: type[nn.Module]) -> Change:
    """A change that keeps a module with all it holds and looks at it as another class: a subclass with one method
    replaced, for example."""

    def change(module: nn.Module) -> nn.Module:
        return shallow_copy(module, kind)

    return change


def shallow_copy(module: M, kind: type[nn.Module] | None = None) -> M:
    """A module that holds the same parameters and children as `module`, in tables of its own."""
    twin = cast("M", object.__new__(kind or type(module)))
    # torch keeps parameters, buffers, children and hooks in dicts; shared, an addition to the twin would show in both.
    twin.__dict__.update((k, v.copy() if isinstance(v, dict) else v) for k, v in module.__dict__.items())
    return twin


def _changed(module: nn.Module, changes: Mapping[str, Change]) -> nn.Module:
    inner: dict[str, dict[str, Change]] = {}
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
