"""Our recipes and the published training scripts give the same losses and the same weights, over ten steps.

Batches, first weights and seeds are equal. Losses agree within 1e-6 of their size, and weights within 1e-6.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sfumato as sf
from sfumato import Graph
from sfumato.blocks.train.noise import OffsetNoise, PerturbNoise
from sfumato.blocks.train.predict import CompareClean
from sfumato.blocks.train.timesteps import DrawLogitNormal, DrawMode
from sfumato.blocks.train.weights import WeightByCosMap, WeightByMinSNR, WeightBySigma, WeightBySNR, WeightPrior
from sfumato.components.training.adapters import TrainedAdapter, train_adapter
from sfumato.components.training.trained import Trained
from sfumato.components.training.whole import train_whole
from sfumato.presets.ddpm import unconditional
from sfumato.presets.training.events import StepFinished
from sfumato.presets.training.recipe import recipe
from sfumato.presets.training.settings import TrainingSettings
from sfumato.presets.training.trainer import Trainer

from ..presets.flux import ReferenceFlux
from ..presets.sd3 import Reference3
from ..presets.sdxl import ReferenceXL
from ..presets.support import Reference, seeded
from .reference import diffusion, flow, loop
from .reference.loop import Batch, Diffusion, Flow

Load = Callable[..., Graph]
Change = Callable[[Graph], Graph]
STEPS = 10
SMALL_LR = 5e-6
"""For whole models: AdamW divides the rounding errors of gradients near zero by their own size."""
IS_PRIOR = torch.tensor([False, True])
SHORT: dict[str, Any] = {"max_sequence_length": 24}
"""Tokens of T5, which no prompt of these tests fills."""
UNET_2D: dict[str, Any] = {
    "sample_size": 16, "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}  # fmt: skip
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


@dataclass(frozen=True)
class Rows:
    """One of the batches, as the trainer reads it."""

    inputs: Batch
    places: Sequence[int] = ()

    @property
    def names(self) -> Sequence[str]:
        return [f"row {row}" for row in range(len(self.inputs["pixels"]))]

    def load(self) -> Batch:
        return self.inputs


@dataclass(frozen=True)
class OneEpoch:
    """All batches, in their order."""

    data: Sequence[Batch]

    def epoch(self, number: int) -> Sequence[Rows]:
        return [Rows(batch) for batch in self.data]


def ours(graph: Graph, trained: Trained, data: Sequence[Batch], lr: float = loop.LR) -> list[float]:
    """The losses of a training, with one generator for all draws."""
    settings = TrainingSettings(steps=len(data), learning_rate=lr, seed=loop.SEED, draws="sequential", trackers=())
    events = Trainer(graph, trained, OneEpoch(data), settings).stream()
    return [event.loss for event in events if isinstance(event, StepFinished)]


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
def with_min_snr(graph: Graph) -> Graph:
    return graph.replace("weight", WeightByMinSNR())


def with_all_noises(graph: Graph) -> Graph:
    graph = with_min_snr(graph).insert("offset", OffsetNoise(noise_offset=0.1), after="noise")
    return graph.insert("perturb", PerturbNoise(input_perturbation=0.1), after="offset")


def with_prior(graph: Graph) -> Graph:
    return graph.insert("weight_prior", WeightPrior(prior_weight=0.7), after="weight")


@pytest.mark.parametrize(
    ("model", "change", "how"),
    [
        ("sd", with_all_noises, Diffusion(noise_offset=0.1, input_perturbation=0.1, min_snr=5.0)),
        ("sd2", with_min_snr, Diffusion(min_snr=5.0)),
        ("sd2", with_prior, Diffusion(prior_weight=0.7)),
    ],
    ids=["noises and min-SNR", "min-SNR of velocity", "DreamBooth"],
)
def test_a_lora_of_sd(
    tiny: Load, tiny_reference: Callable[..., Reference], model: str, change: Change, how: Diffusion
) -> None:
    pipe = tiny(model)
    trained = train_adapter(pipe, initialization="gaussian")
    theirs = diffusion.lora(tiny_reference(model).pipe, batches(), how, start=lora_of(trained))
    more: dict[str, Any] = {"is_prior": IS_PRIOR} if how.prior_weight else {}
    losses = ours(change(recipe(pipe)), trained, batches(**more))
    same(losses, lora_of(trained), theirs)


def test_all_weights_of_sd_and_of_its_text_encoder(tiny: Load, tiny_reference: Callable[..., Reference]) -> None:
    trained = train_whole(tiny(), ("unet", "text_encoder"))
    theirs = diffusion.text2image(tiny_reference().pipe, batches(), text_encoder=True, lr=SMALL_LR)
    losses = ours(recipe(tiny()), trained, batches(), lr=SMALL_LR)
    weights = {name.replace(".text_model.", "."): t.detach() for name, t in trained.named_parameters()}
    same(losses, weights, theirs)  # transformers 5 leaves out the published `text_model.`


def test_a_lora_of_sdxl(xl: Load, xl_reference: Callable[..., ReferenceXL]) -> None:
    sizes: dict[str, Any] = {
        "original_size": [(32, 32), (64, 48)], "crops_coords_top_left": [(0, 0), (4, 8)], "target_size": [(32, 32)] * 2,
    }  # fmt: skip
    trained = train_adapter(xl())
    theirs = diffusion.sdxl_lora(xl_reference("base").pipe, batches(**sizes), start=lora_of(trained))
    losses = ours(recipe(xl()), trained, batches(**sizes))
    same(losses, lora_of(trained), theirs)


# -------------------------------------------------------------------------------------------------------- SD 3 and Flux
def test_a_lora_of_sd3(sd3: Load, sd3_reference: Callable[..., Reference3]) -> None:
    how = Flow("logit_normal", "cosmap", logit_std=1.5, preconditioned=True)
    trained = train_adapter(sd3(), targets=loop.TARGETS)
    theirs = flow.sd3_lora(sd3_reference().pipe, batches(), how, start=lora_of(trained), **SHORT)
    graph = recipe(sd3()).replace("timesteps", DrawLogitNormal(std=1.5)).replace("weight", WeightByCosMap())
    graph = graph.remove("target").insert("clean", CompareClean(), before="weight")
    losses = ours(graph, trained, batches(**SHORT))
    same(losses, lora_of(trained), theirs)


def test_a_lora_of_flux_with_prior_preservation(flux: Load, flux_reference: Callable[..., ReferenceFlux]) -> None:
    trained = train_adapter(flux(), targets=loop.TARGETS)
    how = Flow("mode", "sigma_sqrt", prior_weight=0.7)
    theirs = flow.flux_lora(flux_reference().pipe, batches(), how, start=lora_of(trained), **SHORT)
    graph = with_prior(recipe(flux()).replace("timesteps", DrawMode()).replace("weight", WeightBySigma()))
    losses = ours(graph, trained, batches(**SHORT, is_prior=IS_PRIOR))
    same(losses, lora_of(trained), theirs)


# -------------------------------------------------------------------------------------------------------- without text
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample"])
def test_a_u_net_without_text(diffusers: Any, tmp_path: Path, prediction_type: Any) -> None:
    with seeded(0):
        unet = diffusers.UNet2DModel(**UNET_2D)
    unet.save_pretrained(tmp_path)
    scheduler = sf.schedulers.DDPMScheduler(prediction_type=prediction_type)
    pipe = unconditional(16).bind(unet=sf.models.UNet2DModel.from_pretrained(tmp_path), scheduler=scheduler)
    their_scheduler = diffusers.DDPMScheduler(prediction_type=prediction_type)
    theirs = diffusion.unconditional(unet, their_scheduler, batches(side=16), lr=SMALL_LR)

    graph, trained = recipe(pipe), train_whole(pipe, ["unet"])
    assert {"pixels", "random"} == {name for name, port in graph.inputs.items() if port.required}
    if prediction_type == "sample":
        graph = graph.replace("weight", WeightBySNR())
    data = [{"pixels": batch["pixels"]} for batch in batches(side=16)]
    losses = ours(graph, trained, data, lr=SMALL_LR)
    same(losses, {name.removeprefix("unet."): t.detach() for name, t in trained.named_parameters()}, theirs)
