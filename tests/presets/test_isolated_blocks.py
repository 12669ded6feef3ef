"""Trusted code in a process of its own: the same values, and faults that stay there."""

import json
import math
import os
import sys
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import sfumato as sf
from sfumato.components.loading.code.isolated import descriptions, launch, messages, process
from sfumato.components.loading.code.isolated.messages import (
    CannotSend,
    bytes_of,
    empty_tensors,
    filled,
    header_of,
    pack,
    unpack,
)
from sfumato.components.types import Images, Latents, Mask
from sfumato.graph.ports import Memory, is_memory
from sfumato.graph.typing import type_text, union

CODE = '''
import os, sys, time
from collections.abc import Mapping
from typing import Literal, NamedTuple

import sfumato as sf
import torch
from sfumato.components.types import Images, Mask
from torch import Tensor

print("noise on the standard output")


class Out(NamedTuple):
    images: Images
    parts: tuple[Tensor, ...]
    table: Mapping[str, float]
    before: sf.Memory[Tensor | None]


class Work(sf.Block):
    """Do much with few pixels."""

    gain: float = sf.knob(2.0)
    mode: Literal["add", "multiply"] = "multiply"
    sizes: tuple[int, ...] = (1, 2)

    def __call__(
        self, images: Images, mask: Mask | None = None, text: str = "ä", before: sf.Memory[Tensor | None] = None
    ) -> Out:
        print("more noise")
        made = images * self.gain if self.mode == "multiply" else images + self.gain
        if mask is not None:
            made = made * mask
        parts = (made.to(torch.bfloat16), made > 0.5, torch.empty(0, 3), torch.tensor(7), made.mT)
        table = {"text": float(len(text)), "inf": float("inf"), "n": float(sum(self.sizes))}
        return Out(made, parts, table, made if before is None else before + 1)


class Told(NamedTuple):
    told: str


class Tell(sf.Block):
    def __call__(self, what: str) -> Told:
        if what == "raise":
            raise ValueError("not with me \\x1b[2J")
        if what == "exit":
            sys.exit(3)
        if what == "die":
            sys.stderr.write("last words")
            sys.stderr.flush()
            os.kill(os.getpid(), 11)
        if what == "sleep":
            time.sleep(60)
        if what == "threads":
            return Told(f"{os.environ['OMP_NUM_THREADS']} {torch.get_num_threads()}")
        if what == "env":
            return Told(" ".join(sorted(os.environ)))
        if what == "wrong":
            return 3
        return Told(str(os.getpid()))
'''


def put(folder: Path, text: str, **auto_map: str) -> Path:
    folder.mkdir()
    (folder / "block.py").write_text(text)
    nodes = [{"name": name, "block": name, "config": {}} for name in auto_map]
    edges = [{"from": "inputs.what", "to": "tell.what", "how": "ruled"}] if "tell" in auto_map else []
    if "work" in auto_map:
        edges += [
            {"from": f"inputs.{n}", "to": f"work.{n}", "how": "ruled"} for n in ("images", "mask", "text", "gain")
        ]
    graph = {"outputs": [], "nodes": nodes, "edges": edges}
    said = {"format": 2, "sfumato": "0", "auto_map": auto_map, "graph": graph}
    (folder / "graph.json").write_text(json.dumps(said))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return put(tmp_path_factory.mktemp("isolated") / "repo", CODE, work="block.Work", tell="block.Tell")


@pytest.fixture(scope="module")
def apart(folder: Path) -> Generator[sf.Graph]:
    os.environ["SECRET_OF_THE_PARENT"] = "1"
    yield sf.load(folder, trust_remote_code="isolated")
    del os.environ["SECRET_OF_THE_PARENT"]


@pytest.fixture(scope="module")
def here(folder: Path) -> sf.Graph:
    return sf.load(folder, trust_remote_code=True)


def alike(a: Any, b: Any) -> bool:
    """Whether two types are one: what fits the one fits the other, and they are called alike."""
    return sf.assignable(a, b) and sf.assignable(b, a) and type_text(a) == type_text(b)


def same(a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    assert list(a) == list(b)
    assert all(alike(a[name].type, b[name].type) for name in a)


# ---------------------------------------------------------------------------------------------------- the same
def test_ports_are_those_of_the_block_itself(apart: sf.Graph, here: sf.Graph) -> None:
    same(apart.inputs, here.inputs)
    same(apart.outputs, here.outputs)
    same(apart["work"].signature.memory, here["work"].signature.memory)
    assert [port.default for port in apart.inputs.values()] == [port.default for port in here.inputs.values()]
    assert apart["work"].config() == here["work"].config()
    assert type(apart["work"]).__doc__ == "Do much with few pixels."
    assert "sfumato_hub" in type(apart["work"]).__module__


def test_values_are_those_of_the_block_itself(apart: sf.Graph, here: sf.Graph) -> None:
    images = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).mT  # not contiguous
    call: dict[str, Any] = {
        "images": images,
        "mask": torch.ones(2, 1, 5, 4),
        "gain": 0.75,
        "text": "zwei",
        "what": "pid",
    }
    ours, theirs = apart(**call), here(**call)
    assert int(ours.told) != os.getpid() == int(theirs.told)
    assert torch.equal(ours.images, theirs.images)
    assert ours.table == theirs.table == {"text": 4.0, "inf": math.inf, "n": 3.0}
    for mine, other in zip(ours.parts, theirs.parts, strict=True):
        assert mine.dtype == other.dtype and torch.equal(mine, other)
    block, real = (graph["work"].with_(mode="add") for graph in (apart, here))
    first, second = block(images=images), real(images=images)
    assert torch.equal(first.before, second.before)
    assert torch.equal(block(images, before=first.before).before, real(images, before=second.before).before)


def test_a_block_stays_itself_in_a_saved_graph(apart: sf.Graph, folder: Path, tmp_path: Path) -> None:
    apart.save(tmp_path / "mine")
    assert (tmp_path / "mine/block.py").read_text() == CODE
    assert sf.load(tmp_path / "mine", trust_remote_code="isolated") == apart
    assert sf.load(tmp_path / "mine", trust_remote_code=True)["tell"](what="pid").told == str(os.getpid())


def test_a_loop_carries_the_memory_of_a_block_in_another_process(apart: sf.Graph, here: sf.Graph) -> None:
    def turns(graph: sf.Graph) -> Tensor:
        body = sf.Graph(work=graph["work"]).only("images", "parts", "table")
        loop = sf.Loop(over="items", each="text", carry=("images",), body=body)
        return sf.Graph(loop=loop)(items=["a", "b", "c"], images=torch.full((1, 3, 2, 2), 0.1)).images

    assert torch.equal(turns(apart), turns(here))


def test_its_environment_is_clean(apart: sf.Graph) -> None:
    names = apart["tell"](what="env").told.split()
    assert "SECRET_OF_THE_PARENT" not in names
    assert {*names} - {*launch._VARIABLES, *launch._ENVIRONMENT, launch._THREADS, "HOME", "TMPDIR", "USER"} <= {
        name
        for name in names
        if name.startswith(("KMP", "TORCH", "LC_", "__"))  # what libraries set for themselves
    }


def test_it_has_as_many_threads_as_this_process(apart: sf.Graph) -> None:
    threads = torch.get_num_threads()
    assert apart["tell"](what="threads").told == f"{threads} {threads}"


# ---------------------------------------------------------------------------------------------------- faults
def test_what_a_block_raises_is_told_with_its_place_and_the_process_goes_on(apart: sf.Graph) -> None:
    before = apart["tell"](what="pid").told
    with pytest.raises(sf.BrokenBlock) as told:
        apart["tell"](what="raise")
    text = str(told.value)
    assert "in a separate process: ValueError: not with me \\x1b[2J" in text and "\x1b" not in text
    assert 'block.py", line' in text
    with pytest.raises(sf.BrokenBlock, match="SystemExit: 3"):
        apart["tell"](what="exit")
    with pytest.raises(sf.BrokenBlock, match="it returned a int, and its signature has"):
        apart["tell"](what="wrong")
    assert apart["tell"](what="pid").told == before


def test_a_process_that_ends_hangs_or_is_killed_gives_an_error_and_the_next_call_a_new_one(
    apart: sf.Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = apart["tell"](what="pid").told
    with pytest.raises(
        sf.BrokenBlock, match=r"its process ended by SIGSEGV in tell[^\0]*last output:\n  [^\0]*last words"
    ):
        apart["tell"](what="die")
    monkeypatch.setenv("SFUMATO_ISOLATED_SECONDS", "30")
    apart["work"](images=torch.ones(1, 3, 2, 2))
    after = apart["tell"](what="pid").told
    assert after != before
    monkeypatch.setenv("SFUMATO_ISOLATED_SECONDS", "0.2")
    with pytest.raises(sf.BrokenBlock, match=r"tell took more than 0.2 s in its separate process, which was ended"):
        apart["tell"](what="sleep")
    with pytest.raises(ProcessLookupError):
        os.kill(int(after), 0)
    monkeypatch.delenv("SFUMATO_ISOLATED_SECONDS")


class _Running:
    """A process that is not there."""

    def run(self) -> None: ...


def _returning(value: Any) -> Callable[..., Any]:
    """A method that returns this."""

    def method(*_: Any) -> Any:
        return value

    return method


def test_an_output_that_is_not_what_was_said_is_refused(apart: sf.Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process.IsolatedCode, "_ready", _returning(_Running()))
    monkeypatch.setattr(process.IsolatedCode, "end", _returning(None))
    answers: list[Any] = [
        {"told": {"value": 3}}, {"other": {"value": "a"}}, {"told": {"tensor": 0}}, [], {},
        {"told": {"pickle": "gASV"}},
    ]  # fmt: skip
    for values in answers:
        monkeypatch.setattr(process.IsolatedCode, "_ask", _returning(({"values": values}, [])))
        with pytest.raises(sf.BrokenBlock, match=r"process (returned|to)"):
            apart["tell"](what="pid")


def test_an_import_that_fails_there_is_told_as_here(tmp_path: Path) -> None:
    folder = put(tmp_path / "repo", "import sfumato as sf\nclass A(sf.Block): pass\n", a="block.A")
    with pytest.raises(sf.LoadError, match=r"block.py, line 2: raised Malformed: A has no __call__"):
        sf.load(folder, trust_remote_code="isolated")
    assert not [name for name in sys.modules if name.startswith("sfumato_hub") and hasattr(sys.modules[name], "A")]


def test_models_and_functions_do_not_cross_and_all_of_them_are_told(tmp_path: Path) -> None:
    text = """
import sfumato as sf
from typing import NamedTuple
from sfumato.components.types import Predict, Latents
class Out(NamedTuple):
    predict: Predict
class A(sf.Block):
    vae: sf.models.AutoencoderKL = sf.component()
    def __call__(self, predict: Predict, latents: Latents, run: sf.Running) -> Out: ...
"""
    folder = put(tmp_path / "repo", text, a="block.A")
    with pytest.raises(sf.LoadError) as told:
        sf.load(folder, trust_remote_code="isolated")
    said = str(told.value)
    assert f"a: {messages.SENDABLE} can be sent to another process, and it holds vae: a model is not copied" in said
    assert "'run' is the run, which stays in its process; 'predict' is Predict (a function" in said
    assert "latents" not in said


# ---------------------------------------------------------------------------------------------------- messages
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(VALUES)
def test_plain_values_come_as_they_went(value: Any) -> None:
    back = unpack(json.loads(json.dumps(pack(value, []))), ())
    assert back == value and repr(back) == repr(value)


@given(
    st.lists(st.tuples(st.sampled_from(sorted(messages._DTYPES)), st.lists(st.integers(0, 3), max_size=4)), max_size=4)
)
def test_tensors_come_as_they_went(kinds: list[tuple[str, list[int]]]) -> None:
    tensors = [torch.arange(math.prod(s)).reshape(s).to(messages._DTYPES[name]) for name, s in kinds]
    header = json.loads(json.dumps(header_of(tensors, 10**6)))
    made = empty_tensors(header, 10**6)
    for tensor, back in zip(tensors, made, strict=True):
        bytes_of(back)[:] = bytes_of(tensor)
    for mine, back in zip(tensors, filled(made, header), strict=True):
        assert mine.dtype == back.dtype and mine.shape == back.shape and torch.equal(mine, back)


@pytest.mark.parametrize(
    "header",
    [
        3, None, [3], [{}], [{"dtype": "float32", "shape": [17]}], [{"dtype": "float32", "shape": [16]}] * 2,
        [{"dtype": "float32", "shape": [-1]}], [{"dtype": "float32", "shape": [-1, -1]}],
        [{"dtype": "float32", "shape": [2**31]}], [{"dtype": "float32", "shape": [0, 2**30, 2**30]}],
        [{"dtype": "object", "shape": [1]}], [{"dtype": "float32", "shape": [True]}],
        [{"dtype": "float32", "shape": [1.0]}], [{"dtype": "float32", "shape": [1] * 17}],
        [{"dtype": "float32", "shape": [1], "strides": [0]}], [{"dtype": "uint8", "shape": [0]}] * 1001,
    ],
)  # fmt: skip
def test_a_header_that_does_not_fit_is_refused(header: Any) -> None:
    with pytest.raises(CannotSend):
        empty_tensors(header, 64)


def test_types_come_as_they_went() -> None:
    for hint in (
        Images, union((Mask, None)), Latents, Memory[Tensor | None], tuple[int, str], tuple[float, ...], int | str, Any,
        list[bool],
    ):  # fmt: skip
        told = json.loads(json.dumps(descriptions.describe(hint)))
        assert alike(descriptions.type_of(told), hint)
        assert is_memory(descriptions.type_of(told)) == is_memory(hint)
    for bad in ({"type": "os.system"}, {"array": "__import__", "dims": ""}, {"union": []}, None, {"port": 3}):
        with pytest.raises(CannotSend):
            descriptions.type_of(bad)
