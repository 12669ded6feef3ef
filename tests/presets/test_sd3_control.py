"""Control nets for Stable Diffusion 3 beside the reference's pipeline: one insert, the same pictures."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import sfumato as sf
from sfumato import Graph, WireError, named
from sfumato.blocks.control.sd3 import ApplyControlNet, ApplyInpaintControlNet

from .sd3 import Reference3
from .sd3 import sd3 as sd3
from .sd3 import sd3_checkpoint as sd3_checkpoint
from .sd3 import sd3_reference as sd3_reference
from .support import Result, half, picture, quiet, run

Same = Callable[..., object]
SD3 = Callable[..., Graph]
SD3Reference = Callable[..., Reference3]
PROMPTS = ["a red apple", "a small cat"]
GIVEN: dict[str, Any] = {"prompt": "a fish", "num_inference_steps": 4, "control_image": picture(9)}
LARGE: dict[str, Any] = {
    "joint_attention_dim": None,
    "use_pos_embed": False,
    "pos_embed_type": None,
    "pos_embed_max_size": None,
    "force_zeros_for_pooled_projection": False,
}
NETS: dict[str, dict[str, Any]] = {"of 3": {}, "of 3.5 large": LARGE}


class Net:
    """A net of ours and the reference's, with the same weights, and the reference's pipeline with it."""

    def __init__(self, diffusers: Any, reference: Reference3, folder: Path, seed: int = 0, **config: Any) -> None:
        self.diffusers, self.reference = diffusers, reference
        with quiet(), torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            kind = diffusers.SD3ControlNetModel
            shared = {key: value for key, value in reference.pipe.transformer.config.items() if key[0] != "_"}
            self.theirs = kind(**{**shared, "num_layers": 2, **config}).eval().requires_grad_(False)
            for weight in self.theirs.parameters():
                weight.normal_(std=0.1)
            self.theirs.save_pretrained(folder)
        self.ours = sf.models.SD3ControlNetModel.from_pretrained(folder)

    def __call__(
        self,
        seed: int | Sequence[int] = 0,
        others: Sequence["Net"] = (),
        kind: str = "StableDiffusion3ControlNetPipeline",
        **inputs: Any,
    ) -> Result:
        nets: Any = [self.theirs, *(net.theirs for net in others)]
        with quiet():
            parts = {**self.reference.pipe.components, "controlnet": nets if others else self.theirs}
            pipe = getattr(self.diffusers, kind)(**parts)
            pipe.set_progress_bar_config(disable=True)
            last: list[torch.Tensor] = []

            def keep(_pipe: Any, _step: int, _t: Any, values: dict[str, Any]) -> dict[str, Any]:
                last[:] = [values["latents"]]
                return {}

            made = [torch.Generator("cpu").manual_seed(s) for s in ([seed] if isinstance(seed, int) else seed)]
            given = {"height": 64, "width": 64, "output_type": "np", **inputs}
            given["generator"] = made[0] if isinstance(seed, int) else made
            images = pipe(callback_on_step_end=keep, **given).images
        return Result(last[0], images)


@pytest.fixture(scope="module", autouse=True)
def _likely_latents(diffusers: Any) -> Iterator[None]:
    """The reference encodes control images to latents drawn from torch's global state; here, to the likeliest."""
    kind = diffusers.models.autoencoders.vae.DiagonalGaussianDistribution
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "sample", kind.mode)
        yield


@pytest.fixture(scope="module")
def net(diffusers: Any, sd3_reference: SD3Reference, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Net]:
    def make(name: str = "of 3", seed: int = 0) -> Net:
        return Net(diffusers, sd3_reference(), tmp_path_factory.mktemp("net"), seed, **NETS[name])

    return make


def controlled(pipe: Graph, net: Net) -> Graph:
    return pipe.insert("control", ApplyControlNet(), before="denoise.guider").bind(controlnet=net.ours)


CALLS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "a scale": {"controlnet_conditioning_scale": 0.4},
    "an interval": {"control_guidance_start": 0.25, "control_guidance_end": 0.7},
    "no guidance": {"guidance_scale": 1.0},
    "a picture for each prompt": {"prompt": PROMPTS, "control_image": [picture(3), picture(4)]},
    "a seed each": {"num_images_per_prompt": 2, "seed": [3, 4]},
    "a picture of another size": {"control_image": picture(5, 90, 41)},
}


@pytest.mark.parametrize("what", CALLS)
@pytest.mark.parametrize("name", NETS)
def test_the_pictures_of_the_reference(sd3: SD3, net: Callable[..., Net], same: Same, name: str, what: str) -> None:
    given: dict[str, Any] = {"seed": 5, **GIVEN, **CALLS[what]}
    one = net(name)
    ours = run(controlled(sd3(), one), **given)
    same(ours, one(**given))
    plain = run(sd3(), **{key: value for key, value in given.items() if not key.startswith("control")})
    assert (ours.latents - plain.latents).abs().max() > 1e-3


def test_several_nets_add_up(sd3: SD3, net: Callable[..., Net], same: Same) -> None:
    one, two = net(seed=0), net(seed=1)
    renamed = {"controlnet": "second_net", "control_image": "second_image"}
    renamed |= {"controlnet_conditioning_scale": "second_scale"}
    second = named(ApplyControlNet(), **renamed)
    pipe = controlled(sd3(), one).insert("second", second, after="denoise.control").bind(second_net=two.ours)
    given = {key: value for key, value in GIVEN.items() if key != "control_image"}
    images = [picture(9), picture(8)]
    ours = run(pipe, seed=1, control_image=images[0], second_image=images[1], second_scale=0.5, **given)
    theirs = one(seed=1, others=[two], control_image=images, controlnet_conditioning_scale=[1.0, 0.5], **given)
    same(ours, theirs)


def test_it_steers_other_tasks_too(sd3: SD3, net: Callable[..., Net]) -> None:
    pipe = controlled(sd3("3 medium", "image2image"), net())
    given: dict[str, Any] = {"prompt": "a fish", "num_inference_steps": 4, "image": picture(1), "seed": 2}
    on, off = (run(pipe, control_image=picture(9), controlnet_conditioning_scale=s, **given) for s in (1.0, 0.0))
    assert (on.latents - off.latents).abs().max() > 1e-3
    assert torch.equal(off.latents, run(sd3("3 medium", "image2image"), **given).latents)


HOLES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "two prompts": {"prompt": PROMPTS},
    "a picture and a mask for each prompt": {
        "prompt": PROMPTS,
        "control_image": [picture(3), picture(4)],
        "control_mask": [half(), half().rotate(90)],
    },
    "no guidance": {"guidance_scale": 1.0, "controlnet_conditioning_scale": 0.6},
}


@pytest.fixture(scope="module")
def filling(diffusers: Any, sd3_reference: SD3Reference, tmp_path_factory: pytest.TempPathFactory) -> Net:
    return Net(diffusers, sd3_reference(), tmp_path_factory.mktemp("net"), extra_conditioning_channels=1)


@pytest.mark.parametrize("what", HOLES)
def test_a_net_that_was_trained_to_inpaint_reads_a_mask_too(sd3: SD3, filling: Net, same: Same, what: str) -> None:
    given: dict[str, Any] = {"seed": 5, **GIVEN, "control_mask": half(), **HOLES[what]}
    pipe = sd3().insert("control", ApplyInpaintControlNet(), before="denoise.guider").bind(controlnet=filling.ours)
    ours = run(pipe, **given)
    same(ours, filling(kind="StableDiffusion3ControlNetInpaintingPipeline", **given))
    other = run(pipe, **{**given, "control_mask": half().rotate(180)})
    assert (ours.latents - other.latents).abs().max() > 1e-3


def test_a_net_that_was_trained_to_inpaint_is_not_shown_a_picture_alone(sd3: SD3, filling: Net) -> None:
    with pytest.raises(ValueError, match=r"trained to inpaint\. Use ApplyInpaintControlNet"):
        run(controlled(sd3(), filling), **GIVEN)
    pipe = sd3().insert("control", ApplyInpaintControlNet(), before="denoise.guider").bind(controlnet=filling.ours)
    with pytest.raises(ValueError, match="control_mask has 2 masks for 1 picture"):
        run(pipe, control_mask=[half(), half()], **GIVEN)


def test_such_a_net_in_a_folder_stands_in_its_graph(filling: Net, sd3_reference: SD3Reference, tmp_path: Path) -> None:
    kind = filling.diffusers.StableDiffusion3ControlNetInpaintingPipeline
    with quiet():
        kind(**sd3_reference().pipe.components, controlnet=filling.theirs).save_pretrained(tmp_path)
    assert {"control_image", "control_mask"} <= {*sf.load(tmp_path).inputs}


def test_it_steers_no_other_family() -> None:
    with pytest.raises(WireError, match="SD3Conditioning"):
        sf.load("emoji").insert("control", ApplyControlNet(), before="denoise.guider")


def test_nets_that_a_checkpoint_brings_stand_in_its_graph(
    diffusers: Any, sd3_reference: SD3Reference, net: Callable[..., Net], same: Same, tmp_path: Path
) -> None:
    """The reference writes one net alone; a second one is named as it names those of other families."""
    one, two = net(seed=0), net("of 3.5 large", seed=1)
    with quiet():
        pipeline = diffusers.StableDiffusion3ControlNetPipeline(
            **sd3_reference().pipe.components, controlnet=one.theirs
        )
        pipeline.save_pretrained(tmp_path)
        two.theirs.save_pretrained(tmp_path / "controlnet_1")
    index = json.loads((tmp_path / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps({**index, "controlnet_1": index["controlnet"]}))
    pipe = sf.load(tmp_path)
    given: dict[str, Any] = {"prompt": "a fish", "num_inference_steps": 2, "seed": 4}
    both = run(pipe, control_image=picture(9), control_image_1=picture(8), **given)
    second_off = run(
        pipe, control_image=picture(9), control_image_1=picture(8), controlnet_conditioning_scale_1=0.0, **given
    )
    same(second_off, one(control_image=picture(9), **given))
    assert (both.latents - second_off.latents).abs().max() > 1e-3
