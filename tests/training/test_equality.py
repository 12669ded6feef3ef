"""Our recipes and the published training scripts give the same losses and the same weights, over ten steps.

Batches, first weights and seeds are equal. Losses agree within 1e-6 of their size, and weights within 1e-6.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import sfumato as sf
from sfumato import Graph
from sfumato.blocks.train.noise import OffsetNoise, PerturbNoise
from sfumato.blocks.train.predict import CompareClean
from sfumato.blocks.train.timesteps import DrawLogitNormal, DrawMode, DrawUniform
from sfumato.blocks.train.weights import WeightByCosMap, WeightByMinSNR, WeightBySigma, WeightPrior
from sfumato.components.random import Random
from sfumato.components.training.adapters import TrainedAdapter, train_adapter
from sfumato.components.training.trained import Trained
from sfumato.presets.training.recipe import recipe

from ..presets.flux import ReferenceFlux
from ..presets.sd3 import Reference3
from ..presets.sdxl import ReferenceXL
from ..presets.support import Reference
from .reference import diffusion, flow, loop
from .reference.loop import Batch, Diffusion, Flow

Load = Callable[..., Graph]
Change = Callable[[Graph], Graph]
STEPS = 10
SHORT = {"max_sequence_length": 24}
"""Tokens of T5, which no prompt of these tests fills."""
PROMPTS = ["a red apple", "a small cat", "a fox", "a house by the sea"]


def batches(side: int = 32, rows: int = 2, **more: Any) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "pixels": torch.rand(rows, 3, side, side, generator=generator),
            "prompt": [PROMPTS[(step + row) % len(PROMPTS)] for row in range(rows)],
            **more,
        }
        for step in range(STEPS)
    ]


def ours(graph: Graph, trained: Trained, data: Sequence[Batch]) -> list[float]:
    """The losses of a recipe, with one generator for all draws."""
    graph, random = graph.bind(**trained.bindings()), Random.seeded([loop.SEED])
    optimizer = torch.optim.AdamW(trained.parameters(), lr=loop.LR, weight_decay=1e-2)
    losses: list[float] = []
    for batch in data:
        with sf.gradients():
            out = graph(**batch, random=random)
        random = out.random
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(out.loss.detach()))
    return losses


def lora_of(trained: TrainedAdapter) -> dict[str, Tensor]:
    """The matrices of a denoiser's LoRA, by peft's names."""
    peft = {"down": "lora_A.weight", "up": "lora_B.weight"}
    split = {name: name.partition(".")[2].rpartition(".") for name in trained.state_dict()}
    return {f"{split[name][0]}.{peft[split[name][2]]}": t.clone() for name, t in trained.state_dict().items()}


def same(losses: list[float], weights: Mapping[str, Tensor], theirs: loop.Trained) -> None:
    apart = {name: float((weights[name] - theirs.weights[name]).abs().max()) for name in theirs.weights}
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(theirs.losses), rtol=1e-6, atol=1e-6)
    assert weights.keys() == theirs.weights.keys()
    assert max(apart.values()) <= 1e-6, sorted(apart.items(), key=lambda item: -item[1])[:5]


# ----------------------------------------------------------------------------------------------------- Stable Diffusion
def with_all_noises(graph: Graph) -> Graph:
    graph = graph.insert("offset", OffsetNoise(noise_offset=0.1), after="noise")
    return graph.insert("perturb", PerturbNoise(input_perturbation=0.1), after="offset")


def with_min_snr(graph: Graph) -> Graph:
    return graph.replace("weight", WeightByMinSNR())


def with_prior(graph: Graph) -> Graph:
    return graph.insert("weight_prior", WeightPrior(prior_weight=0.7), after="weight")


@pytest.mark.parametrize(
    ("model", "change", "how"),
    [
        ("sd", with_all_noises, Diffusion(noise_offset=0.1, input_perturbation=0.1)),
        ("sd", with_min_snr, Diffusion(min_snr=5.0)),
        ("sd2", with_min_snr, Diffusion(min_snr=5.0)),
        ("sd2", with_prior, Diffusion(prior_weight=0.7)),
    ],
    ids=["noises", "min-SNR of noise", "min-SNR of velocity", "DreamBooth"],
)
def test_a_lora_of_sd(
    tiny: Load, tiny_reference: Callable[..., Reference], model: str, change: Change, how: Diffusion
) -> None:
    pipe = tiny(model)
    trained = train_adapter(pipe, initialization="gaussian")
    theirs = diffusion.lora(tiny_reference(model).pipe, batches(), how, start=lora_of(trained))
    more = {"is_prior": torch.tensor([False, True])} if how.prior_weight else {}
    losses = ours(change(recipe(pipe)), trained, batches(**more))
    same(losses, lora_of(trained), theirs)


def test_a_lora_of_sdxl(xl: Load, xl_reference: Callable[..., ReferenceXL]) -> None:
    sizes = {
        "original_size": [(32, 32), (64, 48)], "crops_coords_top_left": [(0, 0), (4, 8)], "target_size": [(32, 32)] * 2,
    }  # fmt: skip
    trained = train_adapter(xl())
    theirs = diffusion.sdxl_lora(xl_reference("base").pipe, batches(**sizes), start=lora_of(trained))
    losses = ours(recipe(xl()), trained, batches(**sizes))
    same(losses, lora_of(trained), theirs)


# -------------------------------------------------------------------------------------------------------- SD 3 and Flux
def with_logit_normal(graph: Graph) -> Graph:
    return graph.replace("timesteps", DrawLogitNormal(std=1.5))


def with_mode_and_sigma(graph: Graph) -> Graph:
    return graph.replace("timesteps", DrawMode()).replace("weight", WeightBySigma())


def with_cosmap(graph: Graph) -> Graph:
    return graph.replace("timesteps", DrawUniform()).replace("weight", WeightByCosMap())


def with_clean(graph: Graph) -> Graph:
    return graph.replace("timesteps", DrawUniform()).remove("target").insert("clean", CompareClean(), before="weight")


FLOWS: Mapping[str, tuple[Change, Flow]] = {
    "logit-normal": (with_logit_normal, Flow("logit_normal", logit_std=1.5)),
    "mode, sigma": (with_mode_and_sigma, Flow("mode", "sigma_sqrt")),
    "cosmap": (with_cosmap, Flow(weighting="cosmap")),
    "clean latents": (with_clean, Flow(preconditioned=True)),
}


@pytest.mark.parametrize("name", ["logit-normal", "clean latents"])
def test_a_lora_of_sd3(sd3: Load, sd3_reference: Callable[..., Reference3], name: str) -> None:
    change, how = FLOWS[name]
    trained = train_adapter(sd3(), targets=loop.TARGETS)
    theirs = flow.sd3_lora(sd3_reference().pipe, batches(), how, start=lora_of(trained), **SHORT)
    losses = ours(change(recipe(sd3())), trained, batches(**SHORT))
    same(losses, lora_of(trained), theirs)


@pytest.mark.parametrize("name", ["mode, sigma", "cosmap"])
def test_a_lora_of_flux(flux: Load, flux_reference: Callable[..., ReferenceFlux], name: str) -> None:
    change, how = FLOWS[name]
    trained = train_adapter(flux(), targets=loop.TARGETS)
    theirs = flow.flux_lora(flux_reference().pipe, batches(), how, start=lora_of(trained), **SHORT)
    losses = ours(change(recipe(flux())), trained, batches(**SHORT))
    same(losses, lora_of(trained), theirs)
