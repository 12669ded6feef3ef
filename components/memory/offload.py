"""Storage of components that are larger than the memory they may take: in a narrower dtype, or streamed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from ...graph.errors import ConfigError
from ..device_map import DeviceMap
from ..spec import dtype_name
from .offloaded import WeightStream, offloaded_view
from .tensors import PLAIN_TENSORS, blocks_of, bytes_as, own_tensors, tensors_of

M = TypeVar("M", bound=nn.Module)
By = Literal["model", "blocks", "leaves"]


@dataclass(frozen=True)
class Offload:
    """Settings for the storage of a component's weights.

    by: "model" moves the whole component to its device while it is used. "blocks" stores the weights on the CPU and
    copies the model's blocks to the device one after another, `blocks` of them at a time. "leaves" copies each weight
    alone, which takes the least memory and the most time.
    prefetch: copy the next blocks while the current ones compute, on a CUDA stream of their own. It takes twice the
    memory and pins the weights.
    storage: a narrower dtype for linear and convolution weights, such as "float8_e4m3fn". They are computed in the
    component's dtype. Of these settings it alone changes results.

    Raises:
        ConfigError: settings that do not fit together.
    """

    by: By = "model"
    blocks: int = 1
    prefetch: bool = False
    storage: str | None = None

    def __post_init__(self) -> None:
        if self.by not in ("model", "blocks", "leaves"):
            raise ConfigError(f"by: needs 'model', 'blocks' or 'leaves'. Got {self.by!r}.")
        if self.blocks < 1:
            raise ConfigError(f"blocks: needs 1 or more. Got {self.blocks!r}.")
        if self.prefetch and self.by != "blocks":
            raise ConfigError(f"prefetch: needs by='blocks', since it copies the next blocks. Got by={self.by!r}.")
        object.__setattr__(self, "storage", dtype_name(self.storage, "storage"))

    @property
    def streams(self) -> bool:
        """Whether the weights are stored on the CPU and copied to the device while the model runs."""
        return self.by != "model"

    @property
    def needs_view(self) -> bool:
        """Whether runs use a view of the component in place of the component."""
        return self.streams or self.storage is not None


NO_OFFLOAD = Offload()
"""The component is moved as a whole and stored in its own dtype."""


def refuse_split_offload(name: str, device_map: DeviceMap | None, offload: Offload) -> None:
    """ConfigError if a component that lies on several devices is to be offloaded too."""
    if device_map is not None and offload.needs_view:
        raise ConfigError(
            f"{name} lies on {device_map} by its device_map, so it cannot be kept by={offload.by!r}, storage="
            f"{offload.storage!r} as well. Name other components in manager.offload(…), or give it one device: "
            f"manager.to({name!r}, device=…)."
        )


def refuse_quantized_offload(name: str, offload: Offload) -> None:
    """ConfigError if this quantized component is to be streamed, or stored in another dtype."""
    if offload.needs_view:
        raise ConfigError(
            f"{name} is quantized, so it cannot be kept by={offload.by!r}, storage={offload.storage!r}. Quantized "
            "components are moved as a whole: use by='model', storage=None."
        )


def prepare_weights(model: nn.Module, offload: Offload, device: str) -> None:
    """Convert a model's weights to the storage dtype, and pin them for prefetching. Done once, after reading.

    Raises:
        ConfigError: a weight is of a tensor subclass, such as a quantized one, which is narrow already.
    """
    if not offload.needs_view:
        return
    for path, module in model.named_modules():
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None and type(tensor) not in PLAIN_TENSORS:
                raise ConfigError(
                    f"{type(model).__name__}: {path}.{name} is a {type(tensor).__name__}, which cannot be stored in "
                    "another way. Quantized components are moved as a whole: use by='model', storage=None."
                )
    for module in model.modules():
        for name, tensor in module._parameters.items():
            if tensor is not None and offload.storage and _is_narrowed(module, tensor):
                narrow = tensor.to(getattr(torch, offload.storage))
                module._parameters[name] = nn.Parameter(narrow, requires_grad=False)
    if offload.prefetch and device.startswith("cuda"):  # copies from unpinned memory would not overlap with computing
        for tensor in tensors_of(model):
            tensor.data = tensor.data.pin_memory()


_NARROWED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def _is_narrowed(module: nn.Module, tensor: Tensor) -> bool:
    """Norms, biases and embeddings keep their dtype: they are small, and results depend on them."""
    return isinstance(module, _NARROWED) and tensor.ndim > 1 and tensor.is_floating_point()


def view_for(model: M, offload: Offload, stream: WeightStream, dtype: str) -> M:
    """The view that a run uses, whose weights `stream` copies to its device and converts to `dtype`."""
    narrow = getattr(torch, offload.storage) if offload.storage else None
    compute: torch.dtype = getattr(torch, dtype)
    groups = {id(t): i for i, group in enumerate(_groups(model, offload)) for t in group}
    return offloaded_view(model, stream, groups, lambda t: compute if t.dtype == narrow else t.dtype)


def _groups(model: nn.Module, offload: Offload) -> Sequence[Sequence[Tensor]]:
    """The tensors that are copied together, block by block."""
    if offload.by != "blocks":
        return []
    return [list(tensors_of(block)) for block in blocks_of(model, lambda m: bytes_as(tensors_of(m), None))]


def streaming_bytes(model: nn.Module, offload: Offload, dtype: str) -> int:
    """The most bytes of a streamed model that are on the device at once, for one thread."""
    compute: torch.dtype = getattr(torch, dtype)
    groups = _groups(model, offload)
    grouped = {id(t) for group in groups for t in group}
    largest = sum(sorted((bytes_as(group, compute) for group in groups), reverse=True)[: offload.blocks])
    alone = max(
        (bytes_as([t for t in own_tensors(module) if id(t) not in grouped], compute) for module in model.modules()),
        default=0,
    )
    return largest * (1 + offload.prefetch) + alone
