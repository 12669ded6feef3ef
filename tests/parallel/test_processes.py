"""Several processes of gloo compute what one process computes, and each computes its part."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import sfumato as sf
from sfumato import ConfigError
from sfumato.components.parallel.plans import Division
from sfumato.components.parallel.processes import Mesh

WORKER = Path(__file__).parent / "worker.py"
Found = Callable[[str], Sequence[Any]]


@pytest.fixture(scope="session")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What each process kept under a name. All groups of processes run once."""
    folder = tmp_path_factory.mktemp("processes")
    ran = subprocess.run(
        [sys.executable, str(WORKER), str(folder)], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True,
        text=True, timeout=500, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    kept: Mapping[str, Sequence[Any]] = {
        do: [json.loads((folder / f"{do}{rank}.json").read_text()) for rank in range(size)]
        for do, size in (("two", 2), ("four", 4), ("failing", 2))
    }

    def of(path: str) -> Sequence[Any]:
        do, _, name = path.partition(" ")
        return [one[name] for one in kept[do]] if name else [folder]

    return of


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("two guidance", [3, 3]),
        ("two guidance apart", [3, 3]),
        ("two three passes", [4, 3]),  # one step of three has a third pass
        ("two one pass", [3, 0]),
        ("two batch", [6, 3]),  # three pictures, three steps
        ("two adapters", [6, 0]),  # of two prompts with adapters of their own, whose rows stay together
        ("two adapters before", [3, 3]),
        ("two together", [5, 3]),
        ("two cache", [5, 5]),
        ("two sdxl", [4, 4]),
        ("four guidance and ulysses", [4, 4, 4, 4]),
        ("four batch and ring", [8, 8, 8, 8]),
        ("four idle processes", [4, 0, 4, 0]),
    ],
)
def test_passes_are_divided_and_the_result_is_that_of_one_process(found: Found, name: str, rows: list[int]) -> None:
    assert [one["rows"] for one in found(name)] == rows
    assert max(one["difference"] for one in found(name)) < 1e-5 < min(one["spread"] for one in found(name))


@pytest.mark.parametrize(
    ("name", "kernel"),
    [
        ("flux ulysses", [20, 0]),  # five layers, four steps
        ("flux ring", [0, 40]),  # and the keys of two processes
        ("sd3 ulysses", [24, 0]),
        ("sd3 ring", [0, 48]),
        ("pixart ulysses", [24, 0]),
        ("pixart ring", [12, 24]),  # attention to the prompt is whole in each process
    ],
)
def test_tokens_are_divided_and_the_result_is_that_of_one_process(found: Found, name: str, kernel: list[int]) -> None:
    """9 tokens of a picture and 5 of a prompt, which two processes do not divide evenly, or 16 tokens."""
    for one in found(f"two {name}"):
        assert one["kernel"] == kernel
        assert one["difference"] < 1e-5 < one["spread"]
        assert one["report"] == "0 made, 0 read, 4 calls"


def test_tokens_are_exchanged_in_both_ways_at_once(found: Found) -> None:
    for name, calls in (("ulysses and ring", 4), ("guidance and ulysses", 4), ("batch and ring", 4)):
        for one in found(f"four {name}"):
            assert one["difference"] < 1e-5
            assert one["report"] == f"0 made, 0 read, {calls} calls"


@pytest.mark.parametrize("name", ["cache", "cached tokens"])
def test_step_caches_skip_the_same_layers_in_all_processes(found: Found, name: str) -> None:
    for one in found(f"two {name}"):
        skipped, skipped_too = one["skipped"]
        assert skipped == skipped_too > 0
        assert one["difference"] < 1e-5


def test_a_run_that_all_processes_pause_goes_on_with_the_memory_of_all_passes(found: Found) -> None:
    assert max(one["difference"] for one in found("two paused")) < 1e-5


def test_layers_that_a_pass_changes_run_for_all_tokens_in_each_process(found: Found) -> None:
    for one in found("two changed layers"):
        assert one["difference"] < 1e-5
        assert one["report"].endswith("4 by torch: the call changes layers: transformer_blocks.2.attn")


def test_plans_engines_and_adapters_go_in_any_order(found: Found) -> None:
    for one, engine in zip(found("two orders"), found("two engine"), strict=True):
        assert all(one.values()), one
        assert engine["difference"] < 1e-5


def test_what_cannot_be_divided_is_refused_with_the_reason(found: Found) -> None:
    first, second = found("two texts")
    assert first["unet"] == second["unet"] == (
        "ConfigError: parallel: unet is a UNet2DConditionModel, whose convolutions read neighbouring tokens, so its "
        'tokens cannot be divided. Use "guidance" or "batch".'
    )  # fmt: skip
    assert first["heads"] == (
        "has 3 heads, which 2 processes cannot divide evenly. Choose another number for ulysses, or use "
        "Context(ulysses=1, ring=…), which divides no heads"
    )
    assert [one["seeds"] for one in (first, second)] == [
        f"UnfitValue: Process {other} draws another picture than process {own}. All processes need equal calls of "
        "equal pipelines. Pass seed=, since each draws its own otherwise."
        for own, other in ((0, 1), (1, 0))
    ]


def test_the_first_process_alone_prints_and_writes(found: Found) -> None:
    """The command, and the program of the page."""
    assert found("two command") == [[0, "run.png"], [0, ""]]
    folder = found("folder")[0]
    assert [(folder / name).exists() for name in ("run.png", "fox.png")] == [True, True]


def test_a_process_that_fails_is_named_by_those_that_wait_for_it(found: Found) -> None:
    assert found("failing text") == [
        "ProcessFailed: Process 1 of 2 failed, so process 0 stops. ValueError: the weights are damp",
        "ValueError: the weights are damp",
    ]


def test_one_process_alone_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        sf.load("emoji").parallel("guidance")
    assert str(caught.value) == (
        "parallel: needs processes of torch.distributed, and this program runs as one. Start it with `torchrun "
        "--nproc-per-node 2 program.py` or `accelerate launch`, or call torch.distributed.init_process_group."
    )


GUIDANCE, BATCH, CONTEXT = sf.parallel.Guidance, sf.parallel.Batch, sf.parallel.Context


@pytest.mark.parametrize(
    ("plans", "size", "mesh"),
    [
        (("guidance",), 2, Mesh(2)),
        (("batch",), 3, Mesh(3)),
        (("context",), 4, Mesh(1, 1, 4)),
        ((CONTEXT(ring=2),), 4, Mesh(1, 2, 2)),
        (("guidance", "context"), 8, Mesh(2, 1, 4)),
        ((BATCH(), CONTEXT(ulysses=2)), 8, Mesh(4, 1, 2)),
        ((BATCH(4), CONTEXT(ring=2)), 16, Mesh(4, 2, 2)),
    ],
)
def test_plans_take_all_processes(plans: tuple[Any, ...], size: int, mesh: Mesh) -> None:
    assert Division.of(plans, size).mesh == mesh


@pytest.mark.parametrize(
    ("plans", "text"),
    [
        ((), 'parallel: needs one plan, or "context" beside "guidance" or "batch". Got none. With "batch" passes are '
             "divided too."),
        (("guidance", "batch"), 'parallel: needs one plan, or "context" beside "guidance" or "batch". Got Guidance, '
                                'Batch. With "batch" passes are divided too.'),
        (("guidence",), "parallel: needs a plan, got 'guidence'. Did you mean 'guidance'? There are: guidance, "
                        "context, batch."),
        ((7,), "parallel: needs a plan, got 7. Pass one of guidance, context, batch, or a value."),
        ((GUIDANCE(3),), "parallel: the plan is for 3 processes, and there are 4. Use all of them."),
        ((BATCH(4), CONTEXT(ring=2)), "parallel: the plan is for 4 x 2 processes, and there are 4. Use all of them."),
    ],
)  # fmt: skip
def test_unfit_plans_are_refused(plans: tuple[Any, ...], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Division.of(plans, 4)
    assert str(caught.value) == text


def test_a_number_of_processes_is_a_whole_number_from_1_on() -> None:
    with pytest.raises(ConfigError, match=r"Context: ring needs a number of processes from 1 on, got 0\."):
        CONTEXT(ring=0)
