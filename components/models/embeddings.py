"""Embeddings of time, sizes and classes."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .activations import Activation, activation


class Sinusoid(nn.Module):
    """Numbers as waves of falling frequency (Vaswani et al. 2017, section 3.5), always in float32.

    `flip` puts the cosines first; `shift` moves the lowest frequency. Has no parameters.
    """

    def __init__(self, channels: int, *, flip: bool, shift: float) -> None:
        super().__init__()
        self.channels, self.flip, self.shift = channels, flip, shift

    def forward(self, x: Tensor) -> Tensor:
        """Maps `n` numbers to `n c`."""
        half = self.channels // 2
        exponent = torch.arange(half, device=x.device, dtype=torch.float32) * (-math.log(10000) / (half - self.shift))
        angle = x.float()[:, None] * exponent.exp()
        waves = torch.cat([angle.cos(), angle.sin()] if self.flip else [angle.sin(), angle.cos()], dim=-1)
        return nn.functional.pad(waves, (0, 1)) if self.channels % 2 else waves


class TimestepEmbedding(nn.Module):
    """Two linear layers over the waves; `condition_channels` adds a further vector first, as LCM does for guidance."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        act: Activation = "silu",
        post_act: Activation | None = None,
        condition_channels: int | None = None,
    ) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(channels_in, channels_out)
        self.cond_proj = None if condition_channels is None else nn.Linear(condition_channels, channels_in, bias=False)
        self.act = activation(act)
        self.linear_2 = nn.Linear(channels_out, channels_out)
        self.post_act = nn.Identity() if post_act is None else activation(post_act)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        if condition is not None:
            if self.cond_proj is None:
                raise TypeError("timestep_cond is given, but this model takes none (its time_cond_proj_dim is null).")
            x = x + self.cond_proj(condition)
        return self.post_act(self.linear_2(self.act(self.linear_1(x))))


class TextProjection(nn.Module):
    """Two linear layers over a vector that sums up a prompt."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(channels_in, channels_out)
        self.linear_2 = nn.Linear(channels_out, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(nn.functional.silu(self.linear_1(x)))


class TimeTextEmbedding(nn.Module):
    """Time, the pooled prompt and, in distilled models, the guidance scale as one vector `b channels_out`.

    Esser et al. 2024, figure 2; guidance as in Meng et al. 2023, section 3.1. Times go from 0 to 1000.
    """

    def __init__(self, pooled_channels: int, channels_out: int, *, guidance: bool = False) -> None:
        super().__init__()
        self.waves = Sinusoid(256, flip=True, shift=0)
        self.timestep_embedder = TimestepEmbedding(256, channels_out)
        self.guidance_embedder = TimestepEmbedding(256, channels_out) if guidance else None
        self.text_embedder = TextProjection(pooled_channels, channels_out)

    def forward(self, times: Tensor, pooled: Tensor, guidance: Tensor | None = None) -> Tensor:
        emb = self.timestep_embedder(self.waves(times).to(pooled.dtype))
        if (self.guidance_embedder is None) != (guidance is None):
            raise TypeError(
                "guidance is missing: this model has a guidance embedding (guidance_embeds)."
                if guidance is None
                else "guidance has no place here: this model has no guidance embedding (guidance_embeds is false)."
            )
        if self.guidance_embedder is not None and guidance is not None:
            emb = emb + self.guidance_embedder(self.waves(guidance).to(pooled.dtype))
        return emb + self.text_embedder(pooled)


def text_and_sizes(added: Mapping[str, Tensor] | None, waves: Sinusoid) -> Tensor:
    """The pooled prompt `text_embeds` and the waves of the size numbers `time_ids`, side by side: `b (c + n w)`.

    This is how SDXL is told about sizes and crops (Podell et al. 2023, section 2.2).
    """
    missing = [key for key in ("text_embeds", "time_ids") if added is None or key not in added]
    if missing or added is None:
        raise TypeError(f"added_cond_kwargs lacks {' and '.join(missing)}: this U-Net (text_time) needs both.")
    text, ids = added["text_embeds"], added["time_ids"]
    sizes = waves(ids.flatten()).reshape(text.shape[0], -1)
    return torch.cat([text, sizes], dim=-1)
