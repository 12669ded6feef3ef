"""Control nets of Flux beside the reference: of one kind, unions, and XLabs' that read pixels; several at once."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import sfumato as sf
from sfumato import Graph, named
from sfumato.blocks.control.flux import ApplyControlLatents, ApplyControlNet, EncodeControl

from .flux import SMALL, TRANSFORMER, ReferenceFlux
from .flux import flux as flux
from .flux import flux_checkpoint as flux_checkpoint
from .flux import flux_reference as flux_reference
from .support import apart, half, picture, quiet, run, seeded

Load = Callable[..., Graph]
Theirs = Callable[..., ReferenceFlux]
Same = Callable[..., object]
Net = Callable[[str], Path]

NETS: dict[str, dict[str, Any]] = {
    "plain": {"num_layers": 1, "num_single_layers": 1},
    "union": {"num_mode": 3, "num_single_layers": 0},
    "xlabs": {"num_layers": 1, "num_single_layers": 0, "patch_size": 2, "conditioning_embedding_channels": 4},
    "undistilled": {"num_layers": 2, "num_single_layers": 2, "guidance_embeds": False},
}


@pytest.fixture(scope="session")
def net(diffusers: Any, tmp_path_factory: pytest.TempPathFactory) -> Net:
    """Gives the folder of a control net whose answers are not nothing, which diffusers made and saved."""

    @cache
    def make(name: str) -> Path:
        with seeded(1):
            theirs = diffusers.FluxControlNetModel(**{**TRANSFORMER, **NETS[name]})
            for parameter in theirs.parameters():  # a fresh one adds nothing
                if not parameter.any():
                    torch.nn.init.normal_(parameter, std=0.3)
            theirs.save_pretrained(place := tmp_path_factory.mktemp(name))
        return place

    return make


class ReferenceControl(ReferenceFlux):
    """A Flux pipeline of diffusers with a control net."""

    CLASSES = {  # noqa: RUF012  as its base has it
        "text2image": "FluxControlNetPipeline",
        "image2image": "FluxControlNetImg2ImgPipeline",
        "inpaint": "FluxControlNetInpaintPipeline",
    }
    controlnet: Any

    def more(self) -> dict[str, Any]:
        return {"controlnet": self.controlnet}


@pytest.fixture(scope="session")
def controlled(diffusers: Any, flux_checkpoint: Callable[[str], Path], net: Net) -> Callable[..., ReferenceControl]:
    def load(*names: str) -> ReferenceControl:
        theirs = ReferenceControl(diffusers, flux_checkpoint("dev"))
        with quiet():
            nets = [diffusers.FluxControlNetModel.from_pretrained(net(name)).eval() for name in names]
        theirs.controlnet = nets[0] if len(nets) == 1 else diffusers.FluxMultiControlNetModel(nets)
        return theirs

    return load


def latents_drawn(graph: Graph, net: Path) -> Graph:
    """With control as published: its picture is encoded, and drawn, before anything else."""
    first = "noise" if "read" not in graph.nodes else "read"
    return (
        graph.insert("encode_control", EncodeControl(), before=first)
        .insert("control", ApplyControlLatents(), before="denoise.guider")
        .bind({"controlnet": sf.models.FluxControlNetModel.from_pretrained(net)})
    )


CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "a picture": ("plain", {}),
    "half as much": ("plain", {"controlnet_conditioning_scale": 0.5}),
    "in the middle": ("plain", {"control_guidance_start": 0.3, "control_guidance_end": 0.8}),
    "two images": ("plain", {"num_images_per_prompt": 2}),
    "seeds": ("plain", {"num_images_per_prompt": 2, "seed": [4, 5]}),
    "true guidance": ("plain", {"negative_prompt": "blue", "true_cfg_scale": 2.0}),
    "a union": ("union", {"control_mode": 1}),
    "without guidance of its own": ("undistilled", {}),
}


@pytest.mark.parametrize("what", CALLS)
def test_a_picture_steers_as_in_the_reference(
    flux: Load, controlled: Callable[..., ReferenceControl], net: Net, same: Same, what: str
) -> None:
    name, more = CALLS[what]
    given: dict[str, Any] = {**SMALL, "prompt": "a fish", "guidance_scale": 2.0, "num_inference_steps": 5, "seed": 3}
    given |= {"control_image": picture(5, 40, 70), **more}
    ours = run(latents_drawn(flux(), net(name)), **given)
    same(ours, controlled(name)(**given))
    assert apart(ours, run(flux(), **{k: v for k, v in given.items() if "control" not in k})).latents > 1e-2


def test_a_net_that_reads_pixels_needs_one_insert(
    flux: Load, controlled: Callable[..., ReferenceControl], net: Net, same: Same
) -> None:
    given: dict[str, Any] = {**SMALL, "prompt": "a fish", "guidance_scale": 2.0, "seed": 3}
    given["control_image"] = picture(5, 40, 70)
    pipe = flux().insert("control", ApplyControlNet(), before="denoise.guider")
    pipe = pipe.bind({"controlnet": sf.models.FluxControlNetModel.from_pretrained(net("xlabs"))})
    same(run(pipe, **given), controlled("xlabs")(**given))


@pytest.mark.parametrize("task", ["image2image", "inpaint"])
def test_control_goes_into_every_task(
    flux: Load, controlled: Callable[..., ReferenceControl], net: Net, same: Same, task: str
) -> None:
    given: dict[str, Any] = {**SMALL, "prompt": "a fish", "guidance_scale": 2.0, "num_inference_steps": 5, "seed": 3}
    given |= {"control_image": picture(5), "image": picture(6), "strength": 0.7}
    given |= {"mask_image": half()} if task == "inpaint" else {}
    same(run(latents_drawn(flux("dev", task), net("plain")), **given), controlled("plain")(task, **given))


def test_two_nets_at_once(flux: Load, controlled: Callable[..., ReferenceControl], net: Net, same: Same) -> None:
    given: dict[str, Any] = {**SMALL, "prompt": "a fish", "guidance_scale": 2.0, "seed": 3}
    both = [picture(5), picture(6)]
    theirs = controlled("undistilled", "undistilled")(
        control_image=both, controlnet_conditioning_scale=[0.5, 0.8], control_mode=[None, None], **given
    )
    pipe = latents_drawn(flux(), net("undistilled"))
    names = {"control_latents": "depth_latents", "controlnet_conditioning_scale": "depth_scale"}
    pipe = pipe.insert(
        "encode_depth",
        named(EncodeControl(), control_image="depth_image", control_latents="depth_latents"),
        before="noise",
    )
    pipe = pipe.insert("depth", named(ApplyControlLatents(), **names), before="denoise.guider")
    ours = run(
        pipe, control_image=both[0], depth_image=both[1], controlnet_conditioning_scale=0.5, depth_scale=0.8, **given
    )
    same(ours, theirs)


def test_nets_of_unlike_depths_at_once(flux: Load, net: Net) -> None:
    """Each serves all blocks by its own interval, whichever comes first. diffusers drops layers of the deeper one."""
    given: dict[str, Any] = {**SMALL, "prompt": "a fish", "seed": 3}
    places = {"controlnet": "second", "control_image": "second_image", "control_mode": "second_mode"}
    nets = {
        name: sf.models.FluxControlNetModel.from_pretrained(net(name)) for name in ("plain", "undistilled", "xlabs")
    }

    def both(first: str, second: str) -> Any:
        graph = flux().insert("control", ApplyControlNet(), before="denoise.guider")
        graph = graph.insert("second", named(ApplyControlNet(), **places), before="denoise.guider")
        pipe = graph.bind(controlnet=nets[first], second=nets[second])
        return run(pipe, control_image=picture(5), second_image=picture(5), **given)

    assert apart(both("plain", "undistilled"), both("undistilled", "plain")).latents < 1e-5
    assert both("plain", "xlabs").latents.isfinite().all()  # one of them has no single layers
    one = flux().insert("control", ApplyControlNet(), before="denoise.guider").bind(controlnet=nets["undistilled"])
    alone = run(one, control_image=picture(5), **given)
    assert apart(alone, both("plain", "undistilled")).latents > 1e-2


class ReferenceDepth(ReferenceFlux):
    """A Flux pipeline of diffusers for transformers that read a control picture themselves."""

    CLASSES = {  # noqa: RUF012  as its base has it
        "text2image": "FluxControlPipeline",
        "image2image": "FluxControlImg2ImgPipeline",
        "inpaint": "FluxControlInpaintPipeline",
    }


@pytest.mark.parametrize("task", ["text2image", "image2image"])
def test_a_transformer_that_reads_control_itself(
    diffusers: Any, flux: Load, flux_checkpoint: Callable[[str], Path], same: Same, task: str
) -> None:
    """As Canny and Depth do: the checkpoint's graph takes a control picture."""
    given: dict[str, Any] = {**SMALL, "prompt": "a fish", "num_images_per_prompt": 2, "control_image": picture(5)}
    given |= {} if task == "text2image" else {"image": picture(6), "strength": 0.7}
    ours = run(flux("depth", task), seed=3, **given)
    same(ours, ReferenceDepth(diffusers, flux_checkpoint("depth"))(task, seed=3, **given))


INPAINTS: dict[str, dict[str, Any]] = {
    "a picture": {},
    "all of the noise": {"strength": 1.0},
    "a little noise": {"strength": 0.3},
    "one step": {"num_inference_steps": 1, "strength": 1.0},
    "two images of a prompt": {"num_images_per_prompt": 2},
    "two prompts": {"prompt": ["a fish", "a cat"]},
    "two prompts, two images of each": {"prompt": ["a fish", "a cat"], "num_images_per_prompt": 2},
    "all its own": {
        "prompt": ["a fish", "a cat"],
        "image": [picture(6), picture(7)],
        "mask_image": [half(), half().rotate(90)],
        "control_image": [picture(5), picture(8)],
    },
    "a mask for each prompt": {"prompt": ["a fish", "a cat"], "mask_image": [half(), half().rotate(90)]},
    "a control picture for each prompt": {
        "prompt": ["a fish", "a cat"],
        "control_image": [picture(5), picture(8)],
        "num_images_per_prompt": 2,
    },
    "a mask of another size": {"mask_image": half(100, 50).rotate(30)},
    "a mask in colour": {"mask_image": picture(4, 90, 70)},
    "a white mask": {"mask_image": Image.new("L", (64, 64), 255)},
    "sigmas and a scale": {"sigmas": [1.0, 0.75, 0.5, 0.25], "guidance_scale": 2.0},
}


@pytest.mark.parametrize("what", INPAINTS)
def test_a_transformer_that_reads_control_inpaints_as_in_the_reference(
    diffusers: Any, flux: Load, flux_checkpoint: Callable[[str], Path], same: Same, what: str
) -> None:
    """The masked image, the control picture and the image are encoded in this order, and each draws noise."""
    given: dict[str, Any] = {**SMALL, "num_inference_steps": 5, "prompt": "a fish", "strength": 0.7, "seed": 3}
    given |= {"image": picture(6), "mask_image": half(), "control_image": picture(5, 40, 70), **INPAINTS[what]}
    ours = run(flux("depth", "inpaint"), **given)
    same(ours, ReferenceDepth(diffusers, flux_checkpoint("depth"))("inpaint", **given))


def test_control_is_cropped_with_the_picture(flux: Load) -> None:
    """A crop of all is the same as no crop; a crop of a part has another part of the control picture."""
    given: dict[str, Any] = {**SMALL, "height": 64, "width": 64, "prompt": "a fish", "seed": 3, "image": picture(6)}
    given |= {"mask_image": Image.new("L", (64, 64), 255), "control_image": picture(5)}
    pipe = flux("depth", "inpaint")
    assert torch.equal(run(pipe, **given).latents, run(pipe, padding_mask_crop=0, **given).latents)
    spot = Image.new("L", (64, 64))
    spot.paste(255, (32, 32, 64, 64))
    cropped = pipe.only("control_latents")(
        **{k: v for k, v in given.items() if k not in ("num_inference_steps", "max_sequence_length")}
        | {"mask_image": spot, "padding_mask_crop": 0}
    )
    part = {**given, "control_image": picture(5).crop((32, 32, 64, 64)), "mask_image": spot.crop((32, 32, 64, 64))}
    part["image"] = given["image"].crop((32, 32, 64, 64))
    keys = ("prompt", "seed", "height", "width", "image", "mask_image", "control_image")
    whole = pipe.only("control_latents")(**{key: part[key] for key in keys})
    assert torch.equal(cropped.control_latents, whole.control_latents)


def test_several_seeds_inpaint_with_control_as_each_alone(flux: Load) -> None:
    given: dict[str, Any] = {**SMALL, "prompt": "a fish", "strength": 0.7}
    given |= {"image": picture(6), "mask_image": half(), "control_image": picture(5)}
    pipe = flux("depth", "inpaint")
    both = run(pipe, num_images_per_prompt=2, seed=[3, 4], **given)
    for row, seed in enumerate([3, 4]):
        assert (both.latents[row] - run(pipe, seed=seed, **given).latents[0]).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["plain", "union", "xlabs"])
def test_one_insert_leaves_the_noise_as_it_was(flux: Load, net: Net, name: str) -> None:
    """A scale of 0 is the picture without control, of the same seed."""
    pipe = flux().insert("control", ApplyControlNet(), before="denoise.guider")
    pipe = pipe.bind({"controlnet": sf.models.FluxControlNetModel.from_pretrained(net(name))})
    given: dict[str, Any] = {**SMALL, "prompt": "a fish", "seed": 3}
    control = {"control_image": picture(5)} | ({"control_mode": 2} if name == "union" else {})
    none = run(pipe, controlnet_conditioning_scale=0.0, **control, **given)
    assert torch.equal(none.latents, run(flux(), **given).latents)
    assert apart(run(pipe, **control, **given), none).latents > 1e-2


def test_control_beside_a_reference_image_and_a_perturbed_pass(flux: Load, net: Net) -> None:
    pipe = flux("kontext", "kontext").insert("control", ApplyControlNet(), before="denoise.guider")
    pipe = pipe.bind({"controlnet": sf.models.FluxControlNetModel.from_pretrained(net("plain"))})
    given: dict[str, Any] = {**SMALL, "prompt": "a fish", "image": picture(1), "control_image": picture(2)}
    given |= {"auto_resize": False, "max_area": 900, "guider": "pag"}
    assert run(pipe, **given).latents.isfinite().all()


@pytest.mark.parametrize(
    ("name", "mode", "told"),
    [
        ("plain", 1, "control_mode=1, but this control net is of one kind"),
        ("union", None, "control_mode=None, but this control net is a union of the kinds 0 to 2"),
        ("union", 3, "control_mode=3, but this control net is a union of the kinds 0 to 2"),
    ],
)
def test_a_mode_that_does_not_fit_is_refused(flux: Load, net: Net, name: str, mode: int | None, told: str) -> None:
    pipe = flux().insert("control", ApplyControlNet(), before="denoise.guider")
    pipe = pipe.bind({"controlnet": sf.models.FluxControlNetModel.from_pretrained(net(name))})
    with pytest.raises(Exception, match=told):
        pipe(prompt="a fish", control_image=picture(5), control_mode=mode, **SMALL)
