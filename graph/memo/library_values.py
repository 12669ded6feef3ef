"""The contents of values of torch, numpy and Pillow. A library that nobody has imported has no values."""

import sys
from collections.abc import Callable, Iterable
from typing import Any

from ..stored.values import is_plain, tensor_bytes

Parts = Iterable[str | bytes]


class NoContentKey(Exception):
    """The value is of a kind whose contents cannot be read, so nothing that is made of it is kept."""


def library_parts(value: Any) -> Parts | None:  # any value that flows in a graph
    """The parts of a value, as texts and bytes; None for values of other libraries.

    Raises:
        NoContentKey: a tensor without plain numbers, such as a quantized one, or an array of objects.
    """
    for module, read in _READERS.items():
        if module in sys.modules and (parts := read(sys.modules[module], value)) is not None:
            return parts
    return None


def _of_torch(torch: Any, value: Any) -> Parts | None:
    if isinstance(value, torch.Tensor):
        if type(value) not in (torch.Tensor, torch.nn.Parameter) or not is_plain(torch, value):
            raise NoContentKey(f"a tensor of the kind {type(value).__name__}")
        return str(value.dtype), repr(tuple(value.shape)), value.device.type, tensor_bytes(value)
    if isinstance(value, torch.dtype | torch.device):
        return (str(value),)
    return (tensor_bytes(value.get_state()),) if isinstance(value, torch.Generator) else None


def _of_numpy(numpy: Any, value: Any) -> Parts | None:
    if not isinstance(value, numpy.ndarray | numpy.generic):
        return None
    if value.dtype.hasobject:
        raise NoContentKey("an array of objects")
    return value.dtype.str, repr(value.shape), value.tobytes()


def _of_pillow(image: Any, value: Any) -> Parts | None:
    if not isinstance(value, image.Image):
        return None
    palette = bytes(value.getpalette() or ())
    return (
        value.mode, repr(value.size), value.tobytes(), _exif(value), palette,
        repr(value.info.get("transparency")),
    )  # fmt: skip


def _exif(picture: Any) -> bytes:
    try:
        return picture.getexif().tobytes()
    except Exception:  # broken Exif data; Pillow raises errors of many classes
        return bytes(picture.info.get("exif", b""))


_READERS: dict[str, Callable[[Any, Any], Parts | None]] = {
    "torch": _of_torch,
    "numpy": _of_numpy,
    "PIL.Image": _of_pillow,
}
