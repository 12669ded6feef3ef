"""`debug()`: check the shapes and dtypes of all arrays that enter or leave a block."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from .block import Block, ports_of
from .errors import BrokenBlock
from .typing import is_array, type_text, union_members, untagged

_DEBUG: ContextVar[bool] = ContextVar("sfumato_debug", default=False)


def debugging() -> bool:
    """Whether a run that starts now checks shapes."""
    return _DEBUG.get()


@contextmanager
def debug() -> Generator[None]:
    """Check arrays against the shapes in the port types in all runs that start within it.

    A dimension name stands for one size in all ports of a block. Raises `BrokenBlock` with the block, the port, and
    both sizes.
    """
    token = _DEBUG.set(True)
    try:
        yield
    finally:
        _DEBUG.reset(token)


def check_shapes(block: Block, args: Mapping[str, Any], out: Any) -> None:
    """Bind the dimension names of a block's arrays, and raise where two values disagree."""
    sizes: dict[str, tuple[int, str]] = {}
    ports = ports_of(type(block))
    for name, port in ports.signature.inputs.items():
        if name in args:
            _check(block, f"input {name!r}", port.type, args[name], sizes)
    for name, port in ports.signature.outputs.items():
        _check(block, f"output {name!r}", port.type, getattr(out, name), sizes)


def _check(block: Block, place: str, hint: Any, value: Any, sizes: dict[str, tuple[int, str]]) -> None:
    members = [untagged(arm) for arm in union_members(hint)]
    arrays = [w for w in members if is_array(w)]
    if len(arrays) != 1 or not isinstance(value, arrays[0].array_type):
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
