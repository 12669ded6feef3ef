"""Blocks of every GGUF type are decoded bit for bit as by the format's own Python package."""

from typing import Any

import numpy as np
import pytest
import torch

from sfumato.components.quantization.gguf.blocks import decode
from sfumato.components.quantization.gguf.kinds import BY_NAME, KINDS, UNREAD
from sfumato.components.quantization.gguf.packed import Packed
from sfumato.graph.errors import LoadError

PACKED = [name for name, kind in BY_NAME.items() if kind.dtype is None]
WRITABLE = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]  # what the package can quantize


@pytest.fixture(scope="module")
def gguf() -> Any:
    """The reference: llama.cpp's Python package, which the library does not need."""
    return pytest.importorskip("gguf", reason="pip install gguf")


def bits(numbers: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    return numbers.view(np.uint32)


def random_blocks(name: str, count: int) -> "np.ndarray[Any, Any]":
    """Any bytes are valid blocks. Some of these have infinite or undefined scales."""
    return np.random.default_rng(7).integers(0, 256, (count, BY_NAME[name].bytes), dtype=np.uint8)


@pytest.mark.parametrize("name", PACKED)
def test_random_blocks_decode_bit_for_bit(gguf: Any, name: str) -> None:
    blocks = random_blocks(name, 2000)
    with np.errstate(all="ignore"):
        theirs = gguf.dequantize(blocks, gguf.GGMLQuantizationType[name])
    ours = decode(BY_NAME[name], torch.from_numpy(blocks)).numpy()
    undefined = np.isnan(theirs)
    assert np.array_equal(undefined, np.isnan(ours))
    assert np.array_equal(bits(theirs)[~undefined], bits(ours)[~undefined])
    assert not undefined.all()


@pytest.mark.parametrize("name", WRITABLE)
def test_quantized_numbers_decode_bit_for_bit_and_near_to_what_they_were(gguf: Any, name: str) -> None:
    numbers = np.random.default_rng(0).standard_normal((24, 256)).astype(np.float32)
    kind = gguf.GGMLQuantizationType[name]
    data = gguf.quantize(numbers, kind)
    packed = Packed(BY_NAME[name], torch.from_numpy(data).view(-1, BY_NAME[name].bytes), numbers.shape)
    ours = packed.dequantize().numpy()
    assert np.array_equal(bits(ours), bits(gguf.dequantize(data, kind)))
    step = {"Q8_0": 2**-7, "Q5_0": 2**-4, "Q5_1": 2**-4, "Q4_0": 2**-3, "Q4_1": 2**-3}[name]
    assert float(np.abs(ours - numbers).max()) < np.abs(numbers).max() * step


def test_the_table_of_types_is_the_package_s(gguf: Any) -> None:
    theirs = {kind.value: (kind.name, *sizes) for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    for number, kind in KINDS.items():
        assert theirs[number] == (kind.name, kind.values, kind.bytes)
    assert {number: theirs[number][0] for number in UNREAD} == UNREAD


def test_a_large_tensor_is_decoded_in_slices_to_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = Packed(BY_NAME["Q4_K"], torch.from_numpy(random_blocks("Q4_K", 40)), (40, 256))
    whole = packed.dequantize(torch.bfloat16)
    monkeypatch.setattr("sfumato.components.quantization.gguf.packed._AT_ONCE", 7 * 256)
    sliced = packed.dequantize(torch.bfloat16)
    assert torch.equal(whole.view(torch.int16), sliced.view(torch.int16))


def test_rows_are_decoded_alone() -> None:
    packed = Packed(BY_NAME["Q6_K"], torch.from_numpy(random_blocks("Q6_K", 12)), (6, 512))
    index = torch.tensor([[5, 0], [2, 2]])
    assert torch.equal(packed.rows(index).nan_to_num(), packed.dequantize()[index].nan_to_num())


def test_cutting_and_joining_rows_is_what_torch_does_to_the_numbers() -> None:
    packed = Packed(BY_NAME["Q8_0"], torch.from_numpy(random_blocks("Q8_0", 24)), (6, 128))
    numbers = packed.dequantize().nan_to_num()
    for cut, same in zip(torch.split(packed, [1, 2, 3]), torch.split(numbers, [1, 2, 3]), strict=True):  # type: ignore[arg-type]
        assert torch.equal(cut.dequantize().nan_to_num(), same)
    first, second = torch.chunk(packed, 2)  # type: ignore[arg-type]
    swapped = torch.cat([second, first])
    assert isinstance(swapped, Packed)
    assert torch.equal(swapped.dequantize().nan_to_num(), torch.cat(numbers.chunk(2)[::-1]))


def test_a_cut_through_a_block_is_refused() -> None:
    packed = Packed(BY_NAME["Q4_K"], torch.from_numpy(random_blocks("Q4_K", 9)), (64, 4, 3, 3))
    with pytest.raises(LoadError, match=r"Q4_K tensor of shape \[64, 4, 3, 3\] cannot be split into rows \[32, 31\]"):
        packed.split([32, 31])
    with pytest.raises(LoadError, match=r"cannot be split into rows \[16, 48\]: its blocks have 256 numbers"):
        packed.split([16, 48])
    with pytest.raises(LoadError, match="along its rows"):
        packed.split(2, dim=1)
    with pytest.raises(LoadError, match="of one type"):
        Packed.cat([packed, Packed(BY_NAME["Q8_0"], packed.blocks, packed.shape)])
