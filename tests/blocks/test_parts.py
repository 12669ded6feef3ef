"""Runs in parts, without models: two parts are the whole for every scheduler, and wrong mixes are refused."""

import warnings
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from sfumato import InputError
from sfumato.blocks.denoise.advance import AdvanceLatents
from sfumato.blocks.latents.parts import BeginPart, EndPart, KeepSeed, needs_history
from sfumato.blocks.latents.start import MakeSchedule
from sfumato.components.halfway import HalfwayLatents
from sfumato.components.random import Random
from sfumato.components.schedulers import Scheduler, Step
from sfumato.components.types import Latents, Prediction
from sfumato.graph import Block, Graph, Loop, Memory
from sfumato.graph.stored.values import restore, store
from sfumato.registry import schedulers

SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in schedulers} | {
    "PNDM without Runge-Kutta": ("PNDMScheduler", {"skip_prk_steps": True}),
    "PNDM, published restart": ("PNDMScheduler", {"skip_prk_steps": True, "published_restart": True}),
    "DPM++ 3M": ("DPMSolverMultistepScheduler", {"solver_order": 3}),
    "DPM++ 2M SDE": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "DPM++ 3S": ("DPMSolverSinglestepScheduler", {"solver_order": 3}),
    "UniPC 3": ("UniPCMultistepScheduler", {"solver_order": 3}),
    "Euler with churn": ("EulerDiscreteScheduler", {"s_churn": 2.0}),
}
STEPS = 6


class Predicted(NamedTuple):
    prediction: Prediction
    turns: Memory[int]


class Model(Block):
    """A model whose answer depends on the latents, the step, and how often it was asked."""

    def __call__(self, latents: Latents, step: Step, turns: Memory[int] = 0) -> Predicted:
        x = latents * step.scale_in
        return Predicted((x + 0.3 * x.roll(1, -1)).sin() + step.t.float() / 2000 + 0.01 * turns, turns + 1)


@cache
def made(name: str) -> Scheduler:
    kind, config = SCHEDULERS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return schedulers[kind](**config)


def pipe(scheduler: Scheduler) -> Graph:
    return Graph(
        keep_seed=KeepSeed(),
        schedule=MakeSchedule(num_inference_steps=STEPS),
        begin=BeginPart(),
        denoise=Loop(
            over="steps", each="step", carry=("latents", "random"), memory="memory",
            body=Graph(predict=Model(), advance=AdvanceLatents()),
        ),
        end=EndPart(),
        outputs=("latents", "halfway"),
    ).bind(scheduler=scheduler)  # fmt: skip


def start(scheduler: Scheduler, seed: int = 0, size: int = 4) -> dict[str, Any]:
    noise, random = Random.seeded([seed]).draw(2, (3, size, size))
    return {"latents": noise * scheduler.steps(STEPS).noise_scale, "random": random}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_two_parts_are_the_whole_for_every_scheduler_wherever_it_stops(name: str) -> None:
    """Bit for bit. The second part is given other noise and random numbers, which it must not read."""
    scheduler = made(name)
    graph, given = pipe(scheduler), start(scheduler)
    whole = graph(**given)
    count = scheduler.steps(STEPS).places[-1] + 1
    for stop in range(1, count):
        half = graph(**given, stop_step=stop).halfway
        rest = graph(**start(scheduler, seed=9), halfway=half)
        assert torch.equal(rest.latents.nan_to_num(), whole.latents.nan_to_num()), stop
        assert all(map(torch.equal, rest.halfway.random.states, whole.halfway.random.states))
        assert not rest.halfway.steps


@pytest.mark.parametrize("name", ["DPM++ 3M", "PNDMScheduler", "EulerAncestralDiscreteScheduler"])
def test_many_parts_and_a_file_between_them(name: str) -> None:
    """As the memo stores values."""
    scheduler = made(name)
    graph, given = pipe(scheduler), start(scheduler)
    half = graph(**given, stop_step=1).halfway
    for stop in range(2, STEPS):
        half = restore(store(half), {"sfumato"})
        half = graph(**given, halfway=half, start_step=stop - 1, stop_step=stop).halfway
    assert torch.equal(graph(**given, halfway=half).latents, graph(**given).latents)


def test_fractions_are_those_of_the_training_timesteps() -> None:
    scheduler = made("EulerDiscreteScheduler")
    graph, given = pipe(scheduler), start(scheduler)
    half = graph(**given, denoising_end=0.5).halfway
    assert half.steps.begin == 3
    assert torch.equal(graph(**given, halfway=half, denoising_start=0.5).latents, graph(**given).latents)
    middle = graph(**given, halfway=half, denoising_end=0.8).halfway
    assert torch.equal(graph(**given, halfway=middle).latents, graph(**given).latents)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_plain_latents_go_on_exactly_or_are_refused(name: str) -> None:
    scheduler = made(name)
    steps = scheduler.steps(STEPS)
    graph, given = pipe(scheduler), start(scheduler)
    graph = graph.replace("denoise.predict", Plain())  # one that remembers nothing itself
    whole = graph(**given).latents
    plain = graph(**given, stop_step=1).latents

    def go_on() -> Tensor:
        return graph(**given, halfway=plain, start_step=1).latents

    rest = steps[steps.places.index(1) :]
    if not any(step.noisy for step in rest) and not needs_history(steps.part(rest.begin, rest.end), scheduler):
        assert torch.equal(go_on().nan_to_num(), whole.nan_to_num())
        return
    reason = "draws noise" if any(step.noisy for step in rest) else "remembers earlier steps"
    with pytest.raises(
        ValueError, match=f"{type(scheduler).__name__} {reason}, so latents alone do not continue a run"
    ):
        go_on()
    assert name not in (
        "EulerDiscreteScheduler", "DDIMScheduler", "HeunDiscreteScheduler", "FlowMatchEulerDiscreteScheduler"
    )  # fmt: skip


class OnlyPredicted(NamedTuple):
    prediction: Prediction


class Plain(Block):
    """A model without memory."""

    def __call__(self, latents: Latents, step: Step) -> OnlyPredicted:
        return OnlyPredicted(Model()(latents, step).prediction)


EULER = made("EulerDiscreteScheduler")


@pytest.fixture(scope="module")
def half() -> HalfwayLatents:
    return pipe(EULER)(**start(EULER), stop_step=3).halfway


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"num_inference_steps": 8}, r"another schedule than that of this run: 6 and 8 steps\. Pass the same"),
    ({"sigmas": [9.0, 5.0, 3.0, 2.0, 1.0, 0.5, 0.0]}, "another schedule than that of this run: other noise levels"),
    (start(EULER, size=8), r"have the shape 2x3x4x4, and this run needs 2x3x8x8: other pictures or another size"),
    ({"start_step": 2}, r"are of step 3, not of step 2\. Leave out start_step: halfway= has the step"),
    ({"denoising_start": 0.7}, r"are of step 3, not of step 4\. Leave out denoising_start"),
    ({"stop_step": 3}, r"stop_step=3 leaves none of the 3 steps"),
    ({"stop_step": 9}, r"stop_step=9 is above the 6 steps of this run\. Give 1 to 6"),
    ({"start_step": 6}, r"start_step=6 leaves none of the 6 steps\. Give a smaller one"),
    ({"denoising_start": 0.9999}, r"denoising_start=0\.9999 leaves none of the 6 steps"),
    ({"stop_step": 5, "denoising_end": 0.9}, r"Got stop_step=5 and denoising_end=0\.9\. Pass one of them"),
    ({"start_step": 3, "denoising_start": 0.5}, r"Got start_step=3 and denoising_start=0\.5\. Pass one of them"),
]


@pytest.mark.parametrize(("change", "text"), REFUSED)
def test_half_way_latents_that_do_not_belong_to_a_run_are_refused(
    half: HalfwayLatents, change: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        pipe(EULER)(**{**start(EULER), **change}, halfway=half)


def test_latents_of_another_scheduler_are_refused_before_anything_runs(half: HalfwayLatents) -> None:
    other = made("DDIMScheduler")
    with pytest.raises(InputError, match=r"halfway  was made by EulerDiscreteScheduler, and this graph has DDIM"):
        pipe(other)(**start(other), halfway=half)
    shifted = EULER.from_scheduler(EULER, timestep_spacing="trailing")
    with pytest.raises(InputError, match="was made by EulerDiscreteScheduler with other settings"):
        pipe(shifted)(**start(shifted), halfway=half)


def test_a_finished_run_and_a_start_without_latents_are_refused(half: HalfwayLatents) -> None:
    graph, given = pipe(EULER), start(EULER)
    with pytest.raises(ValueError, match=r"went through all its steps, so there is nothing to go on with"):
        graph(**given, halfway=graph(**given).halfway)
    with pytest.raises(ValueError, match=r"start_step=3 needs the latents of that step\. Pass halfway=:"):
        graph(**given, start_step=3)
    with pytest.raises(ValueError, match=r"denoising_start=0\.5 needs the latents of that step"):
        graph(**given, denoising_start=0.5)
    with pytest.raises(ValueError, match=r"halfway= needs the step of plain latents\. Pass start_step="):
        graph(**given, halfway=half.latents)
    with pytest.raises(InputError, match="latents"):
        graph(**{**given, "latents": half})


def test_memory_of_a_block_that_is_not_there_is_noted() -> None:
    graph, given = pipe(EULER), start(EULER)
    half = graph(**given, stop_step=3).halfway
    with pytest.warns(
        UserWarning, match=r"The memory of 'predict' is not used: no block at denoise\.predict has turns"
    ):
        graph.replace("denoise.predict", Plain())(**given, halfway=half)
    same = replace(half, memory={"advance": half.memory["advance"]})
    first: Tensor = graph(**given, halfway=same).latents
    assert not torch.equal(first, graph(**given).latents), "the model counts its turns anew"


def test_another_random_state_branches_a_run() -> None:
    scheduler = made("EulerAncestralDiscreteScheduler")
    graph, given = pipe(scheduler), start(scheduler)
    half = graph(**given, stop_step=3).halfway
    branch = graph(**given, halfway=replace(half, random=Random.seeded([5]))).latents
    assert not torch.equal(branch, graph(**given).latents)
