"""The levels of a U-Net: down, middle, up. The up levels read the results of the down levels (skip connections)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...graph.errors import UnfitValue
from .attention import PassThrough, Prompt, Transformer2DModel, TransformerStyle
from .resnet import Downsample2D, ResnetStyle, Upsample2D, resnet


def transformers(channels: int, layers: Sequence[int], style: TransformerStyle | None) -> nn.ModuleList:
    """Make one transformer for each residual block, or `PassThrough` where `style` is None."""
    if style is None:
        return nn.ModuleList(PassThrough() for _ in layers)
    return nn.ModuleList(Transformer2DModel(channels, count, style) for count in layers)


def add_residual(name: str, x: Tensor, residual: Tensor | None) -> Tensor:
    """Add a control net's or an adapter's residual to a feature map `b c h w`; `name` is the argument, for errors.

    A residual with one row, column or channel is added to all.

    Raises:
        UnfitValue: another number of channels, or another size.
    """
    if residual is None:
        return x
    if any(have not in (1, want) for have, want in zip(residual.shape, x.shape, strict=True)):
        got, needed = (" x ".join(map(str, t.shape[1:])) for t in (residual, x))
        other = "made for another model" if residual.shape[1] != x.shape[1] else "the image has another size"
        raise UnfitValue(f"{name} needs a tensor of {needed} (channels x height x width), got {got}: {other}.")
    return x + residual.to(x.dtype)


class DownBlock(nn.Module):
    """Residual blocks, each followed by a transformer, then a layer that halves the size."""

    def __init__(
        self,
        channels_in: int,
        channels: int,
        layers: Sequence[int],
        *,
        style: ResnetStyle,
        attention: TransformerStyle | None,
        padding: int | None,
    ) -> None:
        """`layers` are the depths of the transformers; `padding` None keeps the size."""
        super().__init__()
        inputs = [channels_in, *[channels] * (len(layers) - 1)]
        self.attentions = transformers(channels, layers, attention)
        self.resnets = nn.ModuleList(resnet(n, channels, style) for n in inputs)
        self.downsamplers = nn.ModuleList([] if padding is None else [Downsample2D(channels, padding)])
        self.attends = attention is not None

    def forward(
        self,
        x: Tensor,
        skips: list[Tensor],
        emb: Tensor,
        prompt: Prompt,
        feature: Tensor | None = None,
        start: int = 0,
        stop: int | None = None,
    ) -> Tensor:
        """Map `b channels_in h w`, and append each result to `skips`, in the published order.

        With `start` the first residual blocks are left out; with `stop` only those before it run, and nothing else.

        `feature` is added before the size is halved, or after it in a level without attention. The published adapters
        were trained so (Mou et al. 2023, section 3.2).
        """
        for block, attention in [*zip(self.resnets, self.attentions, strict=True)][start:stop]:
            x = attention(block(x, emb), prompt)
            skips.append(x)
        if stop is not None:
            return x
        if self.attends:
            x = skips[-1] = add_residual("down_intrablock_additional_residuals", x, feature)
        for down in self.downsamplers:
            x = down(x)
            skips.append(x)
        if not self.attends:
            x = skips[-1] = add_residual("down_intrablock_additional_residuals", x, feature)
        return x


class UpBlock(nn.Module):
    """Residual blocks that read skips, each followed by a transformer, then a layer that doubles the size."""

    def __init__(
        self,
        channels_in: int,
        channels: int,
        skips: Sequence[int],
        layers: Sequence[int],
        *,
        style: ResnetStyle,
        attention: TransformerStyle | None,
        grows: bool,
    ) -> None:
        """`skips` are the channels of the skips, in the order in which they are read."""
        super().__init__()
        inputs = [channels_in, *[channels] * (len(layers) - 1)]
        self.attentions = transformers(channels, layers, attention)
        self.resnets = nn.ModuleList(resnet(n + skip, channels, style) for n, skip in zip(inputs, skips, strict=True))
        self.upsamplers = nn.ModuleList([Upsample2D(channels)] if grows else [])

    def forward(
        self,
        x: Tensor,
        skips: list[Tensor],
        emb: Tensor,
        prompt: Prompt,
        start: int = 0,
        stop: int | None = None,
    ) -> Tensor:
        """Map `b channels_in h w`. Skips are removed from the end of `skips`; the next one sets the new size.

        With `start` the first residual blocks are left out; with `stop` only those before it run, and nothing else.
        """
        for block, attention in [*zip(self.resnets, self.attentions, strict=True)][start:stop]:
            x = attention(block(self.joined(x, skips.pop()), emb), prompt)
        if stop is not None:
            return x
        for up in self.upsamplers:
            x = up(x, skips[-1].shape[2:])
        return x

    def joined(self, x: Tensor, skip: Tensor) -> Tensor:
        """Return what a residual block reads: `x` and a skip, one behind the other."""
        return torch.cat([x, skip], dim=1)


class MidBlock(nn.Module):
    """A residual block, and with attention a transformer and another residual block."""

    def __init__(
        self, channels: int, layers: Sequence[int], *, style: ResnetStyle, attention: TransformerStyle | None
    ) -> None:
        super().__init__()
        layers = layers if attention else ()
        self.attentions = transformers(channels, layers, attention)
        self.resnets = nn.ModuleList(resnet(channels, channels, style) for _ in range(len(layers) + 1))

    def forward(self, x: Tensor, emb: Tensor, prompt: Prompt) -> Tensor:
        """Map `b c h w`."""
        first, *rest = self.resnets
        x = first(x, emb)
        for block, attention in zip(rest, self.attentions, strict=True):
            x = block(attention(x, prompt), emb)
        return x
