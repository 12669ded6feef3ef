"""A denoiser that reads more than latents is refused when it is bound, unless a block adds the other channels."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import sfumato as sf
from sfumato import Block, Graph
from sfumato.components.types import Pass, Predict

from .support import held, run

Load = Callable[..., Graph]


def unet(pipe: Graph, channels: int) -> Any:
    torch.manual_seed(0)
    return sf.models.UNet2DConditionModel.from_config({**held(pipe, "unet").to_config(), "in_channels": channels})


def test_a_unet_for_inpainting_is_sent_to_its_task(tiny: Load) -> None:
    pipe = tiny("sd")
    nine = unet(pipe, 9)
    text = r"denoise\.predict \(unet\)  reads 9 channels, the latents have 4, and no block adds the others\. "
    text += r"Make a graph of the task 'inpaint' for it: sf\.load\(…, 'inpaint', …\) with this component\."
    for graph in (pipe, pipe.task("image2image"), pipe.task("inpaint")):
        with pytest.raises(sf.WireError, match=text):
            graph.bind(unet=nine)
    with pytest.raises(sf.WireError, match=text):
        pipe(prompt="a fish", unet=nine)
    assert "denoise.add_mask_channels" in str(tiny("sd", "inpaint", unet=nine).explain("denoise.guider.predict"))


@pytest.mark.parametrize("channels", [5, 8])
def test_one_for_depth_or_instructions_needs_a_block(tiny: Load, channels: int) -> None:
    pipe = tiny("sd")
    with pytest.raises(sf.WireError, match=rf"reads {channels} channels, .* Insert a block that adds them"):
        pipe.bind(unet=unet(pipe, channels))


class Extended(NamedTuple):
    predict: Predict


class AddZeros(Block):
    """Add channels of zeros to each pass."""

    adds_channels = True
    count: int = 4

    def __call__(self, predict: Predict) -> Extended:
        def extended(passes: Sequence[Pass]) -> Sequence[Tensor]:
            zeros = [torch.zeros_like(p.latents[:, : self.count]) for p in passes]
            return predict([replace(p, channels=(z,)) for p, z in zip(passes, zeros, strict=True)])

        return Extended(extended)


def test_a_block_of_your_own_adds_the_channels(tiny: Load) -> None:
    pipe = tiny("sd").insert("zeros", AddZeros(), after="denoise.predict")
    out = run(pipe.bind(unet=unet(pipe, 8)), prompt="a fish", num_inference_steps=1, height=64, width=64, seed=1)
    assert out.latents.isfinite().all()
    with pytest.raises(sf.WireError, match="Insert a block that adds them"):
        pipe.remove("denoise.zeros").bind(unet=unet(pipe, 8))
