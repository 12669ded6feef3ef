"""Adapters: values that say which published matrices change, and by how much."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from ...graph.errors import ConfigError
from .names import states_component
from .patches import Patch


@dataclass(frozen=True)
class NamedPatch:
    """A patch, and the name by which the file calls its matrix. kind: "LoRA", "DoRA" … for reports."""

    body: str
    kind: str
    patch: Patch


@dataclass(frozen=True, eq=False)
class PatchSet:
    """All patches of a file, in its order. Adapters that differ in strength share one.

    source: the file, folder or repo. notes: what is unusual about the file.
    """

    source: str
    patches: tuple[NamedPatch, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Adapter:
    """Patches on published matrices, and how strongly they are applied. `sf.load_adapter` makes one from a file.

    Args:
        name: what calls and errors call it.
        content: its patches.
        strength: multiplies all patches; 0 turns the adapter off.
        by_component: further factors for single components (`{"unet": 1.0, "text_encoder": 0.5}`).
    """

    name: str
    content: PatchSet
    strength: float = 1.0
    by_component: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def patches(self) -> tuple[NamedPatch, ...]:
        """Its patches, in the order of the file."""
        return self.content.patches

    @property
    def source(self) -> str:
        """The file, folder or repo that it was read from."""
        return self.content.source

    @property
    def notes(self) -> tuple[str, ...]:
        """What is unusual about the file."""
        return self.content.notes

    def scaled(self, strength: float = 1.0, /, **by_component: float) -> "Adapter":
        """The same adapter at another strength: `a.scaled(0.6)`, `a.scaled(unet=1.0, text_encoder=0.5)`."""
        for name, value in {"strength": strength, **by_component}.items():
            if not isinstance(value, int | float) or value != value or abs(value) == float("inf"):  # noqa: PLR0124  NaN
                raise ConfigError(f"{name}: needs a finite number. Got {value!r}.")
        return replace(self, strength=self.strength * strength, by_component={**self.by_component, **by_component})

    def strength_of(self, component: str) -> float:
        """The strength for a component."""
        return self.strength * self.by_component.get(component, 1.0)

    @property
    def kinds(self) -> Mapping[str, int]:
        """How many patches of each kind."""
        return Counter(named.kind for named in self.patches)

    @property
    def ranks(self) -> tuple[int, ...]:
        """All ranks, in ascending order."""
        return tuple(sorted({rank for named in self.patches if (rank := named.patch.rank) is not None}))

    @property
    def components(self) -> tuple[str, ...]:
        """The components that the names state."""
        return tuple(dict.fromkeys(states_component(named.body) or "denoiser" for named in self.patches))

    def __repr__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.kinds.items())
        ranks = f", rank {'/'.join(map(str, self.ranks))}" if self.ranks else ""
        return f"Adapter({self.name!r}: {kinds}{ranks}, strength {self.strength:g})"


def check_names(adapters: Iterable[Adapter]) -> None:
    """ConfigError if two adapters have one name: strengths are set by name."""
    names = Counter(adapter.name for adapter in adapters)
    if twice := [name for name, count in names.items() if count > 1]:
        raise ConfigError(f"Two adapters have the name {twice[0]!r}. Pass name= to sf.load_adapter.")
