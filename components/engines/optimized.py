"""Components that an engine runs. A graph binds them in place of the components."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

from pydantic import JsonValue
from torch import nn

from ...graph.errors import GraphFileError
from ...graph.fields import Derivation, Lazy
from ...graph.memo.code import digest
from ...graph.memo.contents import content_key
from ...graph.memo.library_values import NoContentKey
from ..adapters.over import OverComponent, config_of
from ..storage.building import on_meta
from .engine import Engine
from .programs import Programs


@dataclass(frozen=True, eq=False)
class Optimized(OverComponent):
    """A component that an engine runs. Its object is a view of the component's: the component itself does not change.

    component: its name in the graph. Adapters, image prompts and taps make further views of that view.
    """

    component: str
    engine: Engine

    @cached_property
    def made(self) -> Lazy | None:
        """What the engine makes for the component, if the lender of the component keeps it."""
        if not isinstance(self.base, Lazy):
            return None
        return self.base.derived(
            Derivation(self.engine.name, f"{self.component} {self.engine!r}",
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

    def derived(self, derivation: Derivation) -> Lazy | None:
        """A component that is computed from the component itself."""
        return self.base.derived(derivation) if isinstance(self.base, Lazy) else None

    def content_key(self) -> str | None:
        """The key of the component and of the engine, whose results differ from those of torch."""
        base = self._base_content()
        return None if base is None else digest("engine", self.engine.key, base)

    def load(self) -> Any:
        """A view of the loaded component, which the engine runs; the same one as long as somebody uses it."""
        return self.programs.view(self.loaded_base(), self.engine.view)

    def to_json(self) -> Mapping[str, JsonValue]:
        """The entry of the component: engines belong to a machine, as devices do."""
        if isinstance(self.base, Lazy):
            return self.base.to_json()
        raise GraphFileError(
            f"{self.component} is an object, which no file can name. Bind a ComponentSpec of its files."
        )

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

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Optimized) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[object, ...]:
        return self.base if isinstance(self.base, Lazy) else id(self.base), self.component, self.engine

    def __reduce__(self) -> tuple[Any, ...]:
        return Optimized, (self.base, self.component, self.engine)
