"""The denoiser as a function, the step along the schedule, and what inpainting adds; with a U-Net of five lines."""

from dataclasses import replace
from typing import Any, NamedTuple, cast

import pytest
import torch
from torch import Tensor

import sfumato as sf
from sfumato.blocks.control.residuals import add_residuals
from sfumato.blocks.denoise.advance import AdvanceLatents
from sfumato.blocks.denoise.extra_inputs import AddMaskChannels
from sfumato.blocks.denoise.flux import PredictFlow
from sfumato.blocks.denoise.inpaint import KeepUnmasked
from sfumato.blocks.denoise.passes import input_of
from sfumato.blocks.denoise.unet import PredictNoise
from sfumato.components.conditioning import SDConditioning, SDXLConditioning
from sfumato.components.random import Random
from sfumato.components.types import Pass, predict_each
from sfumato.graph.ports import ALONE
from sfumato.presets.sd import text2image

EULER, ANCESTRAL, DDIM = (
    sf.schedulers.EulerDiscreteScheduler(),
    sf.schedulers.EulerAncestralDiscreteScheduler(),
    sf.schedulers.DDIMScheduler(),
)
STEPS = EULER.steps(4)


class Config(NamedTuple):
    in_channels: int
    addition_embed_type: str | None = None


class Unet:
    """Gives the first two channels times the first token's first number."""

    dtype = torch.float32

    def __init__(self, channels: int = 2, reads: str | None = None) -> None:
        self.config, self.seen, self.added = Config(channels, reads), list[Tensor](), list[Any]()

    def __call__(self, sample: Tensor, t: Tensor, tokens: Tensor, **added: Any) -> Tensor:
        self.seen.append(sample)
        self.added.append(added)
        return sample[:, :2] * tokens[:, 0, 0].reshape(-1, 1, 1, 1)


def ask(token: float, rows: int = 1, size: int = 3, tokens: int = 5, **more: Any) -> Pass:
    return Pass(torch.ones(rows, 2, size, size), STEPS[0], SDConditioning(torch.full((rows, tokens, 4), token)), **more)


def predict(unet: Unet, *passes: Pass, apart: bool = False) -> list[float]:
    block = PredictNoise(unet=unet, batching="apart" if apart else "together")  # pyright: ignore[reportArgumentType]
    return [float(a.mean()) / STEPS[0].scale_in for a in block().predict(passes)]


def test_passes_of_one_shape_go_through_together_in_order() -> None:
    unet = Unet()
    assert predict(unet, ask(1, 2), ask(5, 3)) == pytest.approx([1, 5])
    assert [len(s) for s in unet.seen] == [5]
    assert float(unet.seen[0].max()) == pytest.approx(STEPS[0].scale_in)


def test_or_each_by_itself() -> None:
    unet = Unet()
    assert predict(unet, ask(1), ask(5), apart=True) == pytest.approx([1, 5])
    assert [len(s) for s in unet.seen] == [1, 1]


def test_passes_of_other_shapes_go_by_themselves_and_answers_keep_their_places() -> None:
    unet = Unet()
    answers = predict(unet, ask(1), ask(2, size=4), ask(3), ask(4, tokens=9))
    assert answers == pytest.approx([1, 2, 3, 4])
    assert [len(s) for s in unet.seen] == [2, 1, 1]


def asked(conditioning: int, rows: int, **more: Any) -> tuple[Tensor, Tensor]:
    """The predictions of two passes with so many rows of conditioning and of latents."""
    words = SDConditioning(torch.arange(1.0, conditioning + 1).reshape(-1, 1, 1).expand(-1, 5, 4))
    one, other = (Pass(torch.ones(rows, 2, 3, 3), STEPS[0], words, role, **more) for role in ("positive", "negative"))
    first, second = PredictNoise(unet=cast("Any", Unet(2 + len(more))))().predict([one, other])
    return first[:, 0, 0, 0] / first[0, 0, 0, 0], second[:, 0, 0, 0] / first[0, 0, 0, 0]


def test_one_row_of_conditioning_serves_all_rows_of_latents() -> None:
    assert [t.tolist() for t in asked(1, 3)] == [[1, 1, 1]] * 2
    assert [t.tolist() for t in asked(3, 3)] == [pytest.approx([1, 2, 3])] * 2
    assert [t.tolist() for t in asked(1, 2, channels=(torch.zeros(1, 1, 3, 3),))] == [[1, 1]] * 2


@pytest.mark.parametrize(("conditioning", "rows"), [(2, 4), (3, 2), (2, 1)])
def test_another_number_of_rows_is_refused(conditioning: int, rows: int) -> None:
    with pytest.raises(ValueError, match="Give one row for all, or insert ExpandRows") as caught:
        asked(conditioning, rows)
    assert str(caught.value) == (
        f"The positive conditioning has {conditioning} rows for {rows} row{'s' * (rows > 1)} of latents. Give one row "
        "for all, or insert ExpandRows() of sfumato.blocks.text.rows behind the block that encodes the prompt."
    )
    with pytest.raises(ValueError, match=r"One of the channels of a pass has 3 rows for 2 rows of latents\. Give one"):
        asked(1, 2, channels=(torch.zeros(3, 1, 3, 3),))


@pytest.mark.parametrize("role", ["positive", "negative"])
def test_a_control_net_too_is_given_a_row_for_each_of_the_latents(role: Any) -> None:
    seen: list[int] = []

    def control(passes: Any) -> Any:
        seen.extend(p.conditioning.rows for p in passes)
        return {"mid": (torch.zeros(sum(len(p.latents) for p in passes), 2, 1, 1),)}

    predict = PredictNoise(unet=cast("Any", Unet()))().predict
    controlled = add_residuals(predict, control, lambda step: True, ALONE)
    p = Pass(torch.ones(3, 2, 3, 3), STEPS[0], SDConditioning(torch.ones(1, 5, 4)), role)
    assert controlled([p])[0].shape == (3, 2, 3, 3)
    assert seen == [3]


def test_channels_are_joined_behind_the_scaled_latents() -> None:
    unet = Unet(4)
    predict(unet, ask(1, channels=(torch.full((1, 2, 3, 3), 7.0),)))
    assert unet.seen[0][0, :, 0, 0].tolist() == pytest.approx([STEPS[0].scale_in] * 2 + [7, 7])


def test_residuals_of_several_nets_are_added_up_and_of_several_passes_joined() -> None:
    def net(value: float) -> dict[str, tuple[Tensor, ...]]:
        return {"down": (torch.full((1, 2, 3, 3), value),), "mid": (torch.full((1, 2, 1, 1), value),)}

    unet = Unet()
    predict(unet, ask(1, residuals=(net(1), net(2))), ask(1, residuals=(net(10),)))
    (added,) = unet.added
    assert added["mid_block_additional_residual"].flatten().tolist() == [3, 3, 10, 10]
    assert added["down_block_additional_residuals"][0][:, 0, 0, 0].tolist() == [3, 10]


def test_a_pass_with_residuals_does_not_go_with_one_without() -> None:
    unet = Unet()
    net = {"down": (torch.ones(1, 2, 3, 3),), "mid": (torch.ones(1, 2, 1, 1),)}
    predict(unet, ask(1, residuals=(net,)), ask(1))
    assert len(unet.seen) == 2


def test_conditioning_of_another_family_is_refused_when_the_graph_is_made() -> None:
    """Also through blocks that take any family, and through the loop."""
    with pytest.raises(sf.WireError) as error:
        text2image().replace("denoise.predict", PredictFlow())
    (problem,) = error.value.problems
    assert (problem.code, problem.got, problem.needed) == ("family", "FluxConditioning", "SDConditioning")
    assert problem.place == "denoise.predict.predict" and "positive.conditioning is for SDCond" in problem.message


def test_conditioning_of_another_family_is_refused_in_a_pass_too() -> None:
    (predict,) = PredictNoise(unet=cast(Any, Unet(reads="text_time")))()
    with pytest.raises(TypeError, match="This denoiser needs SDXLConditioning, got SDConditioning"):
        predict([ask(1)])
    sized = SDXLConditioning(torch.ones(1, 5, 4), torch.ones(1, 3), torch.ones(1, 6))
    (predict,) = PredictNoise(unet=cast(Any, Unet()))()
    with pytest.raises(TypeError, match="This denoiser needs SDConditioning, got SDXLConditioning"):
        predict([replace(ask(1), conditioning=sized)])


def test_a_unet_reads_what_its_conditioning_brings_besides_tokens() -> None:
    unet = Unet(reads="text_time")
    sized = SDXLConditioning(torch.ones(1, 5, 4), torch.ones(1, 3), torch.ones(1, 6))
    predict(unet, replace(ask(1), conditioning=sized), replace(ask(1), conditioning=sized))
    (added,) = unet.added
    assert {name: t.shape for name, t in added["added_cond_kwargs"].items()} == {
        "text_embeds": (2, 3),
        "time_ids": (2, 6),
    }


def test_residuals_for_another_kind_of_denoiser_are_refused() -> None:
    with pytest.raises(
        TypeError, match=r"Needs residuals at down, mid, levels, got some at 'single': the control net was made for"
    ):
        predict(Unet(), ask(1, residuals=({"single": (torch.ones(1, 2),)},)))


def test_channels_in_a_wrong_number_are_refused_before_the_model_runs() -> None:
    unet = Unet(5)
    with pytest.raises(
        ValueError, match=r'needs 5 channels, got 2: .*\. It was trained to inpaint: use the task "inpaint"'
    ):
        predict(unet, ask(1))
    assert unet.seen == []


def test_noise_is_drawn_only_in_turns_that_take_some() -> None:
    latents, random = torch.ones(2, 2, 3, 3), Random.seeded([0])
    plain = AdvanceLatents(scheduler=EULER)(latents, latents, STEPS[0], random)
    assert plain.random is random
    assert torch.equal(plain.latents, EULER.advance(latents, latents, STEPS[0])[0])
    step = ANCESTRAL.steps(4)[0]
    noisy = AdvanceLatents(scheduler=ANCESTRAL)(latents, latents, step, random)
    noise, after = random.draw(2, (2, 3, 3))
    assert torch.equal(noisy.latents, ANCESTRAL.advance(latents, latents, step, (), noise)[0])
    assert torch.equal(noisy.random.states[0], after.states[0])


@pytest.mark.parametrize("scheduler", [EULER, DDIM])
def test_what_the_mask_keeps_is_the_image_at_the_level_that_the_turn_leads_to(scheduler: Any) -> None:
    steps = scheduler.steps(4)
    image, noise, latents = (torch.full((1, 2, 1, 2), v) for v in (1.0, 0.5, 9.0))
    mask = torch.tensor([0.0, 1.0]).reshape(1, 1, 1, 2)
    keep = KeepUnmasked(scheduler=scheduler)
    alpha, sigma = steps[1].level
    first = keep(latents, image, noise, mask, steps[0]).latents
    assert first[0, 0, 0].tolist() == pytest.approx([alpha + sigma * 0.5, 9.0])
    last = keep(latents, image, noise, mask, steps[-1]).latents
    assert last[0, 0, 0].tolist() == [1.0, 9.0]


def test_the_mask_and_the_masked_image_join_every_pass_behind_what_it_has() -> None:
    asked: list[Pass] = []

    def inner(passes: Any) -> list[Tensor]:
        asked.extend(passes)
        return [p.latents for p in passes]

    mask, masked, own = torch.zeros(1, 1, 3, 3), torch.ones(1, 2, 3, 3), torch.full((1, 1, 3, 3), 7.0)
    joined = AddMaskChannels()(inner, mask, masked).predict
    joined([ask(1), ask(2, channels=(own,))])
    assert [len(p.channels) for p in asked] == [2, 3]
    assert asked[1].channels[0] is own
    assert asked[0].channels[1] is masked


def test_several_passes_in_place_of_each_are_asked_in_one_call() -> None:
    unet = Unet()
    (predicted,) = PredictNoise(unet=cast(Any, unet))()
    answers = predict_each(
        predicted,
        [ask(1), ask(2)],
        split=lambda p: [p, replace(p, latents=p.latents * 10)] if p.conditioning.tokens[0, 0, 0] == 2 else [p],
        join=lambda parts: torch.stack(list(parts)).sum(0),
    )
    scale = STEPS[0].scale_in
    assert [float(a[0, 0, 0, 0]) for a in answers] == pytest.approx([scale, 22 * scale])
    assert [len(s) for s in unet.seen] == [3]


def test_some_rows_of_a_conditioning_are_conditioning_too() -> None:
    text = SDXLConditioning(torch.arange(6.0).reshape(3, 2, 1), torch.arange(3.0)[:, None], torch.zeros(3, 6))
    some = text[1:]
    assert isinstance(some, SDXLConditioning)
    assert (
        some.rows == 2 and some.tokens.flatten().tolist() == [2, 3, 4, 5] and some.pooled.flatten().tolist() == [1, 2]
    )


def test_a_step_leads_to_the_next_one_of_the_whole_schedule_and_the_last_says_that_it_does_not() -> None:
    window = EULER.steps(4)[1:2]
    assert window[0].next.index == 2 and window[0].next.sigma == window[0].next_sigma
    with pytest.raises(IndexError, match="Step 3 is the last of this schedule"):
        _ = STEPS[3].next


def test_latents_of_several_passes_are_scaled_once_and_not_at_all_by_one() -> None:
    plain, scaled = sf.schedulers.DDIMScheduler().steps(2)[0], sf.schedulers.EulerDiscreteScheduler().steps(2)[0]
    latents, prompt = torch.randn(1, 4, 8, 8), SDConditioning(torch.zeros(1, 5, 8))
    assert input_of([Pass(latents, plain, prompt)]) is latents
    twice = input_of([Pass(latents, scaled, prompt), Pass(latents, scaled, prompt, "negative")])
    assert torch.equal(twice, torch.cat([latents * scaled.scale_in] * 2))
    assert scaled.time.dtype == plain.time.dtype == torch.float32 and plain.time == plain.timestep
