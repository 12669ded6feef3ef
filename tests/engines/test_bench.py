"""Measurements of pipelines, and baselines."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn
from typer.testing import CliRunner

import sfumato as sf
from sfumato import ConfigError, Graph, LoadError
from sfumato.presets.bench.baseline import changes_since, save_baseline
from sfumato.presets.bench.measure import measure
from sfumato.presets.bench.published import random_pipeline
from sfumato.presets.bench.result import Bench, Timed
from sfumato.presets.cli.app import app

from .conftest import Recorder

CALL = {"prompt": "a fox", "seed": 7, "num_inference_steps": 2}


@pytest.fixture(scope="module")
def bench() -> Bench:
    pipe = sf.load("emoji")
    engines = {"graphs": pipe.optimize(sf.engines.Graphs(recorder=Recorder()))}
    return measure(pipe, CALL, model="emoji", engines=engines, rounds=2, against="diffusers")


def test_each_block_has_seconds_operations_and_memory(bench: Bench) -> None:
    plain, graphs = bench.sides
    assert (plain.name, plain.ratio, graphs.name) == ("torch", 1.0, "graphs")
    rows = {row.path: row for row in plain.blocks}
    plan = sf.load("emoji").plan(**CALL)
    assert rows["denoise"].flops == sum(node.flops or 0 for node in plan.nodes if node.path.startswith("denoise."))
    assert sum(row.flops or 0 for row in plain.blocks) == bench.flops == plan.flops
    assert all(row.peak > 1e7 for row in plain.blocks)
    assert sum(row.seconds.median for row in plain.blocks) <= 1.5 * plain.seconds.median
    assert bench.rate > 1e8
    assert graphs.note == "unet 1 made, 0 read, 6 calls"  # one round before


def test_components_of_diffusers_run_beside_ours_on_the_same_weights(bench: Bench) -> None:
    assert [one.component for one in bench.compared] == ["unet", "decoder"]
    assert all(one.error <= 1e-5 for one in bench.compared)


def test_a_table_shows_all_sides(bench: Bench) -> None:
    text = str(bench)
    assert text.startswith(f"emoji on {bench.device}, float32: 2.74 GFLOP a run\n")
    assert "\ngraphs (unet 1 made, 0 read, 6 calls)\n" in text
    assert "unet, diffusers" in text
    assert json.loads(json.dumps(bench.to_json()))["model"] == "emoji"


def slower(bench: Bench, factor: float, noise: float = 0.0) -> Bench:
    """The measurement with other seconds."""

    def changed(timed: Timed) -> Timed:
        return replace(timed, median=timed.median * factor, noise=noise)

    sides = [
        replace(side, seconds=changed(side.seconds), blocks=tuple(
            replace(row, seconds=changed(row.seconds)) for row in side.blocks
        )) for side in bench.sides
    ]  # fmt: skip
    return replace(bench, sides=tuple(sides))


def test_a_regression_is_more_than_the_noise_of_both_measurements(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "baseline.json"
    save_baseline(slower(bench, 1.0), file)
    assert not any(change.is_regression for change in changes_since(slower(bench, 1.019), file))
    assert all(change.is_regression for change in changes_since(slower(bench, 1.03), file))
    assert not any(change.is_regression for change in changes_since(slower(bench, 1.03, noise=0.02), file))
    first, *_ = changes_since(slower(bench, 1.5), file)
    assert str(first) == "torch in all: 1.500 x the baseline (slower; noise up to 1.020)"
    with pytest.raises(LoadError, match="has no baseline of"):
        changes_since(replace(bench, model="other"), file)


def test_random_pipelines_have_the_published_sizes() -> None:
    """Numbers of parameters as published: 860 million and 2.6 billion; nothing is made."""
    for name, unet in (("sd", 859_520_964), ("sdxl", 2_567_463_684)):
        pipe = random_pipeline(name, sf.ComponentsManager())
        assert pipe.check() == []
        plan = pipe.plan(prompt="a fox", num_inference_steps=1, height=64, width=64)
        sizes = {one.name: one.bytes for one in plan.components}
        assert sizes["unet"] == 4 * unet
    with pytest.raises(ConfigError, match=r"^bench: has no published size of 'emoji'"):
        random_pipeline("emoji", sf.ComponentsManager())


def test_the_command_compares_and_fails_on_a_regression(pipe: Graph, unet: nn.Module, tmp_path: Path) -> None:
    file, runner = tmp_path / "baseline.json", CliRunner()
    command = ["bench", "emoji", "--rounds", "1", "--set", "num_inference_steps=1"]
    first = runner.invoke(app, [*command, "--save", str(file), "--json"])
    assert first.exit_code == 0, first.output
    known = json.loads(file.read_text())
    for entry in known.values():
        entry["parts"]["torch"][""][0] /= 1000
    file.write_text(json.dumps(known))
    second = runner.invoke(app, [*command, "--compare", str(file)])
    assert second.exit_code == 1
    assert "torch in all: " in second.output
