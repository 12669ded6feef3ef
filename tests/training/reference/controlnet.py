"""A control net after diffusers' script (Zhang et al. 2023): the U-Net stays, the net learns."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from .diffusion import ddpm
from .loop import Batch, Trained, latents_of, tokens_of, train, weights_of


def controlnet(pipe: Any, net: Any, batches: Sequence[Batch], *, lr: float = 1e-4) -> Trained:
    """Train a copy of a net. Batches have a `control_image` (rows, 3, h, w) from 0 to 1."""
    net, scheduler = deepcopy(net).train().requires_grad_(True), ddpm(pipe)
    unet = deepcopy(pipe.unet).requires_grad_(False)

    def loss_of(batch: Batch) -> Tensor:
        latents = latents_of(pipe.vae, batch)
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, scheduler.config.num_train_timesteps, (len(latents),))
        noisy, states = scheduler.add_noise(latents, noise, timesteps), tokens_of(pipe, pipe.text_encoder, batch)
        down, middle = net(noisy, timesteps, states, controlnet_cond=batch["control_image"], return_dict=False)
        residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        return mse_loss(unet(noisy, timesteps, states, **residuals).sample.float(), noise)

    return Trained(train(net.parameters(), loss_of, batches, lr=lr), weights_of(net))
