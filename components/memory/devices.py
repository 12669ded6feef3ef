"""Names of devices, whether this machine has them, and which dtypes are slow on its CPU."""

from collections.abc import Mapping
from functools import cache
from typing import Any, cast

import torch

from ...graph.errors import ConfigError
from ...registry.log import LOG

_NARROW = {
    "bfloat16": ("avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16", "sve_bf16"),
    "float16": ("avx512_fp16", "amx_fp16", "avx_ne_convert", "fp16_arith"),
}
"""The instructions of CPUs that compute in a narrow dtype, by torch's names. One of them is enough."""


def device_name(device: object, what: str = "device") -> str:
    """The name of a device that torch knows, from a `torch.device` or a name. what: the argument, for the error text.

    >>> device_name(torch.device("cuda", 1)), device_name("cpu")
    ('cuda:1', 'cpu')

    Raises:
        ConfigError: torch knows no such device.
    """
    try:
        return str(torch.device(device))  # type: ignore[arg-type]  # whatever was passed
    except (RuntimeError, TypeError):
        way = "'cuda' for an NVIDIA or AMD GPU, 'mps' for a Mac, 'xpu' for an Intel GPU, or 'cpu'"
        raise ConfigError(f"{what}: torch knows no device {device!r}. Write {way}.") from None


def canonical_device(device: str) -> str:
    """The one name of a device: "cuda" without a number is the current CUDA device.

    >>> canonical_device("cpu"), canonical_device("cuda:1")
    ('cpu', 'cuda:1')
    """
    parsed = torch.device(device)
    if parsed.type in ("cpu", "meta", "mps"):
        return parsed.type
    if ":" in device:
        return str(parsed)
    current = torch.cuda.current_device() if parsed.type == "cuda" and torch.cuda.is_available() else 0
    return f"{parsed.type}:{current}"


def check_device(device: str) -> None:
    """Raise ConfigError if weights cannot be used on a device of this name, on this machine."""
    parsed = torch.device(device)
    if parsed.type == "meta":
        raise ConfigError("device: tensors on 'meta' have no values, so nothing runs there. Pass another device.")
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    count = 0 if accelerator is None else torch.accelerator.device_count()
    names = ["cpu", *(f"{accelerator}:{index}" for index in range(count))]
    kind = "cpu" if accelerator is None else accelerator.type
    if parsed.type == "cpu" or (parsed.type == kind and (parsed.index or 0) < count):
        return
    raise ConfigError(f"device: torch finds no {device!r} on this machine. It finds: {', '.join(names)}.")


def is_slow_on_cpu(dtype: str) -> bool:
    """Whether this CPU has no instructions for a narrow dtype. False where torch does not know the CPU."""
    capabilities = getattr(torch.cpu, "get_capabilities", None)  # since torch 2.10
    if dtype not in _NARROW or capabilities is None:
        return False
    found = cast("Mapping[str, Any]", capabilities())
    return any(has is True for has in found.values()) and not any(found.get(name) for name in _NARROW[dtype])


@cache
def note_slow_dtype(dtype: str) -> None:
    """Log, once in a process for each dtype, that a model on this CPU computes slowly in it."""
    if is_slow_on_cpu(dtype):
        LOG.warning(
            "This CPU has no instructions for %s, so models take 8 to 50 times as long as in float32. "
            "Pass dtype='float32'.",
            dtype,
        )
