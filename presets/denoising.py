"""The denoising loop that all families share."""

from ..blocks.denoise.advance import AdvanceLatents
from ..graph import Block, Graph, Loop


def denoising_loop(predict: Block, guider: Block, over: str = "steps", memory: str = "memory") -> Loop:
    """A loop over the steps of a schedule: predict, guide, advance.

    predict: gives the denoiser as a function. over: the output that holds the steps. memory: the output that holds what
    the nodes remember; "" for a loop that begins without memory.
    """
    body = Graph(predict=predict, guider=guider, advance=AdvanceLatents())
    return Loop(over=over, each="step", carry=("latents", "random"), body=body, memory=memory)
