"""The layers of a denoiser that a tap may change."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable


class PerturbableLayers(NamedTuple):
    """The layers of a denoiser that a tap may change: `model.perturbable_layers()`.

    Names that a block does not have are ignored.
    """

    blocks: Sequence[str]
    """The paths of its transformer blocks, in forward order."""
    default: Sequence[str]
    """The blocks that are perturbed if a guider names none."""
    with_self_attention: Sequence[str]
    """The blocks with self-attention: only these can have it made the identity or blurred."""
    attention: tuple[str, ...] = ("attn1",)
    """The names of self-attention in a block."""
    feed_forward: tuple[str, ...] = ("ff",)
    """The names of feed-forward in a block."""
    patch: int | None = None
    """The side of a token in latents; None for a U-Net, where each level has half the size of the one above."""
    cross_attention: tuple[str, ...] = ("attn2",)
    """The names of attention to the prompt in a block."""
    joint_attention: tuple[str, ...] = ()
    """Those of `attention` in which tokens of the prompt take part too."""
    up_levels: Sequence[str] = ()
    """The levels of a U-Net that read skips, in forward order."""
    shallow: int | None = None
    """The largest number of shallow layers that leaves a deep one; None for a model that cannot skip deep layers."""
    modulated: bool = False
    """Whether the blocks modulate their input by an embedding of the time."""


@runtime_checkable
class HasPerturbableLayers(Protocol):
    """A denoiser, or a class of denoisers, whose layers can be changed."""

    def perturbable_layers(self) -> PerturbableLayers:
        """Return the layers."""
        ...


def default_blocks(blocks: Sequence[str]) -> Sequence[str]:
    """Return the blocks of a diffusion transformer that are perturbed if a guider names none.

    The seventh to ninth, as published with SD 3.5 medium, or the middle one of fewer than ten.
    """
    return blocks[7:10] if len(blocks) >= 10 else blocks[len(blocks) // 2 :][:1]
