"""What a package that quantizes has to offer, and where each is imported."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from ...graph.errors import LoadError
from .config import BitsAndBytesConfig, MixedQuantization, Quantization, QuantoConfig, TorchAoConfig

_WHERE: dict[type[Quantization], tuple[str, str, str]] = {
    BitsAndBytesConfig: ("bitsandbytes", "bitsandbytes", ".with_bitsandbytes:BitsAndBytes"),
    TorchAoConfig: ("torchao", "torchao", ".with_torchao:TorchAo"),
    QuantoConfig: ("optimum.quanto", "quanto", ".with_quanto:Quanto"),
}
"""Which package, which extra of ours brings it, and which class speaks to it."""


class Method(ABC):
    """How linear layers of one kind are quantized, and how they lie in files.

    A layer's parts are its tensors in a file, by what follows its path: "weight", "weight.absmax", "bias" …
    """

    @abstractmethod
    def problem(self, layer: nn.Linear, dtype: torch.dtype, device: torch.device) -> str | None:
        """Return why this layer cannot be quantized in this dtype on this device, and what to do; None if it can."""

    @abstractmethod
    def quantize(self, layer: nn.Linear) -> nn.Module:
        """Make a quantized layer on the device of the plain layer's weight. The plain layer cannot be used after it."""

    @abstractmethod
    def restore(self, layer: nn.Linear, parts: Mapping[str, Tensor], about: str, device: torch.device) -> nn.Module:
        """Make a quantized layer from the tensors of a file.

        Args:
            layer: the plain layer, on the meta device.
            parts: the tensors of the layer, by their names in it.
            about: the metadata of the file about the weight.
            device: of the new layer.

        Raises:
            Exception: tensors that do not fit, of any class; the caller adds the layer's path.
        """

    def completed(self, config: Quantization) -> Quantization:
        """Return the config with the keys that the package adds, to be written."""
        return config


@cache
def method_for(config: Quantization) -> Method:
    """The method for a config, made once, for configs are values. LoadError where its package is missing."""
    if missing := next(missing_packages(config), None):
        raise LoadError(missing)
    module, _, name = _WHERE[type(config)][2].partition(":")
    made: Any = getattr(import_module(module, __package__), name)  # a class that takes its config
    return made(config)


def completed(config: Quantization) -> Quantization:
    """Return the config with the keys that the packages add, to be written."""
    if isinstance(config, MixedQuantization):
        kinds = {name: kind and completed(kind) for name, kind in config.modules.items()}
        return config.model_copy(update={"modules": kinds, "default": config.default and completed(config.default)})
    return method_for(config).completed(config) if type(config) in _WHERE else config


def missing_packages(config: Quantization | None) -> Iterator[str]:
    """What would have to be installed before weights are quantized so. Imports nothing."""
    kinds = [*config.modules.values(), config.default] if isinstance(config, MixedQuantization) else [config]
    for kind in {type(kind) for kind in kinds}:
        if kind in _WHERE:
            package, extra, _ = _WHERE[kind]
            if not _installed(package):
                yield f'{kind.__name__} needs {package}, which is not installed: pip install "sfumato[{extra}]"'


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # the parent of a dotted name
        return False
