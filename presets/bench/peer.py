"""Components of another library beside ours: same weights, same inputs, in turns."""

import inspect
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from ...components.memory.tensors import device_of
from ...graph import ConfigError, Graph, Lazy
from .machine import synchronize
from .result import Compared, Timed

_LIBRARIES = ("diffusers",)
_DENOISERS = ("unet", "transformer")


def compare_with(library: str, pipe: Graph, values: Mapping[str, Any], rounds: int, device: str) -> Sequence[Compared]:
    """Time the denoiser and the decoder of a pipeline beside those of another library.

    Raises:
        ConfigError: a library that is not known or not installed, or that has no such models.
    """
    if library not in _LIBRARIES:
        raise ConfigError(f"bench: --against needs one of {', '.join(_LIBRARIES)}. Got {library!r}.")
    try:
        theirs: Any = import_module(library)
    except ModuleNotFoundError:
        raise ConfigError(f"bench: needs the package {library}. Install it: pip install {library}.") from None
    found: list[Compared] = []
    for name in (*_DENOISERS, "vae"):
        bound = pipe.bindings.get(name)
        model: Any = bound.load() if isinstance(bound, Lazy) else bound
        if model is not None and (kind := getattr(theirs, type(model).__name__, None)) is not None:
            call = _watched(name, pipe, model, values)
            found.append(_compared(name, library, model, kind, call, rounds, device))
    if not found:
        raise ConfigError(f"bench: {library} has none of the models of this graph.")
    return found


def _watched(name: str, pipe: Graph, model: Any, values: Mapping[str, Any]) -> tuple[Any, Any]:
    """The arguments of the last call of a model, or of the decoder of an autoencoder, in a run."""
    calls: list[tuple[Any, Any]] = []
    layer: nn.Module = model.decoder if name == "vae" else model

    def watch(_: nn.Module, args: Any, named: Any) -> None:
        calls[:] = [(args, named)]

    handle = layer.register_forward_pre_hook(watch, with_kwargs=True)
    try:
        pipe(**values, progress=False)
    finally:
        handle.remove()
    if not calls:
        raise ConfigError(f"bench: the call does not use {name}.")
    return calls[0]


def _compared(
    name: str, library: str, model: Any, kind: Any, call: tuple[Any, Any], rounds: int, device: str
) -> Compared:
    other = twin_of(model, kind)
    args, named = call
    if name == "vae":
        ours, theirs = (lambda: model.decoder(*args)), (lambda: other.decoder(*args))
    else:
        theirs = _called(other, _their_arguments(model, other, args, named))
        ours = _called(model, inspect.signature(model.forward).bind(*args, **named).arguments)
    with torch.no_grad():
        a, b = ours(), theirs()
        error = float((a.float() - b.float()).abs().max() / a.float().abs().max())
        seconds = [(_seconds(ours, device), _seconds(theirs, device)) for _ in range(rounds)]
    mine, others = (Timed.of([pair[i] for pair in seconds]) for i in (0, 1))
    label = "decoder" if name == "vae" else name
    return Compared(label, library, mine, others, statistics.median(x / y for x, y in seconds), error)


def twin_of(model: Any, kind: Any) -> Any:
    """Their model with the config and the tensors of ours, which both share."""
    with torch.device("meta"):
        other = kind.from_config({k: v for k, v in model.to_config().items() if k != "_class_name"})
    other.load_state_dict(model.state_dict(), assign=True, strict=False)
    lost = [name for name, tensor in other.state_dict().items() if tensor.is_meta]
    if lost:
        raise ConfigError(f"bench: their {kind.__name__} has tensors that ours lacks: {', '.join(lost[:3])}.")
    for module in other.modules():  # buffers without values in a file
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta:
                raise ConfigError(f"bench: their {kind.__name__} computes {name} when it is made.")
    return other.eval().requires_grad_(False)


def _their_arguments(model: Any, other: Any, args: Any, named: Any) -> Mapping[str, Any]:
    """Our arguments, under the names that both have; the positions of tokens for a transformer that rotates by them."""
    bound = inspect.signature(model.forward).bind(*args, **named).arguments
    known = inspect.signature(other.forward).parameters
    found = {name: value for name, value in bound.items() if name in known and value is not None}
    if "img_ids" in known and "img_ids" not in found:
        tokens, prompt = found["hidden_states"].shape[1], found["encoder_hidden_states"].shape[1]
        side = math.isqrt(tokens)
        if side * side != tokens:
            raise ConfigError("bench: --against needs a square picture for a transformer that rotates by positions.")
        rows = torch.arange(side, device=device_of(model), dtype=torch.float32)
        grid = torch.stack(
            [torch.zeros(side, side, device=rows.device), *torch.meshgrid(rows, rows, indexing="ij")], -1
        )
        found |= {"img_ids": grid.flatten(0, 1), "txt_ids": torch.zeros(prompt, 3, device=rows.device)}
    return {**found, "return_dict": False}


def _called(model: Any, arguments: Mapping[str, Any]) -> Callable[[], Tensor]:
    def call() -> Tensor:
        out = model(**arguments)
        return out[0] if isinstance(out, tuple) else out

    return call


def _seconds(call: Callable[[], object], device: str) -> float:
    synchronize(device)
    began = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - began
