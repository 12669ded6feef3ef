"""What control nets cost, what they are refused for, and that they go with every guider and task."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import sfumato as sf
from sfumato import Graph, WireError, named
from sfumato.blocks.control.controlnet import ApplyControlNet
from sfumato.blocks.denoise.unet import PredictNoise
from sfumato.graph.events import BlockFinished
from sfumato.registry import guiders

from ..guiders.test_pipeline import ROWS
from .control import Net, Nets, controlled, rows_of, with_adapter, with_union
from .control import nets as nets
from .support import Reference, counted, half, picture, run

Tiny = Callable[..., Graph]
PROMPTS = ["a fish", "a cat"]
GIVEN: dict[str, Any] = {
    "prompt": PROMPTS,
    "num_inference_steps": 4,
    "seed": 1,
    "control_image": picture(9),
    "height": 64,
    "width": 64,
}


@pytest.fixture(scope="module")
def unet(tiny_reference: Callable[[str], Reference]) -> Any:
    return tiny_reference("sd").pipe.unet


@pytest.fixture(scope="module")
def net(nets: Nets, unet: Any) -> Net:
    return nets.control(unet)


# ------------------------------------------------------------------------------------------------------- what they cost
@pytest.mark.parametrize("name", guiders)
def test_a_control_net_runs_once_a_step_with_every_guider(tiny: Tiny, net: Net, name: str) -> None:
    """A perturbed pass asks what the positive one asks, so it costs no row. TCFG: the reference crashes there."""
    pipe = controlled(tiny("sd"))
    with rows_of(net.ours) as (rows,), counted(pipe) as did:
        made = run(pipe, guider=name, controlnet=net.ours, **GIVEN)
    assert made.latents.isfinite().all()
    assert did.rows == ROWS[name]
    passes = {"NoGuidance": 1, "AutoGuidance": 1}.get(name, 2)
    assert rows == [passes * 2] * (3 if name == "ClassifierFreeZeroStarGuidance" else 4)


@pytest.mark.parametrize("name", ["cfg", "pag", "tcfg", "slg"])
def test_guessing_leaves_the_negative_pass_alone_in_one_forward(tiny: Tiny, net: Net, name: str) -> None:
    pipe = controlled(tiny("sd"))
    with rows_of(net.ours) as (rows,), counted(pipe) as did:
        run(pipe, guider=name, guess_mode=True, controlnet=net.ours, **GIVEN)
    assert rows == [2] * 4
    assert did.rows == ROWS[guiders.aliases[name]]


def test_no_control_net_runs_outside_its_interval_or_with_a_scale_of_zero(tiny: Tiny, net: Net) -> None:
    pipe = controlled(tiny("sd"))
    for more, count in (
        ({"control_guidance_start": 0.5}, 2),
        ({"control_guidance_end": 0.3}, 1),
        ({"controlnet_conditioning_scale": 0.0}, 0),
    ):
        with rows_of(net.ours) as (rows,):
            run(pipe, controlnet=net.ours, **GIVEN, **more)
        assert len(rows) == count


def test_an_interval_counts_whole_steps(tiny: Tiny, net: Net) -> None:
    """A solver that calls the model twice a step is steered in both calls; the reference counts calls."""
    pipe = controlled(tiny("sd"))
    with rows_of(net.ours) as (rows,):
        run(pipe, controlnet=net.ours, scheduler="HeunDiscreteScheduler", control_guidance_end=0.5, **GIVEN)
    assert len(rows) == 4


def test_a_block_of_control_runs_once_and_not_in_each_turn(tiny: Tiny, net: Net) -> None:
    events = list(controlled(tiny("sd")).stream(controlnet=net.ours, **GIVEN))
    assert [e.path for e in events if isinstance(e, BlockFinished)].count("denoise.control") == 1
    assert [e.path for e in events if isinstance(e, BlockFinished)].count("denoise.guider") == 4


def test_an_adapter_reads_its_picture_once(tiny: Tiny, nets: Nets) -> None:
    net = nets.adapter(channels=(16, 32), num_res_blocks=1)
    given = {name: value for name, value in GIVEN.items() if name != "control_image"}
    with rows_of(net.ours) as (rows,):
        run(with_adapter(tiny("sd")), adapter=net.ours, adapter_image=picture(9), **given)
    assert rows == [1]


def test_together_or_apart_is_the_same_picture(tiny: Tiny, net: Net) -> None:
    pipe = controlled(tiny("sd"))
    apart = pipe.replace("denoise.predict", PredictNoise(batching="apart"))
    for more in ({}, {"guess_mode": True}, {"guider": "pag"}):
        one, other = (run(p, controlnet=net.ours, **GIVEN, **more) for p in (pipe, apart))
        assert (one.latents - other.latents).abs().max() < 1e-3


# ------------------------------------------------------------------------------------------------------------- the laws
def test_a_scale_of_zero_is_the_picture_without_control(tiny: Tiny, net: Net) -> None:
    plain = {name: value for name, value in GIVEN.items() if name != "control_image"}
    without = run(tiny("sd"), **plain)
    given = {**GIVEN, "controlnet_conditioning_scale": 0.0}
    assert torch.equal(run(controlled(tiny("sd")), controlnet=net.ours, **given).latents, without.latents)


def test_a_picture_for_each_is_what_each_gives_alone(tiny: Tiny, net: Net) -> None:
    pipe = controlled(tiny("sd"))
    images = [picture(1), picture(2)]
    given = {**GIVEN, "num_images_per_prompt": 2}
    many = run(pipe, controlnet=net.ours, **{**given, "control_image": images, "seed": [1, 2, 3, 4]})
    each = run(
        pipe,
        controlnet=net.ours,
        **{**given, "control_image": sorted(images * 2, key=images.index), "seed": [1, 2, 3, 4]},
    )
    assert torch.equal(many.latents, each.latents)
    for row in range(4):
        one = {"prompt": PROMPTS[row // 2], "control_image": images[row // 2], "seed": row + 1}
        alone = run(pipe, controlnet=net.ours, **{**GIVEN, **one})
        assert (many.latents[row] - alone.latents[0]).abs().max() < 1e-4


def test_half_of_one_net_twice_is_that_net(tiny: Tiny, net: Net) -> None:
    pipe = controlled(tiny("sd"))
    twice = controlled(pipe, name="again")
    one = run(pipe, controlnet=net.ours, **GIVEN)
    two = run(twice, controlnet=net.ours, controlnet_conditioning_scale=0.5, **GIVEN)
    assert (one.latents - two.latents).abs().max() < 1e-4


def test_control_goes_into_every_task_by_one_insert_and_out_again(tiny: Tiny) -> None:
    for task in ("text2image", "image2image", "inpaint"):
        pipe = tiny("sd", task)
        assert controlled(pipe).remove("denoise.control") == pipe


def test_a_block_of_control_survives_its_file(tiny: Tiny, net: Net, tmp_path: Any) -> None:
    pipe = controlled(tiny("sd"), ApplyControlNet(controlnet_conditioning_scale=0.5, guess_mode=True))
    pipe.save(tmp_path / "saved")
    own = sf.Access(folders=[pipe.bindings["unet"].spec.pretrained_model_name_or_path])
    again = sf.load(tmp_path / "saved", access=own)
    one, other = (run(p, controlnet=net.ours, **GIVEN) for p in (pipe, again))
    assert torch.equal(one.latents, other.latents)


def test_a_net_in_half_precision_steers_a_unet_in_full(tiny: Tiny, nets: Nets, unet: Any) -> None:
    net, pipe = nets.control(unet).ours, controlled(tiny("sd"))
    full = run(pipe, controlnet=net, **GIVEN)
    half_of_it = run(pipe, controlnet=net.bfloat16(), **GIVEN)
    assert 0 < (full.latents - half_of_it.latents).abs().max() < 0.3


# ------------------------------------------------------------------------------------------- what they are refused for
def test_a_net_for_another_unet_is_refused_when_it_is_bound(tiny: Tiny, nets: Nets, unet: Any) -> None:
    wide = nets.control(unet, block_out_channels=(16, 64)).ours
    with pytest.raises(WireError, match=r"has block_out_channels \(16, 64\), but .*predict \(unet\) has .*\(16, 32\)"):
        controlled(tiny("sd")).bind(controlnet=wide)
    with pytest.raises(WireError, match=r"token_width 24, but .* token_width 32"):
        controlled(tiny("sd")).bind(controlnet=nets.control(unet, cross_attention_dim=24).ours)
    with pytest.raises(WireError, match=r"has block_out_channels \(16, 16\)"):
        with_adapter(tiny("sd")).bind(adapter=nets.adapter(channels=(16, 16)).ours)


def test_a_net_of_another_kind_is_refused(tiny: Tiny, nets: Nets, unet: Any) -> None:
    with pytest.raises(WireError, match=r"controlnet +is ControlNetUnionModel, but .* needs ControlNetModel"):
        controlled(tiny("sd")).bind(controlnet=nets.union(unet).ours)


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "three pictures": ({"control_image": [picture()] * 3}, "control_image has 3 pictures for 2 prompts"),
    "no picture": ({"control_image": []}, "There is no picture"),
    "an empty interval": (
        {"control_guidance_start": 0.8, "control_guidance_end": 0.2},
        r"more than control_guidance_start \(0.8\), got 0.2",
    ),
    "values beyond": ({"control_image": torch.full((3, 64, 64), 7.0)}, "needs values from 0 to 1, got 7 to 7"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_mistakes_are_told_before_the_first_forward(tiny: Tiny, net: Net, what: str) -> None:
    more, text = MISTAKES[what]
    pipe = controlled(tiny("sd"))
    with counted(pipe) as did, pytest.raises((ValueError, sf.InputError), match=text):
        run(pipe, controlnet=net.ours, **{**GIVEN, **more})
    assert did.unet == 0


UNION_MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "unlike numbers": ({"control_mode": [1, 2]}, "control_image has 1 entries, control_mode 2"),
    "a kind it does not know": ({"control_mode": 6}, "control_mode=6, but this control net knows the kinds 0 to 5"),
    "a kind twice": ({"control_mode": [1, 1], "control_image": [picture(), picture()]}, "names a kind twice"),
}


@pytest.mark.parametrize("what", UNION_MISTAKES)
def test_mistakes_with_a_union(tiny: Tiny, nets: Nets, unet: Any, what: str) -> None:
    more, text = UNION_MISTAKES[what]
    with pytest.raises(ValueError, match=text):
        run(with_union(tiny("sd")), controlnet=nets.union(unet).ours, **{**GIVEN, **more})


def test_control_without_a_picture_or_a_net_says_what_is_missing(tiny: Tiny, net: Net) -> None:
    pipe, given = controlled(tiny("sd")), {**GIVEN}
    del given["control_image"]
    with pytest.raises(sf.InputError, match="control_image"):
        run(pipe, controlnet=net.ours, **given)
    with pytest.raises(sf.SfumatoError, match="controlnet"):
        run(pipe, **GIVEN)


def test_two_nets_under_one_name_share_it_and_named_ones_do_not(tiny: Tiny, net: Net, nets: Nets, unet: Any) -> None:
    pose = named(ApplyControlNet(), control_image="pose_image", controlnet="pose_net")
    pipe = controlled(controlled(tiny("sd")), pose, "pose")
    pipe = pipe.bind(controlnet=net.ours, pose_net=nets.control(unet, 1).ours)
    assert pipe.bindings["controlnet"] is not pipe.bindings["pose_net"]
    assert {"control_image", "pose_image"} <= set(pipe.inputs)


@pytest.mark.parametrize("task", ["image2image", "inpaint"])
def test_control_goes_with_other_tasks_and_guiders(tiny: Tiny, net: Net, task: str) -> None:
    more: dict[str, Any] = {"image": picture(1), "strength": 0.5}
    if task == "inpaint":
        more["mask_image"] = half()
    for name in ("pag", "apg", "tcfg"):
        pipe = controlled(tiny("sd", task))
        with rows_of(net.ours) as (rows,):
            made = run(pipe, guider=name, controlnet=net.ours, **GIVEN, **more)
        assert made.latents.isfinite().all()
        assert rows == [4] * 2
