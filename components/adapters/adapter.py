"""Adapters: values that say which published matrices change, and by how much."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from ...graph.errors import ConfigError, SaveError
from ...graph.structure import Structure
from ..schedulers.schedule import Step
from .block_strengths import Blocks, factor_of, read_blocks
from .layouts import Layout
from .names import states_component
from .patch_set import NamedPatch, PatchSet
from .patches import LowRank
from .saving import save_patches

_LARGEST = 3.4e38
"""A strength is a float32, and a larger number is infinite there."""


@dataclass(frozen=True, eq=False)
class Adapter:
    """Patches on published matrices, and how strongly they are applied. `sf.load_adapter` makes one from a file.

    Args:
        name: its name in calls and errors.
        content: its patches.
        strength: multiplies all patches; 0 turns the adapter off.
        by_component: further factors for single components (`{"unet": 1.0, "text_encoder": 0.5}`).
        window: the part of the steps in which the denoiser has it, as fractions.
        blocks: further factors for single blocks, by the beginning of their layers' paths ("mid", "up.1") or by the
            names of block lists ("IN04"). The longest name counts.
        curve: further factors over the steps: points (fraction, factor), straight lines between them.
    """

    name: str
    content: PatchSet
    strength: float = 1.0
    by_component: Mapping[str, float] = field(default_factory=dict[str, float])
    window: tuple[float, float] = (0.0, 1.0)
    curve: tuple[tuple[float, float], ...] = ()
    blocks: Mapping[str, float] = field(default_factory=dict[str, float])

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
        """Notes on the file, for people: tensors that are not used, scales that are not known."""
        return self.content.notes

    def scaled(self, strength: float = 1.0, /, *, blocks: Blocks = (), **by_component: float) -> "Adapter":
        """The same adapter at another strength: `a.scaled(0.6)`, `a.scaled(unet=1.0, text_encoder=0.5)`.

        Args:
            strength: multiplies the strength.
            blocks: factors for single blocks: `{"mid": 0, "up.1": 0.5}`, a list of 12, 17, 19, 20, 26, 57 or 61
                numbers as sd-webui-lora-block-weight has them, or the name of a preset of it ("OUTALL").
            by_component: factors for single components.

        Raises:
            ConfigError: a number that is not finite, a list of another length, a preset that is not known.
        """
        named, components = read_blocks(blocks) if blocks != () else ({}, {})
        for name, value in {"strength": strength, **named, **components, **by_component}.items():
            check_strength(name, value)
        return replace(
            self,
            strength=self.strength * strength,
            by_component={**self.by_component, **components, **by_component},
            blocks={**self.blocks, **named},
        )

    def during(self, start: float, stop: float) -> "Adapter":
        """The same adapter in a part of the steps: those from the fraction `start` up to, and without, `stop`.

        The denoiser has it in these steps only. Text encoders run before the steps, so they keep it.
        """
        for name, value in {"start": start, "stop": stop}.items():
            check_strength(f"during: {name}", value)
        if not 0 <= start < stop <= 1:
            raise ConfigError(f"during: needs 0 <= start < stop <= 1. Got start={start!r}, stop={stop!r}.")
        return replace(self, window=(start, stop))

    def along(self, *points: tuple[float, float]) -> "Adapter":
        """The same adapter with a factor that changes over the steps: `a.along((0, 1), (0.5, 0.2), (1, 0))`.

        points: (fraction of the steps, factor), in ascending order. Between points the factor is interpolated.
        Before the first point it is that of the first, after the last point that of the last.
        """
        pairs = all(isinstance(point, list | tuple) and len(point) == 2 for point in cast("Any", points))
        places = [check_strength("along", point[0]) for point in points] if pairs else []
        if not places or places != sorted(set(places)) or not all(0 <= place <= 1 for place in places):
            raise ConfigError(
                f"along: needs points (fraction, factor) with ascending fractions in 0…1. Got {points!r}."
            )
        for _, factor in points:
            check_strength("along", factor)
        return replace(self, curve=tuple(points))

    def padded(self, rank: int | None = None) -> "Adapter":
        """The same adapter with zeros in its factors up to this rank, for compiled models.

        A compiled model is compiled again for factors of another shape, and not for other numbers in them. So adapters
        for the same layers, padded to one rank, share what was compiled. Kinds without a low rank stay as they are.

        Args:
            rank: the least power of two that is enough, if it is None.

        Raises:
            ConfigError: a rank below that of the adapter.
        """
        own = max((p.patch.rank for p in self.patches if isinstance(p.patch, LowRank)), default=1)
        wanted = 1 << (own - 1).bit_length() if rank is None else rank
        if type(wanted) is not int or wanted < own:
            raise ConfigError(f"padded: {self.name} has rank {own}. Got {rank!r}. Pass a rank that is no smaller.")
        return replace(self, content=self.content.padded(wanted))

    def strength_of(self, component: str, step: Step | None = None, path: str = "") -> float:
        """The strength for a component, in a step of the denoiser or outside of steps. path: of a layer in it."""
        strength = self.strength * self.by_component.get(component, 1.0) * factor_of(self.blocks, path)
        if step is None or not self.varies:
            return strength
        whole = step.schedule.places
        number, count = whole[step.index], whole[-1] + 1
        start, stop = self.window
        if not int(start * count) <= number < int(stop * count):
            return 0.0
        return strength * _on_curve(self.curve, number / max(1, count - 1))

    def save(self, file: str | Path, layout: Layout = "peft", *, pipe: Structure | None = None) -> Path:
        """Write the adapter to a safetensors file that other programs read. The file appears whole or not at all.

        Its strengths are part of the scales in the file. Fused matrices are split or joined, without loss.

        Args:
            file: the path.
            layout: "peft" (diffusers, PEFT), "kohya" (kohya's scripts, A1111), "comfy" (ComfyUI) or "lycoris"
                (SimpleTuner).
            pipe: the graph whose matrices it changes; by default the published family that its names and shapes fit.

        Raises:
            SaveError: a kind that the layout cannot express, a strength that changes over the steps or between
                blocks, or a file that cannot be written.
            ConfigError: patches that do not fit the graph, or any published family.
        """
        if Path(file).suffix != ".safetensors":
            raise SaveError(f"{file}: needs a name that ends with .safetensors. Other programs go by it.")
        if self.varies:
            raise SaveError(
                f"{file}: the strength of {self.name!r} changes over the steps, which no layout can express. "
                "Save the adapter without during() and along()."
            )
        if self.blocks:
            raise SaveError(
                f"{file}: the strength of {self.name!r} differs between blocks, which no layout can express. "
                "Save the adapter without scaled(blocks=…)."
            )
        return save_patches(self.content, file, layout, name=self.name, strength_of=self.strength_of, pipe=pipe)

    @property
    def varies(self) -> bool:
        """Whether its strength changes over the steps."""
        return self.window != (0.0, 1.0) or bool(self.curve)

    @property
    def kinds(self) -> Mapping[str, int]:
        """The number of patches of each kind."""
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
        more = "".join(f", {name} {factor:g}" for name, factor in {**self.by_component, **self.blocks}.items())
        if self.window != (0.0, 1.0):
            more += ", during {:g} to {:g}".format(*self.window)
        if self.curve:
            more += ", along " + ", ".join(f"({place:g}, {factor:g})" for place, factor in self.curve)
        return f"Adapter({self.name!r}: {kinds}{ranks}, strength {self.strength:g}{more})"


def _on_curve(points: Sequence[tuple[float, float]], place: float) -> float:
    """The factor at a fraction of the steps; 1 without points."""
    if not points or place <= points[0][0]:
        return points[0][1] if points else 1.0
    for (left, low), (right, high) in pairwise(points):
        if place <= right:
            return low + (high - low) * (place - left) / (right - left)
    return points[-1][1]


def check_strength(name: str, value: Any) -> float:  # any value, from the user
    """The number. ConfigError for anything but a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST:
        raise ConfigError(f"{name}: needs a finite number. Got {value!r}.")
    return value


def check_names(adapters: Iterable[Adapter]) -> None:
    """ConfigError if two adapters have one name: strengths are set by name."""
    names = Counter(adapter.name for adapter in adapters)
    if twice := [name for name, count in names.items() if count > 1]:
        raise ConfigError(f"Two adapters have the name {twice[0]!r}. Pass name= to sf.load_adapter.")
