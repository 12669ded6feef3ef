"""Components and blocks of slots that texts name, on a command line or in a table."""

from dataclasses import fields
from typing import Any

from ..components.handle import Handle
from ..components.models.autoencoder import Autoencoder
from ..graph.structure import Structure
from ..graph.swaps import as_block
from ..graph.typing import untagged
from ..registry import did_you_mean, table
from .lookup import component_by_path
from .values import name_and_config, parsed_config

AUTOENCODERS = ("vae", "decoder", "encoder")
"""The components that a text sets by "tiny" or a path."""


def swap_from_text(graph: Structure, name: str, text: str) -> Any:  # a component, or the block of a slot
    """The component or block that a text names: `NAME:key=value,…`, or "tiny" or a path for an autoencoder.

    Raises:
        ValueError: a name or key that is not known, or a component that has no names.

    UnknownName, ConfigError and LoadError as for making it.
    """
    if name in AUTOENCODERS:
        return _autoencoder(graph, name, text)
    class_name, config_texts = name_and_config(text)
    if (names := table(name)) is None:
        raise ValueError(f"{text}: only a scheduler or a guider can be set by its name, not a {name}.")
    if name in graph.slots:
        return as_block(name, {"_class_name": class_name, **parsed_config(config_texts, names[class_name])})
    kind: Any = untagged(graph.components[name].type)
    made = kind.coerce(class_name, graph.bindings.get(name))  # customary names too
    cls: type = type(made)
    config = parsed_config(config_texts, cls)
    known = [field.name for field in fields(cls) if field.init]
    for key in config.keys() - set(known):
        raise ValueError(f"{text}: {cls.__name__} has no {key!r}. {did_you_mean(key, known)}")
    return kind.coerce(config, made) if config else made


def is_path(name: str, text: str) -> bool:
    """Whether the text for this component is the path of a file or folder."""
    return name in AUTOENCODERS and not Autoencoder.is_name(text)


def _autoencoder(graph: Structure, name: str, text: str) -> Any:  # "tiny" or a handle
    if Autoencoder.is_name(text):
        return text
    spec = component_by_path(name, text)
    beside = [part for part in graph.bindings.values() if isinstance(part, Handle)]
    return beside[0].manager.handle(spec, device=beside[0].device, name=name) if beside else spec
