"""New entries for handles: of components in files, and of those that are computed from others."""

import torch

from ..handle import Derived, Handle
from .devices import canonical_device
from .entry import Entry
from .estimate import Estimate
from .offload import Offload
from .policy import CPU


def entry_of_files(handle: Handle, rule: Offload) -> Entry:
    """The entry of a component that files have. rule: how it is kept."""
    made = Entry(handle.key, handle.name, canonical_device(handle.device), handle.dtype, None, rule)
    made.device_map = handle.device_map
    return made


def derived_entry(handle: Derived, base: Entry) -> Entry:
    """The entry of a computed component: on the device of its base, or on the CPU if that is streamed."""
    device = CPU if base.offload.streams else base.device
    return Entry(handle.key, handle.name, device, base.dtype, None, base=base.key)


def estimate_of_derived(handle: Derived, dtype: str) -> Estimate:
    """The memory that a computed component will take, by the count of its numbers."""
    return Estimate(handle.derivation.numbers() * getattr(torch, dtype).itemsize)
