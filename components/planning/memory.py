"""The memory of a plan: the weights of its components, and which of them are in memory together."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ...graph.errors import ConfigError, LoadError
from ...graph.leases import lenders
from ...graph.run_order import RunOrder, run_order
from ...graph.structure import Structure
from ..device_map import Parts
from ..handle import Added, Derived, Handle
from ..loading.component import is_model, weight_names_of
from ..manager import ComponentsManager
from ..memory.budget import Budget
from ..memory.entries import estimate_of_derived
from ..memory.entry import Entry
from ..memory.estimate import Estimate, estimate, has_weights
from ..memory.offload import NO_OFFLOAD, Offload
from ..memory.policy import CPU, DISK, OutOfBudget, Residency, moves_to_fit_all
from ..memory.tensors import total_bytes
from ..storage.building import machine_memory
from ..storage.hub import Repo
from .plan import PlannedComponent


@dataclass(frozen=True)
class Needs:
    """The memory that one component needs."""

    handle: Handle
    entry: Entry
    estimate: Estimate
    offload: Offload = NO_OFFLOAD

    @classmethod
    def of(cls, handle: Handle) -> "Needs":
        """By the files of a component, or by its config if the files are not on this machine. Fetches no weights."""
        manager = handle.manager
        assert isinstance(manager, ComponentsManager)
        entry = manager._memory.entry(handle)
        if entry.component is not None:
            streaming = cls._estimated(handle, entry, entry.offload).streaming_bytes
            return cls(handle, entry, Estimate(total_bytes([entry.parts]), 0, streaming), entry.offload)
        return cls(handle, entry, cls._estimated(handle, entry, entry.offload), entry.offload)

    @staticmethod
    def _estimated(handle: Handle, entry: Entry, offload: Offload) -> Estimate:
        if isinstance(handle, Derived):
            return estimate_of_derived(handle, entry.dtype)
        return Estimate() if isinstance(handle, Added) else estimate(handle.spec, entry.dtype, offload, fetches=False)

    def changed(self, *, offload: Offload | None = None, quantization: str | None = None) -> "Needs":
        """The same component with another setting. ConfigError if it cannot have it."""
        spec, kept = self.handle.spec, offload or self.offload
        spec = spec if quantization is None else spec.using(quantization=quantization)
        size = estimate(spec, self.entry.dtype, kept, fetches=False)
        if not size.bytes:
            raise ConfigError(f"{self.entry.name} cannot be kept in this way.")
        return replace(self, estimate=size, offload=kept)

    @property
    def manager(self) -> ComponentsManager:
        """The manager of the component."""
        manager = self.handle.manager
        assert isinstance(manager, ComponentsManager)
        return manager

    @property
    def on_device(self) -> int:
        """The bytes on its device while it is used."""
        return self.estimate.streaming_bytes if self.offload.streams else self.estimate.bytes

    def residencies(self) -> Iterator[Residency]:
        """The component as the policy sees it while it is leased."""
        entry, reloadable = self.entry, not isinstance(self.handle, Added)
        parts: dict[str, Parts]
        if self.offload.streams:
            parts = {CPU: {entry.key: self.estimate.bytes}}
        elif entry.device_map is not None:
            parts = dict(entry.device_map.expected_parts(entry.key, self.estimate.bytes))
        else:
            parts = {entry.device: {entry.key: self.estimate.bytes}}
        (device, own), *others = parts.items()
        yield Residency(entry.key, entry.name, device, own, 0, True, reloadable, other_parts=dict(others))
        if self.offload.streams:
            work: Parts = {(entry.key, 0): self.estimate.streaming_bytes}
            yield Residency(f"{entry.key} at work", f"{entry.name} at work", entry.device, work, leased=True)

    def planned(self, name: str) -> PlannedComponent:
        """The component in a plan."""
        handle, spec = self.handle, self.handle.spec
        kind, entry = handle.type, self.entry
        model = is_model(kind) or isinstance(handle, Derived)
        has_files = isinstance(handle, Added | Derived) or entry.component is not None or not model or has_weights(spec)
        download = 0 if has_files else _download_bytes(spec)
        size = self.estimate.bytes if self.estimate.bytes or not model else None
        type_name = kind.__name__ if isinstance(kind, type) else handle.class_name
        streaming = self.estimate.streaming_bytes if self.offload.streams else 0
        dtype = entry.dtype if model else ""
        device = str(entry.device_map or entry.device) if model else ""
        return PlannedComponent(
            name, type_name, dtype, device, size, streaming, download, missing=not has_files and not download
        )


def _download_bytes(spec: Any) -> int:  # a ComponentSpec
    """The bytes of the weights of a repo that the cache lacks; 0 for other places, and where the repo does not say."""
    try:
        location = spec.location
        if not isinstance(location, Repo):
            return 0
        names = [name for name in weight_names_of(spec) if not location.has(spec.subfolder, name)]
        return sum(location.size(spec.subfolder, name) or 0 for name in names)
    except LoadError:
        return 0


@dataclass(frozen=True)
class Together:
    """Nodes whose components are leased together, by the paths of the nodes."""

    nodes: tuple[str, ...]
    handles: tuple[Handle, ...]


def leased_together(graph: Structure, order: RunOrder) -> list[Together]:
    """The groups of nodes of a graph that lease their components together, in the order of running."""
    return list(_together(order, "", graph.adapted_bindings))


def _together(order: RunOrder, prefix: str, bindings: Mapping[str, Any]) -> Iterator[Together]:
    done: set[str] = set()
    for line in order.lines:
        span = order.spans.get(line.name)
        if span is None or line.name in done:
            continue
        if span.whole or not line.insides:
            names = [each.name for each in span.lines]
            done |= {*names}
            leased = [h for handles in lenders(span.lines, bindings).values() for h in handles]
            if handles := tuple(
                h for h in leased if isinstance(h, Derived) or (isinstance(h, Handle) and is_model(h.type))
            ):
                yield Together(tuple(prefix + name for name in names), handles)
            continue
        inner = line.bindings_inside(bindings)
        for inside in line.insides:
            own = {**inner, **inside.graph.adapted_bindings}
            path = inside.path(prefix + line.name)
            yield from _together(run_order(inside.graph, inside.outputs), f"{path}.", own)


class Managers:
    """What managers would have in memory, group after group.

    budget: in place of that of each manager.
    """

    def __init__(self, budget: Budget | None = None) -> None:
        self._budget = budget
        self._residents: dict[ComponentsManager, dict[str, Residency]] = {}
        self._uses = 10**9  # after all uses so far

    def use(self, needs: Sequence[Needs]) -> dict[str, int]:
        """Lease these components. Gives the bytes of weights on each device meanwhile, of all managers."""
        by_manager: dict[ComponentsManager, list[Residency]] = {}
        for one in needs:
            by_manager.setdefault(one.manager, []).extend(one.residencies())
        for manager, wanted in by_manager.items():
            self._lease(manager, wanted)
        sums: dict[str, int] = {}
        for manager, residents in self._residents.items():
            for resident in residents.values():
                for device in resident.devices:
                    sums[device] = sums.get(device, 0) + total_bytes([resident.parts_on(device)])
            self._residents[manager] = {k: r for k, r in residents.items() if not k.endswith(" at work")}
        return sums

    def budget_of(self, manager: ComponentsManager) -> Budget:
        """The budget of a manager."""
        return self._budget or manager.budget

    def _lease(self, manager: ComponentsManager, wanted: Sequence[Residency]) -> None:
        if (state := self._residents.get(manager)) is None:
            present = manager._memory.inventory.residents()
            state = self._residents[manager] = {r.key: replace(r, leased=False) for r in present if r.device != DISK}
        wanted = [replace(r, parts=state[r.key].parts) if r.key in state and r.device == state[r.key].device else r
                  for r in wanted]  # fmt: skip
        try:
            moves = moves_to_fit_all(wanted, state.values(), self.budget_of(manager))
        except OutOfBudget:  # it is shown as too much; all others have left
            moves = ()
            for key in [key for key, r in state.items() if r.reloadable]:
                del state[key]
        for move in moves:
            resident = state.pop(move.key)
            if move.target != DISK:
                state[move.key] = resident.moved_to(move.target)
        for one in wanted:
            self._uses += 1
            state[one.key] = replace(one, leased=False, last_used=self._uses)


def memory_of(device: str) -> int:
    """The bytes of memory of a device; 0 where it does not say."""
    if device.startswith("cuda") and torch.cuda.is_available():
        return int(torch.cuda.mem_get_info(device)[1])
    return machine_memory() if device.startswith(CPU) else 0
