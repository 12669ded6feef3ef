"""Graphs with engines: plans, files, pickles, merged adapters, and errors."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

import sfumato as sf
from sfumato import ConfigError, Graph

from .conftest import Recorder, lora, pictures, used


@pytest.fixture
def fast(pipe: Graph, recorder: Recorder) -> Graph:
    return pipe.optimize(sf.engines.Graphs(recorder=recorder))


def test_a_plan_counts_the_operations_of_the_models(pipe: Graph) -> None:
    call = {"prompt": "a fox", "num_inference_steps": 2}
    plan = pipe.optimize("compile", backend="eager").plan(**call)
    assert plan.nodes == pipe.plan(**call).nodes
    assert plan.flops > 0


def test_a_file_has_the_components_without_engines(tmp_path: Path) -> None:
    pipe = sf.load("emoji")
    fast = pipe.optimize("compile", backend="eager")
    for name, graph in (("plain", pipe), ("fast", fast)):
        graph.save(tmp_path / name)
    plain, saved = (json.loads((tmp_path / name / "graph.json").read_text()) for name in ("plain", "fast"))
    assert plain == saved
    again = pickle.loads(pickle.dumps(fast))
    assert again.bindings["unet"].engine == sf.engines.Compile(backend="eager")


def test_a_manager_keeps_what_an_engine_makes(recorder: Recorder) -> None:
    manager = sf.ComponentsManager()
    fast = sf.load("emoji", manager=manager).optimize(sf.engines.Graphs(recorder=recorder))
    pictures(fast)
    assert any(row.name == "graphs of unet" for row in manager.summary())
    assert used(fast).made == 1
    manager.free()
    pictures(fast)
    assert used(fast).made == 1
    assert len(recorder.recorded) == 2


def test_a_manager_counts_the_weights_of_converted_models() -> None:
    manager = sf.ComponentsManager()
    pipe = sf.load("emoji", manager=manager)
    size = pipe.bindings["unet"].load() is not None and manager.bytes
    assert pipe.optimize("openvino", components="unet").bindings["unet"].load() is not None
    assert manager.bytes == 2 * size
    assert manager.free() == 2 * size


def test_merged_adapters_keep_the_engine(fast: Graph, pipe: Graph, unet: nn.Module) -> None:
    """Within 1e-4 of the range: merged weights sum in another order."""
    one = lora(unet, 1)
    merged = fast.with_adapters(one).merged()
    assert (pictures(merged) - pictures(pipe.with_adapters(one))).abs().max() <= 1e-4
    assert used(merged).made == 1


def test_memos_keep_results_of_engines_apart(pipe: Graph, fast: Graph) -> None:
    keys = [graph.bindings["unet"] for graph in (fast, fast.optimize("compile", backend="eager"))]
    assert len({key.content_key() for key in keys}) == 2


def test_another_engine_replaces_the_first(fast: Graph, unet: nn.Module) -> None:
    other = fast.optimize("compile", backend="eager")
    assert other.bindings["unet"].base is unet
    assert other.optimize(None).bindings["unet"] is unet


@pytest.mark.parametrize(
    ("engine", "components", "text"),
    [
        ("openvin", None, "optimize: needs an engine, got 'openvin'. Did you mean 'openvino'?"),
        (3, None, "optimize: needs an engine, got 3. Pass one of compile, fused, graphs, max, openvino."),
        ("compile", "unit", "optimize: the graph has no component 'unit'. Did you mean 'unet'?"),
    ],
)  # fmt: skip
def test_errors_say_what_to_do(pipe: Graph, engine: str, components: str | None, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        pipe.optimize(engine, components)
    assert str(caught.value).startswith(text)


def test_an_object_on_the_cpu_is_not_copied(fast: Graph, unet: nn.Module) -> None:
    assert all(a is b for a, b in zip(fast.bindings["unet"].load().parameters(), unet.parameters(), strict=True))
    assert torch.equal(pictures(fast), pictures(fast.optimize(None)))
