"""The base of attention backends, and the facts by which a backend is chosen."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.util import find_spec
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ...graph.errors import LoadError

HALF = ("float16", "bfloat16")
FLOATS = ("float16", "bfloat16", "float32", "float64")


class AttentionInputs(NamedTuple):
    """The facts about one call of attention on which a choice of a backend depends.

    device: of the queries. dtype: its name. head_size: the channels of a head. mask: whether there is one. gradients:
    whether they are computed. equal_sizes: whether queries and values have equally many channels.
    """

    device: torch.device
    dtype: str
    head_size: int
    mask: bool = False
    gradients: bool = False
    equal_sizes: bool = True

    @classmethod
    def of(cls, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> "AttentionInputs":
        """The facts about queries, keys, values and a mask."""
        gradients = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
        size = q.shape[-1]
        return cls(q.device, dtype_name(q.dtype), size, mask is not None, gradients, v.shape[-1] == size)


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a dtype: "float16"."""
    return _NAMES.get(dtype) or str(dtype).removeprefix("torch.")


_NAMES = {getattr(torch, name): name for name in FLOATS}


@dataclass(frozen=True)
class AttentionBackend(ABC):
    """A way to compute attention. Its fields are settings; equal backends compute alike.

    A backend of your own is a subclass with a `name` and `attend`; the facts below say what it can compute, and
    `refusal` may say more. `sf.attention.register(MyBackend)` makes its name known.
    """

    name: ClassVar[str]
    """For `attention=`, tables and errors."""
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda", "mps", "xpu")
    """The types of devices that it runs on."""
    dtypes: ClassVar[tuple[str, ...]] = FLOATS
    """The dtypes of queries that it takes."""
    largest_head: ClassVar[int | None] = None
    """The most channels of a head; None for any."""
    head_step: ClassVar[int] = 1
    """The channels of a head are a multiple of this number."""
    masks: ClassVar[bool] = True
    """Whether it takes a mask."""
    backward: ClassVar[bool] = True
    """Whether gradients flow through it."""
    capability: ClassVar[tuple[int, int] | None] = None
    """The least compute capability of a CUDA device."""
    package: ClassVar[str] = ""
    """The module that it needs beside torch."""
    install: ClassVar[str] = ""
    """How to install that package."""

    @abstractmethod
    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Compute softmax(q kᵀ / √d + mask) v.

        Args:
            q: queries, `b heads n d`.
            k: keys, `b heads m d`.
            v: values, `b heads m e`.
            mask: added to the scores, or True where a query attends; its shape expands to `b heads n m`.

        Returns:
            `b heads n e`.
        """

    def with_logsumexp(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Compute attention, and the logarithm of the sum of the exponentials of the scores, `b heads n` in float32.

        With both, attention to parts of the keys can be joined. This is the formula, which keeps all scores: layers use
        torch's kernel where a backend has no method of its own.
        """
        scores = masked_scores(q, k, mask)
        return (scores.softmax(dim=-1) @ v.float()).to(v.dtype), scores.logsumexp(dim=-1)

    def missing(self) -> str:
        """Why it cannot run on this machine at all, with what to do; "" if it can."""
        if self.package and not _is_found(self.package):
            return f"needs the package {self.package}, which is not installed. {self.install}"
        return ""

    def unfit_device(self, device: torch.device) -> str:
        """Why it cannot run on a device, as a sentence that begins with a verb; "" if it can."""
        if device.type not in self.devices:
            return f"runs on {' and '.join(self.devices)}, not on {device.type}"
        if self.capability is not None and device.type == "cuda":
            if not torch.cuda.is_available():
                return "needs a CUDA device, and torch finds none"
            if (found := torch.cuda.get_device_capability(device)) < self.capability:
                need, have = (".".join(map(str, version)) for version in (self.capability, found))
                return f"needs a CUDA device of compute capability {need}, and {device} has {have}"
        return ""

    def refusal(self, inputs: AttentionInputs) -> str:
        """Why it cannot compute attention of these inputs, as a sentence that begins with a verb; "" if it can."""
        if reason := self.unfit_device(inputs.device):
            return reason
        if inputs.dtype not in self.dtypes:
            return f"takes {' and '.join(self.dtypes)}, not {inputs.dtype}"
        if self.largest_head is not None and inputs.head_size > self.largest_head:
            return f"takes heads of at most {self.largest_head} channels, not {inputs.head_size}"
        if inputs.head_size % self.head_step:
            return f"takes heads of a multiple of {self.head_step} channels, not {inputs.head_size}"
        if inputs.mask and not self.masks:
            return "takes no mask"
        if inputs.gradients and not self.backward:
            return "computes no gradients"
        return ""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Its fields, for tables."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def key(self) -> str:
        """A text that is equal only for backends whose results are equal."""
        return repr(self)


def masked_scores(q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
    """q kᵀ / √d + mask in float32, `b heads n m`."""
    scores = q.float() @ k.float().transpose(-1, -2) * q.shape[-1] ** -0.5
    return scores if mask is None else scores + added_mask(mask, scores.dtype)


def added_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """The mask as numbers that are added to scores."""
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, float("-inf"))
    return mask.to(dtype)


def padded_mask(mask: Tensor, q: Tensor, k: Tensor) -> Tensor:
    """The mask as kernels of CUDA read it: added, `b heads n m`, with rows that begin at multiples of 16 numbers."""
    count = k.shape[2]
    bias = added_mask(mask, q.dtype).expand(*q.shape[:3], count)
    if count % 16:
        bias = torch.nn.functional.pad(bias, (0, -count % 16))[..., :count]
    return bias


def _is_found(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):  # a module without a spec, as a program may put into sys.modules
        return True


def function_of(module: Any, name: str, backend: AttentionBackend) -> Any:  # a function of a package
    """A function of the package of a backend. LoadError for a version without it."""
    try:
        return getattr(module, name)
    except AttributeError:
        raise LoadError(
            f"attention: {backend.package} has no {name} in the installed version. {backend.install}"
        ) from None
