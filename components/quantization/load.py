"""Load weights into a model and quantize it, or load quantized files, one layer after another."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from ...graph.errors import ConfigError, LoadError
from ...registry.log import LOG
from ..storage.fits import check_numbers, check_shapes, shown_names
from ..storage.tensors import SafetensorFiles, Tensors
from .config import GGUFQuantizationConfig, MixedQuantization, Quantization
from .four_bit import FourBit, MayBeFourBit
from .gguf.layers import holds_packed, packed_layer
from .gguf.packed import Packed
from .method import Method, completed, method_for
from .paths import check_entries, named, names


def load_quantized(
    model: nn.Module,
    tensors: Tensors,
    quantization: Quantization,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    rename: Callable[[str], str | None] = lambda name: name,
    stays_float32: Callable[[str], bool] = lambda name: False,
) -> Quantization:
    """Load weights into a model that was made under `on_meta`, quantized.

    Tensors of quantized layers are used as stored. Otherwise each linear layer that is not excluded is quantized when
    its weight is read, so peak memory is that of the quantized model and one layer. Packed tensors of a GGUF file stay
    packed under a `GGUFQuantizationConfig`; under another config they are decoded and quantized again.

    Args:
        model: on the meta device.
        tensors: the files.
        quantization: the config.
        dtype, device, rename, stays_float32: see `load_weights`. `stays_float32` excludes layers too.

    Returns:
        The config to save.

    Raises:
        ConfigError: layers that this method cannot quantize, or entries that name no module; all of them.
        LoadError: a missing package, and the errors of `load_tensors`.
    """
    loading = Loading(model, tensors, quantization, dtype, torch.device(device), stays_float32)
    loading.find(rename)
    loading.choose()
    loading.fill()
    return completed(quantization)


@dataclass
class Loading:
    """One load of a quantized model: `find`, `choose`, `fill` in this order."""

    model: nn.Module
    tensors: Tensors
    config: Quantization
    dtype: torch.dtype | None
    device: torch.device
    stays_float32: Callable[[str], bool]
    method: Callable[[Quantization], Method] = method_for
    linear: dict[str, nn.Linear] = field(init=False)
    plain: dict[str, str] = field(default_factory=dict[str, str], init=False)
    """From names in the file to names in the model, for tensors that are whole parameters."""
    parts: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]], init=False)
    """For each layer that is quantized in the file: from its parts to names in the file."""
    packed: frozenset[str] = field(init=False)
    """Names in the file of weights in four bits that are one tensor each."""
    decoded: list[str] = field(default_factory=list[str], init=False)
    """Paths of layers for which such weights were decoded."""
    chosen: dict[str, Method] = field(default_factory=dict[str, Method], init=False)
    """The method of each layer that is quantized in this load."""

    def __post_init__(self) -> None:
        # Subclasses of nn.Linear compute differently, and no method has a layer for them.
        self.linear = {path: layer for path, layer in self.model.named_modules() if type(layer) is nn.Linear}
        self.packed = frozenset(self.tensors.four_bit() if isinstance(self.tensors, MayBeFourBit) else ())

    def find(self, rename: Callable[[str], str | None]) -> None:
        """Sort the names of the file and compare them with the model's. Reads no tensor. LoadError if they differ."""
        self.plain = {stored: name for stored in self.tensors.shapes() if (name := rename(stored)) is not None}
        wanted = {name: tuple(tensor.shape) for name, tensor in self.model.state_dict().items()}
        by_layer: dict[str, dict[str, str]] = {}
        for stored, name in self.plain.items():
            path, part = self._layer_of(name)
            if path is not None:
                by_layer.setdefault(path, {})[part] = stored
        self.parts = {path: parts for path, parts in by_layer.items() if set(parts) - {"weight", "bias"}}
        for path, parts in self.parts.items():
            wanted.pop(f"{path}.weight")
            for part, stored in parts.items():
                if part != "bias":
                    del self.plain[stored]
        check_shapes(type(self.model).__name__, wanted, self.plain, self.tensors)

    def _layer_of(self, name: str) -> tuple[str | None, str]:
        """The path of the linear layer that a name belongs to, and the rest of the name."""
        end = name.rfind(".")
        while end > 0:
            if name[:end] in self.linear:
                return name[:end], name[end + 1 :]
            end = name.rfind(".", 0, end)
        return None, name

    def choose(self) -> None:
        """Decide which layers are quantized in this load. ConfigError if one of them cannot be."""
        owner = type(self.model).__name__
        if self.parts or self.packed:  # the file is quantized already
            return
        rules = self.config.modules if isinstance(self.config, MixedQuantization) else ()
        paths = [path for path, _ in self.model.named_modules() if path]
        check_entries(owner, [*self.config.excluded, *rules], paths)
        if isinstance(self.config, GGUFQuantizationConfig):
            return
        problems: dict[str, list[str]] = {}
        for path, layer in self.linear.items():
            rule = self._rule(path)
            if rule is None or self._excluded(path):
                continue
            method = self.chosen[path] = self.method(rule)
            if problem := method.problem(layer, self.dtype or torch.float32, self.device):
                problems.setdefault(problem, []).append(path)
        if problems:
            shown = "\n".join(f"  {problem}: {shown_names(paths)}" for problem, paths in problems.items())
            raise ConfigError(
                f"{self.config.quant_method} cannot quantize {owner} with these settings.\n{shown}\n"
                "  Use another quantization, or exclude these layers with modules_to_not_convert."
            )
        if not self.chosen:
            raise ConfigError(f"{owner} has no linear layer that {self.config} quantizes.")

    def _rule(self, path: str) -> Quantization | None:
        """The config for one layer."""
        if not isinstance(self.config, MixedQuantization):
            return self.config
        modules = cast("Mapping[str, Quantization | None]", self.config.modules)
        return next((kind for entry, kind in modules.items() if names(entry, path)), self.config.default)

    def _excluded(self, path: str) -> bool:
        return named(self.config.excluded, path) or self.stays_float32(f"{path}.weight")

    def fill(self) -> None:
        """Read all tensors and quantize the chosen layers, in the order of the file, packed weights last."""
        # A packed weight replaces its layer together with the bias, which must be read before.
        for stored, name in sorted(self.plain.items(), key=lambda item: item[0] in self.packed):
            self._place(name, self.tensors.read(stored), stored)
        if self.decoded and self.device.type != "meta":
            LOG.info(
                "%s: decoded, because blocks cross the rows of these layers: %s",
                self.config,
                shown_names(self.decoded),
            )
        metadata = self.tensors.metadata() if isinstance(self.tensors, SafetensorFiles) else {}
        for path, parts in self.parts.items():
            read = {part: self.tensors.read(stored) for part, stored in parts.items() if part != "bias"}
            file = self.tensors.where(next(iter(parts.values())))
            self._restore(path, read, metadata.get(f"{path}.weight", ""), file)
        for module in self.model.modules():  # buffers that no file has
            for name, buffer in module.named_buffers(recurse=False):
                module._buffers[name] = buffer.to(self.device)

    def _place(self, name: str, tensor: Tensor | Packed | FourBit, stored: str) -> None:
        path, _, leaf = name.rpartition(".")
        module = self.model.get_submodule(path)
        if isinstance(tensor, FourBit):
            if leaf == "weight" and path in self.linear and not self._excluded(path):
                self._restore(path, tensor.stored(), "", self.tensors.where(stored))
                return
            tensor = tensor.dequantize()
        elif stored in self.packed:
            self.decoded.append(path)
        if isinstance(tensor, Packed):
            if leaf == "weight" and self._stays_packed(path, module):
                self._set(path, packed_layer(module, tensor.to(self.device), self._compute_dtype()))
                return
            tensor = tensor.dequantize()
        check_numbers(cast("Tensor", getattr(module, leaf)), tensor, stored, self.tensors)
        kind = self.dtype if tensor.is_floating_point() else None
        if named(self.config.keep_in_fp32_modules, path) or (kind == torch.float16 and self.stays_float32(name)):
            kind = torch.float32
        value = tensor.to(device=self.device, dtype=kind).reshape(cast("Tensor", getattr(module, leaf)).shape)
        if leaf in module._parameters:
            module._parameters[leaf] = nn.Parameter(value, requires_grad=value.is_floating_point())
        else:
            module._buffers[leaf] = value
        if leaf == "weight" and path in self.chosen:
            self._quantize(path, self.chosen[path])

    def _quantize(self, path: str, method: Method) -> None:
        layer = self.linear.pop(path)  # the last reference to its numbers
        bias, layer._parameters["bias"] = layer._parameters["bias"], None  # it may not be read yet
        try:
            made = method.quantize(layer)
        # Packages refuse with any of these errors; the text has the reason.
        except (RuntimeError, ValueError, AssertionError, ImportError, NotImplementedError) as error:
            raise LoadError(f"{path} could not be quantized by {self.config}: {error}") from error
        made._parameters["bias"] = bias
        self._set(path, made)

    def _restore(self, path: str, parts: Mapping[str, Tensor], metadata: str, files: str) -> None:
        rule = self._rule(path)
        if rule is None or isinstance(rule, GGUFQuantizationConfig):
            raise LoadError(f"{path} is quantized in its file, and the config is {self.config}.")
        layer = self.linear[path]
        bias = layer._parameters.get("bias")
        read = {**parts, **({} if bias is None else {"bias": bias})}
        try:
            made = self.method(rule).restore(layer, read, metadata, self.device)
        except (RuntimeError, ValueError, AssertionError, KeyError, AttributeError, TypeError, ImportError) as error:
            raise LoadError(
                f"{files}: {path} cannot be read as {rule.quant_method}: {type(error).__name__}: {error}. "
                f"It has: {', '.join(sorted(read))}."
            ) from error
        made._parameters["bias"] = bias
        self._set(path, made)

    def _stays_packed(self, path: str, module: nn.Module) -> bool:
        gguf = isinstance(self.config, GGUFQuantizationConfig)
        # Layers that stay float32 may be packed: they are decoded to float32.
        return gguf and holds_packed(module) and not named(self.config.excluded, path)

    def _compute_dtype(self) -> torch.dtype | None:
        named_dtype = cast("GGUFQuantizationConfig", self.config).compute_dtype
        return None if named_dtype is None else getattr(torch, named_dtype)

    def _set(self, path: str, module: nn.Module) -> None:
        parent, _, leaf = path.rpartition(".")
        self.model.get_submodule(parent)._modules[leaf] = module
