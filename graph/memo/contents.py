"""Content keys: texts that are equal for equal values, and for no others."""

import hashlib
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import lru_cache
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any, cast

from ..block import Block
from ..fields import EMPTY, Lazy
from ..structure import Structure
from .code import code_key, digest
from .library_values import NoContentKey, library_parts


def content_key(value: Any) -> str:  # any value that flows in a graph
    """The key of a value: equal only for values of the same type with the same contents.

    1, 1.0, True and "1" have different keys, and so have [1] and (1,). Tensors are read by their bytes, pictures by
    their pixels, functions by their code. A text or path that names a file includes the contents of the file.

    Raises:
        NoContentKey: a value of another kind, an address in the network, an open file, or a module whose attribute
            `no_content_key` says why it has none.

    >>> content_key((1, "a")) == content_key((1, "a")), content_key([1]) == content_key((1,))
    (True, False)
    """
    return digest(*_parts(value))


def _parts(value: Any) -> Iterable[str | bytes]:
    kind = type(value)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if value is None or kind in (bool, int, float, complex, range, slice):
        return name, repr(value)
    if kind is str:
        return name, cast("str", value), *_file_parts(cast("str", value))
    if kind in (bytes, bytearray):
        return name, bytes(value)
    if isinstance(value, Enum):
        return name, value.name
    if isinstance(value, type | FunctionType | MethodType):
        bound = (content_key(value.__self__),) if isinstance(value, MethodType) else ()
        return name, code_key(cast("Any", value)), *bound
    if isinstance(value, os.PathLike):
        return name, os.fspath(cast("os.PathLike[str]", value)), *_file_parts(os.fspath(value))
    if isinstance(value, Structure):
        return _graph_parts(value)
    if isinstance(value, Block):
        return (
            name,
            code_key(kind),
            *map(content_key, value.config().items()),
            *map(content_key, held_components(value)),
        )
    if isinstance(value, Lazy):
        if (key := value.content_key()) is None:
            raise NoContentKey(f"a component ({kind.__name__}) without a content key")
        return name, key
    if "torch" in sys.modules and isinstance(value, sys.modules["torch"].nn.Module):
        if reason := getattr(value, "no_content_key", ""):
            raise NoContentKey(reason)
        return name, *_module_parts(value)
    if (of_library := library_parts(value)) is not None:
        return name, *of_library
    if is_dataclass(value):
        parts = (part for f in fields(value) for part in (f.name, content_key(getattr(value, f.name))))
        return name, code_key(kind), *parts
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        return name, *(content_key(part) for item in items for part in item)
    if isinstance(value, list | tuple):
        return name, *map(content_key, cast("Sequence[object]", value))
    if isinstance(value, AbstractSet):
        return name, *sorted(map(content_key, cast("AbstractSet[object]", value)))
    if isinstance(value, int | float | str):  # a subclass, such as a scalar of numpy
        return name, repr(value)
    raise NoContentKey(name)


def held_components(block: Block) -> Iterable[tuple[str, Any]]:
    """The components that a block holds by itself; those that its graph binds are not among them."""
    missing = block.signature.components
    return [(n, v) for n, v in block._components().items() if n not in missing or (v is not EMPTY and v is not None)]


def _graph_parts(graph: Structure) -> Iterable[str]:
    yield "graph"
    for name, block in graph.nodes.items():
        yield name
        yield content_key(block)
    for edge in graph.edges:
        yield repr((edge.giver, edge.output, edge.taker, edge.input))
    yield repr(graph.wanted)
    for name, component in sorted(graph.adapted_bindings.items()):
        yield name
        yield content_key(component)


def _file_parts(text: str) -> Iterable[str]:
    """The contents of the file that a text names, if it names one. NoContentKey for an address in the network."""
    if text.startswith(("http://", "https://")):
        raise NoContentKey("an address, whose contents can change")
    if len(text) > 1024 or "\n" in text or "\0" in text or not os.path.isfile(text):
        return ()
    return (file_key(Path(text)),)


def file_key(file: Path) -> str:
    """The sha256 of a file: read once, and again where its size or time has changed."""
    real = Path(os.path.realpath(file))
    if len(real.name) == 64 and "blobs" in real.parts:  # the cache of the Hub names large files by their sha256
        return real.name
    state = real.stat()
    return _sha256(real, state.st_size, state.st_mtime_ns)


@lru_cache(None)
def _sha256(file: Path, size: int, modified: int) -> str:
    """The sha256 of a file of this size and time."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


_MODULE_KEY = "_content_key"


def _place(tensor: Any) -> int:
    """Where the numbers of a tensor are: `tensor.data = other` changes nothing else of it. 0 if it has no place."""
    try:
        return tensor.data_ptr()
    except RuntimeError:
        return 0


def _module_parts(module: Any) -> Iterable[str]:
    """The code, settings and tensors of a module: read once, and again where torch has replaced or changed a tensor."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    versions = tuple((name, id(t), _place(t), t._version) for name, t in tensors.items())
    kept = module.__dict__.get(_MODULE_KEY)
    if kept is None or kept[0] != versions:
        read = digest(*(part for name, t in tensors.items() for part in (name, content_key(t))))
        kept = module.__dict__[_MODULE_KEY] = (versions, read, repr(module))
    settings = sorted((k, v) for k, v in vars(module).items() if isinstance(v, bool | int | float | str))
    return code_key(type(module)), repr(settings), *kept[1:]
