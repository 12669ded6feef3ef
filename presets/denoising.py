"""The denoising loop that all families share."""

from ..blocks.denoise.advance import AdvanceLatents
from ..graph import Block, Graph, Loop


def denoising_loop(predict: Block, guider: Block, over: str = "steps") -> Loop:
    """A loop over the steps of a schedule: predict, guide, advance.

    predict: gives the denoiser as a function. over: the output that holds the steps.
    """
    body = Graph(predict=predict, guider=guider, advance=AdvanceLatents())
    return Loop(over=over, each="step", carry=("latents", "random"), body=body)
