"""SDXL's base and refiner as one graph: one schedule in two parts, and latents that go from one to the other."""

from dataclasses import replace
from typing import cast

from ..blocks.denoise.unet import PredictNoise
from ..blocks.guiders.cfg import ClassifierFreeGuidance
from ..blocks.latents.denoising_range import SplitSchedule
from ..blocks.text.micro_conditioning import AddSizes, UseAestheticScore
from ..blocks.text.rows import ExpandRows
from ..blocks.text.sdxl import EncodeRefinerPrompt, MatchNegative
from ..graph import Block, Graph, Loop, named
from .denoising import denoising_loop
from .tasks import NEGATIVE


def with_refiner(base: Graph) -> Graph:
    """The base's graph with the refiner's loop behind its own. `denoising_end` says where the refiner takes over.

    The refiner reads the second text encoder alone, and an aesthetic score in place of the target size.
    """
    last = ("start", "denoise", "decode", "finish")
    parts = ("keep_seed", "begin", "end")  # of a single model's run
    first = {name: block for name, block in base.nodes.items() if name not in (*last, *parts)}
    predict = named(PredictNoise(), unet="refiner")
    refine = denoising_loop(predict, ClassifierFreeGuidance(guidance_scale=5.0), over="refine_steps", memory="")
    return Graph(
        {**first, **_refiner_prompts()},
        start=base["start"],
        split=named(SplitSchedule(), split_at="denoising_end"),
        denoise=replace(cast(Loop, base["denoise"]), memory=""),
        refine=named(refine, positive="refine_positive", negative="refine_negative"),
        decode=base["decode"],
        finish=base["finish"],
        outputs=("images",),
        slots={"guider": ["denoise.guider", "refine.guider"]},
        preset=("sdxl", "refined"),
    )


def _refiner_prompts() -> dict[str, Block]:
    """The nodes that encode the base's prompts for the refiner. No negative prompt is "" to it."""
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
