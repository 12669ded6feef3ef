"""Flux's transformer as a function of passes, with packing, token ids and embedded guidance."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad, pixel_shuffle, pixel_unshuffle

from ...components.conditioning import FluxConditioning
from ...components.models.constants import Constants
from ...components.models.flux import FluxTransformer2DModel, FluxTrunk
from ...components.types import Layers, Number, Pass, PredictFunction, RepeatLayers, sum_residuals
from ...graph import Block, Running, component, knob
from ...graph.errors import UnfitValue
from ...graph.ports import ALONE
from ...graph.space import ANY_SPACE
from ...graph.typing import Port
from .denoiser import Batching, make_predict
from .passes import input_of, timesteps

Predict = Annotated[PredictFunction, Port("predict", space=ANY_SPACE, family=FluxConditioning)]
"""Flux's transformer as a function."""
Sizes = tuple[tuple[int, int], ...]
"""Height and width in latents: of the picture, then of each reference image."""


class Predictor(NamedTuple):
    """The denoiser as a function."""

    predict: Predict


class PredictFlow(Block):
    """Make the transformer a function of passes, for guiders and for blocks that change passes.

    guidance_scale: the scale that the transformer was distilled to read (Meng et al. 2023); it is not a guider's scale.
    None for one that reads none, such as schnell. A token is 2 x 2 latents; tokens of reference images come last.
    batching: see `Batching`.

    Raises:
        UnfitValue: no `guidance_scale` for a transformer that reads one; in a call of the function, latents of an odd
            size or another number of channels.
        UnfitValue: conditioning or residuals of another family, when the function is called.
    """

    transformer: FluxTransformer2DModel = component()
    guidance_scale: Number | None = knob(3.5)
    batching: Batching = "together"

    def __call__(self, running: Running = ALONE) -> Predictor:
        scale, reads = self.guidance_scale, self.transformer.config.guidance_embeds
        if reads and scale is None:
            raise UnfitValue("guidance_scale is None, but this transformer reads one. Give a number; usual is 3.5.")
        if scale is not None and not reads:
            running.note(
                f"guidance_scale={scale:g} is not read: this transformer was not distilled to. "
                "true_cfg_scale moves away from a negative prompt."
            )
        guidance = scale if reads else None
        return Predictor(make_predict(self.transformer, _forward, self.batching, running, guidance))


def _forward(model: FluxTransformer2DModel, passes: Sequence[Pass], constants: Constants) -> Tensor:
    latents = input_of(passes)
    references = [torch.cat(rows) for rows in zip(*(p.references for p in passes), strict=True)]
    sizes = tuple((t.shape[2], t.shape[3]) for t in (latents, *references))
    prompts, further = constants.named("prompt", lambda: _prompt(model, passes, sizes))
    tokens = packed(latents)
    if tokens.shape[2] != model.config.in_channels:
        raise UnfitValue(_channels(latents.shape[1], passes[0].latents.shape[1], model.config.in_channels))
    extra = sum(height * width // 4 for height, width in sizes[1:])  # control nets read no reference images
    added = {place: _padded(t, extra) for place, t in sum_residuals(passes, _repeats(model)).items()}
    out = model(
        torch.cat([tokens, *map(packed, references)], 1).to(model.dtype),
        *prompts,
        (timesteps(passes) / 1000).expand(len(tokens)),
        **further,
        controlnet_block_samples=_double(added, _repeats(model)),
        controlnet_single_block_samples=added.get("single_blocks"),
        constants=constants,
    )
    return unpacked(out[:, : tokens.shape[1]], *sizes[0])


def _prompt(
    model: FluxTransformer2DModel, passes: Sequence[Pass], sizes: Sizes
) -> tuple[tuple[Tensor, Tensor], Mapping[str, Tensor | None]]:
    """The inputs that no step changes: both prompts, and further ones under their published names."""
    conditioning = FluxConditioning.cat([p.conditioning for p in passes])
    return (conditioning.tokens.to(model.dtype), conditioning.pooled.to(model.dtype)), {
        "guidance": _guidance(passes),
        "image_rotary_emb": rotations(model, conditioning.tokens.shape[1], sizes, passes[0].latents.device),
    }


def rotations(model: FluxTrunk[Any], prompt: int, sizes: Sizes, device: torch.device) -> Tensor:
    """The rotations of so many tokens of a prompt, and of those of images."""
    return model.rotary(torch.zeros(prompt, 3, device=device), token_ids(sizes, device))


def _guidance(passes: Sequence[Pass]) -> Tensor | None:
    """The guidance scale of each row, (rows,); None for a transformer that reads none."""
    scales = [torch.full((len(p.latents),), p.guidance) for p in passes if p.guidance is not None]
    return torch.cat(scales).to(passes[0].latents.device) if scales else None


def packed(latents: Tensor) -> Tensor:
    """Latents (b, c, h, w) as tokens of 2 x 2, (b, h/2 w/2, 4 c). Raise UnfitValue for an odd side."""
    height, width = latents.shape[2:]
    if height % 2 or width % 2:
        raise UnfitValue(f"Latents of {height}x{width} cannot be packed: a token is 2 x 2 of them. Give even sides.")
    return pixel_unshuffle(latents, 2).flatten(2).transpose(1, 2)


def unpacked(tokens: Tensor, height: int, width: int) -> Tensor:
    """Tokens as latents of a height and width; the inverse of `packed`."""
    return pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (height // 2, width // 2)), 2)


def token_ids(sizes: Sizes, device: torch.device) -> Tensor:
    """The ids of all tokens, (n, 3): the number of the image (0 is the picture that is made), row, column."""
    grids: list[Tensor] = []
    for image, (height, width) in enumerate(sizes):
        axes = torch.tensor([image]), torch.arange(height // 2), torch.arange(width // 2)
        grids.append(torch.cartesian_prod(*axes))
    return torch.cat(grids).to(device, torch.float32)


def _repeats(model: FluxTransformer2DModel) -> Mapping[str, RepeatLayers]:
    """Where a control net adds: behind the double blocks, in a row or in turn, and behind the single blocks."""
    count, single = len(model.transformer_blocks), len(model.single_transformer_blocks)
    return {
        "blocks": partial(_in_a_row, count),
        "blocks_in_turn": partial(_in_turn, count),
        "single_blocks": partial(_in_a_row, single),
    }


def _in_a_row(count: int, layers: Layers) -> Layers:
    each = -(-count // len(layers))
    return tuple(layers[i // each] for i in range(count))


def _in_turn(count: int, layers: Layers) -> Layers:
    return tuple(layers[i % len(layers)] for i in range(count))


def _double(added: Mapping[str, Layers], spread: Mapping[str, RepeatLayers]) -> Layers | None:
    """The residuals behind each double block, of nets of both kinds together."""
    found = [spread[place](added[place]) for place in ("blocks", "blocks_in_turn") if place in added]
    if len(found) == 2:
        return tuple(a + b for a, b in zip(*found, strict=True))
    return found[0] if found else None


def _padded(layers: Layers, extra: int) -> Layers:
    """Zeros for the tokens of reference images, which come last."""
    return tuple(pad(t, (0, 0, 0, extra)) for t in layers) if extra else layers


def _channels(got: int, own: int, needed: int) -> str:
    hint = ' It was trained to fill: use the task "fill".' if needed > 4 * got == 4 * own else ""
    if needed == 2 * 4 * got == 2 * 4 * own:
        hint = " It reads a control picture. Make a graph for it: sf.load(…, transformer=…)."
    return f"The transformer needs {needed} channels a token, but 2 x 2 latents of {got} channels have {4 * got}.{hint}"
