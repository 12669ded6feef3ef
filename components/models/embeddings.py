"""Embeddings of time, sizes and classes."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ...graph.errors import UnfitValue
from .activations import Activation, activation
from .constants import NO_CONSTANTS, Constants


class Sinusoid(nn.Module):
    """Sines and cosines of falling frequency (Vaswani et al. 2017, section 3.5), always in float32.

    `flip` puts the cosines first; `shift` moves the lowest frequency. It has no parameters.
    """

    def __init__(self, channels: int, *, flip: bool, shift: float) -> None:
        super().__init__()
        self.channels, self.flip, self.shift = channels, flip, shift

    def forward(self, x: Tensor, constants: Constants = NO_CONSTANTS) -> Tensor:
        """Map `n` numbers to `n c`."""
        angle = x.float()[:, None] * constants.of(self, lambda: self._frequencies(x.device))
        waves = torch.cat([angle.cos(), angle.sin()] if self.flip else [angle.sin(), angle.cos()], dim=-1)
        return nn.functional.pad(waves, (0, 1)) if self.channels % 2 else waves

    def _frequencies(self, device: torch.device) -> Tensor:
        half = self.channels // 2
        exponent = torch.arange(half, device=device, dtype=torch.float32) * (-math.log(10000) / (half - self.shift))
        return exponent.exp()


class TimestepEmbedding(nn.Module):
    """Two linear layers over a `Sinusoid`. `condition_channels` is the width of LCM's embedded guidance scale."""

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
        """Map `b channels_in`, and the condition `b condition_channels`, to `b channels_out`."""
        if condition is not None:
            if self.cond_proj is None:
                raise UnfitValue(unused("timestep_cond", "its time_cond_proj_dim is null"))
            x = x + self.cond_proj(condition)
        return self.post_act(self.linear_2(self.act(self.linear_1(x))))


class TextProjection(nn.Module):
    """Two linear layers over a pooled prompt."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(channels_in, channels_out)
        self.linear_2 = nn.Linear(channels_out, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map `b channels_in` to `b channels_out`."""
        return self.linear_2(nn.functional.silu(self.linear_1(x)))


class TimeTextEmbedding(nn.Module):
    """Time, the pooled prompt and, in distilled models, the guidance scale as one vector `b channels_out`.

    Esser et al. 2024, figure 2; guidance as in Meng et al. 2023, section 3.1.
    """

    def __init__(self, pooled_channels: int, channels_out: int, *, guidance: bool = False) -> None:
        super().__init__()
        self.waves = Sinusoid(256, flip=True, shift=0)
        self.timestep_embedder = TimestepEmbedding(256, channels_out)
        self.guidance_embedder = TimestepEmbedding(256, channels_out) if guidance else None
        self.text_embedder = TextProjection(pooled_channels, channels_out)

    def forward(
        self, times: Tensor, pooled: Tensor, guidance: Tensor | None = None, constants: Constants = NO_CONSTANTS
    ) -> Tensor:
        """Map times `b` from 0 to 1000, the pooled prompt `b p` and guidance scales `b`, times 1000.

        Raises:
            UnfitValue: guidance that is missing, or that the model does not read.
        """
        emb = self.timestep_embedder(self.waves(times, constants).to(pooled.dtype))
        check_input("guidance", guidance, self.guidance_embedder, "guidance_embeds")
        if self.guidance_embedder is not None and guidance is not None:
            layer = self.guidance_embedder
            emb = emb + constants.of(layer, lambda: layer(self.waves(guidance).to(pooled.dtype)))
        return emb + constants.output(self.text_embedder, pooled)


def text_and_sizes(added: Mapping[str, Tensor] | None, waves: Sinusoid) -> Tensor:
    """Join the pooled prompt `text_embeds` `b c` and the sinusoids of the size numbers `time_ids` `b n`: `b (c + n w)`.

    SDXL reads sizes and crops this way (Podell et al. 2023, section 2.2).

    Raises:
        UnfitValue: one of the two is missing.
    """
    missing = [key for key in ("text_embeds", "time_ids") if added is None or key not in added]
    if missing or added is None:
        raise UnfitValue(f"Needs added_cond_kwargs with text_embeds and time_ids, got no {' and no '.join(missing)}.")
    text, ids = added["text_embeds"], added["time_ids"]
    sizes = waves(ids.flatten()).reshape(text.shape[0], -1)
    return torch.cat([text, sizes], dim=-1)


def check_input(name: str, value: Tensor | None, reader: object, key: str) -> None:
    """Refuse an optional input that is missing where a layer reads it, or passed where none does.

    Args:
        name: of the input.
        value: the value passed for it.
        reader: the layer that reads it, or whether the model does; None or False where none does.
        key: the config key that decides it.

    Raises:
        UnfitValue: an input that is missing or not read.
    """
    reads = reader is not None and reader is not False
    if reads and value is None:
        raise UnfitValue(f"Needs {name}, got None: the model's {key} asks for it.")
    if not reads and value is not None:
        raise UnfitValue(unused(name, f"its {key} says so"))


def unused(name: str, reason: str) -> str:
    """The text of an error about an input that the model does not read."""
    return f"Got {name}, but this model does not read it ({reason}). Leave it out."
