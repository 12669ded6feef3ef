"""Token merging: similar tokens of the picture are merged before a layer, and separated after it."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...graph.errors import ConfigError
from ..models.attention import BasicTransformerBlock, KeysValues
from ..models.levels import level_size
from ..models.perturbable import PerturbableLayers
from ..models.views import combined_class, shallow_copy
from .change import Change, Chosen
from .place import Place


class TokenMerging(Change):
    """Transformer blocks of a U-Net with fewer tokens (ToMe for Stable Diffusion, Bolya & Hoffman 2023).

    One token of each cell of `stride` x `stride` is a destination. The others each have a most similar destination, and
    the most similar of all are merged into theirs: layers read the mean, and all of its tokens get the result.

    ratio: the fraction of tokens that is merged; 0 changes nothing. stride: the side of a cell in tokens. seed: which
    token of a cell is the destination is drawn anew in each block and step, by this seed; None is always the first.
    levels: how many levels of the U-Net, from the finest on. attention, cross, feed_forward: the layers that read
    merged tokens; the paper merges for self-attention alone.

    Raises:
        ConfigError: a ratio outside 0 to 1, a stride or a count of levels below 1, or a model that is no U-Net.
    """

    ratio: float = 0.5
    stride: int = 2
    seed: int | None = 0
    levels: int = 1
    attention: bool = True
    cross: bool = False
    feed_forward: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.ratio < 1:
            raise ConfigError(f"TokenMerging.ratio needs a number from 0 to below 1, got {self.ratio}.")
        if self.stride < 1 or self.levels < 1:
            got = f"{self.stride} and {self.levels}"
            raise ConfigError(f"TokenMerging needs stride and levels of 1 or more, got {got}.")

    def select(self, layers: PerturbableLayers, chosen: Chosen, model: str) -> Sequence[str]:
        """Return the blocks. When they run, the size of the latents shows which levels are fine enough."""
        if not layers.up_levels:
            raise ConfigError(f"TokenMerging needs a U-Net, got {model}. Leave it out.")
        return super().select(layers, chosen, model)

    def replaced(self, layer: nn.Module, at: Place) -> nn.Module:
        """Return the block with merging."""
        if not self.ratio or not isinstance(layer, BasicTransformerBlock):  # a block that is dropped stays so
            return layer
        twin = shallow_copy(layer, combined_class(MergingBlock, type(layer)))
        twin.__dict__.update(merging=self, at=at)
        return twin


class Merge(NamedTuple):
    """Functions of tokens `b n c`: `merge` to fewer, and `separate` back to all."""

    merge: Callable[[Tensor], Tensor]
    separate: Callable[[Tensor], Tensor]


def same(x: Tensor) -> Tensor:
    """Return the tokens as they are."""
    return x


UNMERGED = Merge(same, same)


class MergingBlock(BasicTransformerBlock):
    """A transformer block whose layers read merged tokens."""

    merging: TokenMerging
    at: Place

    def forward(self, x: Tensor, context: Tensor | KeysValues, mask: Tensor | None) -> Tensor:
        """Map tokens `b n c` as the block does, each layer between merging and separating."""
        m, found = self.merging, self._merge(x)
        first, second, third = (found if on else UNMERGED for on in (m.attention, m.cross, m.feed_forward))
        x = first.separate(self.attn1(first.merge(self.norm1(x)), self.first_context(context))) + x
        x = second.separate(self.attn2(second.merge(self.norm2(x)), context, mask)) + x
        return third.separate(self.ff(third.merge(self.norm3(x)))) + x

    def _merge(self, x: Tensor) -> Merge:
        m, size = self.merging, level_size(x.shape[1], self.at.size)
        if size[0] * 2 ** (m.levels - 1) < self.at.size[0]:
            return UNMERGED
        chosen = None
        if m.seed is not None:
            cells = (size[0] // m.stride) * (size[1] // m.stride)
            # A generator on the CPU: the same destinations on every device, for all rows, and in every run.
            generator = torch.Generator("cpu").manual_seed(
                (m.seed * 10_007 + self.at.current.forward.step.index) * 10_007 + self.at.index
            )
            chosen = torch.randint(m.stride**2, (cells,), generator=generator, device="cpu")
        return match_tokens(x, size, m.ratio, m.stride, chosen)


def match_tokens(x: Tensor, size: tuple[int, int], ratio: float, stride: int, chosen: Tensor | None) -> Merge:
    """Find which tokens are merged (Bolya & Hoffman 2023, section 3; Bolya et al. 2023, section 3).

    Args:
        x: tokens `b n c` of a picture of `size`, whose directions are compared.
        ratio: the fraction of the tokens that is merged. At most those that are no destination.
        stride: the side of a cell. Rows and columns that fill no cell have no destination.
        chosen: for each cell, which of its tokens is the destination; None is the first.
    """
    target, source = (part.to(x.device) for part in split_tokens(size, stride, chosen))
    count = min(int(x.shape[1] * ratio), len(source))
    if not count or not len(target):
        return UNMERGED
    directions = F.normalize(x.float(), dim=2)
    scores = directions[:, source] @ directions[:, target].transpose(1, 2)  # b sources targets
    best, into = scores.max(dim=2)
    order = best.argsort(dim=1, descending=True, stable=True)
    merged, kept = order[:, :count], order[:, count:]  # b count, b rest: positions in `source`
    into = into.gather(1, merged)

    def merge(tokens: Tensor) -> Tensor:
        from_source, to = tokens[:, source], tokens[:, target]
        index = into[..., None].expand(-1, -1, tokens.shape[2])
        mean = to.scatter_reduce(1, index, _at(from_source, merged), "mean", include_self=True)
        return torch.cat([_at(from_source, kept), mean], dim=1)

    def separate(tokens: Tensor) -> Tensor:
        unmerged, to = tokens.tensor_split([kept.shape[1]], dim=1)
        of_source = unmerged.new_empty(len(tokens), len(source), tokens.shape[2])
        for positions, values in ((kept, unmerged), (merged, _at(to, into))):
            of_source.scatter_(1, positions[..., None].expand_as(values), values)
        out = tokens.new_empty(len(tokens), len(source) + len(target), tokens.shape[2])
        out[:, source], out[:, target] = of_source, to
        return out

    return Merge(merge, separate)


def split_tokens(size: tuple[int, int], stride: int, chosen: Tensor | None) -> tuple[Tensor, Tensor]:
    """Split the tokens of a picture into destinations, one of each cell, and the others. Both are indices."""
    height, width = size[0] // stride, size[1] // stride
    cells = torch.arange(size[0] * size[1], device="cpu").reshape(size)[: height * stride, : width * stride]
    cells = cells.reshape(height, stride, width, stride).transpose(1, 2).reshape(height * width, stride**2)
    place = torch.zeros(len(cells), dtype=torch.long, device="cpu") if chosen is None else chosen
    target = cells.gather(1, place[:, None]).flatten()
    is_target = torch.zeros(size[0] * size[1], dtype=torch.bool, device="cpu")
    is_target[target] = True
    return target, (~is_target).nonzero().flatten()


def _at(tokens: Tensor, positions: Tensor) -> Tensor:
    return tokens.gather(1, positions[..., None].expand(-1, -1, tokens.shape[2]))
