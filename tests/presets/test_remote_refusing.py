"""What is never run, trusted or not: addresses that lead out, files that are no code, classes that are no blocks."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from sfumato.components.loading.code import reading
from sfumato.graph.code import gather

from ..components.hub_server import Hub
from .remote import FLIP, MARK, put, refusal, trusted
from .remote import hub as hub
from .remote import kept as kept


@pytest.mark.parametrize(
    "address",
    ["../x.Class", "/etc/x.Class", "x/../../y.Class", "..x.Class", "x.pth", "Class", "", "x.", "other/repo--block.Flip",
     "block.Flip\n", "bl ock.Flip", "blöck.Flip", "block..Flip", "~.Flip", "C:\\x.Flip"],
)  # fmt: skip
def test_an_address_that_is_no_file_and_class_leads_nowhere(address: str, tmp_path: Path) -> None:
    for name in ("x.py", "y.py", "x.pth"):
        (tmp_path / name).write_text(MARK + FLIP)
    folder = put(tmp_path / "repo", {"block.py": FLIP}, address)
    text = refusal(folder, trust_remote_code=True)
    assert "needs 'file.Class'" in text or "which does not exist" in text
    assert not list(tmp_path.rglob("ran"))
    graph = {
        "format": 2,
        "sfumato": "0",
        "auto_map": {"a": address},
        "graph": {"outputs": [], "nodes": [], "edges": []},
    }
    (folder / "graph.json").write_text(json.dumps(graph))
    text = refusal(folder, trust_remote_code=True)
    assert "needs 'file.Class'" in text or "which does not exist" in text


def test_a_link_that_leads_out_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.py").write_text(MARK + FLIP)
    folder = put(tmp_path / "repo", {})
    (folder / "block.py").symlink_to(tmp_path / "secret.py")
    assert "block.py: is a link that leads out of" in refusal(folder, trust_remote_code=True)
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside/block.py").write_text(MARK + FLIP)
    put(folder, {}, "sub.block.Flip")
    (folder / "sub").symlink_to(tmp_path / "inside")
    assert "is a link that leads out of" in refusal(folder, trust_remote_code=True)
    (folder / "block.py").unlink()
    (folder / "block.py").symlink_to(os.devnull)
    put(folder, {})
    assert "is a link that leads out of" in refusal(folder, trust_remote_code=True)
    assert not list(tmp_path.rglob("ran"))


def test_a_relative_import_that_leads_out_is_refused(tmp_path: Path) -> None:
    (tmp_path / "above.py").write_text(MARK)
    folder = put(tmp_path / "repo", {"block.py": f"from ..above import x\n{FLIP}"})
    text = refusal(folder, trust_remote_code=True)
    assert text == f"{folder}: block.py, line 1: imports '..above', and no such file is beside it."


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"x = 1\ny = '\xff\xfe'\n", "block.py, line 2: is not UTF-8 text (byte 11"),
        (b"# -*- coding: utf-7 -*-\n+AGkAbQ-", "block.py, line 2: is no Python"),
        (b"class Flip(:\n", "block.py, line 1: is no Python"),
        (b"x = 1\0", "block.py"),
        (b"(" * 100_000, "block.py"),
        (b"-" * 100_000 + b"1", "block.py"),
        (b"#" * (2**20 + 1), "block.py: has 1.0 MB, and a file of code may have 1 MB."),
        (b"", "block.py: has no class 'Flip' at its top level."),
        (b"if 1:\n    def Flip(): pass\n", "block.py: has no class 'Flip' at its top level."),
    ],
)
def test_a_file_that_is_no_plain_python_is_refused(data: bytes, said: str, tmp_path: Path) -> None:
    folder = put(tmp_path / "repo", {"block.py": data})
    assert refusal(folder, trust_remote_code=True).startswith(f"{folder}: {said}")


def test_a_huge_file_is_refused_before_it_is_fetched(hub: Hub, tmp_path: Path) -> None:
    put(tmp_path / "hub/someone/huge", {"block.py": "#" * (reading._MAX_BYTES + 1)})
    assert "block.py: has 1.0 MB" in refusal("someone/huge", trust_remote_code=True)
    assert hub.given == ["modular_config.json"]


def test_a_block_of_diffusers_is_refused_with_what_to_do(tmp_path: Path) -> None:
    text = f"{MARK}from diffusers import modular_pipelines as mp\nclass Base(mp.PipelineBlock): ...\n"
    text += "class Flip(Base): ...\n"
    folder = put(tmp_path / "repo", {"block.py": text})
    for trust in (False, True, "isolated"):
        said = refusal(folder, trust_remote_code=trust)
        assert said.startswith(
            f"{folder}: block.py: Flip is a block of diffusers (diffusers.modular_pipelines.PipelineBlock), and runs "
            "in diffusers only. sfumato needs a subclass of sf.Block"
        )
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("class Flip: ...", "block.py: Flip needs to be a subclass of sf.Block, and is the class Flip."),
        ("class Flip: ...\nFlip = 3", "block.py: Flip needs to be a subclass of sf.Block, and is a int."),
        ("from sfumato import Graph as Flip", "block.py: Flip needs to be a subclass of sf.Block, and is the class"),
        ("class Flip: ...\n\n1 / 0", "block.py, line 4: raised ZeroDivisionError: division by zero while it was"),
        ("class Flip: ...\nraise SystemExit(3)", "block.py, line 3: raised SystemExit: 3 while it was imported."),
        ("from .beside import f\nclass Flip: ...\nf()", "beside.py, line 2: raised RuntimeError: not today while"),
        ("import beside\nclass Flip: ...", "block.py, line 2: raised ModuleNotFoundError: No module named 'beside' "
         "while it was imported. beside.py is in the same folder: write `from .beside import …`."),
        ("import nosuchpkg\nclass Flip: ...", "block.py, line 2: raised ModuleNotFoundError: No module named "
         "'nosuchpkg' while it was imported. Install its package: pip install nosuchpkg"),
        ("import sfumato as sf\nclass Flip(sf.Block):\n    def __call__(self, x): ...",
         "block.py, line 3: raised Malformed"),
        ("from typing import NamedTuple\nimport sfumato as sf\nclass X(NamedTuple):\n    x: int\n"
         "class Flip(sf.Block):\n    size: int\n    def __call__(self, x: int) -> X: ...",
         "Flip needs values for its fields (Flip.size needs a value: int)"),
    ],
)  # fmt: skip
def test_code_that_gives_no_block_is_told_with_its_place(body: str, said: str, tmp_path: Path) -> None:
    beside = "def f():\n    raise RuntimeError('not today')\n"
    folder = put(tmp_path / "repo", {"block.py": f"\n{body}\n", "beside.py": beside})
    assert refusal(folder, trust_remote_code=True).startswith(f"{folder}: {said}")


def test_a_failed_import_leaves_no_module_behind(tmp_path: Path) -> None:
    before = set(sys.modules)
    folder = put(tmp_path / "broken", {"block.py": f"from . import help\n{FLIP}\n1 / 0", "help.py": ""})
    refusal(folder, trust_remote_code=True)
    assert {name for name in set(sys.modules) - before if "broken" in name} == set()


@pytest.mark.parametrize(
    "config", [{"auto_map": None}, {"auto_map": {"AutoModel": "block.Flip"}}, {"requirements": [1]}]
)
def test_a_config_that_names_no_class_is_told(config: dict[str, Any], tmp_path: Path) -> None:
    folder = put(tmp_path / "repo", {"block.py": FLIP}, **config)
    text = refusal(folder, trust_remote_code=True)
    assert "Needs {" in text or "need the form {" in text


def test_a_file_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    folder = put(tmp_path / "repo", {"block.py": FLIP}, "blok.Flip")
    text = refusal(folder)
    assert "names the file blok.py for 'Flip', which does not exist. Did you mean 'block.py'?" in text
    assert "There are: block.py." in text


def test_a_graph_file_cannot_name_a_class_without_code_or_registration(tmp_path: Path) -> None:
    pipe = trusted(put(tmp_path / "repo", {"block.py": FLIP}))
    pipe.save(tmp_path / "mine")
    path = tmp_path / "mine/graph.json"
    path.write_text(path.read_text().replace('"auto_map": {"Flip"', '"auto_map": {"Other"'))
    assert "no block is called 'Flip'" in refusal(tmp_path / "mine", trust_remote_code=True)


def test_gathering_reads_each_file_once_and_follows_only_what_is_written() -> None:
    files = {"a.py": "from . import b\nfrom .c.d import x", "b.py": "from .a import y", "c/d.py": "", "e.py": "1 / 0"}
    source = gather(["a.py"], files.get)
    assert set(source.files) == {"a.py", "b.py", "c/d.py"}
    assert source.digest != gather(["b.py", "c/d.py", "e.py"], files.get).digest
