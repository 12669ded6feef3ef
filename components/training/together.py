"""Several things trained together: words and an adapter in pivotal tuning, for example."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from torch import nn

from ...graph.graph import Graph
from ...graph.saving import saving_folder
from ..adapters.layouts import Layout
from .trained import NO_BINDINGS, NO_HEADER, ParameterGroup, Trained


class TrainedTogether(Trained):
    """Parts that are trained together, by name. A later part changes what an earlier one binds."""

    suffix = ""

    def __init__(self, parts: Mapping[str, Trained]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(dict(parts))

    @property
    def _parts(self) -> Mapping[str, Trained]:
        return cast("Mapping[str, Trained]", self.parts)

    @property
    def is_called(self) -> bool:
        """Whether all parts are."""
        return all(part.is_called for part in self._parts.values())

    def bindings(self, over: Mapping[str, Any] = NO_BINDINGS) -> Mapping[str, Any]:
        """What all parts bind; see `Trained.bindings`."""
        found: dict[str, Any] = {}
        for part in self._parts.values():
            found |= part.bindings({**over, **found})
        return found

    def groups(self) -> Sequence[ParameterGroup]:
        """Those of all parts; see `Trained.groups`."""
        return [group for part in self._parts.values() for group in part.groups()]

    def attached(self, pipe: Graph) -> Graph:
        """The preset with all parts; see `Trained.attached`."""
        for part in self._parts.values():
            pipe = part.attached(pipe)
        return pipe

    def save(self, path: str | Path, *, layout: Layout | None = None, header: Mapping[str, str] = NO_HEADER) -> Path:
        """Write each part into a folder under its name; see `Trained.save`."""
        with saving_folder(path) as draft:
            for name, part in self._parts.items():
                part.save(draft.path / f"{name}{part.suffix}", layout=layout, header=header)
        return Path(path)

    def load(self, path: str | Path) -> Mapping[str, Any]:
        """What each part has saved, by its name; see `Trained.load`."""
        return {name: part.load(Path(path, f"{name}{part.suffix}")) for name, part in self._parts.items()}

    def use_layout(self, layout: Layout) -> None:
        """For each part; see `Trained.use_layout`."""
        for part in self._parts.values():
            part.use_layout(layout)

    def after_step(self) -> None:
        """Do what follows each step, for each part."""
        for part in self._parts.values():
            part.after_step()
