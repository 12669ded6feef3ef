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
    """The specs in a variant. Those without files of the variant stay as they are, since repos publish some parts once.

    LoadError if no component has the variant.
    """
    if variant is None:
        return dict(specs)
    made = {name: spec.using(variant=variant) for name, spec in specs.items()}
    having = {name for name, spec in made.items() if is_model(spec.type) and _has_variant(spec)}
    if not having:
        files = sorted(
            {name for spec in specs.values() for name in spec.location.names(spec.subfolder) if name.endswith(WEIGHTS)}
        )
        raise LoadError(f"There is no variant {variant!r} of {', '.join(specs)}. Weight files: {', '.join(files)}.")
    return {name: made[name] if name in having else spec for name, spec in specs.items()}


def _has_variant(spec: ComponentSpec) -> bool:
    try:
        return bool(weight_names_of(spec))
    except LoadError:
        return False


def first_model(specs: Mapping[str, ComponentSpec]) -> str:
    """The name of a component with weights, for examples in error texts: the denoiser's where there is one."""
    return next((name for name in ("unet", "transformer") if name in specs), next(iter(specs), "unet"))


def _class_without_weights(spec: ComponentSpec) -> str:
    """The class of a component that has no weights; "" for a model, and where the class is not known."""
    try:
        return "" if is_model(spec.type) else spec.type.__name__
    except LoadError:
        return ""


def with_quantization(specs: Mapping[str, ComponentSpec], kinds: object) -> dict[str, ComponentSpec]:
    """The specs with a quantization for some of them: `{"transformer": "nf4", "text_encoder_2": "llm_int8"}`.

    Raises:
        ConfigError: not a mapping, a name that no component has, or an unknown kind.
    """
    if kinds is None:
        return dict(specs)
    if not isinstance(kinds, Mapping):
        raise ConfigError(
            f"quantization: needs a kind for each component, got {kinds!r}. Write it as a dict: "
            f"{{{first_model(specs)!r}: 'nf4'}}. There are: {', '.join(specs)}."
        )
    by_name = {str(name): kind for name, kind in cast("Mapping[object, object]", kinds).items()}
    if unknown := [name for name in by_name if name not in specs]:
        raise ConfigError(f"quantization: no component {unknown[0]!r}. {did_you_mean(unknown[0], specs)}")
    made = dict(specs)
    for name, kind in by_name.items():
        if (class_name := _class_without_weights(specs[name])) and kind is not None:
            raise ConfigError(
                f"quantization: {name} is a {class_name}, which has no weights. Write for example "
                f"{{{first_model(specs)!r}: 'nf4'}}."
            )
        try:
            made[name] = specs[name].using(quantization=read_quantization(kind))
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from None
    return made
