"""What an engine has made for one component, and how often it was used."""

import threading
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from ...registry.log import LOG

K = TypeVar("K")
MOST = 8
"""Programs of one component that are kept: each may hold a copy of the weights. The one that was used first goes."""


class Program(Protocol):
    """A forward as an engine runs it."""

    def __call__(self, tensors: Sequence[Tensor], layer: nn.Module) -> Any:
        """The output of the forward for these tensors. layer: the module that was called."""
        ...


@dataclass(eq=False)
class Report:
    """What an engine did for a component.

    made: programs that were converted, compiled or captured; for `Fused`, layers. read: those that were read from disk
    instead. ran: calls of them. fell_back: calls that torch ran, by the reason.
    """

    made: int = 0
    read: int = 0
    ran: int = 0
    fell_back: Counter[str] = field(default_factory=Counter[str])

    def __str__(self) -> str:
        reasons = "".join(f"; {count} by torch: {reason}" for reason, count in self.fell_back.items())
        return f"{self.made} made, {self.read} read, {self.ran} calls{reasons}"


class Programs:
    """The programs of one component, made when a call first needs them. Threads share them.

    component: its name, for notes. content: gives the content key of the component; None if it has none. keeps_view:
    whether the view of the component stays while nobody uses it. A manager must be able to drop a model. bytes: an
    estimate of the memory that they take.
    """

    def __init__(
        self, component: str, content: Callable[[], str | None], *, keeps_view: bool = False, bytes: int = 0
    ) -> None:
        self.component, self.content, self._keeps_view, self._bytes = component, content, keeps_view, bytes
        self.report = Report()
        self.lock = threading.RLock()
        self._made: OrderedDict[Hashable, Program | str] = OrderedDict()
        self._view: tuple[weakref.ref[nn.Module], weakref.ref[nn.Module], torch.device | None] | None = None
        self._kept: nn.Module | None = None
        self._shared: dict[Any, Any] = {}

    @property
    def memory_parts(self) -> Mapping[Hashable, int]:
        """The estimate, for a manager."""
        return {("programs", id(self)): self._bytes} if self._bytes else {}

    def view(self, model: nn.Module, make: Callable[[nn.Module, "Programs"], nn.Module]) -> nn.Module:
        """The view of a loaded model: the same one as long as somebody uses it, and the model is on the same device."""
        with self.lock:
            device = next((parameter.device for parameter in model.parameters()), None)
            if self._view is not None and (self._view[0](), self._view[2]) == (model, device):
                known = self._view[1]()
                if known is not None:
                    return known
            made = make(model, self)
            self._view = weakref.ref(model), weakref.ref(made), device
            self._kept = made if self._keeps_view else None
            return made

    def keep(self, kind: type[K], make: Callable[[], K]) -> K:
        """An object of a class that all views of the component share, made once."""
        with self.lock:
            if kind not in self._shared:
                self._shared[kind] = make()
            return self._shared[kind]

    def find(self, key: Hashable, make: Callable[[], Program]) -> Program | str:
        """The program of a key, made if there is none; or the reason why it cannot be made."""
        with self.lock:
            if (known := self._made.get(key)) is not None:
                self._made.move_to_end(key)
                return known
            try:
                made: Program | str = make()
            except Unmade as reason:
                made = str(reason)
            self._made[key] = made
            while len(self._made) > MOST:
                self._made.popitem(last=False)
            return made

    def fall_back(self, reason: str) -> None:
        """Count a call that torch runs, and log the reason the first time."""
        with self.lock:
            if not self.report.fell_back[reason]:
                LOG.info("%s: torch runs this call, since %s.", self.component, reason)
            self.report.fell_back[reason] += 1

    def __deepcopy__(self, memo: object) -> "Programs":
        return self


class Unmade(Exception):
    """A program that cannot be made; the text is the reason."""
