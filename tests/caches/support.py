"""Tiny denoisers of all families, and a loop over a schedule that carries the memory of a step cache."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

import sfumato as sf
from sfumato.blocks.denoise.caches import CacheSteps, Kept, Skipped
from sfumato.blocks.denoise.flux import PredictFlow as PredictFlux
from sfumato.blocks.denoise.pixart import PredictNoise as PredictPixArt
from sfumato.blocks.denoise.sd3 import PredictFlow as PredictSD3
from sfumato.blocks.denoise.unet import PredictNoise
from sfumato.components.caches import StepCache
from sfumato.components.conditioning import (
    Conditioning,
    FluxConditioning,
    PixArtConditioning,
    SD3Conditioning,
    SDConditioning,
    SDXLConditioning,
)
from sfumato.components.schedulers.schedule import Schedule
from sfumato.components.types import Pass, PredictFunction

from ..models.test_flux import TINY as FLUX
from ..models.test_pixart import TINY as PIXART
from ..models.test_sd3 import TINY as SD3
from ..models.test_unet_2d_condition import SDXL
from ..models.test_unet_2d_condition import TINY as SD

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "sd": ("UNet2DConditionModel", SD),
    "sdxl": ("UNet2DConditionModel", SDXL),
    "sd3": ("SD3Transformer2DModel", SD3),
    "flux": ("FluxTransformer2DModel", FLUX),
    "pixart": ("PixArtTransformer2DModel", PIXART),
}
FLOWS = ("sd3", "flux")
UNETS = ("sd", "sdxl")
TRANSFORMERS = ("sd3", "flux", "pixart")


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def conditioning(family: str, seed: int, rows: int = 1) -> Conditioning:
    width = {"sd": 24, "sdxl": 24, "sd3": 24, "flux": 24, "pixart": 32}[family]
    tokens = noise(seed, rows, 5, width)
    match family:
        case "sd":
            return SDConditioning(tokens)
        case "sdxl":
            return SDXLConditioning(tokens, noise(seed + 1, rows, 16), torch.full((rows, 6), 64.0))
        case "sd3":
            return SD3Conditioning(tokens, noise(seed + 1, rows, 20))
        case "flux":
            return FluxConditioning(tokens, noise(seed + 1, rows, 20))
        case _:
            return PixArtConditioning(tokens, torch.ones(rows, 5))


@cache
def model(family: str) -> Any:
    name, config = CONFIGS[family]
    made: nn.Module = getattr(sf.models, name).from_config(config).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(3)
    for parameter in made.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return made


def predict_of(family: str, made: Any = None, batching: Any = "together") -> PredictFunction:
    made = model(family) if made is None else made
    block: Any = {
        "sd3": lambda: PredictSD3(transformer=made, batching=batching),
        "flux": lambda: PredictFlux(transformer=made, guidance_scale=None, batching=batching),
        "pixart": lambda: PredictPixArt(transformer=made, batching=batching),
    }.get(family, lambda: PredictNoise(unet=made, batching=batching))
    return block()().predict


def schedule(family: str, steps: int) -> Schedule:
    kind = "FlowMatchEulerDiscreteScheduler" if family in FLOWS else "DDIMScheduler"
    return getattr(sf.schedulers, kind)().steps(steps)


Ask = Callable[[Tensor, Any], Sequence[Pass]]


@dataclass
class Drive:
    """What a loop gave: the predictions of each step, the latents before it, the memory after it, the report."""

    predictions: list[list[Tensor]] = field(default_factory=list[list[Tensor]])
    latents: list[Tensor] = field(default_factory=list[Tensor])
    memories: list[Kept] = field(default_factory=list[Kept])
    skipped: Skipped = field(default_factory=Skipped)

    def equals(self, other: "Drive") -> bool:
        pairs = zip(self.predictions, other.predictions, strict=True)
        return all(torch.equal(a, b) for mine, theirs in pairs for a, b in zip(mine, theirs, strict=True))


def asks(family: str, roles: Sequence[str] = ("negative", "positive"), rows: int = 1) -> Ask:
    """What a guider asks: a pass for each role, in every step."""
    prompts = {role: conditioning(family, 10 * i, rows) for i, role in enumerate(roles)}

    def ask(x: Tensor, step: Any) -> Sequence[Pass]:
        return [Pass(x, step, prompt, role) for role, prompt in prompts.items()]  # pyright: ignore[reportArgumentType]

    return ask


def drive(
    family: str,
    cache: StepCache,
    *,
    steps: int = 8,
    ask: Ask | None = None,
    predict: PredictFunction | None = None,
    start: Tensor | None = None,
    kept: Kept | None = None,
    first: int = 0,
    rows: int = 1,
    estimate_error: bool = False,
) -> Drive:
    """Run a loop of Euler steps. kept, first, start: to go on in the middle."""
    predict = predict or predict_of(family)
    ask = ask or asks(family, rows=rows)
    block, found = CacheSteps(cache=cache, estimate_error=estimate_error), Drive()
    memory: Any = kept or {}
    x = noise(5, rows, 4, 8, 8) if start is None else start
    for step in list(schedule(family, steps))[first:]:
        out = block(predict, memory)
        found.latents.append(x)
        made = list(out.predict(ask(x, step)))
        found.predictions.append(made)
        found.skipped = Skipped((*found.skipped.passes, *out.skipped_of_turn.value), cache.unit)
        memory = out.kept.value  # pyright: ignore[reportAttributeAccessIssue]  a cell, as a loop reads it
        found.memories.append(memory)
        x = x + 0.05 * made[-1]
    return found
