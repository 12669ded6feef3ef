"""Quantization of a pipeline: which kind for which component."""

from collections.abc import Mapping
from typing import cast

from ...graph.errors import ConfigError
from ...registry import did_you_mean
from ..spec import ComponentSpec
from .config import read_quantization


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
