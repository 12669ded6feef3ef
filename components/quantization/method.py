"""The interface to packages that quantize, and where each is imported."""

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
"""The package, our extra that installs it, and our class for it."""


class Method(ABC):
    """Quantizes linear layers, and restores them from files.

    A layer's parts are its tensors in a file, by what follows its path: "weight", "weight.absmax", "bias" …
    """

    @abstractmethod
    def problem(self, layer: nn.Linear, dtype: torch.dtype, device: torch.device) -> str | None:
        """Why a layer cannot be quantized in this dtype on this device, and what to do; None if it can."""

    @abstractmethod
    def quantize(self, layer: nn.Linear) -> nn.Module:
        """The quantized layer, on the device of the weight. `layer` must not be used afterwards."""

    @abstractmethod
    def restore(self, layer: nn.Linear, parts: Mapping[str, Tensor], about: str, device: torch.device) -> nn.Module:
        """The quantized layer of a file.

        Args:
            layer: the plain layer, on the meta device.
            parts: the tensors of the file, by the ends of their names.
            about: the file's metadata of the weight.
            device: where the layer is needed.

        Raises any error if the parts do not fit; the caller adds the file.
        """

    def completed(self, config: Quantization) -> Quantization:
        """The config to save: with the settings that the package adds."""
        return config


@cache
def method_for(config: Quantization) -> Method:
    """The method of a config, made once. LoadError if its package is missing."""
    if missing := next(missing_packages(config), None):
        raise LoadError(missing)
    module, _, name = _WHERE[type(config)][2].partition(":")
    made: Any = getattr(import_module(module, __package__), name)  # a class that takes its config
    return made(config)


def completed(config: Quantization) -> Quantization:
    """The config to save: with the settings that the packages add."""
    if isinstance(config, MixedQuantization):
        kinds = {name: kind and completed(kind) for name, kind in config.modules.items()}
        return config.model_copy(update={"modules": kinds, "default": config.default and completed(config.default)})
    return method_for(config).completed(config) if type(config) in _WHERE else config


def missing_packages(config: Quantization | None) -> Iterator[str]:
    """A line for each missing package of a config. Imports nothing."""
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
