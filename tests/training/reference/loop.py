"""What the reference loops share: batches, the optimizer, adapters of peft, and the laws of weights and timesteps.

These loops are written by us after the published training scripts of diffusers 0.42 (their order of draws, their
formulas), and run with the modules of diffusers and peft. Draws are from torch's global generator.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

Batch = Mapping[str, Any]
"""`pixels` (rows, 3, h, w) from 0 to 1, `prompt` (a text for each row), and what a method needs besides."""
Density = Literal["uniform", "logit_normal", "mode"]
Weighting = Literal["none", "sigma_sqrt", "cosmap"]
SEED = 0
"""Of the generator that makes all draws of a training."""
LR = 1e-4
TARGETS = ("to_k", "to_q", "to_v", "to_out.0")
"""The matrices that the published scripts give a LoRA."""


class Trained(NamedTuple):
    """The loss of each step, and the trained tensors by name."""

    losses: list[float]
    weights: dict[str, Tensor]


@dataclass(frozen=True)
class Diffusion:
    """Choices of the scripts for models of noise. input_perturbation: Ning et al. 2023. min_snr: gamma; None is off."""

    noise_offset: float = 0.0
    input_perturbation: float = 0.0
    min_snr: float | None = None
    prior_weight: float | None = None
    """DreamBooth: the second half of a batch are pictures of the class, whose loss has this weight."""


@dataclass(frozen=True)
class Flow:
    """Choices of the scripts for models of velocity. preconditioned: the loss compares clean latents, not velocity."""

    density: Density = "uniform"
    weighting: Weighting = "none"
    logit_mean: float = 0.0
    logit_std: float = 1.0
    mode_scale: float = 1.29
    preconditioned: bool = False
    guidance: float = 3.5
    prior_weight: float | None = None


def train(
    parameters: Iterable[nn.Parameter],
    loss_of: Callable[[Batch], Tensor],
    batches: Sequence[Batch],
    *,
    lr: float = LR,
    clip: float | None = 1.0,
    after_step: Callable[[], None] = lambda: None,
) -> list[float]:
    """A step of AdamW for each batch, with the published settings; gives the losses. clip: the norm of gradients."""
    trained = [p for p in parameters if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=lr, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8)
    losses: list[float] = []
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(SEED)
        for batch in batches:
            loss = loss_of(batch)
            loss.backward()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(trained, clip)
            optimizer.step()
            after_step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
    return losses


def add_lora(model: Any, rank: int, start: Mapping[str, Tensor] | None = None) -> None:
    """Freeze a model of diffusers and give it a LoRA of peft with alpha = rank. start: matrices to begin with."""
    from peft import LoraConfig, set_peft_model_state_dict

    model.requires_grad_(False)
    model.add_adapter(LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=[*TARGETS]))
    if start is not None:
        found = set_peft_model_state_dict(model, dict(start), adapter_name="default")
        assert not found.unexpected_keys, found.unexpected_keys


def lora_of(model: Any) -> dict[str, Tensor]:
    """The matrices of a LoRA by peft's names."""
    from peft import get_peft_model_state_dict

    return {name: t.detach().clone() for name, t in get_peft_model_state_dict(model).items()}


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """All parameters by name."""
    return {name: t.detach().clone() for name, t in model.named_parameters()}


def tokens_of(pipe: Any, text_encoder: Any, batch: Batch) -> Tensor:
    """The prompts of a batch through CLIP, as the scripts for SD encode them."""
    length = pipe.tokenizer.model_max_length
    keys: dict[str, Any] = {"max_length": length, "padding": "max_length", "truncation": True, "return_tensors": "pt"}
    return text_encoder(pipe.tokenizer(list(batch["prompt"]), **keys).input_ids)[0]


def latents_of(vae: Any, batch: Batch) -> Tensor:
    """A sample of the autoencoder's distribution, shifted and scaled. It is the first draw of a step.

    It is contiguous: the scripts' `randn_like` would draw in the order of the memory, which depends on the convolutions
    of the machine.
    """
    with torch.no_grad():
        z = vae.encode(batch["pixels"] * 2 - 1).latent_dist.sample().contiguous()
    return (z - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor


def min_snr_weight(snr: Tensor, gamma: float, prediction_type: str) -> Tensor:
    """Hang et al. 2023, section 3.4: min(snr, gamma) / snr, and / (snr + 1) for velocity."""
    return snr.clamp(max=gamma) / (snr + 1 if prediction_type == "v_prediction" else snr)


def draw_density(how: Flow, rows: int) -> Tensor:
    """Esser et al. 2024, section 3.1: a share of the timesteps for each row."""
    if how.density == "logit_normal":
        return torch.sigmoid(torch.normal(how.logit_mean, how.logit_std, (rows,)))
    u = torch.rand(rows)
    if how.density == "mode":
        return 1 - u - how.mode_scale * (torch.cos(math.pi * u / 2) ** 2 - 1 + u)
    return u


def flow_weight(how: Flow, sigmas: Tensor) -> Tensor:
    """Esser et al. 2024: 1 / sigma^2, cosmap, or 1."""
    if how.weighting == "sigma_sqrt":
        return sigmas**-2.0
    if how.weighting == "cosmap":
        return 2 / (math.pi * (1 - 2 * sigmas + 2 * sigmas**2))
    return torch.ones_like(sigmas)


def total(losses: Tensor, prior_weight: float | None) -> Tensor:
    """The loss of rows: their mean, or with a prior that of the first half plus the weighted one of the second half."""
    if prior_weight is None:
        return losses.mean()
    instances, prior = losses.chunk(2)
    return instances.mean() + prior_weight * prior.mean()


def row_means(t: Tensor) -> Tensor:
    """The mean of each row."""
    return t.flatten(1).mean(1)
