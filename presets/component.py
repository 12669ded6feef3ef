"""The spec of one component of a folder, a repo, a pipeline or a saved graph."""

from collections.abc import Mapping
from typing import Any

from ..components.spec import ComponentSpec, class_of
from ..components.storage.location import Location
from ..graph import LoadError
from ..registry import did_you_mean, models, native, schedulers, transformers_types

Hint = tuple[str, str]
"""A library and a class in it, as published: ("diffusers", "AutoencoderKL")."""


def hint_for(class_name: str) -> Hint:
    """The library that a published class is from. LoadError for a class that we do not have."""
    if ("transformers", class_name) in native or class_name in transformers_types:
        return "transformers", class_name
    if "/" in class_name or class_name[:1] in (".", "~"):
        raise LoadError(
            f"{class_name!r} is no class. The folder comes first: sf.load_component(folder, 'AutoencoderKL')."
        )
    if class_name not in {*models, *schedulers}:
        raise LoadError(
            f"There is no component class {class_name!r}. {did_you_mean(class_name, [*models, *schedulers])}"
        )
    return "diffusers", class_name


def component_in(location: Location, subfolder: str = "", hint: Hint | None = None) -> ComponentSpec:
    """The component whose files are in a folder, of the class of `hint` or of the one that its config names."""
    return ComponentSpec(
        type_hint=hint or ("diffusers", "AutoModel"),
        pretrained_model_name_or_path=location.source,
        subfolder=subfolder,
        revision=location.revision,
    )


def component_of_class(specs: Mapping[str, ComponentSpec], hint: Hint | None, place: object) -> ComponentSpec:
    """The one component of a class among those of a pipeline.

    Args:
        specs: the components of the pipeline, by name.
        hint: the class.
        place: the pipeline, for errors.

    Raises:
        LoadError: no hint; no component of the class; several of them.
    """
    wanted = None if hint is None else class_of(hint)
    fitting = [name for name, spec in specs.items() if wanted is not None and _type(spec) is wanted]
    if len(fitting) == 1:
        return specs[fitting[0]]
    classes = {name: spec.type_hint[1] if spec.type_hint else "unknown" for name, spec in specs.items()}
    components = ", ".join(f"{name} ({kind})" for name, kind in classes.items())
    if hint is None:
        raise LoadError(
            f"{place}: is a whole pipeline. Pass subfolder='unet' or the like, or a class. It has: {components}."
        )
    count = f"has {len(fitting)} of the class {hint[1]}" if fitting else f"has no {hint[1]}"
    way_out = f"Pass subfolder={fitting[0]!r}. " if fitting else ""
    raise LoadError(f"{place}: {count}. {way_out}It has: {components}.")


def _type(spec: ComponentSpec) -> Any:  # a class of any library
    try:
        return spec.type
    except LoadError:
        return None
