"""The names of widgets: a file of the UI format lists their values in the order in which a node declares them."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

from ....graph import json_text
from .workflow import Literal

CONTROL = "control_after_generate"
"""A widget of the front end behind each seed. The server does not know it."""
FRONT_END_ONLY = frozenset({CONTROL, "upload", "audioUI", "editor_state", "last_incoming"})
_CONTROLS = ("fixed", "increment", "decrement", "randomize")
_SEEDS = ("seed", "noise_seed")
_RESIZE: Mapping[str, tuple[str, ...]] = {
    "scale dimensions": ("width", "height", "crop"),
    "scale by multiplier": ("multiplier",),
    "scale longer dimension": ("longer_size",),
    "scale shorter dimension": ("shorter_size",),
    "scale width": ("width",),
    "scale height": ("height",),
    "scale total pixels": ("megapixels",),
    "match size": ("crop",),
    "scale to multiple": ("multiple",),
}
"""The widgets that ResizeImageMaskNode has between `resize_type` and `scale_method`, for each `resize_type`."""


class Widgets(NamedTuple):
    """The literals of a node by name, and those whose names are not known."""

    named: dict[str, Literal]
    unnamed: tuple[Literal, ...]


ObjectInfo = Mapping[str, Any]
"""The answer of ComfyUI's server to `/object_info`: JSON with the declaration of each node type."""


def widgets_of(node: Mapping[str, Any], object_info: ObjectInfo) -> Widgets:  # JSON
    """The literals of a node of the UI format. Names in the file win over every table."""
    values, named = node.get("widgets_values"), node.get("widgets_values_named")
    if isinstance(values, Mapping):  # some packages store them by name
        return Widgets(_server_names(cast(Mapping[str, Any], values)), ())
    listed = cast(list[Literal], values) if isinstance(values, list) else []
    if isinstance(named, Mapping) and named:
        return Widgets(_server_names(cast(Mapping[str, Any], named)), ())
    kind = str(node.get("type"))
    for names in _candidates(kind, node, listed, object_info):
        if names is not None and len(names) >= len(listed):
            return Widgets(_server_names(dict(zip(names, listed, strict=False))), ())
    return Widgets({}, tuple(listed))


def _candidates(
    kind: str, node: Mapping[str, Any], listed: Sequence[Literal], object_info: ObjectInfo
) -> "list[Sequence[str] | None]":
    own = _inputs_with_widgets(node)
    behind_seeds = _with_controls(own, listed)
    exact = [names for names in (own, behind_seeds) if names and len(names) == len(listed)]
    return [_declared(object_info.get(kind), listed), _dynamic(kind, listed), *exact, known_names().get(kind)]


@cache
def known_names() -> Mapping[str, Sequence[str]]:
    """The widgets of the node types that this package knows, in their order."""
    return cast(
        Mapping[str, Sequence[str]], json_text.read(Path(__file__).with_name("node_widgets.json"), "graph_bytes")
    )


def _server_names(values: Mapping[str, Literal]) -> dict[str, Literal]:
    return {
        name: value
        for name, value in values.items()
        if name.partition("#")[0] not in FRONT_END_ONLY and name != "$$canvas"
    }


def _inputs_with_widgets(node: Mapping[str, Any]) -> list[str]:
    inputs = node.get("inputs")
    found: list[str] = []
    for one in cast(list[Any], inputs) if isinstance(inputs, list) else []:
        widget = cast(Mapping[str, Any], one).get("widget") if isinstance(one, Mapping) else None
        if isinstance(widget, Mapping) and isinstance(name := cast(Mapping[str, Any], widget).get("name"), str):
            found.append(name)
    return found


def _with_controls(names: Sequence[str], values: Sequence[Literal]) -> list[str]:
    """The names, with a control behind each seed where the values have one."""
    made: list[str] = []
    for name in names:
        made.append(name)
        following = values[len(made)] if len(made) < len(values) else None
        if name.rpartition(".")[2] in _SEEDS and following in _CONTROLS:
            made.append(CONTROL)
    return made


def _dynamic(kind: str, values: Sequence[Literal]) -> Sequence[str] | None:
    """The widgets of a node whose first one decides which follow."""
    if kind != "ResizeImageMaskNode" or not values or str(values[0]) not in _RESIZE:
        return None
    return ["resize_type", *(f"resize_type.{name}" for name in _RESIZE[str(values[0])]), "scale_method"]


def _declared(info: object, values: Sequence[Literal]) -> Sequence[str] | None:
    """The widgets by the server's declaration: the inputs that are no sockets, in order."""
    if not isinstance(info, Mapping):
        return None
    groups = cast(Mapping[str, Any], info).get("input")
    names: list[str] = []
    for group in ("required", "optional"):
        entries = cast(Mapping[str, Any], groups).get(group) if isinstance(groups, Mapping) else None
        for name, entry in cast(Mapping[str, Any], entries).items() if isinstance(entries, Mapping) else ():
            kind = cast(list[Any], entry)[0] if isinstance(entry, list) and entry else None
            options = cast(list[Any], entry)[1] if isinstance(entry, list) and len(cast(list[Any], entry)) > 1 else {}
            forced = isinstance(options, Mapping) and cast(Mapping[str, Any], options).get("forceInput")
            if not forced and (isinstance(kind, list) or kind in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")):
                names.append(name)
    return _with_controls(names, values)
