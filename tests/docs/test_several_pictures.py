"""The pipelines of the pages make two pictures for each prompt too: their own encoders need no block for that."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import sfumato as sf

from .test_pages import ROOT, codes, python


@pytest.mark.parametrize("page", ["README.md", "docs/recipes.md"])
def test_the_code_of_a_page_runs_with_two_pictures_for_each_prompt(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In few steps, since the pictures are not looked at."""
    counts: list[int] = []
    call = sf.Graph.__call__

    def twice(graph: sf.Graph, *args: Any, **values: Any) -> Any:
        if "num_images_per_prompt" not in graph.inputs or isinstance(values.get("seed"), list):
            return call(graph, *args, **values)
        few = 20 if "strength" in values else 2
        out = call(graph, *args, **{**values, "num_images_per_prompt": 2, "num_inference_steps": few})
        counts.append(len(out[next(iter(out))]))
        return out

    monkeypatch.setattr(sf.Graph, "__call__", twice)
    monkeypatch.chdir(tmp_path)
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    for code in codes((ROOT / page).read_text(encoding="utf-8")):
        if code.language == "python" and not code.skip:
            python(code, ROOT / page, module)
    assert counts and all(count % 2 == 0 for count in counts)
