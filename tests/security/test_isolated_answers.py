"""Answers of isolated code, byte by byte: each is read as it was meant, or refused with one error and little memory."""

import json
import os
import struct
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import sfumato as sf
from sfumato.components.loading.code.isolated import descriptions, frames
from sfumato.components.loading.code.isolated.descriptions import described
from sfumato.components.loading.code.isolated.launch import Launched, Report
from sfumato.components.loading.code.isolated.messages import CannotSend, bytes_of, header_of, pack
from sfumato.components.loading.code.isolated.process import IsolatedCode
from sfumato.components.loading.code.reading import Code
from sfumato.components.random import Random
from sfumato.components.types import Rows
from sfumato.graph.code import Source

pytestmark = pytest.mark.skipif(os.name != "posix", reason="code runs in a separate process on Linux and macOS only")


def _write(pipe: int, data: bytes) -> None:
    with suppress(BrokenPipeError), open(pipe, "wb", buffering=0) as file:
        while data:
            data = data[file.write(data) or 0 :]


@contextmanager
def pipe_with(data: bytes) -> Generator[int]:
    """A pipe that holds these bytes, and whose writing end is closed."""
    read, write = os.pipe()
    writer = threading.Thread(target=_write, args=(write, data))
    writer.start()
    try:
        yield read
    finally:
        os.close(read)
        writer.join()


def answer_of(data: bytes) -> dict[str, Any]:
    """What a call makes of the bytes of an answer."""
    code = IsolatedCode(Code("theirs", Path("theirs"), Source({}), {}))

    def end(wait: float = 0) -> Report:
        return Report(None, "", "")

    def nothing() -> None: ...

    with open(os.devnull, "wb") as requests, pipe_with(data) as answers:
        process = SimpleNamespace(
            answers=answers, requests=requests.fileno(), alive=True, run=nothing, stop=nothing, end=end
        )
        code._launched = cast(Launched, process)
        return code.call("Work", {}, {})


def frame(header: Any, *parts: bytes) -> bytes:
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack(">I", len(data)) + data + b"".join(parts)


def honest() -> bytes:
    values = {
        "latents": torch.linspace(0, 1, 6).reshape(2, 3), "mask": torch.tensor([True, False]), "text": "ä", "n": 3,
        "steps": sf.schedulers.EulerDiscreteScheduler().steps(2), "random": Random.seeded([1]), "rows": Rows(1, 2),
        "table": {"a": (1.5, None)},
    }  # fmt: skip
    tensors: list[torch.Tensor] = []
    packed = {name: pack(value, tensors) for name, value in values.items()}
    return frame({"values": packed, "tensors": header_of(tensors, 10**6)}, *map(bytes, map(bytes_of, tensors)))


HONEST = honest()
HEADER = 4 + struct.unpack(">I", HONEST[:4])[0]


def test_an_honest_answer_is_read_as_it_was_meant() -> None:
    made = answer_of(HONEST)
    assert torch.equal(made["latents"], torch.linspace(0, 1, 6).reshape(2, 3))
    assert made["mask"].tolist() == [True, False] and made["rows"] == Rows(1, 2) and len(made["steps"]) == 2


def refused_or_read(data: bytes) -> None:
    with suppress(sf.BrokenBlock):
        answer_of(data)


@given(st.lists(st.tuples(st.integers(0, HEADER + 64), st.binary(max_size=3)), min_size=1, max_size=4))
@example([(0, b"\xff")])
def test_a_changed_answer_is_read_or_refused(changes: list[tuple[int, bytes]]) -> None:
    data = bytearray(HONEST)
    for at, new in changes:
        data[at : at + len(new)] = new
    refused_or_read(bytes(data))


NUMBERS = st.sampled_from(
    ["-1", "0", "1e9", "99999999999999999999", "NaN", "Infinity", "null", "true", '"a"', "[]", "{}"]
)


@given(st.integers(0, 200), NUMBERS)
def test_an_answer_with_another_number_is_read_or_refused(which: int, new: str) -> None:
    text = HONEST[4:HEADER].decode()
    digits = [i for i, c in enumerate(text) if c.isdigit() and not text[i - 1].isdigit()]
    at = digits[which % len(digits)]
    end = next(i for i in range(at, len(text)) if not (text[i].isdigit() or text[i] == "."))
    refused_or_read(frame((text[:at] + new + text[end:]).encode(), HONEST[HEADER:]))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "its process closed its pipes"),
        (b"\xff\xff\xff\xff", "it has a header of 4295.0 MB, and 4.2 MB are possible"),
        (struct.pack(">I", 100) + b"{}", "its process closed its pipes"),
        (frame(b"\xff\xfe"), "it has a header that is not strict JSON"),
        (frame(b"[" * 50_000), "it has a header that is not strict JSON"),
        (frame(b'{"a":' * 9_000), "it has a header that is not strict JSON"),
        (frame(b"9" * 5_000), "it has a header that is not strict JSON"),
        (frame(b'{"values": {"a": {"value": "\\ud800"}}, "tensors": []}'), "it has a header that is not strict JSON"),
        (frame(b'{"values": {"a": {"value": NaN}}, "tensors": []}'), "it has a header that is not strict JSON"),
        (frame(b'{"values": {}, "values": {}, "tensors": []}'), "it has a header that is not strict JSON"),
        (frame(b"[" + b"[]," * 2**20 + b"[]]"), "it has a header that is not strict JSON"),
        (frame([]), "it is no table"),
        (frame({"values": {}}), "it is not a header of tensors"),
        (frame({"values": [], "tensors": []}), "it has no values"),
        (frame({"values": {}, "tensors": [{"dtype": "float32", "shape": [2**40]}]}), "4398046.5 MB, and 512.0 MB are"),
        (frame({"values": {}, "tensors": [{"dtype": "float32", "shape": [2**20] * 16}]}), "512.0 MB are possible"),
        (frame({"values": {}, "tensors": [{"dtype": "float32", "shape": [0, 2**40]}]}), "512.0 MB are possible"),
        (frame({"values": {}, "tensors": [{"dtype": "float32", "shape": [-1, -4]}]}), "which is not possible"),
        (frame({"values": [10**400], "tensors": []}), "it has a header that is not strict JSON"),
        (
            frame({"values": {}, "tensors": [{"dtype": "float32", "shape": [4]}]}, b"abc"),
            "its process closed its pipes",
        ),
        (frame({"error": "\x1b[2J" + "x" * 10**4, "trace": ["\x1b"]}), r"separate process: \\x1b\[2Jx"),
    ],
)
def test_an_answer_that_is_none_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(sf.BrokenBlock, match=why) as error:
        answer_of(data)
    assert len(str(error.value)) < 6000 and "\x1b" not in str(error.value)


def test_an_answer_in_drops_does_not_last_longer_than_a_call() -> None:
    read, write = os.pipe()
    late = threading.Event()

    def drip() -> None:
        while not late.wait(0.02):
            os.write(write, b"\x00")

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        with pytest.raises(frames.Late):
            frames.read_into(read, memoryview(bytearray(10**6)), time.monotonic() + 0.3)
    finally:
        late.set()
        thread.join()
        os.close(read)
        os.close(write)


# ---------------------------------------------------------------------------------------------------- descriptions
BLOCK: dict[str, Any] = {
    "class": "Work", "doc": "", "fields": {}, "inputs": {"a": {"type": {"type": "int"}}},
    "outputs": {"b": {"array": "Float", "dims": "rows 3 *sides"}}, "returns": "Out",
}  # fmt: skip


def test_a_description_is_read() -> None:
    made = described(BLOCK)
    assert made.name == "Work" and made.inputs["a"].type is int and made.outputs["b"].dim_str == "rows 3 *sides"


@pytest.mark.parametrize(
    "changes",
    [
        {"class": "\x1b[2J"}, {"class": "class"}, {"class": 3}, {"class": "__class__"}, {"class": "a" * 101},
        {"doc": 3}, {"returns": None}, {"returns": "a b"}, {"inputs": []},
        {"inputs": {"self": {"type": {"type": "int"}}}},
        {"inputs": {"__init__": {"type": {"type": "int"}}}}, {"fields": {"config": {"type": {"type": "int"}}}},
        {"inputs": {f"a{i}": {"type": {"type": "int"}} for i in range(101)}},
        {"outputs": {"b": {"array": "Float", "dims": "__import__('os').getpid()"}}},
        {"outputs": {"b": {"array": "Float", "dims": "{print(1)}"}}},
        {"outputs": {"b": {"array": "Float", "dims": "a+1"}}},
        {"outputs": {"b": {"array": "PyTree", "dims": ""}}}, {"outputs": {"b": {"type": "os.system"}}},
        {"outputs": {"b": {"port": "\x1b", "space": None, "of": {"type": "Tensor"}}}},
        {"outputs": {"b": {"port": "latents", "space": {"channels": "4"}, "of": {"type": "Tensor"}}}},
        {"outputs": {"b": {"port": "latents", "space": {"chnls": 4}, "of": {"type": "Tensor"}}}},
        {"outputs": {"b": {"port": "latents", "space": 3, "of": {"type": "Tensor"}}}},
        {"outputs": {"b": {"literal": [{"items": []}]}}}, {"outputs": {"b": {"union": [{"type": "int"}] * 101}}},
    ],
)  # fmt: skip
def test_a_description_that_is_none_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(CannotSend):
        described({**BLOCK, **changes})


def test_a_type_has_a_limited_depth() -> None:
    data: Any = {"type": "int"}
    for _ in range(40):
        data = {"list": data}
    with pytest.raises(CannotSend, match="levels"):
        descriptions.type_of(data)
