"""GGUF files: those of the format's own package are read, ours are read by it, and hostile ones are refused."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato.components.quantization.gguf.kinds import BY_NAME
from sfumato.components.quantization.gguf.packed import Packed
from sfumato.components.quantization.gguf.reader import GGUFFile
from sfumato.components.quantization.gguf.writer import write_gguf
from sfumato.graph.errors import LoadError, SaveError


@pytest.fixture(scope="module")
def gguf() -> Any:
    return pytest.importorskip("gguf", reason="pip install gguf")


def numbers_of(tensor: Tensor | Packed) -> Tensor:
    return tensor.dequantize() if isinstance(tensor, Packed) else tensor


def test_a_file_of_the_package_is_read(gguf: Any, tmp_path: Path) -> None:
    data = np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32)
    types = gguf.GGMLQuantizationType
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "flux")
    writer.add_custom_alignment(64)
    writer.add_tensor("plain.weight", data)
    writer.add_tensor("half.weight", data.astype(np.float16))
    for kind in (types.BF16, types.Q8_0, types.Q4_0, types.Q5_1):
        writer.add_tensor(f"{kind.name}.weight", gguf.quantize(data, kind), raw_dtype=kind)
    writer.add_array("some.list", [1, 2, 3])
    writer.add_array("some.words", ["a", "ß"])
    writer.add_bool("some.truth", True)
    writer.add_float64("some.number", 0.5)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()

    file = GGUFFile(tmp_path / "x.gguf")
    assert file.metadata["general.architecture"] == "flux"
    assert file.metadata["some.list"] == [1, 2, 3]
    assert file.metadata["some.words"] == ["a", "ß"]
    assert (file.metadata["some.truth"], file.metadata["some.number"]) == (True, 0.5)
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "x.gguf").tensors}
    assert list(file.tensors) == list(theirs)
    for name, tensor in file.tensors.items():
        assert tensor.shape == (64, 256)
        expected = torch.from_numpy(gguf.dequantize(theirs[name].data, theirs[name].tensor_type).astype(np.float32))
        assert torch.equal(numbers_of(tensor.read()).float(), expected), name
    assert file.nbytes == sum(int(tensor.n_bytes) for tensor in theirs.values())


def test_what_we_write_is_read_by_the_package_and_by_us(gguf: Any, tmp_path: Path) -> None:
    kernel = Packed(BY_NAME["Q4_K"], torch.randint(0, 255, (9, 144), dtype=torch.uint8), (64, 4, 3, 3))
    tensors: dict[str, Tensor | Packed] = {
        "bias": torch.randn(7),
        "scalar": torch.tensor(3.5),
        "half": torch.randn(3, 5, dtype=torch.bfloat16),
        "kernel": kernel,
        "rows": Packed(BY_NAME["Q8_0"], torch.randint(0, 255, (12, 34), dtype=torch.uint8), (6, 64)),
        "deep": torch.randn(2, 1, 3, 1, 2),
        "count": torch.arange(4),
    }
    write_gguf(tmp_path / "x.gguf", tensors)
    read = {name: tensor.read() for name, tensor in GGUFFile(tmp_path / "x.gguf").tensors.items()}
    assert list(read) == list(tensors)
    for name, tensor in tensors.items():
        again = read[name]
        assert tuple(again.shape) == tuple(tensor.shape)
        if isinstance(tensor, Packed):
            assert isinstance(again, Packed) and again.kind is tensor.kind and torch.equal(again.blocks, tensor.blocks)
        else:
            assert isinstance(again, Tensor) and again.dtype == tensor.dtype and torch.equal(again, tensor)
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "x.gguf").tensors}
    assert theirs["rows"].data.tobytes() == tensors["rows"].blocks.numpy().tobytes()  # type: ignore[union-attr]
    assert [path.name for path in tmp_path.iterdir()] == ["x.gguf"]


def test_reading_a_header_reads_no_tensor(tmp_path: Path) -> None:
    write_gguf(tmp_path / "x.gguf", {"x": torch.zeros(1000)})
    file = GGUFFile(tmp_path / "x.gguf")
    assert "data" not in vars(file)
    assert torch.equal(numbers_of(file.tensors["x"].read()), torch.zeros(1000))


# -- files made by hand, to break one thing at a time


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def info(name: str = "w", sizes: tuple[int, ...] = (32, 2), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, offset)


def header(
    infos: list[bytes],
    keys: list[bytes] | None = None,
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    counts: tuple[int, int] | None = None,
) -> bytes:
    keys = keys or []
    counts = counts or (len(infos), len(keys))
    return magic + struct.pack("<IQQ", version, *counts) + b"".join(keys) + b"".join(infos)


def key(name: str, code: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", code) + value


def uint32(value: int) -> bytes:
    return struct.pack("<I", value)


def array(inner: int, count: int, data: bytes = b"") -> bytes:
    return struct.pack("<IQ", inner, count) + data


def whole(data: bytes, room: int = 256) -> bytes:
    return data + bytes(-len(data) % 32) + bytes(room)


def test_a_file_made_by_hand_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(whole(header([info()])))
    tensor = GGUFFile(tmp_path / "x.gguf").tensors["w"].read()
    assert torch.equal(numbers_of(tensor), torch.zeros(2, 32))


HUGE = 2**63
HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty \\(0 bytes\\)"),
    "another format": (whole(header([], magic=b"PK\3\4")), "is a pickle of torch under another name, not a GGUF file"),
    "version 1": (whole(header([], version=1)), "version 1 cannot be read, only 2 and 3"),
    "big-endian": (whole(header([], version=3 << 24)), "written for a big-endian machine"),
    "cut in the header": (header([info()])[:50], "takes 8 bytes, and 5 are left: it is truncated"),
    "cut in the data": (whole(header([info()]), room=255), "w ends at byte .*, and the file has .*: it is truncated"),
    "2^63 tensors": (whole(header([], counts=(HUGE, 0))), "9223372036854775808 tensors are announced"),
    "2^63 keys": (whole(header([], counts=(0, HUGE))), "9223372036854775808 metadata keys are announced"),
    "a long name": (whole(header([struct.pack("<Q", HUGE)], counts=(1, 0))), "bytes, more than 65535"),
    "a name that is no text": (whole(header([text(b"\xff\xfe") + bytes(40)])), "the name of a tensor is not text"),
    "a name twice": (whole(header([info(), info(offset=256)]), 512), "the tensor 'w' occurs twice"),
    "a key twice": (whole(header([], [key("a", 4, uint32(1))] * 2)), "the metadata key 'a' occurs twice"),
    "99 dimensions": (whole(header([text("w") + uint32(99)], counts=(1, 0))), "w has 99 dimensions, more than 4"),
    "a size of nothing": (whole(header([info(sizes=(32, 0))])), r"the shape \[0, 32\], which is empty"),
    "sizes that overflow": (whole(header([info(sizes=(2**32, 2**32))])), "which is empty or larger than the file"),
    "a type that is not read": (whole(header([info(kind=19)])), "w has the type IQ1_S. Known types: F32, F16, Q4_0"),
    "a type that there is not": (whole(header([info(kind=4711)])), "w has the type 4711"),
    "half a block": (whole(header([info(sizes=(48, 2), kind=8)])), "blocks of Q8_0 have 32"),
    "an offset beyond the end": (whole(header([info(offset=HUGE)])), "w ends at byte"),
    "an offset off the alignment": (whole(header([info(offset=1)])), "offset 1, which is not a multiple of 32"),
    "two in one place": (whole(header([info(), info("v")])), "v begins at byte .*, inside the tensor before it"),
    "alignment of 0": (whole(header([], [key("general.alignment", 4, uint32(0))])), "needs to be a power of two"),
    "alignment of 48": (whole(header([], [key("general.alignment", 4, uint32(48))])), "needs to be a power of two"),
    "alignment by a text": (whole(header([], [key("general.alignment", 8, text("32"))])), "needs to be a power of two"),
    "a value type that there is not": (whole(header([], [key("a", 13, b"")])), "a has the unknown value type 13"),
    "a truth of 2": (whole(header([], [key("a", 7, b"\2")])), "a has the truth value 2"),
    "an endless text": (whole(header([], [key("a", 8, struct.pack("<Q", HUGE))])), "the value of a has"),
    "an endless array": (whole(header([], [key("a", 9, array(4, HUGE))])), "more than 1,000,000,000,000,000 numbers"),
    "a long array": (whole(header([], [key("a", 9, array(4, 2**20))])), "1048576 entries of a are announced"),
    "a long array of texts": (whole(header([], [key("a", 9, array(8, 2**20))])), "1048576 entries of a are ann"),
    "arrays all the way down": (
        whole(header([], [key("a", 9, array(9, 1) * 9)])),
        "a is an array of 1 entries, 5 deep",
    ),
    "another shape": (
        whole(header([info()], [key("comfy.gguf.orig_shape.w", 9, array(5, 2, struct.pack("<2i", 8, 9)))])),
        r"orig_shape.w is \[8, 9\], and the tensor has the shape \[2, 32\]",
    ),
    "a negative shape": (
        whole(header([info()], [key("comfy.gguf.orig_shape.w", 9, array(5, 2, struct.pack("<2i", -8, -8)))])),
        r"orig_shape.w is \[-8, -8\]",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_damaged_or_hostile_file_is_refused(name: str, tmp_path: Path) -> None:
    data, message = HOSTILE[name]
    (tmp_path / "x.gguf").write_bytes(data)
    with pytest.raises(LoadError, match=message):
        GGUFFile(tmp_path / "x.gguf")


def test_every_byte_of_a_header_may_be_wrong(tmp_path: Path) -> None:
    """Whatever one byte is, the file is read or refused, at once and with our error."""
    good = whole(header([info(), info("v", (32,), 8, 256)], [key("a", 9, array(8, 1, text("b")))]), 512)
    path = tmp_path / "x.gguf"
    refused = 0
    for place in range(len(header([info(), info("v", (32,), 8, 256)], [key("a", 9, array(8, 1, text("b")))]))):
        for value in (1, 0x7F, 0xFF):
            path.write_bytes(good[:place] + bytes([value]) + good[place + 1 :])
            try:
                for tensor in GGUFFile(path).tensors.values():
                    numbers_of(tensor.read())
            except LoadError:
                refused += 1
    assert refused > 100


def test_a_missing_file_is_a_load_error(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="cannot be read"):
        GGUFFile(tmp_path / "none.gguf")


def test_a_tensor_without_values_or_of_a_strange_dtype_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(SaveError, match=r"w has no values \(meta device\)"):
        write_gguf(tmp_path / "x.gguf", {"w": torch.empty(2, device="meta")})
    with pytest.raises(SaveError, match=r"w is torch.complex64, which GGUF does not have"):
        write_gguf(tmp_path / "x.gguf", {"w": torch.empty(2, dtype=torch.complex64)})
    assert not list(tmp_path.iterdir())
