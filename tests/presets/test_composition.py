"""Every preset with every guider, scheduler, control and step cache: two steps run, or it is refused before they do.

docs/composition.md shows the results; see composition.py beside this file.
"""

import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

import sfumato as sf
from sfumato import Block, Graph, InputError, SfumatoError, WireError
from sfumato.blocks.control import controlnet, t2i_adapter
from sfumato.blocks.control import flux as flux_control
from sfumato.blocks.control import sd3 as sd3_control
from sfumato.registry import guiders, schedulers, step_caches

from .composition import RUNS, WRITING, Outcome, shown, table_text, write
from .flux import flux as flux
from .flux import flux_checkpoint as flux_checkpoint
from .sd3 import sd3 as sd3
from .sd3 import sd3_checkpoint as sd3_checkpoint
from .support import half, held, picture
from .test_flux_redux import parts as parts
from .test_flux_redux import prior as prior
from .test_pixart import folder as folder


class Preset(NamedTuple):
    """A task on a tiny checkpoint: the fixture that loads it, which checkpoint, and what a call gives."""

    fixture: str
    checkpoint: str
    task: str
    inputs: Mapping[str, Any]


class Control(NamedTuple):
    """A block of control, and the net for it: its component and class, the denoiser that it is for, keys of its own."""

    block: type[Block]
    component: str
    net: str
    denoiser: str
    keys: Mapping[str, Any]
    inputs: Mapping[str, Any]


KINDS = ("DDIMScheduler", "EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler", "HeunDiscreteScheduler",
         "LCMScheduler", "FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")  # fmt: skip
"""One scheduler of each kind: plain, noisy, with history, with two turns a step, few steps, flow, flow in two turns."""
MORE: Mapping[str, Mapping[str, Any]] = {"PNDMScheduler": {"num_inference_steps": 4}}  # it begins with Runge and Kutta
FROM_IMAGE: Mapping[str, Any] = MappingProxyType({"image": picture(1, 32, 32), "strength": 1.0})
INTO_MASK: Mapping[str, Any] = MappingProxyType({**FROM_IMAGE, "mask_image": half(32, 32)})
SIZED = {"height": 32, "width": 32}
KONTEXT = {"image": picture(1, 32, 32), "auto_resize": False, "max_area": 32 * 32, **SIZED}
PRESETS = {
    "sd text2image": Preset("tiny", "sd", "text2image", SIZED),
    "sd image2image": Preset("tiny", "sd", "image2image", FROM_IMAGE),
    "sd inpaint": Preset("tiny", "sd", "inpaint", {**INTO_MASK, **SIZED}),
    "sd inpaint, 9 channels": Preset("tiny", "sd-inpainting", "inpaint", {**INTO_MASK, **SIZED}),
    "sdxl text2image": Preset("xl", "base", "text2image", SIZED),
    "sdxl image2image": Preset("xl", "base", "image2image", FROM_IMAGE),
    "sdxl inpaint": Preset("xl", "base", "inpaint", {**INTO_MASK, **SIZED}),
    "sdxl inpaint, 9 channels": Preset("xl", "inpainting", "inpaint", {**INTO_MASK, **SIZED}),
    "sdxl refined": Preset("refined", "base", "refined", SIZED),
    "sdxl image2image, refiner alone": Preset("xl", "refiner", "image2image", FROM_IMAGE),
    "sdxl text2image, distilled": Preset("xl", "lcm", "text2image", SIZED),
    "flux text2image": Preset("flux", "dev", "text2image", SIZED),
    "flux image2image": Preset("flux", "dev", "image2image", {**FROM_IMAGE, **SIZED}),
    "flux inpaint": Preset("flux", "dev", "inpaint", {**INTO_MASK, **SIZED}),
    "flux fill": Preset("flux", "fill", "fill", {**INTO_MASK, **SIZED}),
    "flux kontext": Preset("flux", "kontext", "kontext", KONTEXT),
    "flux kontext_inpaint": Preset("flux", "kontext", "kontext_inpaint", {**INTO_MASK, **SIZED, "auto_resize": False}),
    "sd3 text2image": Preset("sd3", "3 medium", "text2image", SIZED),
    "sd3 image2image": Preset("sd3", "3 medium", "image2image", {**FROM_IMAGE, **SIZED}),
    "flux redux": Preset("redux", "dev", "redux", {"image": picture(1, 32, 32), **SIZED}),
    "pixart text2image": Preset("pixart", "sigma", "text2image", SIZED),
    "pixart image2image": Preset("pixart", "sigma", "image2image", {**FROM_IMAGE, **SIZED}),
    "pixart inpaint": Preset("pixart", "sigma", "inpaint", {**INTO_MASK, **SIZED}),
    "sd3 inpaint": Preset("sd3", "3 medium", "inpaint", {**INTO_MASK, **SIZED}),
}
UNET = {"in_channels": 4, "conditioning_embedding_out_channels": (4, 8, 8, 8)}
UNION = {"num_trans_channel": 16, "num_proj_channel": 16, "num_trans_head": 2, "addition_time_embed_dim": 8}
TOKENS = {"in_channels": 16}  # a token is 2 x 2 latents of 4 channels, also where the transformer sees more
SEEN = {"control_image": picture(3, 32, 32)}
CONTROLS = {
    "ControlNet": Control(
        controlnet.ApplyControlNet, "controlnet", "ControlNetModel", "UNet2DConditionModel", UNET, SEEN
    ),
    "ControlNet-Union": Control(
        controlnet.ApplyControlNetUnion,
        "controlnet",
        "ControlNetUnionModel",
        "UNet2DConditionModel",
        {**UNET, **UNION},
        {**SEEN, "control_mode": 1},
    ),
    "T2I-Adapter": Control(
        t2i_adapter.ApplyT2IAdapter,
        "adapter",
        "T2IAdapter",
        "UNet2DConditionModel",
        {"num_res_blocks": 1},
        {"adapter_image": picture(3, 32, 32)},
    ),
    "Flux ControlNet": Control(
        flux_control.ApplyControlNet, "controlnet", "FluxControlNetModel", "FluxTransformer2DModel", TOKENS, SEEN
    ),
    "SD3 ControlNet": Control(
        sd3_control.ApplyControlNet, "controlnet", "SD3ControlNetModel", "SD3Transformer2DModel", {}, SEEN
    ),
}
CACHES: Mapping[str, Mapping[str, Any]] = {
    **{name: {} for name in step_caches},
    "MagCacheConfig": {"mag_ratios": (1.0, 1.0), "retention_ratio": 0.0},
    "TaylorSeerCacheConfig": {"disable_cache_before_step": 1},
}
SOME_CACHES = ("FirstBlockCacheConfig", "DeepCacheConfig")
"""Those that tasks from an image take."""
BATCHES: Mapping[str, Mapping[str, Any]] = {
    "two prompts, two pictures each": {"prompt": ["a cat", "a red apple"], "num_images_per_prompt": 2},
    "a seed for each picture": {"num_images_per_prompt": 2, "seed": [1, 2]},
}


@pytest.fixture(scope="module")
def pixart(folder: Callable[[str], Path]) -> Callable[[str, str], Graph]:
    return lambda name, task: sf.load(folder(name), task)


@pytest.fixture(scope="session")
def refined(xl: Callable[..., Graph]) -> Callable[[str, str], Graph]:
    """Base and refiner as one graph."""
    refiner = xl("refiner", "image2image").bindings["unet"]
    return lambda name, task: xl(name, task, refiner=refiner)


@pytest.fixture(scope="session")
def redux(flux_checkpoint: Callable[[str], Path], parts: dict[str, Any]) -> Callable[[str, str], Graph]:
    return lambda name, task: sf.load(flux_checkpoint(name), task, **parts)


@contextmanager
def forwards(pipe: Graph) -> Generator[list[str]]:
    """What runs: a list that grows with each forward of a denoiser."""
    ran: list[str] = []

    def noting(name: str) -> Callable[..., None]:
        return lambda *_: ran.append(name)

    models = {name: held(pipe, name) for name in ("unet", "refiner", "transformer") if name in pipe.bindings}
    hooks = [model.register_forward_hook(noting(name)) for name, model in models.items()]
    try:
        yield ran
    finally:
        for hook in hooks:
            hook.remove()


def outcome(pipe: Graph, ask: Callable[[Graph], Any]) -> Outcome:
    """Whether two steps run and give numbers; or the reason for which nothing ran."""
    with forwards(pipe) as ran, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            images = ask(pipe).images
        except SfumatoError as error:
            refusal = error
        else:
            assert ran and np.isfinite(images).all()
            return RUNS, ""
    assert not ran, f"it was refused only after the denoiser had run: {refusal}"
    known = isinstance(refusal, WireError | InputError)
    return refusal.problems[0].code if known else type(refusal).__name__, str(refusal)


def call(preset: Preset, **more: Any) -> Callable[[Graph], Any]:
    given = {"prompt": "a cat", "seed": 0, "num_inference_steps": 2, "output_type": "np", **preset.inputs, **more}
    if preset.task == "redux":  # asked by a picture in place of words
        del given["prompt"]
    return lambda pipe: pipe(**given)


def net_for(control: Control, pipe: Graph) -> nn.Module:
    """A net of random weights, with the keys of the pipe's denoiser that both classes have."""
    kind = getattr(sf.models, control.net)
    shared = next(held(pipe, name) for name in ("unet", "transformer") if name in pipe.bindings).to_config()
    if shared["_class_name"] != control.denoiser:  # a net of another family, of full size but without weights
        with torch.device("meta"):
            return kind(**control.keys)
    known = {k: v for k, v in shared.items() if k in kind.config_class.model_fields}
    if control.net == "T2IAdapter":
        xl = {"adapter_type": "full_adapter_xl", "downscale_factor": 16} if shared["addition_embed_type"] else {}
        known = {"channels": shared["block_out_channels"], **xl}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(**{**known, **control.keys}).eval()


def controlled(preset: Preset, control: Control) -> Callable[[Graph], Any]:
    def ask(pipe: Graph) -> Any:
        steered = pipe.insert("control", control.block(), before="denoise.guider")
        return call(preset, **{control.component: net_for(control, pipe), **control.inputs})(steered)

    return ask


def with_cache(preset: Preset, cache: str) -> Callable[[Graph], Any]:
    return lambda pipe: call(preset)(pipe.cached(cache, **CACHES[cache]))


def column(name: str, pipe: Graph) -> dict[str, dict[str, Outcome]]:
    """All that a preset is asked, by table and row. Tasks from an image take one scheduler of each kind."""
    preset = PRESETS[name]
    known = schedulers if preset.task == "text2image" else KINDS
    caches = CACHES if preset.task == "text2image" else SOME_CACHES
    return {
        "Guiders": {g: outcome(pipe, call(preset, guider=g)) for g in guiders},
        "Schedulers": {s: outcome(pipe, call(preset, scheduler=s, **MORE.get(s, {}))) for s in known},
        "Control": {c: outcome(pipe, controlled(preset, control)) for c, control in CONTROLS.items()},
        "Step caches": {c: outcome(pipe, with_cache(preset, c)) for c in caches},
        "Batches": {b: outcome(pipe, call(preset, **batch)) for b, batch in BATCHES.items()},
    }


# ------------------------------------------------------------------------------------------------------------ the page
# A cell is for all tasks of a family: "yes", or the code of the problem; a task that differs is named after it.
FOUND: dict[str, dict[str, dict[str, Outcome]]] = {}
"""What came out, by preset, table and row: for writing the page."""
HEAD = """# What goes with what

**yes**: it runs. Anything else is the code of the error that refuses it before a denoiser runs; the codes are
[below](#codes). The first tables are every preset with every guider, scheduler, control and step cache, for two steps
on tiny models. A cell is for all tasks of its family; a task that differs is named.

{tasks}

The other tables are [engines](#engines) and [attention backends](#attention-backends) for each family, and engines,
step caches and attention backends with everything else, on one tiny U-Net. Each cell is compared with the same call in
eager float32: a forward is within the tolerance of its [engine](engines.md), an attention backend within 1e-5, and a
step cache reports its error. **torch**: the engine cannot run this call, so torch runs it, with the same result.
**partly**: torch runs some blocks or some steps. The compiler of these tables runs what it has traced, and the recorder
of CUDA graphs is a stand-in, so they say what fits together and not how fast it is.

This page is written and checked by `tests/presets/test_composition.py` and `test_composition_speed.py`.

"""


def cell(family: str, table: str, row: str) -> str:
    """What the page says of a row for all tasks of a family."""
    found = {p.partition(" ")[2]: tables[table][row][0] for p, tables in FOUND.items()
             if p.partition(" ")[0] == family and row in tables[table]}  # fmt: skip
    usual = next(iter(found.values()))
    return usual + "".join(f"; {task}: {code}" for task, code in found.items() if code != usual)


def families() -> list[str]:
    return list(dict.fromkeys(name.partition(" ")[0] for name in PRESETS))


def write_page() -> None:
    tasks = {f: "; ".join(p.partition(" ")[2] for p in PRESETS if p.partition(" ")[0] == f) for f in families()}
    titles = {
        title: table_text(title, families(), {row: [cell(f, title, row) for f in families()] for row in rows})
        for title, rows in FOUND[next(iter(PRESETS))].items()
    }
    reasons = {code: why for tables in FOUND.values() for rows in tables.values() for code, why in rows.values() if why}
    write(titles, reasons, HEAD.format(tasks="\n".join(f"- {family}: {names}" for family, names in tasks.items())))


def shown_for_task(family: str, table: str, row: str, task: str) -> str:
    """What the page says of a row for one task."""
    usual, *others = shown(table, row, family).split("; ")
    return dict(other.split(": ") for other in others).get(task, usual)


@pytest.mark.parametrize("name", PRESETS)
def test_every_combination_runs_or_is_refused_before_anything_runs(name: str, request: pytest.FixtureRequest) -> None:
    preset, (family, _, task) = PRESETS[name], name.partition(" ")
    FOUND[name] = column(name, request.getfixturevalue(preset.fixture)(preset.checkpoint, preset.task))
    if not WRITING:
        for table, rows in FOUND[name].items():
            seen = {row: shown_for_task(family, table, row, task) for row in rows}
            assert seen == {row: o[0] for row, o in rows.items()}
    elif len(FOUND) == len(PRESETS):
        write_page()
