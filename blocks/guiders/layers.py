"""Which layers a guider perturbs, as published configs say it, and the taps that this makes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias, cast

from ...components.models.taps import Blur, Drop, Identity, Tap, Taps, find_perturbable, select_blocks
from ...graph import ConfigError, Lazy
from ...graph.requirements import Requirement
from ...registry import did_you_mean

Layer: TypeAlias = int | str
Layers: TypeAlias = int | str | tuple[int | str, ...] | None
"""Places in forward order, or names: a path, or the beginning of one ("mid", "up_blocks.1")."""


@dataclass(frozen=True)
class LayerSkipConfig:
    """What layers do not do, under its published keys: attention, its scores, feed-forward.

    indices: places in the list of blocks `fqn`; with "auto", in the forward order of the whole model. dropout: the part
    that is lost of what they add.
    """

    indices: tuple[Layer, ...]
    fqn: str = "auto"
    skip_attention: bool = True
    skip_attention_scores: bool = False
    skip_ff: bool = True
    dropout: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "indices", _several(self.indices))
        if not 0 <= self.dropout <= 1:
            raise ConfigError(f"dropout is a part, from 0 to 1, but {self.dropout} came.")
        if self.skip_attention_scores and (self.skip_attention or self.dropout != 1):
            raise ConfigError("skip_attention_scores goes with skip_attention=False and dropout=1.0 only.")

    @property
    def taps(self) -> tuple[Tap, ...]:
        taps = [Tap(Identity(), self.indices, self.fqn)] if self.skip_attention_scores else []
        if self.skip_attention or self.skip_ff:
            taps.append(Tap(Drop(self.skip_attention, self.skip_ff, self.dropout), self.indices, self.fqn))
        return tuple(taps)


@dataclass(frozen=True)
class SmoothedEnergyGuidanceConfig:
    """Layers whose queries are blurred, under its published keys."""

    indices: tuple[Layer, ...]
    fqn: str = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "indices", _several(self.indices))


LayersConfig: TypeAlias = LayerSkipConfig | tuple[LayerSkipConfig, ...] | dict[str, Any] | list[dict[str, Any]] | None
BlurConfig: TypeAlias = (
    SmoothedEnergyGuidanceConfig
    | tuple[SmoothedEnergyGuidanceConfig, ...]
    | dict[str, Any]
    | list[dict[str, Any]]
    | None
)


@dataclass(frozen=True)
class RequiredLayers(Requirement):
    """The layers that a guider names: the denoiser must have them, which is checked before anything runs."""

    taps: tuple[Tap, ...]

    def violation(self, component: Any) -> str | None:  # Any: whatever the guider meets
        layers = find_perturbable(component)
        if layers is None:
            return None
        model = component.type if isinstance(component, Lazy) else type(component)
        try:
            for tap in self.taps:
                select_blocks(tap, layers, model.__name__)
        except ConfigError as error:
            return str(error)
        return None


def settle(guider: object, layers: str, config: str, kind: type) -> None:
    """Make what a guider holds of its layers hashable: lists as tuples, dicts as configs of `kind`."""
    held = vars(guider)
    if held[layers] is not None and held[config] is not None:
        raise ConfigError(f"{type(guider).__name__} takes {layers} or {config}, not both. Leave one out.")
    if isinstance(held[layers], list):
        held[layers] = tuple(held[layers])
    given = held[config]
    if isinstance(given, list | tuple):
        held[config] = tuple(_read(item, kind) for item in cast("Sequence[Any]", given))
    elif given is not None:
        held[config] = _read(given, kind)


def ask(guider: object, taps: Sequence[Tap]) -> None:
    """Have the layers that a guider names asked of the denoiser that it meets, when a graph with both is made."""
    if named := tuple(tap for tap in taps if tap.layers or tap.stack != "auto"):
        vars(guider)["layers"] = RequiredLayers(named)


def asked_by(guider: object) -> Sequence[Tap]:
    """What `ask` had asked for this guider."""
    held = vars(guider).get("layers")
    return held.taps if isinstance(held, RequiredLayers) else ()


def skipping(layers: Layers, config: LayersConfig, usual: LayerSkipConfig) -> Taps:
    """The taps of a guider: those of its config, or of its layers with what is usual for it."""
    given = cast("LayerSkipConfig | tuple[LayerSkipConfig, ...] | None", config)
    if given is None:
        parts = "skip_attention", "skip_attention_scores", "skip_ff", "dropout"
        given = LayerSkipConfig(_several(layers), "auto", *(getattr(usual, part) for part in parts))
    return Taps(tuple(tap for one in (given if isinstance(given, tuple) else (given,)) for tap in one.taps))


def blurring(layers: Layers, config: BlurConfig, sigma: float) -> Taps:
    """The taps of a guider that blurs queries."""
    given = cast("SmoothedEnergyGuidanceConfig | tuple[SmoothedEnergyGuidanceConfig, ...] | None", config)
    given = SmoothedEnergyGuidanceConfig(_several(layers)) if given is None else given
    all_given = given if isinstance(given, tuple) else (given,)
    return Taps(tuple(Tap(Blur(sigma), one.indices, one.fqn) for one in all_given))


def _several(layers: Any) -> tuple[Layer, ...]:  # Any: as users and files write them
    if layers is None:
        return ()
    return (layers,) if isinstance(layers, int | str) else tuple(layers)


def _read(value: Any, kind: type) -> Any:  # Any: an instance of `kind`, or its dict
    if not isinstance(value, Mapping):
        return value
    given = dict(cast("Mapping[str, Any]", value))
    if given.pop("_query_proj_identifiers", None) not in (None, ["to_q"]):
        raise ConfigError("_query_proj_identifiers other than ['to_q'] is not supported. Leave it out.")
    known = [f.name for f in fields(kind)]
    if unknown := [key for key in given if key not in known]:
        told = " ".join(f"{kind.__name__} has no {key!r}. {did_you_mean(key, known)}" for key in unknown)
        raise ConfigError(told)
    if "indices" not in given:
        raise ConfigError(f"{kind.__name__} needs 'indices': which layers.")
    return kind(**given)
