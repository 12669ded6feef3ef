"""Components that an engine runs. A graph binds them in place of the components."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

from torch import nn

from ...graph.fields import Derivation, Lazy
from ...graph.memo.code import digest
from ...graph.memo.contents import content_key
from ...graph.memo.library_values import NoContentKey
from ..adapters.over import MachineComponent, config_of
from ..storage.building import on_meta
from .engine import Engine
from .programs import Programs


@dataclass(frozen=True, eq=False)
class Optimized(MachineComponent):
    """A component that an engine runs. Its object is a view of the component's: the component itself does not change.

    Adapters, image prompts and taps make further views of that view.
    """

    engine: Engine

    @property
    def own_attention(self) -> str:
        """The name of the engine, if it has its own attention."""
        return self.engine.name if self.engine.own_attention else ""

    @property
    def form(self) -> str:
        """The engine, and the engine or backend below it."""
        return f" by {self.engine!r}{super().form}"

    @cached_property
    def made(self) -> Lazy | None:
        """What the engine makes for the component, if the lender of the component keeps it."""
        if not isinstance(self.base, Lazy):
            return None
        return self.base.derived(
            Derivation(self.engine.name, f"{self.component}{self.form}",
                       self._programs_for,
                       lambda: self.engine.numbers(self._without_values))
        )  # fmt: skip

    @cached_property
    def own(self) -> Programs:
        """The same for a component without a lender."""
        return Programs(self.component, self._base_content, keeps_view=True)

    @property
    def programs(self) -> Programs:
        """The programs of the component, and the report of what the engine did."""
        return self.own if self.made is None else cast("Programs", self.made.load())

    @property
    def leased(self) -> Sequence[Lazy]:
        """The component itself, and what the engine makes for it."""
        return super().leased if self.made is None else (*super().leased, self.made)

    def content_key(self) -> str | None:
        """The key of the component and of the engine, whose results differ from those of torch."""
        base = self._base_content()
        return None if base is None else digest("engine", self.engine.key, base)

    def load(self) -> Any:
        """A view of the loaded component, which the engine runs; the same one as long as somebody uses it."""
        return self.programs.view(self.loaded_base(), self.engine.view)

    def _base_content(self) -> str | None:
        try:
            return content_key(self.base)
        except NoContentKey:
            return None

    def _programs_for(self, model: nn.Module) -> Programs:
        count, size = self.engine.numbers(self._without_values), next(iter(model.parameters())).element_size()
        return Programs(self.component, self._base_content, bytes=count * size)

    def _without_values(self) -> nn.Module:
        with on_meta():
            return self.type.from_config(dict(config_of(self.base)))

    @property
    def _identity(self) -> tuple[object, ...]:
        return *super()._identity, self.engine
