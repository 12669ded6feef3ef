"""Whatever is asked of a manager, in any order and from several threads, its books are right and the budget holds."""

import random
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from torch import nn

import sfumato as sf
from sfumato import ComponentsManager
from sfumato.components.memory.estimate import Estimate
from sfumato.components.memory.tensors import parts_of, total_bytes
from sfumato.components.spec import ComponentSpec

from .conftest import GPU, Simulated

NUMBERS = (100, 200, 300, 400)
"""The sizes of the files: so many float32 numbers."""
SPECS = [ComponentSpec(type_hint=("diffusers", f"Net{n}"), config={"n": n}) for n in NUMBERS]


class Net(nn.Module):
    """A model that is as large as its file says."""

    def __init__(self, count: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(count, dtype=dtype), requires_grad=False)


class Files(Simulated):
    """Reads made-up files, some of which are damaged, on devices that are simulated."""

    def __init__(self) -> None:
        super().__init__()
        self.damaged = 0

    def read(self, spec: ComponentSpec, dtype: str, device: Any) -> Any:  # a Net
        count: Any = (spec.config or {})["n"]
        if count == self.damaged:
            raise sf.LoadError("damaged")
        made = Net(count, getattr(torch, dtype))
        self._place(made, str(device), f"read {count}")
        return made

    def alive(self, device: str) -> int:
        """Bytes that are there, whoever holds them."""
        return total_bytes(self.parts(net) for net, where in list(self._where.items()) if where == device)


@pytest.fixture(autouse=True)
def _files_are_made_up(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]  a fixture
    made_up(monkeypatch)


def made_up(patch: pytest.MonkeyPatch) -> None:
    """No folder is looked at: sizes are those of the made-up files."""

    def told(spec: ComponentSpec, dtype: str, offload: object = None) -> Estimate:
        count: Any = (spec.config or {})["n"]
        return Estimate(count * getattr(torch, dtype).itemsize)

    patch.setattr("sfumato.components.memory.managed.estimate", told)
    patch.setattr("sfumato.components.manager.load_problems", _nothing)


def refused(error: sf.LoadError, *other: str) -> None:
    """It says what there is no room for, or is one of these."""
    text = str(error)
    assert "are needed there at once" in text or text in other, text


def _nothing(spec: ComponentSpec) -> list[str]:
    return []


class Books(RuleBasedStateMachine):
    """One thread, any order: what is held, leased, removed and counted."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        made_up(self.patch)
        self.files = Files()
        self.budget = {"cuda": 2400, "cpu": 2000}
        self.manager = ComponentsManager(self.budget, device="cuda", mover=self.files)
        self.leases: list[tuple[Any, list[Any]]] = []
        """Each with the handles of what was brought under it: not of what there was no room for beside `mine`."""
        self.mine: list[Any] = []
        self.added: list[nn.Module] = []

    def teardown(self) -> None:
        self.patch.undo()

    def handle(self, which: int, half: bool) -> Any:
        return self.manager.handle(SPECS[which], dtype="float16" if half else "float32", name=f"net{which}")

    @rule(which=st.integers(0, 3), half=st.booleans(), keep=st.booleans())
    def load(self, which: int, half: bool, keep: bool) -> None:
        handle = self.handle(which, half)
        try:
            net = handle.load()
        except sf.LoadError as error:
            refused(error, "damaged")
            return
        assert net.weight.numel() == NUMBERS[which] and not net.weight.is_meta
        leaving = handle.key in self.manager._memory.inventory.removed  # removed, and this thread has leased it
        assert self.manager.get(handle.key) is (None if leaving else net)
        assert self.files._where[net] == handle_device(self.manager, handle)
        if keep:
            self.mine.append(net)

    @rule(which=st.lists(st.integers(0, 3), min_size=1, max_size=3), half=st.booleans())
    def lease(self, which: list[int], half: bool) -> None:
        handles = [self.handle(one, half) for one in which]
        try:
            lease = self.manager.lease(handles, "me")
        except sf.LoadError as error:
            refused(error)
            return
        brought: list[Any] = []
        self.leases.append((lease, brought))
        for handle in handles:
            try:
                net = handle.load()
            except sf.LoadError as error:
                refused(error, "damaged")
            else:
                assert self.files._where[net] == handle_device(self.manager, handle)
                brought.append(handle)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        lease, _ = self.leases.pop(data.draw(st.integers(0, len(self.leases) - 1)))
        lease.release()

    @precondition(lambda self: self.mine)
    @rule()
    def forget_mine(self) -> None:
        self.mine.pop()

    @precondition(lambda self: len(self.added) < 2)
    @rule()
    def add(self) -> None:
        net = Net(50, torch.float32)
        self.files._where[net] = "cpu"
        self.added.append(net)
        self.manager.add(f"added{len(self.added)}", net)

    @rule(number=st.integers(1, 2))
    def load_added(self, number: int) -> None:
        for handle in self.manager.search(f"added{number}"):
            with suppress(sf.LoadError):
                assert handle.load() is self.added[number - 1]

    @rule(pattern=st.sampled_from(["net0", "net1|net2", "*", "added1"]))
    def remove(self, pattern: str) -> None:
        self.manager.remove(pattern)
        assert self.manager.search(pattern) == []

    @rule(pattern=st.sampled_from(["net*", "*"]))
    def free(self, pattern: str) -> None:
        assert self.manager.free(pattern) >= 0

    @rule(pattern=st.sampled_from(["net0", "net1", "net3"]), device=st.sampled_from(["cpu", "cuda"]))
    def to(self, pattern: str, device: str) -> None:
        with suppress(sf.ConfigError):
            self.manager.to(pattern, device=device)

    @rule(damaged=st.sampled_from([0, 100, 300]))
    def damage(self, damaged: int) -> None:
        self.files.damaged = damaged

    @invariant()
    def what_is_counted_is_what_is_there(self) -> None:
        entries = [*self.manager._memory.inventory.entries.values(), *self.manager._memory.inventory.removed.values()]
        held = [entry for entry in entries if entry.component is not None]
        assert self.manager.bytes + self.manager._memory.inventory.unfreed_bytes >= total_bytes(
            parts_of(e.component) for e in held
        )
        for entry in held:
            assert not entry.in_transit and entry.current == self.files._where[entry.component]
            assert dict(entry.parts) == dict(self.files.parts(entry.component))
        assert len({id(entry.component) for entry in held}) == len(held)
        assert sum(row.bytes for row in self.manager.summary()) == self.manager.bytes

    @invariant()
    def nothing_is_beyond_the_budget(self) -> None:
        for device, most in (GPU, 2400), ("cpu", 2000):
            counted = total_bytes(fact.parts_on(device) for fact in self.manager._memory.inventory.residents())
            assert counted <= most
            removed = {id(net) for net in self.added if net not in self.held()}
            loose = sum(total_bytes([self.files.parts(net)]) for net in self.added if id(net) in removed)
            assert self.files.alive(device) <= most + loose  # what its owner has again

    def held(self) -> list[Any]:
        return [entry.component for entry in list(self.manager._memory.inventory.entries.values())]

    @invariant()
    def what_is_leased_stays(self) -> None:
        for handle in {handle for _, brought in self.leases for handle in brought}:
            entry = self.manager._memory.entry(handle)
            assert entry.ready is not None and entry.is_in_place

    @invariant()
    def nobody_leaves_for_ever(self) -> None:
        leased = self.manager._memory._lease_counts()
        assert all(key in leased for key in self.manager._memory.inventory.removed)


def handle_device(manager: ComponentsManager, handle: Any) -> str:
    """Where it is used now; `to` may have changed it."""
    return str(manager._memory.entry(handle).target)


Books.TestCase.settings = settings(max_examples=12, stateful_step_count=30)
test_any_order_of_what_one_thread_asks = Books.TestCase


# ------------------------------------------------------------------------------------------------------ threads
def test_several_threads_with_random_requests() -> None:
    """Each leases, loads and computes with what it leased; others add, remove, free and change meanwhile."""
    files = Files()
    budget = {"cuda": 3000, "cpu": 2000}
    manager = ComponentsManager(budget, device="cuda", mover=files)
    wrong: list[str] = []
    expected = ("are needed there at once", "is in use by")

    def use(chance: random.Random) -> None:
        picked = chance.sample(range(4), chance.choice((1, 1, 2)))
        handles = [manager.handle(SPECS[i], name=f"net{i}") for i in picked]
        with manager.lease(handles, "a run"):
            for _ in range(2):
                nets = [handle.load() for handle in handles]
                for i, net, handle in zip(picked, nets, handles, strict=True):
                    if net.weight.numel() != NUMBERS[i] or net.weight.is_meta:
                        wrong.append(f"net{i} is torn")
                    if files._where[net] != GPU or handle.load() is not net:
                        wrong.append(f"net{i} was moved while it was leased")

    def change(chance: random.Random) -> None:
        name = f"net{chance.randrange(4)}"
        match chance.randrange(5):
            case 0:
                manager.remove(name)
            case 1:
                manager.free("*")
            case 2:
                manager.offload(name, "model")
            case 3:
                manager.summary()
                manager.plan()
            case _:
                made = Net(10, torch.float32)
                files._place(made, "cpu", "made")
                manager.add("mine", made)
                manager.remove("mine")

    def work(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(15):
            try:
                (use if chance.random() < 0.7 else change)(chance)
            except (sf.LoadError, sf.ConfigError) as error:
                if not any(text in str(error) for text in expected):
                    wrong.append(str(error))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # so that threads meet in the middle of things
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8), timeout=600))  # a busy machine needs minutes
    finally:
        sys.setswitchinterval(before)
    assert wrong == []
    assert (
        manager._memory.leases.active() == []
        and manager._memory.leases._queue == []
        and manager._memory.inventory.removed == {}
    )
    assert files.peak[GPU] <= budget["cuda"] and manager._memory.inventory.unfreed_bytes == 0
    held = [entry for entry in manager._memory.inventory.entries.values() if entry.component is not None]
    assert manager.bytes == sum(total_bytes([parts_of(entry.component)]) for entry in held)
    assert len({id(entry.component) for entry in held}) == len(held)
