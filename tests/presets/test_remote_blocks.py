"""Graphs whose blocks bring their code: shown first, trusted by hash, and run from the bytes that were hashed."""

import importlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

import sfumato as sf
from sfumato.components.loading import hub as loading_hub
from sfumato.components.loading.code import blocks as code_blocks
from sfumato.components.loading.code import reading
from sfumato.components.loading.code.trust import home
from sfumato.graph.code import Source, gather
from sfumato.registry import blocks as BLOCKS

from ..components.hub_server import COMMIT, OLD, Hub, serving
from .support import EMBEDDED, fresh

PICTURE = torch.rand(1, 3, 4, 6, generator=torch.Generator().manual_seed(0))
FLIP = """
from typing import NamedTuple

import sfumato as sf
from sfumato.components.types import Images


class Flipped(NamedTuple):
    images: Images


class Flip(sf.Block):
    def __call__(self, images: Images) -> Flipped:
        return Flipped(images.flip(-1))
"""
DIM = FLIP.replace("images.flip(-1)", "images / 2")
MARK = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\n"


def put(folder: Path, files: Mapping[str, str | bytes], address: Any = "block.Flip", **config: Any) -> Path:
    """A repo as diffusers publishes one with a block: files, and a `modular_config.json` that names the class."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
    folder.mkdir(parents=True, exist_ok=True)
    config = {"_class_name": "Flip", "auto_map": {"ModularPipelineBlocks": address}, **config}
    (folder / "modular_config.json").write_text(json.dumps(config))
    return folder


def refusal(x: Any, **more: Any) -> str:
    with pytest.raises((sf.LoadError, sf.GraphFileError)) as told:
        sf.load(x, **more)
    return str(told.value)


def trusted(x: Any, **more: Any) -> sf.Graph:
    return sf.load(x, trust_remote_code=True, **more)


def images(graph: sf.Graph) -> torch.Tensor:
    return graph(images=PICTURE).images


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is trusted in a test is forgotten after it."""
    monkeypatch.setenv("SFUMATO_HOME", str(tmp_path / "kept"))
    return home()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Hub]:
    with serving(tmp_path / "hub") as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(loading_hub, "_opened", {})
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        monkeypatch.setattr(importlib.import_module("huggingface_hub.constants"), "HF_HUB_DISABLE_XET", True)
        yield server


class Own:
    """A user's own module files, imported as a user would; `forget` makes of this process another one."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.monkeypatch = monkeypatch
        self.known = dict(BLOCKS._table)
        self.modules = set(sys.modules)

    def __call__(self, name: str, text: str, **beside: str) -> Any:  # a module
        package, _, module = name.rpartition(".")
        for file, content in {**beside, module: text}.items():
            path = self.folder / package / f"{file}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        self.monkeypatch.syspath_prepend(str(self.folder))
        importlib.invalidate_caches()
        return importlib.import_module(name)

    def forget(self) -> None:
        BLOCKS._table.clear()
        BLOCKS._table.update(self.known)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Own]:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    own = Own(tmp_path / "own", monkeypatch)
    yield own
    own.forget()
    for name in set(sys.modules) - own.modules:
        if name.partition(".")[0] in ("acme_flip", "acme_help", "acme"):
            del sys.modules[name]


# ---------------------------------------------------------------------------------------------------- no code
def test_a_repo_with_a_graph_and_an_index_needs_no_code(hub: Hub, tmp_path: Path) -> None:
    call: dict[str, Any] = {"prompt": "a red apple", "num_inference_steps": 1, "seed": 0, "output_type": "pt"}
    sf.load(EMBEDDED).using(scheduler="euler").save_pretrained(tmp_path / "hub/someone/plain", repo="someone/plain")
    pipe = sf.load("someone/plain", manager=fresh())
    assert pipe.bindings["unet"].spec.revision == COMMIT
    assert torch.equal(pipe(**call).images, sf.load(EMBEDDED).using(scheduler="euler")(**call).images)
    assert not [name for name in hub.given if name.endswith(".py")]


# ---------------------------------------------------------------------------------------------------- what is shown
def test_code_is_refused_unasked_and_shown_and_nothing_of_it_runs(tmp_path: Path) -> None:
    helper = "import subprocess, urllib.request as u\nfrom os import system\nx = eval('1')\n"
    folder = put(tmp_path / "repo", {"block.py": f"{MARK}from . import helper\n{FLIP}", "helper.py": helper})
    text = refusal(folder)
    source = Source({name: (folder / name).read_text() for name in ("block.py", "helper.py")})
    for name in source.files:
        row = next(line for line in text.splitlines() if line.split()[:1] == [name])
        assert f"{(folder / name).stat().st_size} B" in row
        assert source.sha256[name][:16] in row
        rest = row.partition("imports ")[2]
        want = {
            "block.py": "pathlib, sfumato, sfumato.components.types, typing, ./helper.py",
            "helper.py": "os, subprocess, urllib.request; and calls eval, which may run more",
        }
        assert rest == want[name]
    assert text.startswith(f"{folder}: brings code of its own, which is not run unasked.\n  2 files would run, for")
    assert "the block Flip (block.Flip):" in text
    assert f'trust_remote_code="{source.digest}"' in text
    assert not (folder / "ran").exists()
    trusted(folder)
    assert (folder / "ran").exists()


def test_what_a_terminal_would_obey_is_not_shown_as_it_is(tmp_path: Path) -> None:
    folder = put(tmp_path / "repo", {"block.py": FLIP})
    trusted(folder)
    put(folder, {"block.py": f"{FLIP}\n# \x1b[2J\u202e harmless\n"})
    text = refusal(folder, trust_remote_code=True)
    assert "\\u001b[2J\\u202e harmless" in text
    assert "\x1b" not in text and "\u202e" not in text


def test_a_block_of_the_hub_is_pinned_to_its_commit_and_only_its_files_are_fetched(hub: Hub, tmp_path: Path) -> None:
    repo = put(
        tmp_path / "hub/someone/flip", {"block.py": f"from .parts.help import x\n{FLIP}", "parts/help.py": "x = 1"}
    )
    (repo / "train.py").write_text("raise SystemExit")
    assert refusal("someone/flip").startswith(f"someone/flip at {COMMIT[:12]}: brings code")
    pipe = trusted("someone/flip")
    assert torch.equal(images(pipe), PICTURE.flip(-1))
    assert set(hub.given) == {"modular_config.json", "block.py", "parts/help.py"}
    pipe.save(tmp_path / "mine")
    said = json.loads((tmp_path / "mine/graph.json").read_text())
    assert said["auto_map"] == {"Flip": "block.Flip"}
    assert {(file["repo"], file["revision"]) for file in said["code"].values()} == {("someone/flip", COMMIT)}
    again = trusted(tmp_path / "mine")
    assert again == pipe
    assert (tmp_path / "mine/parts/help.py").read_text() == "x = 1"


def test_a_repo_of_a_block_and_components_binds_them(tmp_path: Path) -> None:
    text = FLIP.replace(
        "class Flip(sf.Block):", "class Flip(sf.Block):\n    vae: sf.models.AutoencoderKL = sf.component()\n"
    )
    folder = put(tmp_path / "repo", {"block.py": text})
    shutil.copytree(EMBEDDED / "vae", folder / "vae")
    index = {"_class_name": "ModularPipeline", "_blocks_class_name": "Flip", "_diffusers_version": "0.42.1"}
    hint = ["diffusers", "AutoencoderKL"]
    spec = {"pretrained_model_name_or_path": "x", "subfolder": "vae", "type_hint": hint}
    (folder / "modular_model_index.json").write_text(json.dumps({**index, "vae": [*hint, spec]}))
    pipe = trusted(folder, manager=fresh())
    assert pipe.bindings["vae"].spec.subfolder == "vae" or str(pipe.bindings["vae"].spec.folder).endswith("vae")
    assert torch.equal(images(pipe), PICTURE.flip(-1))


def test_the_config_of_a_preset_of_diffusers_brings_no_code(tmp_path: Path) -> None:
    folder = shutil.copytree(EMBEDDED, tmp_path / "repo")
    put(folder, {}, "modular_blocks_stable_diffusion_xl.StableDiffusionXLAutoBlocks")
    assert sf.load(folder, manager=fresh()).preset == ("sd", "text2image")
    (folder / "modular_config.json").write_text('{"_class_name": "StableDiffusionXLAutoBlocks"}')
    assert sf.load(folder, manager=fresh()).preset == ("sd", "text2image")
    put(folder, {}, "../up.Flip")
    assert "wanted 'file.Class'" in refusal(folder)


@pytest.mark.parametrize(
    ("name", "node"), [("MyHTMLBlock", "my_html_block"), ("_Flip2", "flip2"), ("Inputs", "block"), ("Flip", "flip")]
)
def test_the_one_node_is_called_for_its_class(name: str, node: str, tmp_path: Path) -> None:
    folder = put(tmp_path / "repo", {"block.py": FLIP.replace("class Flip(", f"class {name}(")}, f"block.{name}")
    assert list(trusted(folder).nodes) == [node]


# ---------------------------------------------------------------------------------------------------- saving
def test_a_saved_graph_brings_the_source_of_ones_own_block(
    module: Own, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    acme = module("acme.flip", FLIP.replace("images.flip(-1)", "turned(images)") + "\nfrom .help import turned\n",
                  __init__="", help="def turned(x): return x.flip(-1)")  # fmt: skip
    graph = sf.Graph(flip=acme.Flip())
    graph.save(tmp_path / "mine")
    assert {p.name for p in (tmp_path / "mine").iterdir()} == {"graph.json", "__init__.py", "flip.py", "help.py"}
    assert sf.load(tmp_path / "mine") == graph  # imported here, so nothing of the folder has to run
    assert trusted(tmp_path / "mine") == graph
    module.forget()
    text = refusal(tmp_path / "mine")
    assert "the block acme.flip.Flip (flip.Flip):" in text
    with pytest.raises(sf.GraphFileError, match=r"graph.nodes.flip.block  is code that lies beside this file"):
        sf.Graph.load(tmp_path / "mine")
    loaded = trusted(tmp_path / "mine")
    assert type(loaded["flip"]) is not acme.Flip
    assert torch.equal(images(loaded), PICTURE.flip(-1))
    loaded.save(tmp_path / "again")
    first, second = (json.loads((tmp_path / name / "graph.json").read_text()) for name in ("mine", "again"))
    assert first == second
    assert not caplog.records


def test_a_block_that_is_imported_here_and_is_not_the_saved_one_is_told(
    module: Own, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sf.Graph(flip=module("acme_flip", FLIP).Flip()).save(tmp_path / "mine")
    (tmp_path / "mine/acme_flip.py").write_text(DIM)
    sf.load(tmp_path / "mine")
    assert not caplog.records  # what is imported here is what was saved
    said = json.loads((tmp_path / "mine/graph.json").read_text())
    said["code"]["acme_flip.py"]["sha256"] = Source({"acme_flip.py": DIM}).sha256["acme_flip.py"]
    (tmp_path / "mine/graph.json").write_text(json.dumps(said))
    assert torch.equal(images(sf.load(tmp_path / "mine")), PICTURE.flip(-1))
    assert "the block 'acme_flip.Flip' that is imported here is not the one that was saved" in caplog.text


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the client's use of its own HTTP library
def test_a_pipeline_with_ones_own_block_goes_to_the_hub_with_its_code(hub: Hub, module: Own, tmp_path: Path) -> None:
    acme = module("acme_flip", FLIP)
    pipe = sf.load(EMBEDDED).insert("flip", acme.Flip(), before="finish")
    (tmp_path / "hub/someone").mkdir(parents=True)
    sf.push_to_hub(pipe, "someone/flipped", token="hf_let_me_in")
    card = (tmp_path / "hub/someone/flipped/README.md").read_text()
    assert 'sf.load("someone/flipped", trust_remote_code=True)' in card and "[`acme_flip.py`](acme_flip.py)" in card
    module.forget()
    assert "1 file would run" in refusal("someone/flipped", manager=fresh())
    call: dict[str, Any] = {"prompt": "a red apple", "num_inference_steps": 1, "seed": 0, "output_type": "pt"}
    made = trusted("someone/flipped", manager=fresh())(**call).images
    assert torch.equal(made, sf.load(EMBEDDED)(**call).images.flip(-1))


def test_a_class_without_a_file_is_saved_with_a_notice_and_given_to_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    space: dict[str, Any] = {"__name__": "typed_in"}
    exec(FLIP, space)
    graph = sf.Graph(flip=space["Flip"]())
    with caplog.at_level(logging.WARNING, "sfumato"):
        graph.save(tmp_path / "mine")
    way_out = "has no source file. Write it into a module of its own, and import it from there."
    assert caplog.messages == [f"{tmp_path / 'mine/graph.json'}: without the code of a block. typed_in.Flip: {way_out}"]
    with pytest.raises(sf.LoadError, match=r"cannot be written .1 problems.\n  typed_in.Flip: has no source file"):
        graph.save_pretrained(tmp_path / "shared")
    assert not (tmp_path / "shared").exists()


def test_a_module_that_would_not_come_along_is_told(
    module: Own, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    acme = module("acme_flip", f"import acme_help\n{FLIP}", acme_help="")
    sf.Graph(flip=acme.Flip()).save(tmp_path / "mine")
    assert "acme_flip.py imports acme_help, which no package brings, so that it would not come along" in caplog.text


def test_a_file_of_somebody_else_is_not_written_over(module: Own, tmp_path: Path) -> None:
    acme = module("acme_flip", FLIP)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/acme_flip.py").write_text("# two years of work")
    with pytest.raises(sf.GraphFileError, match=r"acme_flip.py: is another file than the code of this graph"):
        sf.Graph(flip=acme.Flip()).save(tmp_path / "mine")
    assert (tmp_path / "mine/acme_flip.py").read_text() == "# two years of work"
    assert not (tmp_path / "mine/graph.json").exists()


def test_what_was_saved_before_is_written_over(module: Own, tmp_path: Path) -> None:
    acme = module("acme_flip", FLIP)
    sf.Graph(flip=acme.Flip()).save(tmp_path / "mine")
    put(tmp_path / "other", {"acme_flip.py": DIM}, "acme_flip.Flip")
    trusted(tmp_path / "other").save(tmp_path / "mine")
    assert (tmp_path / "mine/acme_flip.py").read_text() == DIM


# ---------------------------------------------------------------------------------------------------- kept apart
def test_two_repos_with_a_block_of_one_name_stay_two(tmp_path: Path) -> None:
    flip, dim = (trusted(put(tmp_path / name, {"block.py": text})) for name, text in (("a", FLIP), ("b", DIM)))
    both = sf.Graph(flip=flip["flip"], dim=dim["flip"])
    want = PICTURE.flip(-1) / 2
    assert torch.equal(images(both), want)
    both.save(tmp_path / "both")
    assert torch.equal(images(trusted(tmp_path / "both")), want)
    assert trusted(tmp_path / "both").inputs.keys() == {"images"}
    assert torch.equal(images(flip), PICTURE.flip(-1)) and torch.equal(images(dim), PICTURE / 2)


def test_a_module_called_like_one_of_python_does_not_take_its_place(tmp_path: Path) -> None:
    ours = f"import json\nfrom . import json as own\nassert json.loads('1') == own.loads == 1\n{FLIP}"
    folder = put(tmp_path / "repo", {"block.py": ours, "json.py": "loads = 1", "torch.py": "raise SystemExit"})
    assert torch.equal(images(trusted(folder)), PICTURE.flip(-1))
    assert sys.modules["json"] is json


def test_a_block_cannot_take_the_registered_name_of_another(tmp_path: Path) -> None:
    before = BLOCKS.find("decode.vae.DecodeLatents"), len(BLOCKS)
    text = FLIP.replace("Flip(sf.Block)", 'Flip(sf.Block, name="decode.vae.DecodeLatents")')
    trusted(put(tmp_path / "repo", {"block.py": text}))
    assert (BLOCKS.find("decode.vae.DecodeLatents"), len(BLOCKS)) == before


def test_packages_inside_a_repo_work_as_in_python(tmp_path: Path) -> None:
    files = {
        "deep/down/block.py": f"from .. import SIGN\nfrom ...top import turned\nfrom . import beside\n{FLIP}"
        .replace("images.flip(-1)", "turned(images) * SIGN * beside.TWO"),
        "deep/__init__.py": "SIGN = -1",
        "deep/down/beside.py": "from ... import top\nTWO = 2 * top.ONE",
        "top.py": "ONE = 1\ndef turned(x): return x.flip(-1)",
    }  # fmt: skip
    pipe = trusted(put(tmp_path / "repo", files, "deep.down.block.Flip"))
    assert torch.equal(images(pipe), PICTURE.flip(-1) * -2)
    pipe.save(tmp_path / "mine")
    assert torch.equal(images(trusted(tmp_path / "mine")), PICTURE.flip(-1) * -2)


# ---------------------------------------------------------------------------------------------------- what is trusted
def test_changed_code_is_refused_with_its_difference_until_its_hash_is_named(tmp_path: Path, kept: Path) -> None:
    folder = put(tmp_path / "repo", {"block.py": FLIP})
    trusted(folder)
    put(folder, {"block.py": MARK + DIM})
    text = refusal(folder, trust_remote_code=True)
    assert f"{folder}: its code has changed since you trusted it. Nothing was run." in text
    assert "    --- block.py (trusted)\n    +++ block.py (now)\n" in text
    assert "    -        return Flipped(images.flip(-1))\n    +        return Flipped(images / 2)" in text
    assert f"What you have trusted:   {next(kept.rglob('*.json'))}" in text
    assert not (folder / "ran").exists()
    digest = Source({"block.py": MARK + DIM}).digest
    assert f'trust_remote_code="{digest}"' in text
    assert torch.equal(images(sf.load(folder, trust_remote_code=digest)), PICTURE / 2)
    trusted(folder)  # from now on
    put(folder, {"block.py": FLIP})
    trusted(folder)  # and what was trusted before still is


def test_a_hash_names_exactly_one_code(tmp_path: Path) -> None:
    folder = put(tmp_path / "repo", {"block.py": FLIP})
    right, wrong = Source({"block.py": FLIP}).digest, Source({"block.py": DIM}).digest
    text = refusal(folder, trust_remote_code=wrong)
    assert "this is not the code that trust_remote_code names" in text and "its text is not known" in text
    assert torch.equal(images(sf.load(folder, trust_remote_code=right)), PICTURE.flip(-1))
    for bad in ("yes", "sha256:12", "isolated sha256:1", f"{right} {wrong}", ""):
        assert "wanted True, 'isolated'" in refusal(folder, trust_remote_code=bad)


def test_a_new_commit_with_other_code_is_refused_and_the_old_one_is_not(hub: Hub, tmp_path: Path) -> None:
    put(tmp_path / "hub/someone/flip@old", {"block.py": FLIP})
    put(tmp_path / "hub/someone/flip", {"block.py": DIM})
    assert torch.equal(images(trusted("someone/flip", revision="old")), PICTURE.flip(-1))
    text = refusal("someone/flip", trust_remote_code=True)
    assert text.startswith(f"someone/flip at {COMMIT[:12]}: its code has changed since you trusted it")
    assert "+        return Flipped(images / 2)" in text
    assert torch.equal(images(trusted("someone/flip", revision=OLD)), PICTURE.flip(-1))


def test_code_that_is_not_what_the_graph_was_saved_with_is_refused(tmp_path: Path) -> None:
    pipe = trusted(put(tmp_path / "repo", {"block.py": FLIP}))
    pipe.save(tmp_path / "mine")
    (tmp_path / "mine/block.py").write_text(DIM)
    text = refusal(tmp_path / "mine", trust_remote_code=True)
    assert "its code is not what its graph.json was saved with: block.py. Nothing was run." in text
    assert "-        return Flipped(images.flip(-1))" in text
    digest = Source({"block.py": DIM}).digest
    assert torch.equal(images(sf.load(tmp_path / "mine", trust_remote_code=digest)), PICTURE / 2)


def test_what_runs_is_what_was_hashed_even_if_the_file_changes_in_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = put(tmp_path / "repo", {"block.py": FLIP})
    check = code_blocks.check

    def slow(*args: Any) -> None:
        check(*args)
        (folder / "block.py").write_text("raise SystemExit('evil')")

    monkeypatch.setattr(code_blocks, "check", slow)
    assert torch.equal(images(trusted(folder)), PICTURE.flip(-1))


def test_eight_threads_that_load_at_once_get_one_class(tmp_path: Path) -> None:
    folder = put(tmp_path / "repo", {"block.py": FLIP, "more.py": ""})
    with ThreadPoolExecutor(8) as pool:
        graphs = list(pool.map(trusted, [folder] * 8))
    assert all(graph == graphs[0] for graph in graphs)
    assert all(torch.equal(images(graph), PICTURE.flip(-1)) for graph in graphs)


def test_an_environment_may_forbid_all_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = put(tmp_path / "repo", {"block.py": MARK + FLIP})
    monkeypatch.setenv("SFUMATO_DISABLE_REMOTE_CODE", "1")
    for trust in (False, True, "isolated", Source({"block.py": MARK + FLIP}).digest):
        text = refusal(folder, trust_remote_code=trust)
        assert "SFUMATO_DISABLE_REMOTE_CODE is set: none may run here." in text and "block.py" in text
    assert not (folder / "ran").exists()
    monkeypatch.setenv("SFUMATO_DISABLE_REMOTE_CODE", "0")
    trusted(folder)


def test_packages_that_are_missing_or_too_old_are_told_with_the_line_for_pip(tmp_path: Path) -> None:
    wanted = {"nosuchpkg": "==1.0", "numpy": ">=1.20", "torch": "<1", "two words": ">1"}
    folder = put(tmp_path / "repo", {"block.py": MARK + FLIP}, requirements=wanted)
    assert "It asks for nosuchpkg==1.0, numpy>=1.20, torch<1" in refusal(folder)
    text = refusal(folder, trust_remote_code=True)
    assert "  nosuchpkg: is not installed, wanted ==1.0." in text
    assert f"  torch: {torch.__version__} is installed, wanted <1." in text
    assert "'two words': '>1' is no requirement" in text and "numpy" not in text
    assert text.endswith("  pip install nosuchpkg==1.0 'torch<1'")
    assert not (folder / "ran").exists()


# ---------------------------------------------------------------------------------------------------- what is refused
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
    assert "wanted 'file.Class'" in text or "which is not there" in text
    assert not list(tmp_path.rglob("ran"))
    graph = {
        "format": 1,
        "sfumato": "0",
        "auto_map": {"a": address},
        "graph": {"outputs": [], "nodes": [], "edges": []},
    }
    (folder / "graph.json").write_text(json.dumps(graph))
    text = refusal(folder, trust_remote_code=True)
    assert "wanted 'file.Class'" in text or "which is not there" in text


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
    assert text == f"{folder}: block.py, line 1: imports '..above', and there is no such file beside it."


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"x = 1\ny = '\xff\xfe'\n", "block.py, line 2: is no UTF-8 text (byte 11"),
        (b"# -*- coding: utf-7 -*-\n+AGkAbQ-", "block.py, line 2: is no Python"),
        (b"class Flip(:\n", "block.py, line 1: is no Python"),
        (b"x = 1\0", "block.py"),
        (b"(" * 100_000, "block.py"),
        (b"-" * 100_000 + b"1", "block.py"),
        (b"#" * (2**20 + 1), "block.py: has 1.0 MB, and no file of code is larger than 1 MB."),
        (b"", "block.py: has no class 'Flip' at its top level."),
        (b"if 1:\n    def Flip(): pass\n", "block.py: has no class 'Flip' at its top level."),
    ],
)
def test_a_file_that_is_no_plain_python_is_refused(data: bytes, said: str, tmp_path: Path) -> None:
    folder = put(tmp_path / "repo", {"block.py": data})
    assert refusal(folder, trust_remote_code=True).startswith(f"{folder}: {said}")


def test_a_huge_file_is_refused_before_it_is_fetched(hub: Hub, tmp_path: Path) -> None:
    put(tmp_path / "hub/someone/huge", {"block.py": "#" * (reading._MOST + 1)})
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
            "in diffusers only. Here a block is a subclass of sf.Block"
        )
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("class Flip: ...", "block.py: Flip is the class Flip, and a subclass of sf.Block was wanted."),
        ("class Flip: ...\nFlip = 3", "block.py: Flip is a int, and a subclass"),
        ("from sfumato import Graph as Flip", "block.py: Flip is the class Graph, and a subclass"),
        ("class Flip: ...\n\n1 / 0", "block.py, line 4: raised ZeroDivisionError: division by zero while it was"),
        ("class Flip: ...\nraise SystemExit(3)", "block.py, line 3: raised SystemExit: 3 while it was imported."),
        ("from .beside import f\nclass Flip: ...\nf()", "beside.py, line 2: raised RuntimeError: not today while"),
        ("import beside\nclass Flip: ...", "block.py, line 2: raised ModuleNotFoundError: No module named 'beside' "
         "while it was imported. beside.py lies beside it: write `from .beside import …`."),
        ("import nosuchpkg\nclass Flip: ...", "block.py, line 2: raised ModuleNotFoundError: No module named "
         "'nosuchpkg' while it was imported. Install what brings it: pip install nosuchpkg"),
        ("import sfumato as sf\nclass Flip(sf.Block):\n    def __call__(self, x): ...",
         "block.py, line 3: raised Malformed"),
        ("from typing import NamedTuple\nimport sfumato as sf\nclass X(NamedTuple):\n    x: int\n"
         "class Flip(sf.Block):\n    size: int\n    def __call__(self, x: int) -> X: ...",
         "Flip cannot be made without its fields"),
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
    assert "wanted {" in refusal(folder, trust_remote_code=True)


def test_a_file_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    folder = put(tmp_path / "repo", {"block.py": FLIP}, "blok.Flip")
    assert "is in blok.py, which is not there. Did you mean 'block.py'? There are: block.py." in refusal(folder)


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
