"""A control net on another device than the denoiser says the same, and what it reads is brought to it once."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sfumato as sf
from sfumato.blocks.control.controlnet import ApplyControlNet
from sfumato.blocks.control.flux import ApplyControlNet as ApplyFluxControlNet
from sfumato.blocks.control.sd3 import ApplyControlNet as ApplySD3ControlNet
from sfumato.blocks.control.t2i_adapter import ApplyT2IAdapter
from sfumato.blocks.denoise.denoiser import make_predict
from sfumato.components.conditioning import Conditioning, FluxConditioning, SD3Conditioning, SDConditioning
from sfumato.components.models.constants import Constants
from sfumato.components.schedulers.flow_match import FlowMatchEulerDiscreteScheduler
from sfumato.components.storage.weights import move
from sfumato.components.types import Pass, Rows
from sfumato.graph.ports import ALONE

from .simulated import ONE, TWO, Move, devices
from .test_multi_device import FLUX, KL, SD3, UNET, noise

SIZE = 8
PICTURE = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def moves() -> Iterator[list[Move]]:
    with devices() as found:
        yield found


def net(name: str, config: dict[str, Any], device: str) -> Any:  # a model of that class
    """A seeded one whose weights all matter."""
    made: nn.Module = getattr(sf.models, name).from_config(config).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for parameter in made.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    move(made, lambda path: device)
    return made


def applied(kind: str, device: str) -> Callable[..., Any]:
    """The block, with its net on this device."""
    match kind:
        case "control net":
            config = {k: v for k, v in UNET.items() if k[:2] != "up"}
            config |= {"conditioning_embedding_out_channels": [8, 8, 8, 8]}
            return ApplyControlNet(controlnet=net("ControlNetModel", config, device))
        case "adapter":
            config = {"channels": [16, 32], "num_res_blocks": 1, "downscale_factor": 8}
            return ApplyT2IAdapter(adapter=net("T2IAdapter", config, device))
        case "flux":
            vae = net("AutoencoderKL", {**KL, "latent_channels": 4}, ONE)
            return ApplyFluxControlNet(controlnet=net("FluxControlNetModel", FLUX, device), vae=vae)
        case _:
            # Nets of SD 3.5 large have no places of their own, and ask the transformer's.
            config = {**SD3, "joint_attention_dim": None, "use_pos_embed": False, "pos_embed_type": None}
            config |= {"pos_embed_max_size": None, "num_layers": 2, "dual_attention_layers": []}
            transformer = net("SD3Transformer2DModel", SD3, ONE)
            vae = net("AutoencoderKL", {**KL, "latent_channels": 4}, ONE)
            large = net("SD3ControlNetModel", config, device)
            return ApplySD3ControlNet(controlnet=large, transformer=transformer, vae=vae)


WORDS: dict[str, Callable[[int], Conditioning]] = {
    "control net": lambda i: SDConditioning(noise(1, 5 + i, 24)[:, :5].to(ONE)),
    "adapter": lambda i: SDConditioning(noise(1, 5 + i, 24)[:, :5].to(ONE)),
    "flux": lambda i: FluxConditioning(noise(1, 5 + i, 24)[:, :5].to(ONE), noise(1, 20 + i)[:, :20].to(ONE)),
    "sd3": lambda i: SD3Conditioning(noise(1, 5 + i, 24)[:, :5].to(ONE), noise(1, 20 + i)[:, :20].to(ONE)),
}


def said(kind: str, device: str) -> list[Tensor]:
    """What a denoiser on the first device is given in two turns of two passes, with the net on `device`."""
    found: list[Tensor] = []

    def forward(model: nn.Module, passes: Sequence[Pass], constants: Constants) -> Tensor:
        whole = [t for p in passes for r in p.residuals for layers in r.values() for t in layers]
        found.extend(t.to("cpu") for t in whole)
        mixed = sum((t.mean() for t in whole), torch.zeros(()).to(ONE))
        return torch.cat([p.latents for p in passes]) * mixed

    predict = make_predict(nn.Linear(1, 1, device="meta").to_empty(device=ONE), forward, "together", ALONE)
    steered = applied(kind, device)(predict, PICTURE, Rows(1, 1)).predict
    words = [WORDS[kind](i) for i in (0, 1)]
    latents = noise(1, 4, SIZE, SIZE).to(ONE)
    for step in FlowMatchEulerDiscreteScheduler().steps(2).to(torch.device(ONE)):
        one = Pass(latents, step, words[0])
        latents = torch.stack([*steered([one, replace(one, conditioning=words[1], role="negative")])]).sum(0)
        assert latents.device == torch.device(ONE)
        found.append(latents.to("cpu"))
    return found


@pytest.mark.parametrize("kind", WORDS)
def test_a_control_net_on_another_device_gives_the_same_residuals(kind: str) -> None:
    beside, elsewhere = said(kind, ONE), said(kind, TWO)
    assert len(beside) == len(elsewhere) > 4
    assert all(torch.equal(a, b) for a, b in zip(beside, elsewhere, strict=True))
    assert all(t.abs().max() > 0 for t in beside)


@pytest.mark.parametrize("kind", WORDS)
def test_values_that_do_not_change_are_copied_once(kind: str, moves: list[Move]) -> None:
    said(kind, TWO)
    moved = [tuple(shape) for source, target, shape in moves if {source, target} == {ONE, TWO}]
    words = [shape for shape in moved if shape == (1, 5, 24)]
    # In two turns one for each prompt; Flux's nets are told the positive alone, and adapters none.
    assert len(words) == {"adapter": 0, "flux": 1}.get(kind, 2)
    if kind == "adapter":  # one for each level, in two turns of two passes
        assert sorted(moved) == [(1, 16, 8, 8), (1, 32, 4, 4)]
