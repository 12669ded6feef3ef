"""`debug()`: check all values that enter or leave a block, all layers of models, and draws of random numbers."""

import random
import reprlib
import sys
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from .block import Block, ports_of
from .errors import BrokenBlock, NotFinite
from .finite import HALF, tensors_in
from .typing import is_array, type_text, union_members, untagged
from .validate import Unfit, fitted

_DEBUG: ContextVar[bool] = ContextVar("sfumato_debug", default=False)


def debugging() -> bool:
    """Whether a run that starts now checks its values."""
    return _DEBUG.get()


@contextmanager
def debug() -> Generator[None]:
    """Make checks that are too slow for every run, in all runs that start within it.

    * Values against the types of their ports. A dimension name stands for one size in all ports of a block.
    * Numbers for NaN and infinity, after each layer of each model. The first such layer is named.
    * That a block draws no random numbers from a global generator, for `seed` does not decide those.

    Raises:
        BrokenBlock: a value of another type or shape, or a draw from a global generator.
        NotFinite: NaN or infinity.
    """
    token = _DEBUG.set(True)
    try:
        yield
    finally:
        _DEBUG.reset(token)


def check_values(block: Block, args: Mapping[str, Any], out: Any) -> None:
    """Compare a block's values with their types, and raise where one does not fit, or is not finite."""
    sizes: dict[str, tuple[int, str]] = {}
    ports = ports_of(type(block))
    for name, port in ports.signature.inputs.items():
        if name in args:
            _check(block, f"input {name!r}", port.type, args[name], sizes)
    for name, port in ports.signature.outputs.items():
        value = getattr(out, name)
        _check(block, f"output {name!r}", port.type, value, sizes)
        if _not_finite(value):
            raise NotFinite(
                f"{type(block).__name__}: output {name!r} has NaN or infinite numbers. All layers of its models gave "
                "finite ones, so the block's own arithmetic made them, or an input has them."
            )


@contextmanager
def watched(block: Block, models: Mapping[str, Any]) -> Generator[None]:
    """Check layers and random numbers while a block runs. models: components by name."""
    before = _generators()
    with _watched_layers(models):
        yield
    after = _generators()
    drawn = [name for name, state in before.items() if after[name] != state]
    if drawn:
        raise BrokenBlock(
            f"{type(block).__name__} draws from {' and '.join(drawn)}, itself or in a function that it calls, so seed= "
            "does not decide its numbers. Take an input `random: Random`, write "
            "`noise, random = random.draw(rows, shape)`, and return `random` as an output."
        )


def _generators() -> dict[str, Any]:
    """The states of the global generators, by name."""
    states: dict[str, Any] = {"Python's random module": random.getstate()}
    if numpy := sys.modules.get("numpy"):
        _, keys, *rest = numpy.random.get_state()
        states["numpy's global generator"] = (keys.tobytes(), *rest)
    if torch := sys.modules.get("torch"):
        states["torch's global generator"] = torch.get_rng_state().numpy().tobytes()
        for i in range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0):
            states[f"torch's global generator of cuda:{i}"] = torch.cuda.get_rng_state(i).numpy().tobytes()
    return states


@contextmanager
def _watched_layers(models: Mapping[str, Any]) -> Generator[None]:
    """Raise at the first layer that gives NaN or infinity. Layers of other threads are not watched."""
    if "torch" not in sys.modules:
        yield
        return
    from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

    thread, running = threading.get_ident(), list[Any]()

    def begin(layer: Any, _: Any) -> None:
        if threading.get_ident() == thread:
            running.append(layer)

    def end(layer: Any, args: Any, out: Any) -> None:
        if threading.get_ident() == thread:
            outer = running[0]
            running.pop()
            if _not_finite(out):
                raise NotFinite(_layer_text(layer, args, out, models, outer))

    hooks = [register_module_forward_pre_hook(begin), register_module_forward_hook(end)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _not_finite(value: Any) -> bool:
    return any(not bool(tensor.isfinite().all()) for tensor in tensors_in(value))


def _layer_text(layer: Any, args: Any, out: Any, models: Mapping[str, Any], outer: Any) -> str:
    roots = {name: model for name, model in models.items() if hasattr(model, "named_modules")}
    roots[type(outer).__name__] = outer  # the outermost layer that runs, of a model that is no component itself
    paths = (
        ".".join(filter(None, (name, path)))
        for name, root in roots.items()
        for path, module in root.named_modules()
        if module is layer
    )
    dtype = str(next(tensors_in(out)).dtype)
    broken = [name for name, p in layer.named_parameters(recurse=False) if _not_finite(p)]
    if broken:
        why = f"Its {' and '.join(broken)} has them too: the file is broken, or its dtype is too small."
    elif _not_finite(args):
        why = "Its input has them too: arithmetic between layers made them."
    elif dtype in HALF:
        why = f"{HALF[dtype]} Load the model in another dtype, with dtype= of sf.load."
    else:
        why = "Its input and its weights are finite."
    name = f"{next(paths, type(layer).__name__)} ({type(layer).__name__})"
    return f"{name} is the first layer that gives NaN or infinite numbers, in {dtype.removeprefix('torch.')}. {why}"


def _check(block: Block, place: str, hint: Any, value: Any, sizes: dict[str, tuple[int, str]]) -> None:
    members = [untagged(arm) for arm in union_members(hint)]
    arrays = [w for w in members if is_array(w)]
    if len(arrays) != 1 or not isinstance(value, arrays[0].array_type):
        try:
            fitted(value, hint)
        except Unfit as error:
            got = f"{reprlib.repr(value)} ({type(value).__name__})"
            raise BrokenBlock(f"{type(block).__name__}: {place} {error}, got {got}.") from None
        return
    where, array = f"{type(block).__name__}: {place}", arrays[0]
    if not isinstance(value, array):
        raise BrokenBlock(
            f"{where} is {value.dtype} of shape {tuple(value.shape)}, but its type is {type_text(array)}."
        )
    dims = array.dim_str.split()
    if any(d.startswith(("*", "...")) for d in dims):
        return
    for dim, size in zip(dims, value.shape, strict=True):
        if dim.isidentifier() and dim != "_":
            known, first = sizes.setdefault(dim, (size, place))
            if known != size:
                raise BrokenBlock(f"{where} has {dim} = {size}, but {first} has {dim} = {known}.")
