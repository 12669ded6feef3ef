"""The script that measures on a GPU, on a tiny Flux on the CPU: what needs CUDA is named, and the rest is measured."""

import json
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parents[1] / "benchmarks"


def test_the_script_measures_every_side_that_this_machine_can_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(HERE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of diffusers
        script: Any = import_module("gpu")
        chosen = ["--tiny", "--device", "cpu", "--rounds", "1", "--only", "flux", "offload"]
        script.main([*chosen, "--out", str(tmp_path / "gpu.json")])
    found = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    flux, needs_cuda = (
        found["flux"],
        "ConfigError: not on this device: transformer is on cpu, and CUDA graphs need a CUDA device.",
    )
    assert [*flux["sides"]] == ["diffusers", "sfumato", "compile", "fused", "diffusers, compiled with CUDA graphs"]
    assert flux["missing"] == dict.fromkeys(("graphs", "graphs, fused", "max"), needs_cuda)
    assert all(one["difference"] <= 1e-4 and len(one["ms"]) == 1 for one in flux["sides"].values())
    assert flux["loop"].keys() == {"sfumato"} and flux["now"] == ""
    assert "on the device" in found["offload"]["sides"]
    shown = capsys.readouterr().out
    assert "sdxl: graphs against diffusers, times faster: not measured (at least 1.8)" in shown
    assert "flux: compiled, share of the rate of a large product: 0." in shown
