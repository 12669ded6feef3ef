"""What was trusted is known by its hash: changed code is refused, and what runs is what was hashed."""

from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

import sfumato as sf
from sfumato.components.loading.code import blocks as code_blocks
from sfumato.graph.code import Source

from ..components.hub_server import COMMIT, OLD, Hub
from .remote import DIM, FLIP, MARK, PICTURE, images, put, refusal, trusted
from .remote import hub as hub
from .remote import kept as kept


def test_changed_code_is_refused_with_its_difference_until_its_hash_is_named(tmp_path: Path, kept: Path) -> None:
    folder = put(tmp_path / "repo", {"block.py": FLIP})
    trusted(folder)
    put(folder, {"block.py": MARK + DIM})
    text = refusal(folder, trust_remote_code=True)
    assert f"{folder}: its code has changed since you trusted it. Nothing was run." in text
    assert "    --- block.py (trusted)\n    +++ block.py (now)\n" in text
    assert "    -        return Flipped(images.flip(-1))\n    +        return Flipped(images / 2)" in text
    assert f"The record of your trust:   {next(kept.rglob('*.json'))}" in text
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
    assert "trust_remote_code names other code" in text and "its text is unknown" in text
    assert torch.equal(images(sf.load(folder, trust_remote_code=right)), PICTURE.flip(-1))
    for bad in ("yes", "sha256:12", "isolated sha256:1", f"{right} {wrong}", ""):
        assert "needs True, 'isolated'" in refusal(folder, trust_remote_code=bad)


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
    assert "its code differs from what its graph.json was saved with: block.py. Nothing was run." in text
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
        assert "has its own code, and SFUMATO_DISABLE_REMOTE_CODE forbids to run it." in text and "block.py" in text
    assert not (folder / "ran").exists()
    monkeypatch.setenv("SFUMATO_DISABLE_REMOTE_CODE", "0")
    trusted(folder)


def test_packages_that_are_missing_or_too_old_are_told_with_the_line_for_pip(tmp_path: Path) -> None:
    wanted = {"nosuchpkg": "==1.0", "numpy": ">=1.20", "torch": "<1", "two words": ">1"}
    folder = put(tmp_path / "repo", {"block.py": MARK + FLIP}, requirements=wanted)
    assert "It needs nosuchpkg==1.0, numpy>=1.20, torch<1" in refusal(folder)
    text = refusal(folder, trust_remote_code=True)
    assert "  nosuchpkg: is not installed, needs ==1.0." in text
    assert f"  torch: {version('torch')} is installed, needs <1." in text
    assert "'two words': needs a version such as" in text and "numpy" not in text
    assert text.endswith("  pip install nosuchpkg==1.0 'torch<1'")
    assert not (folder / "ran").exists()
