"""Names of devices, and whether this machine has them."""

import torch

from ...graph.errors import ConfigError


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
