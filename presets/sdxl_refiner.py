"""SDXL's base and refiner as one graph: one schedule in two parts, and latents that go from one to the other."""

from ..blocks.denoise.unet import PredictNoise
from ..blocks.guiders.cfg import ClassifierFreeGuidance
from ..blocks.latents.denoising_range import EndSplitPart, GiveMemory, SplitSchedule
from ..blocks.latents.parts import BeginPart
from ..blocks.text.micro_conditioning import AddSizes, UseAestheticScore
from ..blocks.text.rows import ExpandRows
from ..blocks.text.sdxl import EncodeRefinerPrompt, MatchNegative
from ..graph import Block, Graph, named
from .denoising import denoising_loop
from .tasks import NEGATIVE


def with_refiner(base: Graph) -> Graph:
    """The base's graph with the refiner's loop behind its own. `denoising_end` says where the refiner takes over.

    The run has parts as that of one model has: `stop_step`, `start_step` and `halfway`. As fractions these are
    `part_start` and `part_end`.
    The refiner reads the second text encoder alone, and an aesthetic score in place of the target size.
    """
    last = ("start", "begin", "denoise", "end", "decode", "finish")
    first = {name: block for name, block in base.nodes.items() if name not in last}
    predict = named(PredictNoise(), unet="refiner")
    refine = denoising_loop(
        predict, ClassifierFreeGuidance(guidance_scale=5.0), over="refine_steps", memory="refine_memory"
    )
    return Graph(
        {**first, **_refiner_prompts()},
        start=base["start"],
        begin=named(BeginPart(), denoising_start="part_start", denoising_end="part_end"),
        split=named(SplitSchedule(), split_at="denoising_end"),
        give_memory=GiveMemory(),
        denoise=base["denoise"],
        refine=named(refine, positive="refine_positive", negative="refine_negative"),
        end=EndSplitPart(),
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
