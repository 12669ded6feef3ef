"""The layers that a guider perturbs, in their published form, and the taps that they make."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeAlias, cast

from ...components.taps.apply import find_perturbable, select_blocks
from ...components.taps.perturb import Blur, Drop, Identity
from ...components.taps.tap import Tap, Taps
from ...graph import ConfigError, Lazy
from ...graph.requirements import Requirement
from ...registry import did_you_mean

Layer: TypeAlias = int | str
Layers: TypeAlias = int | str | tuple[int | str, ...] | None
"""Numbers in forward order, or names: a path, or the start of one ("mid", "up_blocks.1"). None is the usual ones."""


@dataclass(frozen=True)
class LayerSkipConfig:
    """Layers, and the parts of them that are skipped. The keys are the published ones.

    indices: numbers in the list of blocks `fqn`, or in the forward order of the whole model with "auto".
    skip_attention, skip_ff: leave out attention, the feed-forward part. skip_attention_scores: each token attends to
    itself alone. dropout: the fraction of their output that is lost, from 0 to 1; 1 skips it.

    Raises:
        ConfigError: a dropout outside 0 to 1, or settings that contradict each other.
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
            raise ConfigError(f"dropout={self.dropout} is not a fraction. Pass a number from 0 to 1.")
        if self.skip_attention_scores and (self.skip_attention or self.dropout != 1):
            raise ConfigError(
                "skip_attention_scores needs skip_attention=False and dropout=1.0. Set both, or leave it out."
            )

    @property
    def taps(self) -> tuple[Tap, ...]:
        """The changes of layers that this config makes."""
        taps = [Tap(Identity(), self.indices, self.fqn)] if self.skip_attention_scores else []
        if self.skip_attention or self.skip_ff:
            taps.append(Tap(Drop(self.skip_attention, self.skip_ff, self.dropout), self.indices, self.fqn))
        return tuple(taps)


@dataclass(frozen=True)
class SmoothedEnergyGuidanceConfig:
    """Layers whose queries are blurred. The keys are the published ones; see `LayerSkipConfig`."""

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

    def violation(self, component: Any) -> str | None:  # Any: a component of any class
        """The error text where the denoiser lacks a layer; None where it has all, or has no layers to change."""
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


def normalize_layers(guider: object, layers: str, config: str, kind: type) -> None:
    """Make a guider's layers hashable: lists become tuples, dicts become configs of the class `kind`.

    layers, config: the names of the two fields.

    Raises:
        ConfigError: both fields are set, or a dict has keys that `kind` has not.
    """
    held = vars(guider)
    if held[layers] is not None and held[config] is not None:
        raise ConfigError(f"{type(guider).__name__} needs {layers} or {config}, got both. Leave one out.")
    if isinstance(held[layers], list):
        held[layers] = tuple(held[layers])
    given = held[config]
    if isinstance(given, list | tuple):
        held[config] = tuple(_read(item, kind) for item in cast("Sequence[Any]", given))
    elif given is not None:
        held[config] = _read(given, kind)


def require_layers(guider: object, taps: Sequence[Tap]) -> None:
    """Require the named layers of the denoiser that the guider is wired to. A graph checks it when it is made."""
    if named := tuple(tap for tap in taps if tap.layers or tap.stack != "auto"):
        vars(guider)["layers"] = RequiredLayers(named)


def required_taps(guider: object) -> Sequence[Tap]:
    """The taps that `require_layers` was called with."""
    held = vars(guider).get("layers")
    return held.taps if isinstance(held, RequiredLayers) else ()


def skip_taps(layers: Layers, config: LayersConfig, usual: LayerSkipConfig) -> Taps:
    """The taps of a config; without one, those of `layers` with the settings of `usual`."""
    given = cast("LayerSkipConfig | tuple[LayerSkipConfig, ...] | None", config)
    given = replace(usual, indices=_several(layers)) if given is None else given
    return Taps(tuple(tap for one in (given if isinstance(given, tuple) else (given,)) for tap in one.taps))


def blur_taps(layers: Layers, config: BlurConfig, sigma: float) -> Taps:
    """The taps that blur the queries of these layers; sigma in tokens."""
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
        raise ConfigError("_query_proj_identifiers must be ['to_q']. Leave it out.")
    known = [f.name for f in fields(kind)]
    if unknown := [key for key in given if key not in known]:
        raise ConfigError(" ".join(f"{kind.__name__} has no {key!r}. {did_you_mean(key, known)}" for key in unknown))
    if "indices" not in given:
        raise ConfigError(f"{kind.__name__} needs 'indices'. Pass the numbers or the names of layers.")
    return kind(**given)
