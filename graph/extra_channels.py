"""Channels that a denoiser reads besides the latents, such as a mask. A block before the guider must add them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..registry import presets
from .block import Block
from .errors import Problem
from .layout import number_in
from .requirements import function_port
from .structure import Structure
from .unify import Evidence, meeting_facts


@dataclass(frozen=True)
class _Channels:
    """The input and output channels of a denoiser, or whether a block adds channels."""

    reads: int = 0
    latents: int = 0
    adds: bool = False

    def fits(self, other: "_Channels") -> bool:
        return True


class _ExtraChannels:
    """Channels as a kind of value: ports with functions, such as `predict`, carry them."""

    code = "channels"

    def of_port(self, hint: Any) -> _Channels | None:
        return _Channels() if function_port(hint) is not None else None

    def of_fields(self, block: Block, fields: Mapping[str, Any]) -> Iterable[Evidence]:
        if block.adds_channels:
            yield _Channels(adds=True), ()
        if any(function_port(port.type) for port in block.signature.inputs.values()):
            return  # it changes a function, or calls one: its components are no denoiser
        for name in block.signature.components:
            reads, latents = (number_in(fields, f"{name}.{key}") for key in ("in_channels", "out_channels"))
            if reads is not None and latents is not None and reads > latents:
                yield _Channels(reads, latents), (name,)

    def is_any(self, value: _Channels) -> bool:
        return True

    def shares(self, value: _Channels) -> bool:
        return True

    def conflict(self, new: _Channels, who: str, old: _Channels) -> str:
        raise AssertionError("all fit")


def lacking_channels(graph: Structure, bindings: Mapping[str, Any]) -> Iterable[Problem]:
    """A problem for each denoiser that reads more channels than latents have, where no block adds the others."""
    for facts in meeting_facts(graph, bindings, _ExtraChannels()):
        if any(value.adds for value, _ in facts):
            continue
        for value, who in facts:
            text = f"reads {value.reads} channels, the latents have {value.latents}, and no block adds the others. "
            text += _way(graph, bindings)
            yield Problem("channels", who, text, str(value.reads), str(value.latents))


def _way(graph: Structure, bindings: Mapping[str, Any]) -> str:
    """How to load a task of the graph's family that these components serve, or to add the channels."""
    name, own = graph.preset or ("", "")
    family = presets.find(name)
    if family is None or not (served := family.served(bindings)):
        return "Insert a block that adds them. One of yours says so with adds_channels = True."
    task = own if own in served else served[0]
    return f"Make a graph of the task {task!r} for it: sf.load(…, {task!r}, …) with this component."
