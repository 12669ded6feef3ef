"""The levels of a U-Net: down, middle, up. What a level gives on the way down is taken back on the way up."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .attention import PassThrough, Transformer2DModel, TransformerStyle
from .resnet import Downsample2D, ResnetStyle, Upsample2D, resnet


def transformers(channels: int, layers: Sequence[int], style: TransformerStyle | None) -> nn.ModuleList:
    """One transformer for each residual block, or what passes everything through where `style` is None."""
    if style is None:
        return nn.ModuleList(PassThrough() for _ in layers)
    return nn.ModuleList(Transformer2DModel(channels, count, style) for count in layers)


def plus(name: str, x: Tensor, residual: Tensor | None) -> Tensor:
    """`x` and what something outside the model adds to it; `name` is how the caller gives that.

    Raises:
        TypeError: another width or size. One number for a whole channel or row is spread over it.
    """
    if residual is None:
        return x
    if any(have not in (1, want) for have, want in zip(residual.shape, x.shape, strict=True)):
        came, wanted = (" x ".join(map(str, t.shape[1:])) for t in (residual, x))
        raise TypeError(
            f"{name} has a tensor of {came} where this model has {wanted} (channels x height x width). "
            + ("It was made for another model." if residual.shape[1] != x.shape[1] else "The picture has another size.")
        )
    return x + residual.to(x.dtype)


class DownBlock(nn.Module):
    """Residual blocks, each followed by a transformer; then half the size."""

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
        """`layers` are the depths of the transformers; `padding` is None where the size stays."""
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
        context: Tensor,
        mask: Tensor | None,
        feature: Tensor | None = None,
    ) -> Tensor:
        """Each result is appended to `skips`, in the published order.

        `feature` is added before the size is halved, or after it in a level without attention: where the published
        adapters were trained (Mou et al. 2023, section 3.2).
        """
        for block, attention in zip(self.resnets, self.attentions, strict=True):
            x = attention(block(x, emb), context, mask)
            skips.append(x)
        if self.attends:
            x = skips[-1] = plus("down_intrablock_additional_residuals", x, feature)
        for down in self.downsamplers:
            x = down(x)
            skips.append(x)
        if not self.attends:
            x = skips[-1] = plus("down_intrablock_additional_residuals", x, feature)
        return x


class UpBlock(nn.Module):
    """Residual blocks over the joined skips, each followed by a transformer; then the next skip's size."""

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
        """`skips` are the channels of the skips in the order they are taken."""
        super().__init__()
        inputs = [channels_in, *[channels] * (len(layers) - 1)]
        self.attentions = transformers(channels, layers, attention)
        self.resnets = nn.ModuleList(resnet(n + skip, channels, style) for n, skip in zip(inputs, skips, strict=True))
        self.upsamplers = nn.ModuleList([Upsample2D(channels)] if grows else [])

    def forward(self, x: Tensor, skips: list[Tensor], emb: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        """Takes its skips from the end of `skips`; the size to grow to is that of the next one left."""
        for block, attention in zip(self.resnets, self.attentions, strict=True):
            x = torch.cat([x, skips.pop()], dim=1)
            x = attention(block(x, emb), context, mask)
        for up in self.upsamplers:
            x = up(x, skips[-1].shape[2:])
        return x


class MidBlock(nn.Module):
    """A residual block, and a transformer with another residual block after it where there is attention."""

    def __init__(
        self, channels: int, layers: Sequence[int], *, style: ResnetStyle, attention: TransformerStyle | None
    ) -> None:
        super().__init__()
        layers = layers if attention else ()
        self.attentions = transformers(channels, layers, attention)
        self.resnets = nn.ModuleList(resnet(channels, channels, style) for _ in range(len(layers) + 1))

    def forward(self, x: Tensor, emb: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        first, *rest = self.resnets
        x = first(x, emb)
        for block, attention in zip(rest, self.attentions, strict=True):
            x = block(attention(x, context, mask), emb)
        return x
