"""The memo: what is reused, what runs again, and why. Programs that differ in one thing share no outputs."""

import os
import subprocess
import sys
import threading
import time
from collections import Counter
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

from sfumato.graph import Block, ConfigError, Graph, InputError, Loop, knob
from sfumato.graph.memo import memo
from sfumato.graph.memo.contents import content_key
from sfumato.graph.memo.entry import Entry
from sfumato.graph.memo.library_values import NoContentKey
from sfumato.graph.memo.node_keys import NodeKey, node_keys
from sfumato.graph.memo.stored_values import restore, store
from sfumato.graph.plan import plan_of

CALLS: Counter[str] = Counter()


class Out(NamedTuple):
    """A number."""

    x: float


class Double(Block):
    """Multiply by a factor."""

    factor: float = knob(2.0)

    def __call__(self, x: float) -> Out:
        CALLS["double"] += 1
        return Out(x * self.factor)


class Text(NamedTuple):
    """A text."""

    text: str


class Show(Block):
    """Write a number."""

    def __call__(self, x: float) -> Text:
        CALLS["show"] += 1
        return Text(f"{x:.2f}")


class Noise(Block):
    """Draw a number."""

    random_without = ("seed",)

    def __call__(self, seed: int | None = None) -> Out:
        CALLS["noise"] += 1
        return Out(float(torch.rand((), generator=torch.Generator().manual_seed(seed or time.time_ns()))))


class Clock(Block):
    """Read the time."""

    pure = False

    def __call__(self) -> Out:
        CALLS["clock"] += 1
        return Out(time.perf_counter())


GRAPH = Graph(double=Double(), show=Show(), outputs=("text",))


def count(graph: Graph, **values: Any) -> tuple[Any, dict[str, int]]:
    """The outputs of a call, and how often each block ran in it."""
    CALLS.clear()
    out = graph(**values)
    return out, dict(CALLS)


def test_a_call_that_was_made_before_runs_nothing() -> None:
    kept = memo()
    assert count(GRAPH, x=2.0, memo=kept) == ({"text": "4.00"}, {"double": 1, "show": 1})
    assert count(GRAPH, x=2.0, memo=kept) == ({"text": "4.00"}, {})
    assert count(GRAPH, x=3.0, memo=kept) == ({"text": "6.00"}, {"double": 1, "show": 1})
    assert count(GRAPH, x=2.0, memo=kept) == ({"text": "4.00"}, {}), "A, B, A"


def test_a_knob_of_a_call_is_part_of_the_key() -> None:
    kept = memo()
    assert count(GRAPH, x=2.0, memo=kept)[0].text == "4.00"
    assert count(GRAPH, x=2.0, factor=3.0, memo=kept) == ({"text": "6.00"}, {"double": 1, "show": 1})
    assert count(GRAPH.replace("double", Double(factor=3.0)), x=2.0, memo=kept)[0].text == "6.00"


def test_only_an_edited_block_and_its_descendants_run() -> None:
    kept = memo()
    count(GRAPH, x=2.0, memo=kept)
    spaced: dict[str, Any] = {}
    for body in ("f'{x:.2f}'", "f'{x:.3f}'"):
        source = f"def call(self, x: float) -> Text:\n    return Text({body})"
        exec(source, {"Text": Text, "__name__": __name__}, spaced)

        class Shown(Block):
            """Write a number."""

            __call__ = spaced["call"]

        out, ran = count(GRAPH.replace("show", Shown()), x=2.0, memo=kept)
        assert "double" not in ran
        assert out.text == eval(body, {"x": 4.0})


def test_a_helper_of_the_same_package_is_part_of_the_key(tmp_path: Path) -> None:
    keys: list[str] = []
    for number in (1, 1, 2):
        package = tmp_path / "helped"
        package.mkdir(exist_ok=True)
        (package / "__init__.py").touch()
        (package / "helper.py").write_text(
            f"'''A helper.'''\nLIST = [{number}]\n\n\ndef value(x):\n    return x + LIST[0]\n"
        )
        (package / "steps.py").write_text(
            "from typing import NamedTuple\n\nfrom sfumato.graph import Block\n\nfrom .helper import value\n\n\n"
            "class Out(NamedTuple):\n    x: int\n\n\n"
            "class Step(Block):\n    def __call__(self, x: int) -> Out:\n        return Out(value(x))\n"
        )
        code = "from helped.steps import Step\nfrom sfumato.graph.memo.code import code_key\nprint(code_key(Step))"
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        keys.append(subprocess.check_output([sys.executable, "-c", code], text=True, env=environment).strip())
    assert keys[0] == keys[1], "equal in two processes"
    assert keys[1] != keys[2], "a constant that the helper reads has changed"


def test_a_block_that_is_not_pure_runs_each_time_and_so_do_its_readers() -> None:
    graph, kept = Graph(clock=Clock(), show=Show(), outputs=("text",)), memo()
    for _ in range(2):
        assert count(graph, memo=kept)[1] == {"clock": 1, "show": 1}
    assert len(kept) == 0


def test_a_seed_that_was_not_passed_is_another_one_each_time() -> None:
    graph, kept = Graph(noise=Noise(), show=Show(), outputs=("text",)), memo()
    for values, ran in (({}, {"noise": 1, "show": 1}), ({"seed": 1}, {"noise": 1, "show": 1}), ({"seed": 1}, {})):
        assert count(graph, **values, memo=kept)[1] == ran
    assert count(graph, seed=None, memo=kept)[1] == {"noise": 1, "show": 1}


class Summed(NamedTuple):
    """A sum."""

    total: float


class Add(Block):
    """Add one item."""

    def __call__(self, total: float, item: float) -> Summed:
        CALLS["add"] += 1
        return Summed(total + item)


def test_a_loop_is_kept_as_a_whole() -> None:
    loop = Loop(over="items", each="item", carry=("total",), body=Graph(add=Add()))
    graph, kept = Graph(loop=loop, outputs=("total",)), memo()
    values: dict[str, Any] = {"items": [1.0, 2.0], "total": 0.0, "memo": kept}
    assert count(graph, **values) == ({"total": 3.0}, {"add": 2})
    assert count(graph, **values) == ({"total": 3.0}, {})


def test_changing_an_output_does_not_change_the_memo() -> None:
    class Made(NamedTuple):
        tensor: torch.Tensor
        image: Image.Image

    class Make(Block):
        """Make a tensor and a picture."""

        def __call__(self) -> Made:
            return Made(torch.zeros(2), Image.new("RGB", (2, 2)))

    graph, kept = Graph(make=Make(), outputs=("tensor", "image")), memo()
    for _ in range(3):
        out = graph(memo=kept)
        assert out.tensor.tolist() == [0, 0] and out.image.getpixel((0, 0)) == (0, 0, 0)
        out.tensor.add_(1)
        out.tensor.numpy()[0] = 5
        out.image.paste((255, 0, 0), (0, 0, 2, 2))


def test_another_process_finds_what_is_in_the_folder(tmp_path: Path) -> None:
    code = (
        "import sfumato as sf\n"
        "run = sf.load('emoji').stream(prompt='a fox', seed=1, num_inference_steps=1, memo=sf.memo('kept'))\n"
        "run.result()\nprint(run.explain())"
    )
    texts = [
        subprocess.check_output([sys.executable, "-W", "ignore", "-c", code], text=True, cwd=tmp_path) for _ in "ab"
    ]
    assert " ran " in texts[0] and " reused " not in texts[0]
    assert " ran " not in texts[1] and "nothing changed" in texts[1]


def test_a_broken_file_of_the_folder_is_computed_again_and_said(tmp_path: Path) -> None:
    count(GRAPH, x=2.0, memo=memo(tmp_path))
    for file in tmp_path.glob("*.safetensors"):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    with pytest.warns(UserWarning, match=r"is a broken entry of the memo .* It was removed, and is computed again\."):
        assert count(GRAPH, x=2.0, memo=memo(tmp_path))[0].text == "4.00"
    assert count(GRAPH, x=2.0, memo=memo(tmp_path))[1] == {}


def test_a_file_cannot_name_a_class_of_another_package() -> None:
    stored = store(Out(1.0))
    assert isinstance(stored.tree, dict)
    stored.tree["named"] = "subprocess:Popen"
    with pytest.raises(ValueError, match="there is no class 'subprocess:Popen' of values"):
        restore(stored, {"tests", "subprocess"})
    with pytest.raises(ValueError, match="of values"):
        restore(store(Out(1.0)), {"sfumato"})


def test_beyond_the_limit_what_saves_the_least_goes_first() -> None:
    kept = memo(memory_bytes=2_000)
    for key, seconds in (("slow", 10.0), ("quick", 0.001), ("medium", 1.0)):
        kept.put(Entry(key, NodeKey(key, {}), seconds, {"x": store(torch.zeros(150))}))
    assert [kept.get(key, []) is not None for key in ("slow", "quick", "medium")] == [True, False, True]


def test_the_folder_keeps_what_was_used_last(tmp_path: Path) -> None:
    kept = memo(tmp_path, folder_bytes=5_000)
    for i in range(4):
        kept.put(Entry(f"n{i}", NodeKey(f"key{i}", {}), 1.0, {"x": store(torch.zeros(400))}))
        os.utime(tmp_path / f"key{i}.memo.safetensors", (i, i))
    assert sorted(file.name[:4] for file in tmp_path.glob("*.safetensors")) == ["key2", "key3"]


def test_explain_says_what_changed() -> None:
    kept = memo()
    GRAPH(x=2.0, memo=kept)
    run = GRAPH.stream(x=2.0, factor=4.0, memo=kept)
    run.result()
    lines = run.explain().splitlines()
    assert lines[0].startswith("double  ran") and lines[0].endswith("changed: factor")
    assert lines[1].startswith("show    ran") and lines[1].endswith("changed: x")
    assert GRAPH.stream(x=1.0).explain() == "This run has no memo, so every node ran. Pass memo=sf.memo()."


def test_what_is_no_memo_is_refused() -> None:
    with pytest.raises(InputError, match=r"needs a memo, got '/tmp/x' \(str\)\. Make one with sf\.memo\(\)"):
        GRAPH(x=1.0, memo="/tmp/x")
    with pytest.raises(ConfigError, match="memory_bytes: needs 0 or more, got -1"):
        memo(memory_bytes=-1)


def test_threads_share_a_memo() -> None:
    kept, found = memo(), dict[int, str]()

    def work(i: int) -> None:
        for k in range(20):
            found[i * 20 + k] = GRAPH(x=float(k), memo=kept).text

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(text == f"{2 * (i % 20):.2f}" for i, text in found.items())
    assert len(found) == 80


def test_a_chain_of_a_thousand_blocks_is_keyed_quickly() -> None:
    graph = Graph({f"n{i}": Double(factor=float(i)) for i in range(1000)}, outputs=("x",))
    plan = plan_of(graph, graph.wanted)
    node_keys(plan, {"x": 1.0}, {})
    seconds: list[float] = []
    for _ in range(7):
        began = time.process_time()
        node_keys(plan, {"x": 1.0}, {})
        seconds.append(time.process_time() - began)
    began = time.process_time()
    for i in range(30_000):  # the machine's own speed
        hash((str(i), i, (i, i)))
    assert min(seconds) < 2 * (time.process_time() - began), "linear: about the work of hashing 30,000 small tuples"


# ------------------------------------------------------------------------------------------------------ content keys
@dataclass(frozen=True)
class Point:
    """A value with fields."""

    x: float
    tensor: torch.Tensor


DIFFERENT: list[Any] = [
    1, 1.0, True, "1", None, b"1", [1], (1,), {1}, {1: 1}, {"1": 1}, frozenset({1}), [1.0], [[1]], range(1), 0,
    -0.0, 0.0, complex(1), np.float32(1), np.float64(1), np.array([1]), np.array([1.0]), np.array([[1]]),
    torch.tensor(1), torch.tensor([1]), torch.tensor([1.0]), torch.tensor([1.0], dtype=torch.float16),
    torch.tensor([[1.0]]), torch.float32, Image.new("L", (2, 2)), Image.new("RGB", (2, 2)), Image.new("L", (2,
    3)), Image.new("L", (2, 2), 1), Point(1, torch.ones(1)), Point(1.0, torch.ones(1)), Point(1,
    torch.zeros(1)), Out(1.0), Text("1"), Double(), Double(factor=3.0), Show(), GRAPH, GRAPH.replace("double",
    Double(factor=3.0)), Out, Point, torch.nn.Linear(2, 2), [], (), {}, "", b"", "[1]", [None], {"a": 1, "b":
    2}, {"b": 2, "a": 1}, ["a", "b"], ["ab"], [["a"], "b"],
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
    except NoContentKey:  # bytes are not stored
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
    """`SFUMATO_EXAMPLES=2000 pytest tests/graph/test_memo.py` is the long run."""
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
