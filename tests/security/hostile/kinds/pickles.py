"""Pickles under the names of weights, read with `allow_pickle` and without."""

import io
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from ..checkpoint import WEIGHTS, checkpoint, used
from ..table import Action, Hostile


class Calls:
    """A pickle that calls a function when it is read."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


_SYSTEM: Any = getattr(os, "system")  # noqa: B009  the checker knows it as deprecated


def _loop() -> dict[str, Any]:
    data: dict[str, Any] = {}
    data["state_dict"] = data
    return data


def _deep() -> dict[str, Any]:
    data: dict[str, Any] = {"a": torch.ones(1)}
    for _ in range(300):
        data = {"state_dict": data}
    return data


VALUES: dict[str, Callable[[], Any]] = {
    "os.system": lambda: Calls(_SYSTEM, "true"),
    "eval": lambda: Calls(eval, "1"),
    "a call inside a dict": lambda: {"a": torch.ones(1), "b": Calls(_SYSTEM, "true")},
    "torch.load": lambda: Calls(torch.load, "/etc/passwd"),
    "a state dict that holds itself": _loop,
    "300 state dicts": _deep,
    "a list": lambda: [torch.ones(1)],
    "a number": lambda: 7,
    "none": lambda: None,
    "no tensor": lambda: {"a": 1},
    "an empty dict": dict,
    "names that are no texts": lambda: {7: torch.ones(1), None: torch.ones(1), (1, 2): torch.ones(1)},
    "names with control characters": lambda: {"\x1b[31m\x07": torch.ones(1)},
    "a tensor of one number shown as 10**12": lambda: {"conv_in.weight": torch.ones(1).expand(10**12)},
    "a complex tensor": lambda: {"conv_in.weight": torch.ones(32, 4, 3, 3, dtype=torch.complex64)},
    "a sparse tensor": lambda: {"conv_in.weight": torch.ones(2, 2).to_sparse()},
    "a sparse tensor of 10**12": lambda: {
        "a": torch.sparse_coo_tensor(torch.zeros(1, 1).long(), torch.ones(1), (10**12,))
    },
    "a tensor without values": lambda: {"conv_in.weight": torch.ones(32, 4, 3, 3, device="meta")},
    "a quantized tensor": lambda: {"conv_in.weight": torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)},
    "a tensor without numbers": lambda: {"conv_in.weight": torch.ones(0)},
    "not a number": lambda: {"conv_in.weight": torch.full((32, 4, 3, 3), float("nan"))},
    "a parameter": lambda: {"conv_in.weight": torch.nn.Parameter(torch.ones(32, 4, 3, 3))},
    "a module": lambda: torch.nn.Linear(2, 2),
    "a state dict that is a list": lambda: {"state_dict": [1]},
}
BYTES: dict[str, bytes] = {
    "empty": b"",
    "protocol 0 calling os.system": b"cos\nsystem\n(S'true'\ntR.",
    "protocol 255": b"\x80\xff.",
    "a length of 2**31": b"\x80\x02X\xff\xff\xff\x7f",
    "a frame of 2**62": b"\x80\x04\x95" + (2**62).to_bytes(8, "little"),
    "an int of many bytes": b"\x80\x02\x8b\xff\xff\xff\x7f",
    "memo 2**31": b"\x80\x02}r\xff\xff\xff\x7f.",
    "deep tuples": b"\x80\x02" + b"(" * 200_000 + b".",
    "marks": b"\x80\x02" + b"(" * 10 + b"t" * 10 + b".",
    "a web page": b"<html></html>",
    "a zip without entries": b"PK\x05\x06" + bytes(18),
    "tar": b"x" * 257 + b"ustar\x0000" + bytes(300),
}


def inputs() -> Iterator[Hostile]:
    """Values that torch saved, plain bytes, and archives that are not torch's."""
    for name, value in VALUES.items():
        yield Hostile(f"saved: {name}", lambda place, v=value: _bin(place, _saved(v()), allowed=True))
        yield Hostile(f"plain pickle: {name}", lambda place, v=value: _bin(place, _dumped(v()), allowed=True))
        yield Hostile(f"single file: {name}", lambda place, v=value: _ckpt(place, _saved(v())))
    for name, data in BYTES.items():
        yield Hostile(f"bytes: {name}", lambda place, data=data: _bin(place, data, allowed=True))
        yield Hostile(f"bytes of a single file: {name}", lambda place, data=data: _ckpt(place, data))
    for name, archive in ARCHIVES.items():
        yield Hostile(f"archive: {name}", lambda place, a=archive: _ckpt(place, a()))
    yield Hostile("not allowed", lambda place: _bin(place, _saved(VALUES["os.system"]()), allowed=False))


def _saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _dumped(value: Any) -> bytes:
    try:
        return pickle.dumps(value)
    except Exception:
        return b"\x80\x02}."


def _bin(place: Path, data: bytes, *, allowed: bool) -> Action:
    folder = checkpoint(place)
    (folder / "unet" / WEIGHTS).unlink()
    (folder / "unet/diffusion_pytorch_model.bin").write_bytes(data)
    return used(folder, allow_pickle=allowed)


def _ckpt(place: Path, data: bytes) -> Action:
    file = place / "x.ckpt"
    file.write_bytes(data)
    return used(file, allow_pickle=True)


def _archive(entries: dict[str, bytes], **more: Any) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data, **more)
    return buffer.getvalue()


def _changed(old: bytes, new: bytes) -> Callable[[], bytes]:
    return lambda: _saved({"conv_in.weight": torch.ones(32, 4, 3, 3)}).replace(old, new)


ARCHIVES: dict[str, Callable[[], bytes]] = {
    "no pickle": lambda: _archive({"a/b": b"x"}),
    "names that lead out": lambda: _archive({"../data.pkl": pickle.dumps({}), "/etc/data.pkl": pickle.dumps({})}),
    "compressed": lambda: _archive(
        {"x/data.pkl": pickle.dumps({}), "x/data/0": bytes(10**7)}, compress_type=zipfile.ZIP_DEFLATED
    ),
    "50,000 entries": lambda: _archive({f"x/data/{i}": b"" for i in range(50_000)}),
    "a storage that is too short": _changed(b"K\x10K\x04K\x03K\x03t", b"K\xffK\x04K\x03K\x03t"),
    "an offset beyond its storage": _changed(b"QK\x00(K\x10", b"QK\xff(K\x10"),
    "code for torch.jit": lambda: _archive(
        {
            "x/data.pkl": pickle.dumps({}),
            "x/constants.pkl": pickle.dumps(()),
            "x/version": b"3",
            "x/code/__torch__.py": b"import os",
        }
    ),
    "another byte order": lambda: _archive(
        {"x/data.pkl": pickle.dumps({}), "x/byteorder": b"middle", "x/version": b"3"}
    ),
    "cut in the middle": lambda: _saved({"a": torch.ones(1000)})[:2000],
    "a version of many digits": lambda: _archive({"x/data.pkl": pickle.dumps({}), "x/version": b"9" * 5000}),
}
