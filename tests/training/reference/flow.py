"""Reference loops of models that predict velocity: SD 3 and Flux."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from .loop import (
    Batch,
    Flow,
    Trained,
    add_lora,
    draw_density,
    flow_weight,
    latents_of,
    lora_of,
    row_means,
    total,
    train,
)


def sd3_lora(
    pipe: Any,
    batches: Sequence[Batch],
    how: Flow = Flow(),
    *,
    rank: int = 4,
    start: Mapping[str, Tensor] | None = None,
    max_sequence_length: int = 256,
) -> Trained:
    """A LoRA of SD 3's transformer."""
    transformer = deepcopy(pipe.transformer)
    add_lora(transformer, rank, start)

    def predict(noisy: Tensor, timesteps: Tensor, batch: Batch) -> Tensor:
        with torch.no_grad():
            texts = list(batch["prompt"])
            keys = {"do_classifier_free_guidance": False, "max_sequence_length": max_sequence_length}
            tokens, _, pooled, _ = pipe.encode_prompt(texts, None, None, **keys)
        return transformer(noisy, tokens, pooled, timesteps).sample

    losses = train(transformer.parameters(), lambda b: _loss(pipe, predict, b, how), batches)
    return Trained(losses, lora_of(transformer))


def flux_lora(
    pipe: Any,
    batches: Sequence[Batch],
    how: Flow = Flow(),
    *,
    rank: int = 4,
    start: Mapping[str, Tensor] | None = None,
    max_sequence_length: int = 512,
) -> Trained:
    """A LoRA of Flux's transformer. Latents are packed in tokens of 2 x 2; guidance is one number for each row."""
    transformer = deepcopy(pipe.transformer)
    add_lora(transformer, rank, start)

    def predict(noisy: Tensor, timesteps: Tensor, batch: Batch) -> Tensor:
        rows, channels, height, width = noisy.shape
        with torch.no_grad():
            tokens, pooled, text_ids = pipe.encode_prompt(
                list(batch["prompt"]), None, max_sequence_length=max_sequence_length
            )
        image_ids = pipe._prepare_latent_image_ids(rows, height // 2, width // 2, "cpu", torch.float32)
        reads = transformer.config.guidance_embeds
        out = transformer(
            hidden_states=pipe._pack_latents(noisy, rows, channels, height, width),
            timestep=timesteps / 1000,
            guidance=torch.full((rows,), how.guidance) if reads else None,
            pooled_projections=pooled,
            encoder_hidden_states=tokens,
            txt_ids=text_ids,
            img_ids=image_ids,
        ).sample
        factor = pipe.vae_scale_factor
        return pipe._unpack_latents(out, height * factor, width * factor, factor)

    losses = train(transformer.parameters(), lambda b: _loss(pipe, predict, b, how), batches)
    return Trained(losses, lora_of(transformer))


def _loss(pipe: Any, predict: Any, batch: Batch, how: Flow) -> Tensor:
    """The loss of a batch. Draws: the autoencoder's sample, noise, the density of timesteps."""
    diffusers: Any = import_module("diffusers")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config)
    latents = latents_of(pipe.vae, batch)
    noise = torch.randn_like(latents)
    index = (draw_density(how, len(latents)) * scheduler.config.num_train_timesteps).long()
    sigmas = scheduler.sigmas[index].view(-1, 1, 1, 1)
    noisy = (1 - sigmas) * latents + sigmas * noise
    predicted, target = predict(noisy, scheduler.timesteps[index], batch), noise - latents
    if how.preconditioned:
        predicted, target = predicted * -sigmas + noisy, latents
    return total(row_means(flow_weight(how, sigmas) * (predicted - target) ** 2), how.prior_weight)
