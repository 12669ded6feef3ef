"""Saved graphs bring the source of their blocks, and nothing that is not theirs."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch

import sfumato as sf
from sfumato.graph.code import Source

from ..components.hub_server import Hub
from .remote import DIM, FLIP, PICTURE, Own, images, put, refusal, trusted
from .remote import hub as hub
from .remote import kept as kept
from .remote import module as module
from .support import EMBEDDED, fresh


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
    with pytest.raises(sf.GraphFileError, match=r"graph.nodes.flip.block  is code beside this file"):
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
    assert "the imported block 'acme_flip.Flip' is not the one that was saved" in caplog.text


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
    file = tmp_path / "mine/graph.json"
    assert caplog.messages == [f"{file}: is saved without the code of a block. typed_in.Flip: {way_out}"]
    with pytest.raises(sf.SaveError, match=r"cannot be written .1 problems.\n  typed_in.Flip: has no source file"):
        graph.save_pretrained(tmp_path / "shared")
    assert not (tmp_path / "shared").exists()


def test_a_module_that_would_not_come_along_is_told(
    module: Own, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    acme = module("acme_flip", f"import acme_help\n{FLIP}", acme_help="")
    sf.Graph(flip=acme.Flip()).save(tmp_path / "mine")
    assert "acme_flip.py imports acme_help, which is in no installed package and would not be saved" in caplog.text


def test_a_file_of_somebody_else_is_not_written_over(module: Own, tmp_path: Path) -> None:
    acme = module("acme_flip", FLIP)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/acme_flip.py").write_text("# two years of work")
    with pytest.raises(sf.GraphFileError, match=r"acme_flip.py: exists and is not the code of this graph"):
        sf.Graph(flip=acme.Flip()).save(tmp_path / "mine")
    assert (tmp_path / "mine/acme_flip.py").read_text() == "# two years of work"
    assert not (tmp_path / "mine/graph.json").exists()


def test_what_was_saved_before_is_written_over(module: Own, tmp_path: Path) -> None:
    acme = module("acme_flip", FLIP)
    sf.Graph(flip=acme.Flip()).save(tmp_path / "mine")
    put(tmp_path / "other", {"acme_flip.py": DIM}, "acme_flip.Flip")
    trusted(tmp_path / "other").save(tmp_path / "mine")
    assert (tmp_path / "mine/acme_flip.py").read_text() == DIM


def test_the_installed_packages_are_read_once_until_one_is_installed(
    module: Own, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading them takes a second where there are hundreds."""
    reads: list[Path] = []

    def read() -> dict[str, list[str]]:
        reads.append(tmp_path)
        return {"numpy": ["numpy"], "torch": ["torch"]}

    monkeypatch.setattr("importlib.metadata.packages_distributions", read)
    monkeypatch.syspath_prepend(site := tmp_path / "site")
    site.mkdir()
    acme = module("acme_flip", f"import torch\n{FLIP}")
    for name in ("one", "two"):
        sf.Graph(flip=acme.Flip()).save(tmp_path / name)
    assert len(reads) == 1
    (site / "fresh.dist-info").mkdir()
    os.utime(site, (0, 0))  # the clock of a file system may be coarse
    sf.Graph(flip=acme.Flip()).save(tmp_path / "three")
    assert len(reads) == 2
