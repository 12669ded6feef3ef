"""RePaint in a graph: a scheduler whose schedule goes back up, and blocks that inpainting has already."""

from collections.abc import Callable

import torch
from PIL import Image

import sfumato as sf
from sfumato import Graph
from sfumato.blocks.latents.start import DrawNoiseLike

from .support import counted

KEYS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}


def test_inpainting_becomes_repaint_with_noise_drawn_anew_in_each_turn(tiny: Callable[..., Graph]) -> None:
    plain = tiny("sd", "inpaint")
    again = sf.named(DrawNoiseLike(), latents="start_noise")
    graph = plain.wire("denoise.start_noise", None).insert("again", again, before="denoise.keep")
    assert "again.start_noise" in graph.explain("denoise.keep.start_noise")
    picture, mask = Image.effect_noise((64, 64), 80).convert("RGB"), Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    call = {"prompt": "a fox", "image": picture, "mask_image": mask, "seed": 3, "num_inference_steps": 6}
    painted: list[torch.Tensor] = []
    for jumps, turns in ((1, 6), (3, 14)):
        repaint = sf.schedulers.RePaint(jump_length=2, jump_n_sample=jumps, **KEYS)
        with counted(graph) as did:
            made = graph.only("latents", "image_latents")(**call, scheduler=repaint, guider="none")
        assert len(did.rows) == len(repaint.steps(6)) == turns
        assert made.latents.isfinite().all()
        torch.testing.assert_close(made.latents[..., 4:], made.image_latents[..., 4:])
        painted.append(made.latents[..., :4])
    assert float((painted[0] - painted[1]).abs().max()) > 1e-2
