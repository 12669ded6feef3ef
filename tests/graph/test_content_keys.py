"""Content keys: equal values have equal keys, others have others. Programs that differ share no outputs."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sfumato.graph import Block, Graph
from sfumato.graph.memo import memo
from sfumato.graph.memo.contents import content_key
from sfumato.graph.memo.library_values import NoContentKey
from sfumato.graph.stored import NotStored, restore, store


class Out(NamedTuple):
    """A number."""

    x: float


class Text(NamedTuple):
    """A text."""

    text: str


class Double(Block):
    """Multiply by a factor."""

    factor: float = 2.0

    def __call__(self, x: float) -> Out:
        return Out(x * self.factor)


class Show(Block):
    """Write a number."""

    def __call__(self, x: float) -> Text:
        return Text(f"{x:.2f}")


GRAPH = Graph(double=Double(), show=Show(), outputs=("text",))


@dataclass(frozen=True)
class Point:
    """A value with fields."""

    x: float
    tensor: torch.Tensor


def _point_of(sign: int) -> Any:
    class Point:
        """A value of a class that a program defines again with other code."""

        def moved(self) -> int:
            return sign

    return dataclass(frozen=True)(Point)


DIFFERENT: list[Any] = [
    1, 1.0, True, "1", None, b"1", [1], (1,), {1}, {1: 1}, {"1": 1}, frozenset({1}), [1.0], [[1]], range(1), 0,
    -0.0, 0.0, complex(1), np.float32(1), np.float64(1), np.array([1]), np.array([1.0]), np.array([[1]]),
    torch.tensor(1), torch.tensor([1]), torch.tensor([1.0]), torch.tensor([1.0], dtype=torch.float16),
    torch.tensor([[1.0]]), torch.float32, Image.new("L", (2, 2)), Image.new("RGB", (2, 2)), Image.new("L", (2,
    3)), Image.new("L", (2, 2), 1), Point(1, torch.ones(1)), Point(1.0, torch.ones(1)), Point(1,
    torch.zeros(1)), Out(1.0), Text("1"), Double(), Double(factor=3.0), Show(), GRAPH, GRAPH.replace("double",
    Double(factor=3.0)), Out, Point, torch.nn.Linear(2, 2), [], (), {}, "", b"", "[1]", [None], {"a": 1, "b":
    2}, {"b": 2, "a": 1}, ["a", "b"], ["ab"], [["a"], "b"], _point_of(1)(), _point_of(-1)(),
]  # fmt: skip


def test_values_that_differ_have_different_keys_and_equal_ones_the_same() -> None:
    keys = [content_key(value) for value in DIFFERENT]
    assert [(DIFFERENT[i], DIFFERENT[k]) for i in range(len(keys)) for k in range(i) if keys[i] == keys[k]] == []
    assert keys == [content_key(value) for value in DIFFERENT]


def test_a_tensor_that_changed_in_place_has_another_key() -> None:
    layer = torch.nn.Linear(2, 2)
    before = content_key(layer)
    assert content_key(layer) == before
    with torch.no_grad():
        layer.weight.add_(1)
    assert content_key(layer) != before


def test_a_text_that_names_a_file_counts_by_the_file(tmp_path: Path) -> None:
    file = tmp_path / "picture.png"
    keys = [content_key(str(file))]
    for colour in (0, 1):
        Image.new("L", (2, 2), colour).save(file)
        os.utime(file, ns=(colour, colour))
        keys += [content_key(str(file)), content_key(file)]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    "value", ["https://example.org/a.png", open, object(), iter([]), torch.empty(1, device="meta")]
)
def test_what_has_no_contents_has_no_key(value: Any) -> None:
    with pytest.raises(NoContentKey):
        content_key(value)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(allow_nan=False)
    | st.text(max_size=3)
    | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=2), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(VALUES)
def test_a_stored_value_comes_back_with_the_same_key(value: Any) -> None:
    try:
        stored = store(value)
    except NotStored:  # bytes are not stored
        return
    assert content_key(restore(stored, ())) == content_key(value)


class Described(NamedTuple):
    """A text."""

    text: str


class Describe(Block):
    """Write any value with the types in it."""

    def __call__(self, value: Any) -> Described:
        return Described(described(value))


def described(value: Any) -> str:
    """A text that differs where values or the types in them differ."""
    if isinstance(value, dict):
        return f"dict{[(described(key), described(item)) for key, item in value.items()]}"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__}{list(map(described, value))}"
    return f"{type(value).__name__}({value!r})"


class Join(Block):
    """Add a value behind a text."""

    value: Any = None

    def __call__(self, text: str) -> Described:
        return Described(f"{text}+{described(self.value)}")


class Wrap(Block):
    """Put a text in brackets."""

    left: str = "("

    def __call__(self, text: str) -> Described:
        return Described(f"{self.left}{text})")


class Reverse(Block):
    """Turn a text around."""

    def __call__(self, text: str) -> Described:
        return Described(text[::-1])


SCALARS = st.sampled_from([0, 1, 0.0, 1.0, False, True, "0", "1", "True", None, (1,), (1.0,), (True,), ("1",), ((), 1)])
BLOCKS = st.one_of(
    SCALARS.map(lambda v: Join(value=v)), st.sampled_from("([{").map(lambda c: Wrap(left=c)), st.just(Reverse())
)
EXAMPLES = int(os.environ.get("SFUMATO_EXAMPLES", "100"))


@settings(max_examples=EXAMPLES)
@given(st.data())
def test_no_program_gets_the_outputs_of_one_that_differs_in_one_thing(data: st.DataObject) -> None:
    """`SFUMATO_EXAMPLES=2000 pytest tests/graph/test_content_keys.py` is the long run."""
    kept = memo()
    value, blocks = data.draw(VALUES | SCALARS), data.draw(st.lists(BLOCKS, min_size=1, max_size=4))
    run(value, blocks, memo=kept)
    place = data.draw(st.integers(-1, len(blocks) - 1))
    if place < 0:
        value = data.draw(SCALARS | VALUES)
    else:
        blocks[place] = data.draw(BLOCKS)
    assert run(value, blocks, memo=kept) == run(value, blocks)


def run(value: Any, blocks: Sequence[Block], **more: Any) -> str:
    """The text that a chain of blocks makes of a value."""
    graph = Graph({"describe": Describe(), **{f"n{i}": b for i, b in enumerate(blocks)}}, outputs=("text",))
    return graph(value=value, **more).text
