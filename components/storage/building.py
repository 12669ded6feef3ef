"""Making a model: without memory for its weights, and within the limits on its size."""

import os
from collections.abc import Callable, Iterable, Sequence
from math import prod
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ...graph.errors import ConfigError
from ...graph.limits import AboveLimit, check_limit

_FILLED: tuple[Any, ...] = (
    torch.arange, torch.eye, torch.full, torch.linspace, torch.ones, torch.rand, torch.randn, torch.zeros,
)  # fmt: skip
"""Functions that make tensors with values."""


class on_meta(TorchFunctionMode):  # noqa: N801  it is read as a phrase: `with on_meta():`
    """In this context `torch.empty` makes tensors on the meta device, so weights take no memory before they are read.

    Tensors with values, such as a buffer of positions, are made as usual, since no file has them. Affects one thread.

    Raises:
        ConfigError: more weights than any model has, or a tensor with values that is too large. It is raised before
            the tensor is made.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tensors = self.numbers = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:  # any function of torch comes through here
        kwargs = kwargs or {}
        if func is torch.empty:
            self._count(_size(args, kwargs))
            return func(*args, **{**kwargs, "device": "meta"})
        if getattr(func, "__module__", None) == "torch.nn.init":
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:
                return tensor  # initialising nothing takes 2 s for a large U-Net
        if func in _FILLED:
            _check("made_numbers", _size(args, kwargs))
        return func(*args, **kwargs)

    def _count(self, numbers: int) -> None:
        self.tensors, self.numbers = self.tensors + 1, self.numbers + numbers
        _check("model_tensors", self.tensors, whole=False)
        _check("model_numbers", self.numbers, whole=False)


def _size(args: Sequence[Any], kwargs: dict[str, Any]) -> int:  # Any: arguments of torch's functions
    """At least as many numbers as the tensor will have; 0 if the arguments do not say."""
    sizes = kwargs.get("size", args)
    sizes = sizes[0] if sizes and isinstance(sizes[0], list | tuple) else sizes
    return prod(max(size, 1) for size in sizes if isinstance(size, int))


def _check(name: str, found: int, *, whole: bool = True) -> None:
    try:
        check_limit(name, found, whole=whole)
    except AboveLimit as error:
        raise ConfigError(f"The model of this config {error}") from None


def refuse_larger_than_memory(owner: str, make: Callable[[], object]) -> None:
    """Make a model on the meta device, and raise ConfigError if its weights do not fit into this machine's memory.

    owner: the name of its class, for errors. make: makes the model. Random numbers that it draws are not counted.
    """
    with torch.random.fork_rng(devices=()), on_meta() as made:
        make()
    needed = made.numbers * torch.get_default_dtype().itemsize
    if (memory := machine_memory()) and needed > memory:
        raise ConfigError(
            f"{owner} has {needed / 1e9:.1f} GB of weights with this config, and this machine has {memory / 1e9:.1f} "
            "GB of memory. Check the config; to read weights, use from_pretrained, which maps them."
        )


def machine_memory() -> int:
    """Bytes of the machine's memory; 0 where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # not on Windows
        return 0
