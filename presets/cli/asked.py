"""What a user asked `sfumato run` for: option texts, read as the graph's types, and told again beside the picture."""

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from .telling import Refused

_OPTIONS = {
    "prompt": "Say what the picture shows: sfumato run 'a red apple'",
    "image": "Give a picture to start from: --image FILE",
    "mask_image": "Give a picture that is white where to paint: --mask FILE",
}
_FIXED = {"output_type": "sfumato run writes picture files, so it is not to be set."}


@dataclass(frozen=True)
class Asked:
    """Names with values as they are, and names with texts that the graph's types will read."""

    values: Mapping[str, Any]
    texts: Mapping[str, str]

    @property
    def names(self) -> set[str]:
        return {*self.values, *self.texts}


@dataclass(frozen=True)
class Read:
    """The same for one graph: values of its inputs, its swapped parts, and all plain settings as JSON."""

    values: Mapping[str, Any]
    swaps: Mapping[str, Any]
    shown: Mapping[str, Any]


def asked(values: Mapping[str, Any], texts: Mapping[str, str | None], settings: Iterable[str]) -> Asked:
    """Options that were given (None is not), and `--set NAME=VALUE`. A name that comes twice is refused."""
    kept = {name: value for name, value in values.items() if value is not None}
    read = {name: text for name, text in texts.items() if text is not None}
    for setting in settings:
        name, equals, text = setting.partition("=")
        name = name.strip()
        if not equals or not name:
            raise Refused(f"--set {setting!r}: has no value. Write --set NAME=VALUE.")
        if name in kept or name in read:
            raise Refused(f"--set {setting!r}: {name} is given twice. Leave one out.")
        if name in _FIXED:
            raise Refused(f"--set {setting!r}: {_FIXED[name]}")
        read[name] = text
    for name, least, most in (("seed", 0, 2**63 - 1), ("num_images_per_prompt", 1, 10_000)):
        if not least <= kept.get(name, least) <= most:
            raise Refused(f"{name} is {kept[name]}; it goes from {least} to {most}.")
    return Asked(kept, read)


def read(pipe: Any, wanted: Asked) -> Read:  # pipe: a Graph
    """What was asked for, by the types of this graph; a fresh seed where none was given."""
    from ...graph.binding import overlay
    from ..values import parsed, takes_picture

    swaps = {n: _part(pipe, n, t) for n, t in wanted.texts.items() if n in pipe.slots or n in pipe.components}
    inputs = {**pipe.inputs, **overlay(pipe, swaps).inputs}
    values = dict(wanted.values)
    if "seed" in inputs and "seed" not in wanted.names:
        values["seed"] = secrets.randbits(32)
    for name, option in _OPTIONS.items():
        if name in inputs and inputs[name].required and name not in wanted.names:
            raise Refused(f"{name} is missing. {option}.")
    shown = {n: port.default for n, port in inputs.items() if n not in _FIXED and _is_plain(port.default)}
    shown |= values
    for name, text in wanted.texts.items():
        if name not in swaps:
            port = inputs.get(name)
            values[name] = parsed(text, port.type) if port else text  # the graph says what it has in place of that name
            shown[name] = text if port and takes_picture(port.type) else values[name]
    return Read(values, swaps, shown)


def _part(pipe: Any, name: str, text: str) -> Any:  # a Graph; what a call takes for a component or a slot
    """A component or the block of a slot from `NAME:key=value,…`."""
    from ...graph import Lazy
    from ...graph.binding import as_block
    from ...graph.typing import untagged
    from ...registry import did_you_mean, table
    from ..values import name_and_config, parsed_config

    try:
        called, texts = name_and_config(text)
    except ValueError as error:
        raise Refused(f"--{name} {error}") from None
    if (names := table(name)) is None:
        raise Refused(f"{name}={text}: only names of schedulers and guiders can be given here, not a {name}.")
    if name in pipe.slots:
        return as_block(name, {"_class_name": called, **parsed_config(texts, names[called])})
    kind = untagged(pipe.components[name].type)
    current = pipe.bindings.get(name)
    made = kind.coerce(called, current.load() if isinstance(current, Lazy) else current)  # customary names too
    cls = type(made)
    config = parsed_config(texts, cls)
    known = [field.name for field in fields(cls) if field.init]
    for key in config.keys() - set(known):
        raise Refused(f"--{name} {text}: {cls.__name__} has no {key!r}. {did_you_mean(key, known)}")
    return kind.coerce(config, made) if config else made


def about(pipe: Any, source: Mapping[str, str], was: Read) -> dict[str, Any]:  # pipe: a Graph; JSON values
    """The settings of a run as JSON: enough to make the picture again."""
    from sfumato import __version__

    from ...graph import Lazy
    from ...graph.binding import overlay
    from ...graph.files.values import spelled

    graph = overlay(pipe, was.swaps)
    parts: dict[str, Any] = {}
    if (scheduler := graph.bindings.get("scheduler")) is not None:
        parts["scheduler"] = (scheduler.load() if isinstance(scheduler, Lazy) else scheduler).to_config()
    for slot, paths in graph.slots.items():
        parts[slot] = graph[paths[0]].to_config()
    task = {"task": graph.preset[1]} if graph.preset else {}
    inputs = {name: value for name, value in was.shown.items() if value is not None}
    return {"sfumato": __version__, **source, **task, "inputs": inputs, **spelled(parts)}


def _is_plain(value: Any) -> bool:
    return isinstance(value, bool | int | float | str)
