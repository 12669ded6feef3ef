"""What a denoiser reads besides noisy latents, made of the data's pictures: masked, reference and control pictures."""

from collections.abc import Collection, Mapping

from ...blocks.image.encode import HideMasked, ShrinkMask
from ...blocks.train.encode import EncodePosterior, SamplePosterior
from ...graph import Block, named


def _latents_of(pixels: str, made: str) -> Mapping[str, Block]:
    """Nodes that encode pictures and draw their latents: the inputs and outputs by their names."""
    posterior = f"{made.removesuffix('_latents')}_posterior"
    return {
        posterior: named(EncodePosterior(), pixels=pixels, posterior=posterior),
        f"sample_{made}": named(SamplePosterior(), posterior=posterior, image_latents=made),
    }


PICTURES: Mapping[str, Mapping[str, Block]] = {
    "masked_latents": {"hide": HideMasked(), **_latents_of("hidden", "masked_latents")},
    "latent_mask": {"shrink": ShrinkMask()},
    "reference_latents": _latents_of("control_image", "reference_latents"),
    "control_latents": _latents_of("control_image", "control_latents"),
    "mask": {},
}
"""By the name of a value that blocks in the loop read: the nodes that make it of `pixels`, `mask`, `control_image`."""


def nodes_of_pictures(wanted: Collection[str]) -> Mapping[str, Block]:
    """The nodes that make the wanted values."""
    return {node: block for name, nodes in PICTURES.items() if name in wanted for node, block in nodes.items()}
