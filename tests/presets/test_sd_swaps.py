"""Schedulers, guiders and models swapped for one call: by object, published name, customary name or config."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch

import sfumato as sf
from sfumato import Block, Graph, UnknownName, WireError, named
from sfumato.blocks.control.t2i_adapter import ApplyT2IAdapter
from sfumato.blocks.text.sd import EncodePrompt
from sfumato.components.types import Conditioning, Images, Predict

from .custom import Darken
from .support import EMBEDDED, Reference, counted, held, run

Same = Callable[..., object]
GIVEN: dict[str, Any] = {"prompt": "a fish", "seed": 1, "num_inference_steps": 3}

EULER = {
    "published": "EulerAncestralDiscreteScheduler",
    "customary": "euler_a",
    "an object": sf.schedulers.EulerAncestralDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction",
        timestep_spacing="leading", steps_offset=1,
    ),
    "a config": {
        "_class_name": "EulerAncestralDiscreteScheduler", "beta_start": 0.00085, "beta_end": 0.012,
        "beta_schedule": "scaled_linear", "prediction_type": "v_prediction", "timestep_spacing": "leading",
        "steps_offset": 1,
    },
}  # fmt: skip


@pytest.mark.parametrize("how", EULER)
def test_a_scheduler_may_come_in_any_form(emoji: Graph, emoji_reference: Reference, same: Same, how: str) -> None:
    theirs = emoji_reference("text2image", "EulerAncestralDiscreteScheduler", guidance_scale=4.0, **GIVEN)
    same(run(emoji, scheduler=EULER[how], guidance_scale=4.0, **GIVEN), theirs)


def test_a_config_without_a_class_changes_the_one_that_is_bound(emoji: Graph) -> None:
    spaced = run(emoji, scheduler={"timestep_spacing": "trailing"}, **GIVEN)
    whole = {**held(emoji, "scheduler").to_config(), "timestep_spacing": "trailing"}
    assert torch.equal(spaced.latents, run(emoji, scheduler=whole, **GIVEN).latents)
    assert not torch.equal(spaced.latents, run(emoji, **GIVEN).latents)


GUIDERS = {
    "published": "NoGuidance",
    "customary": "none",
    "an object": sf.guiders.NoGuidance(),
    "a config": {"_class_name": "NoGuidance"},
}


@pytest.mark.parametrize("how", GUIDERS)
def test_a_guider_may_come_in_any_form(emoji: Graph, how: str) -> None:
    with counted(emoji) as did:
        run(emoji, guider=GUIDERS[how], **GIVEN)
    assert did.rows == [1, 1, 1]


def test_a_guiders_config_is_read(emoji: Graph) -> None:
    config = {"_class_name": "ClassifierFreeGuidance", "guidance_scale": 2.0, "_diffusers_version": "0.42.1"}
    by_config, by_input = run(emoji, guider=config, **GIVEN), run(emoji, guidance_scale=2.0, **GIVEN)
    assert torch.equal(by_config.latents, by_input.latents)


def test_a_model_may_be_swapped_too(emoji: Graph) -> None:
    other = sf.models.AutoencoderKL.from_pretrained(EMBEDDED / "vae")
    image = emoji(**GIVEN, vae=other, output_type="pt").images
    assert torch.equal(image, emoji(**GIVEN, output_type="pt").images)


def test_a_swap_holds_for_its_call_only(emoji: Graph) -> None:
    before, blocks, bound = run(emoji, **GIVEN), dict(emoji.nodes), dict(emoji.bindings)
    run(emoji, scheduler="euler", guider="none", **GIVEN)
    assert dict(emoji.nodes) == blocks
    assert dict(emoji.bindings) == bound
    assert torch.equal(run(emoji, **GIVEN).latents, before.latents)


def test_using_swaps_for_good_in_a_new_graph(emoji: Graph) -> None:
    new = emoji.using(scheduler="euler", guider="none")
    assert torch.equal(run(new, **GIVEN).latents, run(emoji, scheduler="euler", guider="none", **GIVEN).latents)
    assert type(held(emoji, "scheduler")).__name__ == "DDIMScheduler"


def test_loading_may_swap(emoji: Graph) -> None:
    new = sf.load(EMBEDDED, scheduler="euler", guider="none")
    assert torch.equal(run(new, **GIVEN).latents, run(emoji, scheduler="euler", guider="none", **GIVEN).latents)


def test_a_swap_that_is_said_again_is_not_made_again(emoji: Graph) -> None:
    first, again = emoji.stream(scheduler="euler", **GIVEN).graph, emoji.stream(scheduler="euler", **GIVEN).graph
    assert first is again
    equal = [sf.schedulers.EulerDiscreteScheduler(prediction_type="v_prediction") for _ in range(2)]
    assert emoji.stream(scheduler=equal[0], **GIVEN).graph is emoji.stream(scheduler=equal[1], **GIVEN).graph
    first, again = (
        emoji.stream(scheduler={"timestep_spacing": "linspace"}, guider="none", **GIVEN).graph for _ in "ab"
    )
    assert first is again


def test_a_scheduler_that_the_model_was_not_trained_for_is_refused(emoji: Graph) -> None:
    with pytest.raises(WireError, match=r"expects prediction_type='epsilon', but the model .* predicts 'v_prediction'"):
        emoji.stream(scheduler=sf.schedulers.EulerDiscreteScheduler(), **GIVEN)
    with pytest.raises(WireError, match=r"was trained for diffusion, so the result would be grey noise"):
        emoji.stream(scheduler="FlowMatchEulerDiscreteScheduler", **GIVEN)


def test_a_sister_task_keeps_what_was_swapped_and_set(emoji: Graph) -> None:
    pipe = sf.load("emoji").using(scheduler="euler", guider=sf.guiders.ClassifierFreeGuidance(guidance_scale=2.5))
    sister = pipe.replace("decode", pipe["decode"]).task("image2image")
    assert sister.inputs["guidance_scale"].default == 2.5
    assert sister.inputs["num_inference_steps"].default == sf.load("emoji").inputs["num_inference_steps"].default == 25
    assert type(held(sister, "scheduler")).__name__ == "EulerDiscreteScheduler"
    assert sister.inputs["strength"].default == 0.8
    assert sister.task("inpaint").inputs["strength"].default == 1.0
    assert sister.task("inpaint").inputs["guidance_scale"].default == 2.5
    assert pipe.task("text2image") == pipe
    assert emoji.task("inpaint").task("text2image") == emoji


class Used(NamedTuple):
    predict: Predict


class Pixels(NamedTuple):
    images: Images


def test_a_sister_task_has_what_was_put_in(emoji: Graph) -> None:
    """In the loop, beside it, with what it reads from outside, and whole graphs; back again it is the same graph."""
    steered = emoji.insert("adapt", ApplyT2IAdapter(), before="denoise.guider")
    sister = steered.task("inpaint")
    assert list(sister["denoise"].children()[""].children())[:2] == ["predict", "adapt"]
    assert "adapter_image" in sister.inputs and sister.task("text2image") == steered
    again = named(EncodePrompt(), prompt="style", conditioning="style")
    styled = emoji.insert("use", UseStyle(), before="denoise.guider").insert("style", again, after="negative")
    assert styled.task("image2image").explain("denoise.use.style") == styled.explain("denoise.use.style")
    ended = emoji.insert("more", Graph(twice=Twice(), outputs=("images",)), before="finish").task("image2image")
    assert list(ended.nodes)[-2:] == ["more", "finish"]


class UseStyle(Block):
    """Take another conditioning for the positive one."""

    def __call__(self, predict: Predict, style: Conditioning) -> Used:
        return Used(predict)


class Twice(Block):
    def __call__(self, images: Images) -> Pixels:
        return Pixels(images)


# ------------------------------------------------------------------------------------------------------ what is refused
WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"scheduler": "EulerDiscretScheduler"}, WireError, "Did you mean 'EulerDiscreteScheduler'"),
    ({"scheduler": {"_class_name": "EulerDiscretScheduler"}}, WireError, "Did you mean 'EulerDiscreteScheduler'"),
    ({"scheduler": 3}, WireError, "needs Scheduler"),
    ({"scheduler": None}, WireError, "needs Scheduler"),
    ({"scheduler": [1]}, WireError, "needs Scheduler"),
    ({"scheduler": {"timestep_spacing": "wide"}}, WireError, "timestep_spacing"),
    ({"scheduler": sf.guiders.NoGuidance()}, WireError, "needs Scheduler"),
    ({"guider": "NoGidance"}, WireError, "Did you mean 'NoGuidance'"),
    ({"guider": {"_class_name": "ClassifierFreeGuidance", "scale": 3}}, WireError, "guidance_scale"),
    ({"guider": {"guidance_scale": 3.0}}, WireError, "_class_name"),
    ({"guider": sf.guiders.NoGuidance}, WireError, r"guider=NoGuidance\(\)"),
    ({"guider": None}, WireError, "NoneType"),
    ({"guider": 3}, WireError, "takes a block, a name"),
    ({"guider": sf.schedulers.DDIMScheduler()}, WireError, "takes a block, a name"),
    ({"guider": Darken()}, WireError, "no block reads its outputs"),
    ({"unet": "sdxl"}, WireError, "needs UNet2DConditionModel"),
    ({"unet": sf.schedulers.DDIMScheduler()}, WireError, "needs UNet2DConditionModel"),
    ({"tokenizer": 3}, WireError, "needs TextTokenizer"),
]


@pytest.mark.parametrize(("swap", "error", "text"), WRONG)
def test_a_wrong_swap_is_refused_before_anything_runs(
    emoji: Graph, swap: dict[str, Any], error: type[Exception], text: str
) -> None:
    with counted(emoji) as did, pytest.raises(error, match=text):
        emoji(**GIVEN, **swap)
    assert did.all == 0


def test_an_unknown_name_of_using_says_what_there_is(emoji: Graph) -> None:
    with pytest.raises(WireError, match=r"Did you mean 'scheduler'.*Slots: guider. Components: text_encoder"):
        emoji.using(schedular="euler")


def test_tables_say_what_they_have() -> None:
    with pytest.raises(AttributeError, match=r"There is no guider 'Foo'\. There are: ClassifierFreeGuidance"):
        _ = sf.guiders.Foo
    with pytest.raises(UnknownName, match=r"no task 'txt2img'.*text2image"):
        sf.load("sd", task="txt2img")
