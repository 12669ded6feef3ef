"""Recorded forwards: equal results, no recording without a new shape, and torch where none can be used."""

import pytest
import torch
from torch import nn

import sfumato as sf
from sfumato import ConfigError, Graph

from .conftest import CALL, Changes, Recorder, lora, pictures, used


def test_a_recorded_step_gives_the_same_bits_and_the_base_graph_stays(pipe: Graph, recorder: Recorder) -> None:
    fast = pipe.optimize(sf.engines.Graphs(recorder=recorder))
    assert torch.equal(pictures(fast), pictures(pipe))
    assert (used(fast).made, used(fast).ran, dict(used(fast).fell_back)) == (1, 2, {})
    assert isinstance(pipe.bindings["unet"], nn.Module)
    assert sf.engines.report(pipe) == {}
    assert pipe.optimize(None) == pipe != fast


def test_twenty_changes_at_one_shape_record_once_for_each_set_of_layers(
    pipe: Graph, recorder: Recorder, twenty_changes: Changes
) -> None:
    fast = pipe.optimize(sf.engines.Graphs(recorder=recorder))
    assert len(twenty_changes) == 20
    for change, expected in twenty_changes:
        assert torch.equal(pictures(fast, **change), expected), change
    assert len(recorder.recorded) == 3  # without adapters, and with each of two
    assert not used(fast).fell_back


def test_strengths_that_vary_are_inputs_of_a_recording(pipe: Graph, unet: nn.Module, recorder: Recorder) -> None:
    fast = pipe.optimize(sf.engines.Graphs(recorder=recorder))
    one = lora(unet, 1)
    varied = [{"adapters": [one.during(0, 0.5)]}, {"adapters": [one.along((0, 1), (1, 0))]}]
    for change in varied:
        assert torch.equal(pictures(fast, **change), pictures(pipe, **change))
    assert len(recorder.recorded) == 1
    rows = {"prompt": ["a fox", "a cat"], "adapters": [[one], [one.scaled(0.2)]]}
    assert torch.equal(pictures(fast, **rows), pictures(pipe, **rows))
    assert len(recorder.recorded) == 2
    assert not used(fast).fell_back


def test_runs_side_by_side_share_recorded_forwards(pipe: Graph, unet: nn.Module, recorder: Recorder) -> None:
    """Within 1e-5 of the range: a batch of other rows sums in another order."""
    fast = pipe.optimize(sf.engines.Graphs(recorder=recorder))
    calls = [{"seed": 1}, {"seed": 2, "scheduler": "euler_a"}]
    runs = [fast.stream(**{**CALL, **call}) for call in calls]
    sf.together(runs)
    for call, run in zip(calls, runs, strict=True):
        assert (run.outputs["images"] - pictures(pipe, **call)).abs().max() <= 1e-5
    assert used(fast).ran == 2


def test_layers_that_a_call_changes_run_with_torch(pipe: Graph, recorder: Recorder) -> None:
    fast = pipe.optimize(sf.engines.Graphs(recorder=recorder))
    call = {"guider": "PerturbedAttentionGuidance"}
    assert torch.equal(pictures(fast, **call), pictures(pipe, **call))
    ((reason, count),) = used(fast).fell_back.items()
    assert reason.startswith("the call changes layers: mid_block.attentions.0.")
    assert count == 1  # the pass of the first step; that of the second has no weight


def test_a_forward_that_cannot_be_recorded_runs_with_torch(pipe: Graph, recorder: Recorder) -> None:
    recorder.fails = True
    fast = pipe.optimize(sf.engines.Graphs(recorder=recorder))
    assert torch.equal(pictures(fast), pictures(pipe))
    reason = "its forward cannot be recorded: operation not permitted when stream is capturing"
    assert dict(used(fast).fell_back) == {reason: 2}
    assert str(used(fast)) == f"0 made, 0 read, 0 calls; 2 by torch: {reason}"


def test_gradients_are_computed_by_torch(pipe: Graph, recorder: Recorder) -> None:
    fast = pipe.optimize(sf.engines.Graphs(recorder=recorder))
    model = fast.bindings["unet"].load()
    x = torch.randn(1, 8, 8, 8, requires_grad=True)
    model(x, torch.tensor([5.0]), torch.randn(1, 4, 128)).sum().backward()
    assert x.grad is not None
    assert dict(used(fast).fell_back) == {"it computes gradients": 1}


def test_graphs_need_a_cuda_device(pipe: Graph) -> None:
    with pytest.raises(ConfigError) as caught:
        pipe.optimize("graphs")
    assert str(caught.value) == (
        "optimize: graphs can run no component of this graph.\n  unet is on cpu, and CUDA graphs need a CUDA device."
    )
