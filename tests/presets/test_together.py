"""Runs side by side on real and tiny models: each gives what it gives alone, and they share forwards.

Forwards of more rows use other kernels, so pixels (0 to 1) differ by up to 1e-5 in float32, as they do for a batch of
several pictures. In float64 only what is rounded to float32 may differ. Where nothing is shared, no bit differs.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import sfumato as sf
from sfumato import Graph
from sfumato.blocks.control.taps import ApplyTap

from .control import Net, Nets, controlled, rows_of
from .control import nets as nets
from .flux import flux as flux
from .flux import flux_checkpoint as flux_checkpoint
from .sd3 import sd3 as sd3
from .sd3 import sd3_checkpoint as sd3_checkpoint
from .support import EMBEDDED, Reference, counted, fresh, picture
from .test_adapters import kohya_file
from .test_pixart import folder as folder  # tiny checkpoints of PixArt

Call = Mapping[str, Any]
PIXELS, EXACT = 1e-5, 1e-6
"""In float32 and in float64."""


def alone(pipe: Graph, calls: Sequence[Call]) -> list[Any]:
    """The outputs of each call."""
    return [pipe(output_type="pt", **call) for call in calls]


def side_by_side(pipe: Graph, calls: Sequence[Call]) -> list[Any]:
    """The outputs of runs of all calls together."""
    runs = [pipe.stream(output_type="pt", **call) for call in calls]
    sf.together(runs)
    return [run.outputs for run in runs]


def difference(ours: Sequence[Any], expected: Sequence[Any]) -> float:
    """The largest difference of their pixels."""
    assert all(bool(one.images.isfinite().all()) for one in expected)
    return max(float((a.images - b.images).abs().max()) for a, b in zip(ours, expected, strict=True))


def rows_of_forwards(stack: ExitStack, model: nn.Module) -> list[int]:
    """Fills with the rows of each forward of a model while the stack is open."""
    rows: list[int] = []

    def note(_model: nn.Module, args: tuple[Any, ...], _kwargs: Any, _out: object) -> None:
        rows.append(len(args[0]))

    stack.callback(model.register_forward_hook(note, with_kwargs=True).remove)
    return rows


@pytest.fixture(scope="module")
def loras(emoji: Graph, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Two adapters of the U-Net: of many layers, and of one of these."""
    folder = tmp_path_factory.mktemp("loras")
    kohya_file(emoji, folder / "many.safetensors")
    layer = "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    shape = emoji.bindings["unet"].load().get_submodule(layer).weight.shape
    body = f"lora_unet_{layer.replace('.', '_')}"
    down, up = torch.randn(4, shape[1]) * 0.3, torch.randn(shape[0], 4) * 0.3
    save_file({f"{body}.lora_down.weight": down, f"{body}.lora_up.weight": up}, folder / "one.safetensors")
    return [sf.load_adapter(folder / f"{name}.safetensors") for name in ("many", "one")]


def test_six_unlike_runs_equal_their_single_runs_and_share_one_forward_a_tick(emoji: Graph, loras: list[Any]) -> None:
    many, one = loras[0].scaled(0.3), loras[1]
    calls: list[Call] = [
        {"prompt": "a red apple", "seed": 1, "num_inference_steps": 4, "guidance_scale": 3.0},
        {"prompt": "a fox", "seed": 2, "num_inference_steps": 7, "scheduler": "euler_a", "adapters": [many],
         "guidance_scale": 2.0},
        {"prompt": "a rocket", "seed": 3, "num_inference_steps": 5, "guider": "none", "adapters": [one.scaled(0.5)]},
        {"prompt": "a cactus", "seed": 4, "num_inference_steps": 6, "scheduler": "dpmpp_2m_karras",
         "guider": sf.guiders.AdaptiveProjectedGuidance(guidance_scale=1.5)},
        {"prompt": ["a crown", "a penguin"], "seed": 5, "num_inference_steps": 3, "scheduler": "euler",
         "guidance_scale": 2.5, "adapters": [[many, one], [one.during(0.0, 0.5)]]},
        {"prompt": "a doughnut", "seed": [6], "num_inference_steps": 3, "scheduler": "heun",
         "adapters": [many.scaled(0.3)], "guidance_scale": 1.5},
    ]  # fmt: skip
    expected = alone(emoji, calls)
    with counted(emoji) as did:
        ours = side_by_side(emoji, calls)
    assert difference(ours, expected) < PIXELS
    assert did.unet == 7  # as many as the longest run has steps; Heun's 3 steps are 5 turns
    assert did.rows == [13, 13, 13, 9, 7, 4, 2]


@pytest.fixture(scope="module")
def exact() -> Graph:
    """The embedded model in float64."""
    return sf.load(EMBEDDED, dtype="float64", manager=fresh())


def test_all_that_differs_is_rounding(exact: Graph, loras: list[Any]) -> None:
    """Guidance that is far too strong makes rounding visible in float32."""
    calls: list[Call] = [
        {"prompt": "a cactus", "seed": 4, "num_inference_steps": 3, "scheduler": "dpmpp_2m_karras", "guider": "apg"},
        {"prompt": "a fox", "seed": 2, "num_inference_steps": 2, "guidance_scale": 20.0, "adapters": loras},
    ]
    assert difference(side_by_side(exact, calls), alone(exact, calls)) < EXACT


def test_without_a_shared_forward_nothing_differs_by_a_bit(emoji: Graph) -> None:
    calls: list[Call] = [
        {"prompt": "a fox", "seed": 1, "num_inference_steps": 3, "height": 64, "width": 64},
        {"prompt": "a fox", "seed": 1, "num_inference_steps": 3, "height": 64, "width": 80},
        {"prompt": "a fox", "seed": 1, "num_inference_steps": 3, "height": 48, "width": 64, "guider": "pag"},
    ]
    with counted(emoji) as before:
        expected = alone(emoji, calls)
    with counted(emoji) as did:
        ours = side_by_side(emoji, calls)
    assert difference(ours, expected) == 0
    assert did.unet == before.unet


def test_equal_taps_of_several_runs_share_forwards(exact: Graph) -> None:
    freeu = exact.insert("free", ApplyTap(change=sf.taps.FreeU(version=2)), before="denoise.guider")
    calls: list[tuple[Graph, Call]] = [
        (exact, {"prompt": "a fox", "seed": 1, "num_inference_steps": 2, "guider": "pag"}),
        (exact, {"prompt": "a cat", "seed": 2, "num_inference_steps": 3, "guider": "pag", "scheduler": "euler"}),
        (exact, {"prompt": "a sun", "seed": 3, "num_inference_steps": 2, "guider": "slg"}),
        (freeu, {"prompt": "a fox", "seed": 4, "num_inference_steps": 2}),
        (freeu, {"prompt": "a cat", "seed": 5, "num_inference_steps": 2, "scheduler": "ddim"}),
    ]
    with counted(exact) as before:
        expected = [graph(**call, output_type="pt") for graph, call in calls]
    runs = [graph.stream(**call, output_type="pt") for graph, call in calls]
    with counted(exact) as did:
        sf.together(runs)
    assert difference([run.outputs for run in runs[:3]], expected[:3]) < EXACT
    assert difference([run.outputs for run in runs[3:]], expected[3:]) < PIXELS  # its spectrum is in float32
    assert (before.unet, did.unet) == (14, 7)  # in two of three ticks PAG has two forwards, and FreeU one


def test_passes_whose_taps_read_the_step_share_forwards_with_those_of_their_own_run_alone(exact: Graph) -> None:
    merging = exact.insert("merge", ApplyTap(change=sf.taps.TokenMerging(ratio=0.5)), before="denoise.guider")
    calls: list[Call] = [
        {"prompt": "a fox", "seed": 1, "num_inference_steps": 2},
        {"prompt": "a cat", "seed": 2, "num_inference_steps": 3},
    ]
    with counted(exact) as before:
        expected = alone(merging, calls)
    with counted(exact) as did:
        ours = side_by_side(merging, calls)
    assert difference(ours, expected) < EXACT
    assert did.unet == before.unet


def test_tasks_may_differ_too(emoji: Graph) -> None:
    steps = {"num_inference_steps": 4}
    runs = [
        lambda: emoji.stream(prompt="a fox", seed=1, output_type="pt", **steps),
        lambda: emoji.task("image2image").stream(prompt="a cat", seed=2, image=picture(), output_type="pt", **steps),
    ]
    expected = [make().result() for make in runs]
    ours = [make() for make in runs]
    with counted(emoji) as did:
        sf.together(ours)
    assert difference([run.outputs for run in ours], expected) < PIXELS
    assert did.unet == 4


def test_runs_wait_for_memory_that_holds_one_model_at_a_time() -> None:
    """The text encoder and the U-Net never fit together. The first run keeps the U-Net until its loop ends."""
    pipe = sf.load(EMBEDDED, manager=fresh())
    calls = [{"prompt": f"picture {n}", "seed": n, "num_inference_steps": 1 + n} for n in range(2)]
    expected = alone(pipe, calls)
    small = sf.load(EMBEDDED, manager=sf.ComponentsManager(budget="30MB"))
    assert difference(side_by_side(small, calls), expected) < PIXELS


# ---------------------------------------------------------------------------------------------------- other families
@pytest.fixture(scope="module")
def families(
    tiny: Callable[[str], Graph],
    xl: Callable[[str], Graph],
    sd3: Callable[[str], Graph],
    flux: Callable[[str], Graph],
    folder: Callable[[str], Path],
) -> Callable[[str], Graph]:
    """Loads a tiny checkpoint of a family, by its name and kind."""
    makers: dict[str, Callable[[str], Graph]] = {"sd": tiny, "xl": xl, "sd3": sd3, "flux": flux}

    def load(name: str) -> Graph:
        family, _, kind = name.partition(" ")
        return sf.load(folder(kind)) if family == "pixart" else makers[family](kind)

    return load


SCALES: Mapping[str, tuple[str, float]] = {"flux dev": ("guidance_scale", 2.0), "sd sd-lcm": ("guidance_scale", 6.0)}
"""An input in which two of the runs differ, where a denoiser reads the scale itself."""


@pytest.mark.parametrize("name", ["sd sd-lcm", "xl base", "sd3 3 medium", "flux dev", "flux schnell", "pixart alpha"])
def test_runs_of_every_family_share_forwards(families: Callable[[str], Graph], name: str) -> None:
    pipe = families(name)
    size = {"height": 64, "width": 64}
    calls: list[dict[str, Any]] = [
        {"prompt": "a red apple", "seed": 1, "num_inference_steps": 2, **size},
        {"prompt": "a small cat", "seed": 2, "num_inference_steps": 4, **size},
        {"prompt": ["a fish", "a cat"], "seed": 3, "num_inference_steps": 3, **size},
    ]
    if name in SCALES:
        key, value = SCALES[name]
        calls[1][key] = value
    expected = alone(pipe, calls)
    model = next(pipe.bindings[part].load() for part in ("unet", "transformer") if part in pipe.bindings)
    with ExitStack() as stack:
        rows = rows_of_forwards(stack, model)
        ours = side_by_side(pipe, calls)
    assert len(rows) == 4
    assert difference(ours, expected) < PIXELS
    if name in SCALES:
        del calls[1][SCALES[name][0]]
        assert difference(ours[1:2], alone(pipe, calls[1:2])) > PIXELS


def test_control_nets_run_for_each_run_and_their_residuals_share_a_forward(
    tiny: Callable[[str], Graph], tiny_reference: Callable[[str], Reference], nets: Nets
) -> None:
    net: Net = nets.control(tiny_reference("sd").pipe.unet)
    pipe = controlled(tiny("sd")).bind(controlnet=net.ours)
    calls: list[Call] = [
        {"prompt": "a fish", "seed": 1, "num_inference_steps": 3, "control_image": picture(1)},
        {"prompt": "a cat", "seed": 2, "num_inference_steps": 4, "control_image": picture(2),
         "controlnet_conditioning_scale": 0.4, "control_guidance_end": 0.5},
    ]  # fmt: skip
    calls = [{**call, "height": 64, "width": 64} for call in calls]
    expected = alone(pipe, calls)
    with rows_of(net.ours) as (rows,), counted(pipe) as did:
        ours = side_by_side(pipe, calls)
    assert difference(ours, expected) < PIXELS
    assert rows == [2] * 5
    assert did.rows == [4, 4, 2, 2, 2]  # without residuals a pass shares no forward with one that has some
