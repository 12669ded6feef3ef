"""How a component is kept where it is larger than the memory it may take."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from ...graph.errors import ConfigError
from ..spec import dtype_name
from .away import Stream, away, blocks
from .sizes import tensors_of

M = TypeVar("M", bound=nn.Module)
By = Literal["model", "blocks", "leaves"]


@dataclass(frozen=True)
class Offload:
    """What lies elsewhere until it is asked for.

    by: "model" brings a component as a whole, while it is used. "blocks" keeps the weights on the CPU and brings the
    model's blocks one after another, `blocks` of them at a time; "leaves" each weight by itself, which takes the
    least memory and the most time. prefetch: bring the next blocks while these work, on a stream of their own; takes
    twice the memory, and pins the weights. storage: a narrower dtype to keep linear and convolution weights in,
    such as "float8_e4m3fn"; they are computed with in the component's own. That changes results, the rest does not.
    """

    by: By = "model"
    blocks: int = 1
    prefetch: bool = False
    storage: str | None = None

    def __post_init__(self) -> None:
        if self.by not in ("model", "blocks", "leaves"):
            raise ConfigError(f"by: came {self.by!r}, wanted 'model', 'blocks' or 'leaves'.")
        if self.blocks < 1:
            raise ConfigError(f"blocks: came {self.blocks!r}, wanted 1 or more.")
        if self.prefetch and self.by != "blocks":
            raise ConfigError(f"prefetch: brings the next blocks, and by is {self.by!r}. Write by='blocks'.")
        object.__setattr__(self, "storage", dtype_name(self.storage))
        if self.storage and not getattr(torch, self.storage).is_floating_point:
            raise ConfigError(f"storage: came {self.storage!r}, wanted a floating dtype such as 'float8_e4m3fn'.")

    @property
    def streams(self) -> bool:
        """Whether the weights stay on the CPU, and only what is worked with is on the device."""
        return self.by != "model"

    @property
    def plain(self) -> bool:
        """Whether the component is used as it is, and no view of it."""
        return not self.streams and self.storage is None


AS_A_WHOLE = Offload()


def refuse_cut(name: str, cut: object, offload: Offload) -> None:
    """ConfigError for a component on several devices that is to be kept otherwise than as it is."""
    if cut is not None and not offload.plain:
        raise ConfigError(
            f"{name} lies on {cut} by its device_map, so it cannot be kept by={offload.by!r}, storage="
            f"{offload.storage!r} as well. Name others in manager.offload(…), or give it one device: "
            f"manager.to({name!r}, device=…)."
        )


def store(model: nn.Module, offload: Offload, device: str) -> None:
    """Make a model's weights what they are kept as, once, after reading: narrower, or pinned.

    Raises ConfigError for a model whose tensors are of a class of their own: quantized ones, which are narrow already.
    """
    if offload.plain:
        return
    for path, module in model.named_modules():
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None and type(tensor) not in (Tensor, nn.Parameter, nn.Buffer):
                raise ConfigError(
                    f"{type(model).__name__}: {path}.{name} is a {type(tensor).__name__}, which cannot be kept "
                    "otherwise than it is. Quantized components are moved as a whole: by='model', storage=None."
                )
    for module in model.modules():
        for name, tensor in module._parameters.items():
            if tensor is not None and offload.storage and _narrows(module, tensor):
                kept = tensor.to(getattr(torch, offload.storage))
                module._parameters[name] = nn.Parameter(kept, requires_grad=False)
    if offload.prefetch and device.startswith("cuda"):  # copies from other memory would not run beside the work
        for tensor in tensors_of(model):
            tensor.data = tensor.data.pin_memory()


def _narrows(module: nn.Module, tensor: Tensor) -> bool:
    """Norms, biases and embeddings stay as they are: they are small, and much hangs on them."""
    return isinstance(module, _WIDE) and tensor.ndim > 1 and tensor.is_floating_point()


_WIDE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def offloaded(model: M, offload: Offload, stream: Stream, dtype: str) -> M:
    """The view that a run gets, whose weights `stream` brings."""
    narrow = getattr(torch, offload.storage) if offload.storage else None
    wide: torch.dtype = getattr(torch, dtype)
    groups = {id(t): i for i, group in enumerate(_groups(model, offload)) for t in group}
    return away(model, stream, groups, lambda t: wide if t.dtype == narrow else t.dtype)


def _groups(model: nn.Module, offload: Offload) -> Sequence[Sequence[Tensor]]:
    """The tensors that come together."""
    if offload.by != "blocks":
        return []
    return [list(tensors_of(block)) for block in blocks(model, lambda m: _bytes(tensors_of(m), None))]


def window(model: nn.Module, offload: Offload, dtype: str) -> int:
    """The most bytes of a streamed component that are on the device at once, in one thread."""
    wide: torch.dtype = getattr(torch, dtype)
    groups = _groups(model, offload)
    grouped = {id(t) for group in groups for t in group}
    largest = sum(sorted((_bytes(group, wide) for group in groups), reverse=True)[: offload.blocks])
    alone = max(
        (_bytes([t for t in _own(module) if id(t) not in grouped], wide) for module in model.modules()), default=0
    )
    return largest * (1 + offload.prefetch) + alone


def _own(module: nn.Module) -> list[Any]:  # Any: parameters and buffers
    return [t for t in (*module._parameters.values(), *module._buffers.values()) if t is not None]


def _bytes(tensors: Any, dtype: torch.dtype | None) -> int:  # Any: tensors in any order
    return sum(
        t.numel() * (dtype if dtype and t.is_floating_point() else t.dtype).itemsize
        for t in {id(t): t for t in tensors}.values()
    )
