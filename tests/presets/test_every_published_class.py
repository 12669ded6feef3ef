"""Every pipeline class that diffusers publishes for our families: its index draws its picture, or is refused.

A call passes what a class requires, and few steps. So defaults are compared too.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import sfumato as sf
from sfumato import LoadError
from sfumato.registry import presets as families

from .control import Nets
from .control import nets as nets
from .flux import flux_checkpoint as flux_checkpoint
from .sd3 import sd3_checkpoint as sd3_checkpoint
from .support import fresh, half, picture, quiet
from .test_pixart import folder as folder

CLASSES = {name: family for family in families for name in families[family].loaded_classes}
REFUSED = {name: family for family in families for name in families[family].refuses}
MODULAR = sorted(name for name in CLASSES if name.endswith("ModularPipeline"))
PARTS = {name for family in families for name in families[family].part_classes}
DRAWN = sorted(CLASSES.keys() - {*MODULAR} - PARTS)
OURS = re.compile(r"(Flux|StableDiffusion|StableUnCLIP|LatentConsistency|PixArt)\w*Pipeline")
"""What the classes of these families and of their relatives are named."""
FIXTURES = {
    "sd": "checkpoint",
    "sdxl": "xl_checkpoint",
    "sd3": "sd3_checkpoint",
    "flux": "flux_checkpoint",
    "flux-kontext": "flux_checkpoint",
    "pixart": "folder",
    "pixart-alpha": "folder",
}
KINDS = {"sd": "sd", "sdxl": "base", "sd3": "3 medium", "flux": "dev", "pixart": "sigma", "pixart-alpha": "alpha"}
OTHER_KINDS = {"LatentConsistency": "sd-lcm", "FluxFill": "fill", "FluxControl(?!Net)": "depth", "Kontext": "kontext"}
TASKS = {
    "FluxFill": "fill",
    "KontextInpaint": "kontext_inpaint",
    "Kontext": "kontext",
    "3.*Inpainting": "text2image",  # its control net reads the mask
    "Inpaint": "inpaint",
    "Img2Img": "image2image",
}
"""The task of a class by a pattern in its name; the first that fits counts."""

OTHER_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "FluxControlNetPipeline": {"guidance_scale": 7.0},
    "StableDiffusionControlNetImg2ImgPipeline": {"controlnet_conditioning_scale": 0.8},
    "StableDiffusionControlNetInpaintPipeline": {"controlnet_conditioning_scale": 0.5},
    "StableDiffusionControlNetPAGInpaintPipeline": {"controlnet_conditioning_scale": 0.5},
    "StableDiffusionXLControlNetImg2ImgPipeline": {"controlnet_conditioning_scale": 0.8, "strength": 0.8},
    "StableDiffusionXLControlNetPAGImg2ImgPipeline": {"controlnet_conditioning_scale": 0.8, "strength": 0.8},
    "StableDiffusionXLControlNetUnionImg2ImgPipeline": {"controlnet_conditioning_scale": 0.8, "strength": 0.8},
    "StableDiffusionXLControlNetInpaintPipeline": {"guidance_scale": 5.0},
    "StableDiffusionXLControlNetUnionInpaintPipeline": {"guidance_scale": 5.0},
}
"""Defaults of classes with control nets. Ours are those of the task, with and without control."""
STRENGTH = 0.9999
"""What some classes take for all of the noise: it leaves out the first step of 4, which ours keeps at 1."""


class Case(NamedTuple):
    """A pipeline of diffusers, its folder, and what is passed to it and to ours."""

    pipe: Any
    folder: Path
    task: str
    theirs: dict[str, Any]
    ours: dict[str, Any]


def _first(table: Mapping[str, str], name: str, default: str) -> str:
    return next((value for pattern, value in table.items() if re.search(pattern, name)), default)


@pytest.fixture(scope="module", autouse=True)
def _likely_control_latents(diffusers: Any) -> Iterator[None]:
    """SD 3's reference encodes control images to latents drawn from torch's global state; here, to the likeliest."""
    kind = diffusers.models.autoencoders.vae.DiagonalGaussianDistribution
    drawn = kind.sample

    def sample(distribution: Any, generator: Any = None) -> Any:
        return distribution.mode() if generator is None else drawn(distribution, generator)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "sample", sample)
        yield


@pytest.fixture
def case(diffusers: Any, nets: Nets, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[str], Case]:
    """Makes the folder of a class, with nets where it has some."""

    def make(name: str) -> Case:
        family, kind = CLASSES[name], getattr(diffusers, name)
        base: Callable[[str], Path] = request.getfixturevalue(FIXTURES[family])
        checkpoint = base(_first(OTHER_KINDS, name, KINDS.get(family, "dev")))
        with quiet(), torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(4)
            plain = diffusers.DiffusionPipeline.from_pretrained(checkpoint, torch_dtype=torch.float32)
            keys = {"requires_safety_checker": False, "add_watermarker": False}
            parts = {**plain.components, **keys, **_nets(diffusers, nets, name, plain)}
            if name.startswith("LatentConsistency"):
                parts["scheduler"] = diffusers.LCMScheduler.from_config(plain.scheduler.config)
            pipe = kind(**{key: value for key, value in parts.items() if key in signature(kind.__init__).parameters})
            pipe.save_pretrained(tmp_path / "made")
        pipe.set_progress_bar_config(disable=True)
        task = _first(TASKS, name, "text2image")
        return Case(pipe, tmp_path / "made", task, *_inputs(name, task, signature(kind.__call__).parameters))

    return make


def _nets(diffusers: Any, nets: Nets, name: str, plain: Any) -> dict[str, Any]:
    if "Adapter" in name:
        more: dict[str, Any] = {"adapter_type": "full_adapter_xl", "downscale_factor": 16} if "XL" in name else {}
        return {"adapter": nets.adapter(channels=(16, 32), num_res_blocks=1, **more).theirs}
    if "ControlNet" not in name:
        return {}
    if "Union" in name:
        return {"controlnet": nets.union(plain.unet).theirs}
    if "Flux" in name or "3" in name:
        kind = diffusers.FluxControlNetModel if "Flux" in name else diffusers.SD3ControlNetModel
        shared = {key: value for key, value in plain.transformer.config.items() if key in signature(kind).parameters}
        more = {"extra_conditioning_channels": 1} if "Inpainting" in name else {}
        net = kind(**{**shared, "num_layers": 1, **more}).eval()
        for weight in net.parameters():
            weight.normal_(std=0.1)
        return {"controlnet": net}
    return {"controlnet": nets.control(plain.unet).theirs}


def _inputs(name: str, task: str, taken: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a class requires, by its own names and by ours."""
    both: dict[str, Any] = {"prompt": "a fish", "num_inference_steps": 4}
    if "height" in taken and task != "kontext_inpaint":
        both |= {"height": 64, "width": 64}
    if task != "text2image":
        both |= {"image": picture(1)}
    if "mask_image" in taken:
        both |= {"mask_image": half()}
    ours, theirs = dict(both), dict(both)
    if "use_resolution_binning" in taken:
        theirs["use_resolution_binning"] = False
    if "strength" in taken and taken["strength"].default == STRENGTH:
        ours["strength"] = STRENGTH
    if "kontext" in task:
        ours["auto_resize"] = theirs["_auto_resize"] = False
    if task == "kontext":
        ours["max_area"] = theirs["max_area"] = 64 * 64
    if "Adapter" in name:
        ours["adapter_image"] = theirs["image"] = picture(2)
    elif "Control" in name:
        ours["control_image"] = theirs["control_image" if "control_image" in taken else "image"] = picture(2)
    if "control_mode" in taken and "Union" in name:
        ours["control_mode"] = theirs["control_mode"] = 1
    if "control_mask" in taken:
        ours["control_mask"] = theirs["control_mask"] = half()
    return theirs, {**ours, **OTHER_DEFAULTS.get(name, {})}


@pytest.mark.parametrize("name", DRAWN)
def test_the_index_of_a_class_draws_its_picture(case: Callable[[str], Case], diffusers: Any, name: str) -> None:
    made = case(name)
    watch: dict[str, Any] = {"output_type": "latent"}
    with quiet():
        theirs = made.pipe(generator=torch.Generator().manual_seed(1), **watch, **made.theirs).images
    pipe = sf.load(made.folder, made.task, manager=fresh())
    ours = pipe.only("latents")(seed=1, **made.ours).latents
    if theirs.ndim == 3:
        theirs = diffusers.FluxPipeline._unpack_latents(theirs, 64, 64, made.pipe.vae_scale_factor)
    assert ours.shape == theirs.shape
    far, scale = float((ours - theirs).abs().max()), max(1.0, float(theirs.abs().max()) / 10)
    assert far < 1e-4 * scale


@pytest.mark.parametrize("name", MODULAR)
def test_the_index_of_a_modular_class_is_of_its_family(tmp_path: Path, name: str) -> None:
    (tmp_path / "modular_model_index.json").write_text(json.dumps({"_class_name": name}))
    assert sf.load(tmp_path, manager=fresh()).preset == (CLASSES[name], "text2image")


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_the_index_of_another_class_is_refused_with_a_reason(tmp_path: Path, name: str) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name}))
    with pytest.raises(LoadError) as refusal:
        sf.load(tmp_path)
    assert str(refusal.value) == (
        f"{tmp_path}: its index names the pipeline {name!r}, which no preset family is for. "
        f"{families[REFUSED[name]].refuses[name]}. Or pass a graph of your own: sf.load(folder, graph=…)."
    )


def test_a_class_whose_way_to_sample_is_missing_loads_under_the_name_that_its_refusal_says(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    assert "Write StableDiffusionPipeline as _class_name" in families["sd"].refuses["StableDiffusionSAGPipeline"]
    index = shutil.copytree(checkpoint("sd"), tmp_path / "sag") / "model_index.json"
    keys = json.loads(index.read_text())
    index.write_text(json.dumps({**keys, "_class_name": "StableDiffusionSAGPipeline"}))
    with pytest.raises(LoadError, match="Write StableDiffusionPipeline as _class_name"):
        sf.load(tmp_path / "sag", manager=fresh())
    index.write_text(json.dumps({**keys, "_class_name": "StableDiffusionPipeline"}))
    assert sf.load(tmp_path / "sag", manager=fresh()).preset == ("sd", "text2image")


def test_every_class_of_the_reference_is_drawn_or_refused_with_a_reason(diffusers: Any) -> None:
    """So that a class of a new version is seen."""
    published = {name for name in dir(diffusers) if OURS.fullmatch(name)}
    assert published - CLASSES.keys() - REFUSED.keys() == set()
