"""Consistency distillation after diffusers' scripts (Luo et al. 2023, algorithm 1): of a LoRA, or of a whole U-Net."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .diffusion import ddpm
from .loop import Batch, Trained, add_lora, latents_of, lora_of, tokens_of, train, weights_of

UNet = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""A U-Net as a function of latents, timesteps, states of the prompt, and the embedded guidance scale."""


@dataclass(frozen=True)
class Distillation:
    """The numbers of the scripts. count: of DDIM's timesteps. huber: the c of the loss. ema: of the whole U-Net."""

    count: int = 50
    w_min: float = 5.0
    w_max: float = 15.0
    huber: float = 0.001
    ema: float = 0.95


class Solver:
    """DDIM (Song et al. 2021, equation 12 without noise) over a few of the timesteps."""

    def __init__(self, shares: Tensor, count: int) -> None:
        self.stride = len(shares) // count
        self.timesteps = torch.from_numpy(np.arange(1, count + 1) * self.stride - 1).long()
        self.before = torch.cat([shares[:1], shares[self.timesteps[:-1]]])

    def step(self, clean: Tensor, noise: Tensor, index: Tensor) -> Tensor:
        a = self.before[index].view(-1, 1, 1, 1)
        return a.sqrt() * clean + (1.0 - a).sqrt() * noise


def boundary(timesteps: Tensor, scaling: float = 10.0, data: float = 0.5) -> tuple[Tensor, Tensor]:
    """c_skip and c_out: at timestep 0 the function is the identity."""
    scaled = (timesteps * scaling).view(-1, 1, 1, 1)
    return data**2 / (scaled**2 + data**2), scaled / (scaled**2 + data**2) ** 0.5


def embedded(w: Tensor, width: int) -> Tensor:
    """Sinusoids of w, (rows, width)."""
    half = width // 2
    rates = torch.exp(torch.arange(half).float() * -(torch.log(torch.tensor(10000.0)) / (half - 1)))
    angles = (w * 1000.0)[:, None] * rates[None]
    return torch.cat([angles.sin(), angles.cos()], 1)


def lcm_lora(
    pipe: Any,
    batches: Sequence[Batch],
    how: Distillation = Distillation(),
    *,
    rank: int = 4,
    start: Mapping[str, Tensor] | None = None,
    lr: float = 1e-4,
) -> Trained:
    """A LoRA of the U-Net. The teacher is the U-Net without it, and the target is the student itself."""
    student, teacher = deepcopy(pipe.unet), deepcopy(pipe.unet).requires_grad_(False)
    add_lora(student, rank, start)
    losses = _distilled(pipe, _of(student), _of(student), _of(teacher), student.parameters(), batches, how, lr=lr)
    return Trained(losses, lora_of(student))


def lcm(
    pipe: Any, unet: Any, batches: Sequence[Batch], how: Distillation = Distillation(), lr: float = 1e-4
) -> Trained:
    """A whole U-Net that reads w (`time_cond_proj_dim`): a copy of `unet`. The target is a moving average of it."""
    student, target = deepcopy(unet).train().requires_grad_(True), deepcopy(unet).requires_grad_(False)
    teacher = deepcopy(pipe.unet).requires_grad_(False)
    width = unet.config.time_cond_proj_dim

    def average() -> None:
        with torch.no_grad():
            for mean, weight in zip(target.parameters(), student.parameters(), strict=True):
                mean.mul_(how.ema).add_(weight, alpha=1 - how.ema)

    losses = _distilled(
        pipe, _of(student), _of(target), _of(teacher), student.parameters(), batches, how, lr=lr, width=width,
        after_step=average,
    )  # fmt: skip
    return Trained(losses, weights_of(student) | {f"target.{n}": t for n, t in weights_of(target).items()})


def _of(unet: Any) -> UNet:
    return lambda x, t, states, w: unet(x, t, states, timestep_cond=w).sample


def _distilled(
    pipe: Any,
    student: UNet,
    target: UNet,
    teacher: UNet,
    parameters: Iterable[nn.Parameter],
    batches: Sequence[Batch],
    how: Distillation,
    *,
    lr: float,
    width: int | None = None,
    after_step: Callable[[], None] = lambda: None,
) -> list[float]:
    """The losses. width: of the embedded w, which the student reads; None for one that reads none."""
    scheduler = ddpm(pipe)
    solver = Solver(scheduler.alphas_cumprod, how.count)
    alphas, sigmas = scheduler.alphas_cumprod.sqrt(), (1.0 - scheduler.alphas_cumprod).sqrt()

    def clean(noise: Tensor, t: Tensor, sample: Tensor) -> Tensor:
        return (sample - sigmas[t].view(-1, 1, 1, 1) * noise) / alphas[t].view(-1, 1, 1, 1)

    def loss_of(batch: Batch) -> Tensor:
        latents = latents_of(pipe.vae, batch)
        noise = torch.randn_like(latents)
        index = torch.randint(0, how.count, (len(latents),))
        start = solver.timesteps[index]
        end = (start - solver.stride).clamp(min=0)
        noisy = scheduler.add_noise(latents, noise, start)
        w = (how.w_max - how.w_min) * torch.rand((len(latents),)) + how.w_min
        read = None if width is None else embedded(w, width)
        w = w.view(-1, 1, 1, 1)
        with torch.no_grad():
            states, none = (tokens_of(pipe, pipe.text_encoder, b) for b in (batch, {"prompt": [""] * len(latents)}))
        skip, out = boundary(start)
        prediction = skip * noisy + out * clean(student(noisy, start, states, read), start, noisy)
        with torch.no_grad():
            with_words, without = teacher(noisy, start, states, None), teacher(noisy, start, none, None)
            x0, x0_none = clean(with_words, start, noisy), clean(without, start, noisy)
            x = solver.step(x0 + w * (x0 - x0_none), with_words + w * (with_words - without), index)
            skip, out = boundary(end)
            wanted = skip * x + out * clean(target(x.float(), end, states, read), end, x)
        return (((prediction - wanted) ** 2 + how.huber**2).sqrt() - how.huber).mean()

    return train(parameters, loss_of, batches, lr=lr, after_step=after_step)
