"""Code that comes with a model, on the command line: listed, run where it is trusted, and inspected without a run."""

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
    """The embedded model with a block of another author, saved with an index, folders and a graph file."""
    monkeypatch.chdir(tmp_path)
    acme = module("acme_flip", MARK.replace("ran", "ran-there") + FLIP)
    sf.load(EMBEDDED).insert("flip", acme.Flip(), before="finish").save_pretrained(tmp_path / "mixed")
    for mark in tmp_path.rglob("ran-there"):
        mark.unlink()
    module.forget()
    return tmp_path / "mixed"


def test_without_trust_each_command_lists_the_code_and_names_the_option(mixed: Path) -> None:
    for args in (["show", mixed], ["show", mixed / "graph.json"], ["check", mixed], ["run", "a fox", "--model", mixed]):
        result = sfumato(*args)
        assert result.code == 1 and result.out == ""
        assert LINE in result.err and "imports pathlib, sfumato, sfumato.components.types, typing" in result.err
        assert "If you have read it and trust it:   --trust-remote-code\n" in result.err
        assert "--trust-remote-code sha256:" in result.err and "--trust-remote-code isolated\n" in result.err
        assert "trust_remote_code" not in result.err
    assert not list(mixed.parent.rglob("ran-there"))
    assert "--trust-remote-code isolated" in sfumato("check", mixed, "--json").data["error"]["message"]


def test_the_option_lists_and_runs_the_code_and_leaves_the_prompt_alone(mixed: Path) -> None:
    result = sfumato("run", "--trust-remote-code", "a fox", "--model", mixed, "-o", "fox.png", *FEW, "--seed", "1")
    assert result.code == 0 and result.out.startswith("fox.png  (64x64, ")
    assert f"note: {mixed}: runs its own code, which is trusted.\n  1 file runs, for the block" in result.err
    assert (mixed / "ran-there").exists()
    assert sfumato("check", mixed, "--trust-remote-code").out == f"{mixed}: ok (text2image)\n"
    assert "flip             Flip" in sfumato("show", "--trust-remote-code", mixed / "graph.json").out


def test_the_option_takes_isolated_or_a_hash(mixed: Path) -> None:
    shown = sfumato("show", mixed).err
    digest = shown.partition("--trust-remote-code sha256:")[2][:64]
    result = sfumato("show", mixed, "--trust-remote-code", "isolated")
    assert result.code == 0 and "which is trusted, in a separate process.\n" in result.err
    assert sfumato("show", mixed, "--trust-remote-code", f"sha256:{digest}").code == 0
    other = sfumato("show", mixed, "--trust-remote-code", f"sha256:{digest[::-1]}")
    assert other.code == 1 and "--trust-remote-code names other code. Nothing was run." in other.err
    assert "needs True" not in sfumato("show", mixed, "--trust-remote-code", "sha256:12").out
    assert sfumato("show", mixed, "--trust-remote-code=maybe").code == 1


def test_inspect_lists_the_code_and_runs_none_of_it(mixed: Path, tmp_path: Path) -> None:
    data = sf.inspect(mixed)
    assert data.family == "sd" and not data.missing and LINE in data.code and LINE in str(data)
    assert LINE in sfumato("inspect", mixed).out
    for name in ("model_index.json", "modular_model_index.json"):
        (mixed / name).unlink()
    for x in (mixed, mixed / "graph.json"):
        alone = sf.inspect(x)
        assert {part.name for part in alone.components} == {part.name for part in data.components}
        assert alone.bytes == data.bytes and LINE in alone.code
    (mixed / "acme_flip.py").unlink()
    assert "auto_map names the file acme_flip.py" in sf.inspect(mixed).missing[-1]
    assert "for the block Flip (block.Flip)" in sf.inspect(put(tmp_path / "block", {"block.py": MARK + FLIP})).code
    assert not [*tmp_path.rglob("ran-there"), *tmp_path.rglob("ran")]
