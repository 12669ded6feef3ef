"""Textual inversion after diffusers' script (Gal et al. 2022): rows are added to the token table of a text encoder.

The whole table has gradients, and its old rows are written back after each step.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from .diffusion import ddpm
from .loop import Batch, Trained, latents_of, train


def textual_inversion(pipe: Any, batches: Sequence[Batch], first: Tensor, *, lr: float = 1e-3) -> Trained:
    """Train rows. Batches have `ids` (rows, length), in which the new rows have the ids after the old ones.

    first: the new rows (vectors, width) before the training.
    """
    unet, text, scheduler = deepcopy(pipe.unet), deepcopy(pipe.text_encoder), ddpm(pipe)
    for model in (unet, text):
        model.requires_grad_(False)
    before = text.get_input_embeddings().weight.data.clone()
    old = len(before)
    text.resize_token_embeddings(old + len(first))
    table = text.get_input_embeddings().weight
    table.data[:old], table.data[old:] = before, first
    table.requires_grad_(True)

    def loss_of(batch: Batch) -> Tensor:
        latents = latents_of(pipe.vae, batch)
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, scheduler.config.num_train_timesteps, (len(latents),))
        noisy = scheduler.add_noise(latents, noise, timesteps)
        return mse_loss(unet(noisy, timesteps, text(batch["ids"])[0]).sample.float(), noise)

    def write_back() -> None:
        with torch.no_grad():
            table[:old] = before

    losses = train([table], loss_of, batches, lr=lr, clip=None, after_step=write_back)
    return Trained(losses, {"rows": table[old:].detach().clone()})
