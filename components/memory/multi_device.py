"""A model whose modules lie on several devices, used like one that lies on its main device.

The model that a run gets is a view, like every change of how a model runs. accelerate's `dispatch_model` replaces
`forward` on the shared module, so a view of that module would lose it. Here each module that lies on one device copies
its arguments to that device. Its results stay there until an operation on another device reads them: between two
modules on one device nothing is copied, and code between modules (adding a control net's residuals, a skip connection)
needs to know nothing of devices.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from ..device_map import DeviceMap
from ..models.views import Replacement, shallow_copy, view
from .tensors import own_tensors
from .wrapper import WrapperTensor

M = TypeVar("M", bound=nn.Module)
_METHODS = ("forward", "encode", "decode", "moments")
"""The methods by which blocks call a model."""


class RemoteTensor(WrapperTensor):
    """A tensor that reports the main device and is stored on another one.

    An operation runs on the device of its arguments, or on the main device if they lie on several. An operation that
    writes into a remote tensor runs where that tensor is stored.
    """

    def fetch(self) -> Tensor:
        """A copy on the main device."""
        return self.stored.to(self.device)

    @classmethod
    def __torch_dispatch__(  # pyright: ignore[reportIncompatibleMethodOverride]  torch leaves it untyped
        cls, func: Any, types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:  # any operation of torch comes through here
        arguments = args, dict(kwargs or {})
        tensors = [t for t in tree_leaves(arguments) if isinstance(t, Tensor)]
        main = next(t.device for t in tensors if isinstance(t, RemoteTensor))
        if func._schema.is_mutable and isinstance(args[0], RemoteTensor):
            _run_on(args[0].stored.device, func, arguments)
            return args[0]
        devices = {t.stored.device if isinstance(t, RemoteTensor) else t.device for t in tensors if not _is_number(t)}
        if len(devices) > 1 or main in devices:
            return _run_on(main, func, arguments)
        result = _run_on(next(iter(devices), main), func, arguments)
        if arguments[1].get("device") is not None:  # the operation names the device of its result
            return result
        return tree_map_only(Tensor, lambda t: as_local(t, main), result)


def _run_on(device: torch.device, func: Any, arguments: Any) -> Any:  # as torch passes them
    args, kwargs = tree_map_only(Tensor, lambda t: t if _is_number(t) else plain_on(t, device), arguments)
    return func(*args, **kwargs)


def _is_number(tensor: Tensor) -> bool:
    """Whether torch accepts the tensor beside tensors of any device: a number on the CPU."""
    return tensor.ndim == 0 and tensor.device.type == "cpu" and not isinstance(tensor, RemoteTensor)


def plain_on(tensor: Tensor, device: torch.device) -> Tensor:
    """A plain tensor on a device: the stored one if it lies there, else a copy."""
    return (tensor.stored if isinstance(tensor, RemoteTensor) else tensor).to(device)


def as_local(tensor: Tensor, main: torch.device) -> Tensor:
    """A tensor that reports the main device. A tensor that needs a gradient is copied to it at once."""
    stored = tensor.stored if isinstance(tensor, RemoteTensor) else tensor
    if stored.requires_grad or stored.device == main:
        return stored.to(main)
    return RemoteTensor.wrap(stored, main, stored.dtype)


def split_view(model: M, device_map: DeviceMap) -> M:
    """A view of a model whose modules lie on the devices of the map. It takes and returns values on the main device."""
    main = torch.device(device_map.main_device)
    single = single_device_modules(model, device_map.device_of)
    across = {path for path, _ in model.named_modules() if path and not any(_is_inside(path, one) for one in single)}
    changes: dict[str, Replacement] = {path: _with_local_weights(main) for path in across}
    changes |= {path: _on_its_device(torch.device(device), main) for path, device in single.items()}
    return view(model, {**changes, "": _on_main_device(main)})


def single_device_modules(model: nn.Module, device_of: Callable[[str], str]) -> dict[str, str]:
    """The largest modules that lie on one device and are called as one: their paths, and the device of each.

    device_of: the device of a module, by its path.
    """
    found: dict[str, str] = {}

    def search(module: nn.Module, parent: str) -> None:
        for name, child in module.named_children():
            path = f"{parent}.{name}".lstrip(".")
            devices = {device_of(p) for p, m in child.named_modules(prefix=path) if any(True for _ in own_tensors(m))}
            if len(devices) == 1 and not isinstance(child, nn.ModuleList | nn.ModuleDict):
                found[path] = devices.pop()
            elif devices:
                search(child, path)

    search(model, "")
    return found


def _is_inside(path: str, module: str) -> bool:
    return path == module or path.startswith(f"{module}.")


def _with_local_weights(main: torch.device, cls: type[nn.Module] | None = None) -> Replacement:
    """A change to a module whose own tensors report the main device."""

    def change(module: nn.Module) -> nn.Module:
        copy = shallow_copy(module, cls)
        for table in (copy._parameters, copy._buffers):
            tensors = cast("dict[str, Tensor | None]", table)
            remote = {name: t for name, t in tensors.items() if t is not None and t.device != main}
            tensors.update({name: as_local(t, main) for name, t in remote.items()})
        return copy

    return change


def _on_its_device(device: torch.device, main: torch.device) -> Replacement:
    """A change to a module that copies its arguments to its device."""

    def change(module: nn.Module) -> nn.Module:
        cls = _class_on_device(type(module), device, main, bool(module._modules))
        # Other modules read the weights of a layer without calling it, as CLIP does with its position embedding.
        return shallow_copy(module, cls) if module._modules else _with_local_weights(main, cls)(module)

    return change


@cache
def _class_on_device(cls: type[nn.Module], device: torch.device, main: torch.device, plain: bool) -> type[nn.Module]:
    """The class of a module that runs on its device.

    plain: whether its forward gets plain tensors. A layer whose weights report the main device gets remote tensors.
    """

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:  # whatever the module takes and returns
        def copied(tensor: Tensor) -> Tensor:
            on_device = plain_on(tensor, device)
            return on_device if plain else as_local(on_device, main)

        lists: list[list[Any]] = []
        args, kwargs = _map_tensors((args, kwargs), copied, lists)
        _localize(lists, device)
        result = _map_tensors(cls.forward(self, *args, **kwargs), lambda t: as_local(t, main))
        _localize(lists, main)
        return result

    return cast("type[nn.Module]", type(cls.__name__, (cls,), {"forward": forward}))


def _on_main_device(main: torch.device) -> Replacement:
    """A change to the model itself: it takes and returns plain tensors on the main device."""
    return lambda module: _with_local_weights(main, _class_on_main_device(type(module), main))(module)


@cache
def _class_on_main_device(cls: type[nn.Module], main: torch.device) -> type[nn.Module]:
    def wrapped(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:  # whatever the model takes and returns
            args, kwargs = _map_tensors((args, kwargs), lambda t: plain_on(t, main))
            return _map_tensors(method(self, *args, **kwargs), lambda t: plain_on(t, main))

        return call

    methods = {name: wrapped(getattr(cls, name)) for name in _METHODS if hasattr(cls, name)}
    return cast("type[nn.Module]", type(cls.__name__, (cls,), methods))


def _localize(lists: list[list[Any]], device: torch.device) -> None:
    """Have the tensors in these lists report a device. Modules pop from a list that others fill, so it stays the same
    list."""
    for one in lists:
        one[:] = [_map_tensors(value, lambda t: as_local(t, device)) for value in one]


def _map_tensors(value: Any, change: Callable[[Tensor], Tensor], lists: list[list[Any]] | None = None) -> Any:
    """A nested value with its tensors changed. With `lists`, each list is left as it is and collected there."""

    def leaf(one: Any) -> Any:
        if isinstance(one, Tensor):
            return change(one)
        if isinstance(one, list) and lists is not None:
            lists.append(cast("list[Any]", one))
        if is_dataclass(one) and not isinstance(one, type):
            return replace(one, **{f.name: _map_tensors(getattr(one, f.name), change) for f in fields(one) if f.init})
        return one

    return tree_map(leaf, value, is_leaf=None if lists is None else lambda one: isinstance(one, list))
