"""Settings that a user makes for several components of a pipeline at once: variant and quantization."""

from collections.abc import Mapping
from typing import cast

from ...graph.errors import ConfigError, LoadError
from ...registry import did_you_mean
from ..quantization.config import read_quantization
from ..spec import ComponentSpec
from ..storage.files import WEIGHTS
from .component import is_model, weight_names_of


def with_variant(specs: Mapping[str, ComponentSpec], variant: str | None) -> dict[str, ComponentSpec]:
    """These specs in a variant, where its files are there: others have one form only, as published repos do.

    LoadError where none of them has it.
    """
    if variant is None:
        return dict(specs)
    made = {name: spec.using(variant=variant) for name, spec in specs.items()}
    has = {name for name, spec in made.items() if is_model(spec.type) and _has_variant(spec)}
    if not has:
        there = sorted(
            {name for spec in specs.values() for name in spec.location.names(spec.subfolder) if name.endswith(WEIGHTS)}
        )
        raise LoadError(f"There is no variant {variant!r} of {', '.join(specs)}. Weight files: {', '.join(there)}.")
    return {name: made[name] if name in has else spec for name, spec in specs.items()}


def _has_variant(spec: ComponentSpec) -> bool:
    try:
        return bool(weight_names_of(spec))
    except LoadError:
        return False


def with_quantization(specs: Mapping[str, ComponentSpec], asked: object) -> dict[str, ComponentSpec]:
    """These specs, each in the kind that is asked for it: `{"transformer": "nf4", "text_encoder_2": "llm_int8"}`.

    Raises:
        ConfigError: names that no component has, or no mapping of names; a kind that is unknown.
    """
    if asked is None:
        return dict(specs)
    if not isinstance(asked, Mapping):
        raise ConfigError(
            f"quantization: came {asked!r}; wanted a kind for each component, as in {{{next(iter(specs), 'unet')!r}: "
            f"'nf4'}}. There are: {', '.join(specs)}."
        )
    kinds = {str(name): kind for name, kind in cast("Mapping[object, object]", asked).items()}
    if lost := [name for name in kinds if name not in specs]:
        raise ConfigError(f"quantization: no component {lost[0]!r}. {did_you_mean(lost[0], specs)}")
    made = dict(specs)
    for name, kind in kinds.items():
        try:
            made[name] = specs[name].using(quantization=read_quantization(kind))
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from None
    return made
