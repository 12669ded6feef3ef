"""The processes that compute one graph together: who they are, what they exchange, and which of them failed."""

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from ...graph.errors import ConfigError, ProcessFailed, UnfitValue
from ...registry import printable
from ..types import Pass

T = TypeVar("T")
_FAILED = "sfumato/failed"


def count_processes() -> int:
    """The number of processes of torch.distributed. Where torchrun has started them, their group is made first.

    Raises:
        ConfigError: one process alone.
    """
    if not distributed.is_initialized():
        if not all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")):
            raise ConfigError(
                "parallel: needs processes of torch.distributed, and this program runs as one. Start it with `torchrun "
                "--nproc-per-node 2 program.py` or `accelerate launch`, or call torch.distributed.init_process_group."
            )
        distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    return distributed.get_world_size()


@dataclass(frozen=True)
class Mesh:
    """Processes along three axes: those that divide passes, those of a ring, those that exchange heads.

    Process r has the place (r // (ring * heads), r // heads % ring, r % heads).
    """

    passes: int = 1
    ring: int = 1
    heads: int = 1

    @property
    def size(self) -> int:
        """The number of processes."""
        return self.passes * self.ring * self.heads


class Group:
    """Some of the processes, of which this one is number `place`."""

    def __init__(self, members: Sequence[int], processes: "Processes") -> None:
        self._members, self._processes = tuple(members), processes
        self.size, self.place = len(members), members.index(distributed.get_rank())
        self._group = processes.subgroup(self._members)

    def gather(self, mine: Tensor) -> list[Tensor]:
        """The tensors of all members, in order. Their shapes are equal."""
        device = mine.device
        if device.type == "cpu" and distributed.get_backend(self._group) == "nccl":  # which knows CUDA devices alone
            mine = mine.cuda()
        mine = mine.contiguous()
        made = [torch.empty_like(mine) for _ in self._members]
        with self._processes.exchanging():
            distributed.all_gather(made, mine, group=self._group)
        return [t.to(device) for t in made]

    def gather_objects(self, mine: T) -> list[T]:
        """The values of all members, in order."""
        made: list[Any] = [None] * self.size
        with self._processes.exchanging():
            distributed.all_gather_object(made, mine, group=self._group)
        return made

    def exchange(self, parts: Sequence[Tensor], counts: Sequence[int]) -> list[Tensor]:
        """Send part i to member i, and return the parts that the members sent: flat, with so many numbers each."""
        sent = torch.cat([part.flatten() for part in parts])
        got = sent.new_empty(sum(counts))
        with self._processes.exchanging():
            distributed.all_to_all_single(got, sent, list(counts), [part.numel() for part in parts], group=self._group)
        return list(got.split(list(counts)))

    def pass_on(self, tensors: Sequence[Tensor], shapes: Sequence[torch.Size]) -> Callable[[], list[Tensor]]:
        """Begin to send tensors to the next member, and to get those of these shapes from the one before.

        Returns a function that waits for them.
        """
        tensors = [t.contiguous() for t in tensors]
        got = [t.new_empty(shape) for t, shape in zip(tensors, shapes, strict=True)]
        following = self._members[(self.place + 1) % self.size]
        previous = self._members[self.place - 1]
        moves: list[distributed.P2POp] = []
        for t, new in zip(tensors, got, strict=True):
            moves.append(distributed.P2POp(distributed.isend, t, following, self._group))
            moves.append(distributed.P2POp(distributed.irecv, new, previous, self._group))
        with self._processes.exchanging():
            works = distributed.batch_isend_irecv(moves)

        def wait() -> list[Tensor]:
            with self._processes.exchanging():
                for work in works:
                    work.wait()
            return [*got] if tensors else []  # `tensors` stay alive until they are sent

        return wait


class Processes:
    """All processes of torch.distributed on a mesh. Every process makes the same ones in the same order."""

    def __init__(self, mesh: Mesh) -> None:
        if (size := distributed.get_world_size()) != mesh.size:
            raise ConfigError(f"parallel: the plan is for {mesh.size} processes, and there are {size}.")
        self.mesh, self.world = mesh, distributed.group.WORLD
        self._made: dict[tuple[int, ...], Any] = {}  # torch's groups
        self._calls = 0
        rank = distributed.get_rank()
        numbers = range(mesh.size)
        by_place = dict(zip(product(range(mesh.passes), range(mesh.ring), range(mesh.heads)), numbers, strict=True))
        self._place = next(place for place, number in by_place.items() if number == rank)
        own: list[tuple[int, ...]] = []
        for free in ((0,), (1,), (2,), (1, 2)):  # the axes along which the members of a group differ
            fixed = [axis for axis in range(3) if axis not in free]
            groups: dict[tuple[int, ...], list[int]] = {}
            for place, number in by_place.items():
                groups.setdefault(tuple(place[axis] for axis in fixed), []).append(number)
            for members in groups.values():
                self._make(tuple(members))
                if rank in members:
                    own.append(tuple(members))
        self.passes, self.ring, self.heads, self.context = (Group(members, self) for members in own)

    def _make(self, members: tuple[int, ...]) -> None:
        if members not in self._made and 1 < len(members) < self.mesh.size:
            self._made[members] = distributed.new_group(list(members))

    def subgroup(self, members: tuple[int, ...]) -> Any:  # a group of torch
        """torch's group of these members; None for all processes."""
        return self._made.get(members)

    @cached_property
    def everyone(self) -> Group:
        """All processes."""
        return Group(range(self.mesh.size), self)

    # ------------------------------------------------------------------------------------------------ failures
    @contextmanager
    def computing(self) -> Generator[None]:
        """Compute a part of a forward. An error is noted where the other processes find it."""
        self._calls += 1
        try:
            yield
        except ProcessFailed:
            raise
        except BaseException as error:
            text = f"{self._calls}\n{type(error).__name__}: {error}"
            _store().set(f"{_FAILED}/{distributed.get_rank()}", text)
            raise

    @contextmanager
    def exchanging(self) -> Generator[None]:
        """Exchange tensors. ProcessFailed where another process does not take part, with its error."""
        try:
            yield
        except RuntimeError as error:
            raise ProcessFailed(self._reason(str(error))) from error

    def _reason(self, text: str) -> str:
        rank = distributed.get_rank()
        for other in range(self.mesh.size):
            number, found = _noted(f"{_FAILED}/{other}")
            if other != rank and number >= self._calls:
                return f"Process {other} of {self.mesh.size} failed, so process {rank} stops. {printable(found)}"
        return (
            f"Process {rank} of {self.mesh.size} did not get the parts of the others: one ended, or took longer than "
            f"the group waits. Look for its error. torch says: {text.splitlines()[0]}"
        )

    # ------------------------------------------------------------------------------------------------ equal inputs
    def check_equal(self, passes: Sequence[Pass]) -> None:
        """Raise UnfitValue where another process asks for other predictions. It is done once a run."""
        numbers = [float(len(passes))]
        for p in passes[:8]:
            numbers += [float(p.step.timestep), *(float(t.double().sum()) for t in (p.latents, p.conditioning.tokens))]
        device = passes[0].latents.device if passes else "cpu"
        mine = torch.zeros(25, dtype=torch.float32, device=device)
        mine[: len(numbers)] = torch.tensor(numbers)
        for number, other in enumerate(self.everyone.gather(mine)):
            if not torch.allclose(mine, other, rtol=1e-3, atol=1e-2, equal_nan=True):
                raise UnfitValue(
                    f"Process {number} draws another picture than process {distributed.get_rank()}. All processes need "
                    "equal calls of equal pipelines. Pass seed=, since each draws its own otherwise."
                )

    def __deepcopy__(self, memo: object) -> "Processes":
        return self


def _store() -> Any:  # torch's store, whose type is private
    return distributed.distributed_c10d._get_default_store()


def _noted(key: str) -> tuple[int, str]:
    """The call and the error that a process noted; -1 if it noted none."""
    try:
        if not _store().check([key]):
            return -1, ""
        number, _, text = _store().get(key).decode(errors="replace").partition("\n")
        return int(number), text
    except RuntimeError:  # its server was in a process that ended
        return -1, ""


_PROCESSES: dict[tuple[int, Mesh], Processes] = {}
"""One for each mesh and group of torch, so that groups are made once."""


def processes_of(mesh: Mesh) -> Processes:
    """The processes on a mesh. The first call makes groups, so all processes must call it."""
    key = id(distributed.group.WORLD), mesh
    if key not in _PROCESSES:
        _PROCESSES[key] = Processes(mesh)
    return _PROCESSES[key]
