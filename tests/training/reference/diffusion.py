"""Reference loops of models that predict noise, velocity or the sample: SD, SDXL, DreamBooth, unconditional."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from .loop import (
    LR,
    Batch,
    Diffusion,
    Trained,
    add_lora,
    latents_of,
    lora_of,
    min_snr_weight,
    row_means,
    tokens_of,
    total,
    train,
    weights_of,
)  # fmt: skip

Predict = Callable[[Tensor, Tensor, Batch], Tensor]
"""The prediction for noisy latents at timesteps, with the prompt of a batch."""


def text2image(
    pipe: Any, batches: Sequence[Batch], how: Diffusion = Diffusion(), *, text_encoder: bool = False, lr: float = LR
) -> Trained:
    """Fine-tune the U-Net of SD, and with `text_encoder` its text encoder too."""
    unet, text = deepcopy(pipe.unet), deepcopy(pipe.text_encoder).requires_grad_(text_encoder)
    scheduler = ddpm(pipe)

    def predict(noisy: Tensor, timesteps: Tensor, batch: Batch) -> Tensor:
        return unet(noisy, timesteps, tokens_of(pipe, text, batch)).sample

    parts = [unet, text] if text_encoder else [unet]
    parameters = [p for part in parts for p in part.parameters()]
    losses = train(parameters, lambda b: latent_loss(pipe, scheduler, predict, b, how), batches, lr=lr)
    weights = {f"unet.{name}": t for name, t in weights_of(unet).items()}
    if text_encoder:
        weights |= {f"text_encoder.{name}": t for name, t in weights_of(text).items()}
    return Trained(losses, weights)


def lora(
    pipe: Any,
    batches: Sequence[Batch],
    how: Diffusion = Diffusion(),
    *,
    rank: int = 4,
    start: Mapping[str, Tensor] | None = None,
) -> Trained:
    """A LoRA of SD's U-Net; with `prior_weight` it is that of DreamBooth."""
    unet, scheduler = deepcopy(pipe.unet), ddpm(pipe)
    add_lora(unet, rank, start)

    def predict(noisy: Tensor, timesteps: Tensor, batch: Batch) -> Tensor:
        return unet(noisy, timesteps, tokens_of(pipe, pipe.text_encoder, batch)).sample

    losses = train(unet.parameters(), lambda b: latent_loss(pipe, scheduler, predict, b, how), batches)
    return Trained(losses, lora_of(unet))


def sdxl_lora(
    pipe: Any,
    batches: Sequence[Batch],
    how: Diffusion = Diffusion(),
    *,
    rank: int = 4,
    start: Mapping[str, Tensor] | None = None,
) -> Trained:
    """A LoRA of SDXL's U-Net. Batches have the three sizes that it reads, a pair for each row."""
    unet, scheduler = deepcopy(pipe.unet), ddpm(pipe)
    add_lora(unet, rank, start)

    def predict(noisy: Tensor, timesteps: Tensor, batch: Batch) -> Tensor:
        with torch.no_grad():
            tokens, _, pooled, _ = pipe.encode_prompt(list(batch["prompt"]), do_classifier_free_guidance=False)
        names = "original_size", "crops_coords_top_left", "target_size"
        ids = torch.tensor([[*a, *b, *c] for a, b, c in zip(*(batch[n] for n in names), strict=True)]).float()
        added = {"text_embeds": pooled, "time_ids": ids}
        return unet(noisy, timesteps, tokens, added_cond_kwargs=added).sample

    losses = train(unet.parameters(), lambda b: latent_loss(pipe, scheduler, predict, b, how), batches)
    return Trained(losses, lora_of(unet))


def unconditional(unet: Any, scheduler: Any, batches: Sequence[Batch], *, lr: float = LR) -> Trained:
    """Train a U-Net without text on pixels."""
    unet = deepcopy(unet)

    def loss_of(batch: Batch) -> Tensor:
        clean = batch["pixels"] * 2 - 1
        noise = torch.randn_like(clean)
        timesteps = torch.randint(0, scheduler.config.num_train_timesteps, (len(clean),))
        predicted = unet(scheduler.add_noise(clean, noise, timesteps), timesteps).sample
        if scheduler.config.prediction_type == "epsilon":
            return mse_loss(predicted, noise)
        share = scheduler.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        return (share / (1 - share) * mse_loss(predicted, clean, reduction="none")).mean()  # weighted by the SNR

    losses = train(unet.parameters(), loss_of, batches, lr=lr)
    return Trained(losses, weights_of(unet))


def ddpm(pipe: Any) -> Any:
    """The scheduler that the scripts make of a checkpoint's config, of whichever class that is."""
    diffusers: Any = import_module("diffusers")
    return diffusers.DDPMScheduler.from_config(pipe.scheduler.config)


def latent_loss(pipe: Any, scheduler: Any, predict: Predict, batch: Batch, how: Diffusion) -> Tensor:
    """The loss of a batch. Draws: the autoencoder's sample, noise, its offset, its perturbation, timesteps."""
    latents = latents_of(pipe.vae, batch)
    noise = torch.randn_like(latents)
    if how.noise_offset:
        noise = noise + how.noise_offset * torch.randn(*latents.shape[:2], 1, 1)
    added = noise + how.input_perturbation * torch.randn_like(noise) if how.input_perturbation else noise
    timesteps = torch.randint(0, scheduler.config.num_train_timesteps, (len(latents),))
    predicted = predict(scheduler.add_noise(latents, added, timesteps), timesteps, batch)
    kind = scheduler.config.prediction_type
    target = noise if kind == "epsilon" else scheduler.get_velocity(latents, noise, timesteps)
    losses = row_means(mse_loss(predicted.float(), target.float(), reduction="none"))
    if how.min_snr is not None:
        share = scheduler.alphas_cumprod[timesteps]
        losses = losses * min_snr_weight(share / (1 - share), how.min_snr, kind)
    return total(losses, how.prior_weight)
