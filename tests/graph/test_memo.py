"""The memo: what is reused, what runs again, and why. Programs that differ in one thing share no outputs."""

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from PIL import Image

from sfumato.graph import Block, ConfigError, Graph, InputError, Loop, knob
from sfumato.graph.memo import memo
from sfumato.graph.memo.entry import Entry
from sfumato.graph.memo.node_keys import NodeKey, node_keys
from sfumato.graph.run_order import run_order
from sfumato.graph.stored import restore, store

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


class Quick(Block):
    """Make a value that costs less than keeping it."""

    quick = True

    def __call__(self, x: float) -> Out:
        CALLS["quick"] += 1
        return Out(x + 1)


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
    order = run_order(graph, graph.wanted)
    node_keys(order, {"x": 1.0}, {})
    seconds: list[float] = []
    for _ in range(7):
        began = time.process_time()
        node_keys(order, {"x": 1.0}, {})
        seconds.append(time.process_time() - began)
    began = time.process_time()
    for i in range(30_000):  # the machine's own speed
        hash((str(i), i, (i, i)))
    assert min(seconds) < 2 * (time.process_time() - began), "linear: about the work of hashing 30,000 small tuples"


def test_outputs_of_quick_blocks_are_not_kept_but_what_is_made_of_them_is():
    graph, kept = Graph(quick=Quick(), show=Show(), outputs=("text",)), memo()
    first = count(graph, x=1.0, memo=kept)
    assert first[1] == {"quick": 1, "show": 1} and len(kept) == 1
    assert count(graph, x=1.0, memo=kept) == (first[0], {})
    assert count(Graph(quick=Quick()), x=1.0, memo=kept)[1] == {"quick": 1}
    run = graph.stream(x=2.0, memo=kept)
    run.result()
    assert "its outputs are quick to make, and not kept" in run.explain()
