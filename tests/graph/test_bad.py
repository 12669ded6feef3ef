"""Wrong graphs, one a file, each with the exact text it is refused with; no weights are read on the way."""

import builtins
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import safetensors

from sfumato.graph import SfumatoError
from sfumato.graph.ports import Malformed

BAD = sorted(path.stem for path in (Path(__file__).parent / "bad").glob("*.py"))


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = builtins.open

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a weight file was opened before the graph was checked")

    def guarded(file: Any, *args: Any, **kwargs: Any) -> Any:
        return refuse() if str(file).endswith((".safetensors", ".bin", ".ckpt")) else plain(file, *args, **kwargs)

    monkeypatch.setattr(safetensors, "safe_open", refuse)
    monkeypatch.setattr(builtins, "open", guarded)


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize("name", BAD)
def test_wrong_graph(name: str) -> None:
    case = import_module(f".bad.{name}", __package__)
    with pytest.raises((SfumatoError, Malformed)) as caught:
        case.wrong()
    assert f"{type(caught.value).__name__}: {caught.value}" == case.EXPECTED
    for problem in getattr(caught.value, "problems", ()):
        assert problem.code and problem.place and str(problem).startswith(problem.place)


def test_there_are_many_and_none_runs_on_over_three_sentences() -> None:
    assert len(BAD) >= 80
    for name in BAD:
        for line in import_module(f".bad.{name}", __package__).EXPECTED.splitlines():
            assert len(line) < 330, f"{name}: {line}"
