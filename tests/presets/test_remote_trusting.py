"""Blocks that bring their code: shown first, run where they are trusted, and kept apart from all others."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import sfumato as sf
from sfumato.graph.code import Source
from sfumato.registry import blocks as BLOCKS

from ..components.hub_server import COMMIT, Hub
from .remote import DIM, FLIP, MARK, PICTURE, images, put, refusal, trusted
from .remote import hub as hub
from .remote import kept as kept
from .support import EMBEDDED, fresh


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
    assert text.startswith(f"{folder}: has its own code, which is not run by default.\n  2 files would run, for")
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
    assert "\\x1b[2J\\u202e harmless" in text
    assert "\x1b" not in text and "\u202e" not in text


def test_a_block_of_the_hub_is_pinned_to_its_commit_and_only_its_files_are_fetched(hub: Hub, tmp_path: Path) -> None:
    repo = put(
        tmp_path / "hub/someone/flip", {"block.py": f"from .parts.help import x\n{FLIP}", "parts/help.py": "x = 1"}
    )
    (repo / "train.py").write_text("raise SystemExit")
    assert refusal("someone/flip").startswith(f"someone/flip at {COMMIT[:12]}: has its own code")
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
    assert "needs 'file.Class'" in refusal(folder)


@pytest.mark.parametrize(
    ("name", "node"), [("MyHTMLBlock", "my_html_block"), ("_Flip2", "flip2"), ("Inputs", "block"), ("Flip", "flip")]
)
def test_the_one_node_is_called_for_its_class(name: str, node: str, tmp_path: Path) -> None:
    folder = put(tmp_path / "repo", {"block.py": FLIP.replace("class Flip(", f"class {name}(")}, f"block.{name}")
    assert list(trusted(folder).nodes) == [node]


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
