"""Threads that share one loaded model do not disturb each other: what each gives is bit for bit what it gives alone."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
import torch

import sfumato as sf
from sfumato import Graph

from .support import EMBEDDED, counted, fresh, half, picture, run

CALLS: list[tuple[str, dict[str, Any]]] = [
    ("text2image", {"prompt": "a fish", "seed": 1, "num_inference_steps": 9, "scheduler": "euler"}),
    ("text2image", {"prompt": "a red apple", "seed": 2, "num_inference_steps": 14, "scheduler": "euler_a"}),
    ("image2image", {"prompt": "a cat", "seed": 3, "num_inference_steps": 12, "image": picture(), "guider": "none"}),
    (
        "inpaint",
        {"prompt": "a sun", "seed": 4, "num_inference_steps": 6, "image": picture(1), "mask_image": half(),
         "guider": sf.guiders.ClassifierFreeGuidance(guidance_scale=3.0, stop=0.5)},
    ),
]  # fmt: skip


def together(jobs: list[Callable[[], torch.Tensor]]) -> list[torch.Tensor]:
    """Run each job in a thread of its own, all starting at once."""
    gate = Barrier(len(jobs))

    def start(job: Callable[[], torch.Tensor]) -> torch.Tensor:
        gate.wait()
        return job()

    with ThreadPoolExecutor(len(jobs)) as pool:
        return list(pool.map(start, jobs))


@pytest.mark.parametrize("threads", [2, 4])
def test_runs_side_by_side_give_what_they_give_alone(emoji: Graph, threads: int) -> None:
    def job(task: str, inputs: dict[str, Any]) -> Callable[[], torch.Tensor]:
        return lambda: run(emoji.task(task), **inputs).latents

    jobs = [job(task, inputs) for task, inputs in CALLS[:threads]]
    alone = [one() for one in jobs]
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(alone, together(jobs), strict=True))


def test_four_threads_of_one_graph_object(emoji: Graph) -> None:
    """diffusers raises IndexError here: threads share the scheduler's step counter, and the tokenizer's settings."""
    pipe = emoji.only("latents")

    def job(seed: int) -> Callable[[], torch.Tensor]:
        return lambda: pipe(prompt=f"picture {seed}", seed=seed, num_inference_steps=5 + seed).latents

    jobs = [job(seed) for seed in range(4)]
    alone = [one() for one in jobs]
    assert all(torch.equal(a, b) for a, b in zip(alone, together(jobs), strict=True))


def test_the_first_use_from_many_threads_loads_each_model_once() -> None:
    manager = fresh()
    pipe = sf.load(EMBEDDED, manager=manager)

    def job() -> torch.Tensor:
        return run(pipe, prompt="a fish", seed=1, num_inference_steps=2).latents

    first, *others = together([job] * 4)
    assert len(manager) == 5
    assert all(torch.equal(first, other) for other in others)


def test_many_different_swaps_at_once(emoji: Graph) -> None:
    """More than a graph keeps overlays for."""

    def job(part: int) -> Callable[[], torch.Tensor]:
        def ask() -> torch.Tensor:
            for k in range(100):
                emoji.stream(prompt="x", scheduler={"steps_offset": (part + k) % 90}, num_inference_steps=2)
            return torch.tensor(part)

        return ask

    assert torch.stack(together([job(part) for part in range(4)])).tolist() == [0, 1, 2, 3]


def test_counting_is_sound(emoji: Graph) -> None:
    """The tests of this room count forwards; here is what one plain run takes."""
    with counted(emoji) as did:
        run(emoji, prompt="a fish", seed=1, num_inference_steps=3)
    assert (did.text_encoder, did.unet, did.encode, did.decode) == (2, 3, 0, 1)
