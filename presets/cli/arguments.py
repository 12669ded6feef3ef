"""The arguments of `sfumato run`: option texts, read by the types of a graph's inputs, and listed for `--json`."""

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .messages import CommandError

_MISSING = {
    "prompt": "Write what the picture shows: sfumato run 'a red apple'",
    "image": "Pass a picture to start from: --image FILE",
    "mask_image": "Pass a picture that is white where to paint: --mask FILE",
}
_FIXED = {"output_type": "cannot be set. sfumato run always writes picture files."}
_RANGES = {"seed": ("--seed", 0, 2**63 - 1), "num_images_per_prompt": ("--images", 1, 10_000)}


@dataclass(frozen=True)
class Arguments:
    """The settings of the command line, by name: values, and texts that the types of a graph will read."""

    values: Mapping[str, Any]
    texts: Mapping[str, str]

    @property
    def names(self) -> set[str]:
        """All names that are set."""
        return {*self.values, *self.texts}


@dataclass(frozen=True)
class GraphArguments:
    """The arguments of one graph."""

    inputs: Mapping[str, Any]
    overlays: Mapping[str, Any]
    """Components and blocks that replace the graph's for this call, by component name or slot."""
    record: Mapping[str, Any]
    """All plain settings as JSON values, defaults too."""


def arguments(values: Mapping[str, Any], texts: Mapping[str, str | None], settings: Iterable[str]) -> Arguments:
    """The options that are not None, and the NAME=VALUE texts of `--set`. A name that is set twice is refused."""
    set_values = {name: value for name, value in values.items() if value is not None}
    set_texts = {name: text for name, text in texts.items() if text is not None}
    for setting in settings:
        name, equals, text = setting.partition("=")
        name = name.strip()
        if not equals or not name:
            raise CommandError(f"--set {setting!r}: has no value. Write --set NAME=VALUE.")
        if name in set_values or name in set_texts:
            raise CommandError(f"--set {setting!r}: {name} is set twice. Remove one.")
        if name in _FIXED:
            raise CommandError(f"--set {setting!r}: {name} {_FIXED[name]}")
        set_texts[name] = text
    for name, (option, least, most) in _RANGES.items():
        if not least <= set_values.get(name, least) <= most:
            raise CommandError(f"{option} {set_values[name]}: must be from {least} to {most}.")
    return Arguments(set_values, set_texts)


def for_graph(pipe: Any, arguments: Arguments, *, whole: bool = True) -> GraphArguments:  # pipe: a Graph
    """The arguments by the types of this graph. Without a seed it draws one.

    whole: whether they are all of a call; otherwise nothing is missing, and no seed is drawn.
    """
    from ...graph.own_components import own_components
    from ...graph.swaps import overlay
    from ..values import parsed, takes_picture

    texts = arguments.texts
    swapped = {*pipe.slots, *pipe.components, *own_components(pipe)}
    overlays = {n: _overlay(pipe, n, t) for n, t in texts.items() if n in swapped}
    ports = {**pipe.inputs, **overlay(pipe, overlays).inputs}
    inputs = dict(arguments.values)
    if whole and "seed" in ports and "seed" not in arguments.names:
        inputs["seed"] = secrets.randbits(32)
    for name, advice in _MISSING.items() if whole else ():
        if name in ports and ports[name].required and name not in arguments.names:
            raise CommandError(f"{name} is missing. {advice}.")
    record = {n: port.default for n, port in ports.items() if n not in _FIXED and _is_plain(port.default)}
    record |= inputs
    for name, text in texts.items():
        if name not in overlays:
            port = ports.get(name)
            inputs[name] = parsed(text, port.type) if port else text  # the graph refuses a name that it does not know
            record[name] = text if port and takes_picture(port.type) else inputs[name]
    return GraphArguments(inputs, overlays, record)


def _overlay(pipe: Any, name: str, text: str) -> Any:  # a Graph; what a call takes for a component or a slot
    """The component, or the block of the slot, that a text names."""
    from ...registry import table
    from ..swaps import swap_from_text

    option = f"--{name} " if table(name) is not None else f"--set {name}="
    try:
        return swap_from_text(pipe, name, text)
    except ValueError as error:
        if type(error) is not ValueError:  # an error of the library has its place in its text
            raise
        raise CommandError(f"{option}{error}") from None


def settings_of(pipe: Any, source: Mapping[str, str], arguments: GraphArguments) -> dict[str, Any]:  # a Graph; JSON
    """The settings of a run as JSON values."""
    from sfumato import __version__

    from ...graph import Lazy
    from ...graph.files.values import strict_json
    from ...graph.swaps import overlay

    graph = overlay(pipe, arguments.overlays)
    parts: dict[str, Any] = {}
    if (scheduler := graph.bindings.get("scheduler")) is not None:
        parts["scheduler"] = (scheduler.load() if isinstance(scheduler, Lazy) else scheduler).to_config()
    for slot, paths in graph.slots.items():
        parts[slot] = graph[paths[0]].to_config()
    task = {"task": graph.preset[1]} if graph.preset else {}
    inputs = {name: value for name, value in arguments.record.items() if value is not None}
    return {"sfumato": __version__, **source, **task, "inputs": inputs, **strict_json(parts)}


def _is_plain(value: Any) -> bool:
    return isinstance(value, bool | int | float | str)
