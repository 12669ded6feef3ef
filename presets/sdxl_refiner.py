"""SDXL's base and refiner as one graph: one schedule cut in two, latents handed over as they are."""

from ..blocks.denoise.advance import AdvanceLatents
from ..blocks.denoise.unet import PredictNoise
from ..blocks.guiders.cfg import ClassifierFreeGuidance
from ..blocks.latents.denoising_range import SplitSchedule
from ..blocks.text.micro_conditioning import AddSizes, UseAestheticScore
from ..blocks.text.rows import ExpandRows
from ..blocks.text.sdxl import EncodeRefinerPrompt, MatchNegative
from ..graph import Block, Graph, Loop, named
from .edits import NEGATIVE


def refined(base: Graph) -> Graph:
    """The base's graph, with the refiner's loop behind its own; `denoising_end` says where one hands over to the other.

    The refiner reads the second text tower alone, and a score in place of the target size.
    """
    ends = ("start", "denoise", "decode", "finish")
    words = {name: block for name, block in base.nodes.items() if name not in (*ends, "end")}
    return Graph(
        {**words, **_words()},
        start=base["start"],
        split=SplitSchedule(),
        denoise=base["denoise"],
        refine=named(_loop(), positive="refine_positive", negative="refine_negative"),
        decode=base["decode"],
        finish=base["finish"],
        outputs=("images",),
        slots={"guider": ["denoise.guider", "refine.guider"]},
        preset=("sdxl", "refined"),
    )


def _loop() -> Loop:
    return Loop(
        over="refine_steps",
        each="step",
        carry=("latents", "random"),
        body=Graph(
            predict=named(PredictNoise(), unet="refiner"),
            guider=ClassifierFreeGuidance(guidance_scale=5.0),
            advance=AdvanceLatents(),
        ),
    )


def _words() -> dict[str, Block]:
    """The same sentence as the base's, from prompt to conditioning. No negative prompt is "" to the refiner."""
    positive, negative = "refine_positive", "refine_negative"
    return {
        positive: named(EncodeRefinerPrompt(), text=positive),
        "refine_match": MatchNegative(force_zeros_for_empty_prompt=False),
        negative: named(EncodeRefinerPrompt(), text=negative, **NEGATIVE),
        "refine_score": UseAestheticScore(),
        "size_refine_positive": named(AddSizes(), text=positive, conditioning=positive),
        "size_refine_negative": named(AddSizes(), text=negative, conditioning=negative, sizes="negative_sizes"),
        "expand_refine_positive": named(ExpandRows(), conditioning=positive),
        "expand_refine_negative": named(ExpandRows(), conditioning=negative),
    }
