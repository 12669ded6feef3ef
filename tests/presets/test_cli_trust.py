"""Code that a model brings, on the command line: told, run where it is trusted, and looked at without being run."""

from pathlib import Path

import pytest

import sfumato as sf

from .remote import FLIP, MARK, Own, put
from .remote import kept as kept
from .remote import module as module
from .support import EMBEDDED
from .test_cli import FEW, sfumato

LINE = "1 file would run, for the block acme_flip.Flip (acme_flip.Flip):"


@pytest.fixture
def mixed(module: Own, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The embedded model with a block of somebody else's, as saved for others: an index, folders and a graph file."""
    monkeypatch.chdir(tmp_path)
    acme = module("acme_flip", MARK.replace("ran", "ran-there") + FLIP)
    sf.load(EMBEDDED).insert("flip", acme.Flip(), before="finish").save_pretrained(tmp_path / "mixed")
    for mark in tmp_path.rglob("ran-there"):
        mark.unlink()
    module.forget()
    return tmp_path / "mixed"


def test_without_trust_each_command_says_what_would_run_and_which_flag_runs_it(mixed: Path) -> None:
    for args in (["show", mixed], ["show", mixed / "graph.json"], ["check", mixed], ["run", "a fox", "--model", mixed]):
        said = sfumato(*args)
        assert said.code == 1 and said.out == ""
        assert LINE in said.err and "imports pathlib, sfumato, sfumato.components.types, typing" in said.err
        assert "If you have read it and trust it:   --trust-remote-code\n" in said.err
        assert "--trust-remote-code sha256:" in said.err and "--trust-remote-code isolated\n" in said.err
        assert "trust_remote_code" not in said.err
    assert not list(mixed.parent.rglob("ran-there"))
    assert "--trust-remote-code isolated" in sfumato("check", mixed, "--json").data["error"]["message"]


def test_the_flag_shows_the_code_and_runs_it_and_takes_no_prompt_for_its_word(mixed: Path) -> None:
    said = sfumato("run", "--trust-remote-code", "a fox", "--model", mixed, "-o", "fox.png", *FEW, "--seed", "1")
    assert said.code == 0 and said.out.startswith("fox.png  (64x64, ")
    assert f"note: {mixed}: runs code of its own, which is trusted.\n  1 file runs, for the block" in said.err
    assert (mixed / "ran-there").exists()
    assert sfumato("check", mixed, "--trust-remote-code").out == f"{mixed}: ok (text2image)\n"
    assert "flip             Flip" in sfumato("show", "--trust-remote-code", mixed / "graph.json").out


def test_the_word_isolated_and_a_hash_stand_behind_the_flag(mixed: Path) -> None:
    shown = sfumato("show", mixed).err
    digest = shown.partition("--trust-remote-code sha256:")[2][:64]
    said = sfumato("show", mixed, "--trust-remote-code", "isolated")
    assert said.code == 0 and "which is trusted, in a process of its own.\n" in said.err
    assert sfumato("show", mixed, "--trust-remote-code", f"sha256:{digest}").code == 0
    other = sfumato("show", mixed, "--trust-remote-code", f"sha256:{digest[::-1]}")
    assert other.code == 1 and "this is not the code that --trust-remote-code names. Nothing was run." in other.err
    assert "wanted True" not in sfumato("show", mixed, "--trust-remote-code", "sha256:12").out
    assert sfumato("show", mixed, "--trust-remote-code=maybe").code == 1


def test_inspect_tells_the_code_and_runs_none_of_it(mixed: Path, tmp_path: Path) -> None:
    told = sf.inspect(mixed)
    assert told.family == "sd" and not told.missing and LINE in told.code and LINE in str(told)
    assert LINE in sfumato("inspect", mixed).out
    for name in ("model_index.json", "modular_model_index.json"):
        (mixed / name).unlink()
    for x in (mixed, mixed / "graph.json"):
        alone = sf.inspect(x)
        assert {part.name for part in alone.components} == {part.name for part in told.components}
        assert alone.bytes == told.bytes and LINE in alone.code
    (mixed / "acme_flip.py").unlink()
    assert "is in acme_flip.py, which is not there" in sf.inspect(mixed).missing[-1]
    assert "for the block Flip (block.Flip)" in sf.inspect(put(tmp_path / "block", {"block.py": MARK + FLIP})).code
    assert not [*tmp_path.rglob("ran-there"), *tmp_path.rglob("ran")]
