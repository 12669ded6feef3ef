"""Flux's blocks by themselves: packing, places, schedules that follow the size, what is shown, prompts."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import sfumato as sf
from sfumato.blocks.denoise.extra_inputs import AddControlChannels, AddFillChannels, AddReferenceImage
from sfumato.blocks.denoise.flux import PredictFlow, packed, token_ids, unpacked
from sfumato.blocks.image.kontext import FitArea
from sfumato.blocks.latents.flow import CutSchedule, MakeSchedule
from sfumato.blocks.prompts.plain import Plain
from sfumato.blocks.text.t5 import T5Reading, read_by_t5
from sfumato.components.conditioning import FluxConditioning
from sfumato.components.models.flux import FluxTransformer2DModel
from sfumato.components.types import Pass, Rows
from sfumato.graph.ports import ALONE

TINY: dict[str, Any] = {
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 24,
    "pooled_projection_dim": 20,
    "axes_dims_rope": (4, 6, 6),
    "guidance_embeds": True,
}
EULER = sf.schedulers.FlowMatchEulerDiscreteScheduler
DYNAMIC = EULER(use_dynamic_shifting=True, shift=3.0)


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def words(seed: int, rows: int = 1, tokens: int = 5) -> FluxConditioning:
    return FluxConditioning(noise(seed, rows, tokens, 24), noise(seed + 100, rows, 20))


def asked(passes: Sequence[Pass], **settings: Any) -> Sequence[Tensor]:
    torch.manual_seed(0)
    model = FluxTransformer2DModel(**TINY).eval()
    with torch.no_grad():
        return PredictFlow(transformer=model, **settings)().predict(passes)


# ------------------------------------------------------------------------------------------------------------- packing
@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 6), st.integers(1, 6))
def test_unpacking_undoes_packing(rows: int, channels: int, height: int, width: int) -> None:
    latents = noise(0, rows, channels, 2 * height, 2 * width)
    tokens = packed(latents)
    assert tokens.shape == (rows, height * width, 4 * channels)
    assert torch.equal(unpacked(tokens, 2 * height, 2 * width), latents)


def test_latents_of_an_odd_side_are_refused() -> None:
    with pytest.raises(ValueError, match="Latents of 3x4 cannot be packed"):
        packed(noise(0, 1, 4, 3, 4))


def test_places_are_image_row_and_column() -> None:
    found = token_ids(((4, 2), (2, 4)), torch.device("cpu"))
    assert found.tolist() == [[0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 0, 1]]


# -------------------------------------------------------------------------------------------------------------- passes
def test_together_and_apart_are_the_same_answers() -> None:
    step = DYNAMIC.steps(4, image_tokens=6)[1]
    passes = [
        Pass(noise(1, 2, 4, 4, 6), step, words(2, 2)),
        Pass(noise(3, 2, 4, 4, 6), step, words(4, 2), references=(noise(5, 2, 4, 2, 4),)),
        Pass(noise(6, 2, 4, 4, 6), step, words(7, 2, tokens=8)),
        Pass(noise(8, 2, 4, 4, 6), step, words(9, 2), "negative"),
    ]
    together, apart = asked(passes), asked(passes, batching="apart")
    for a, b, p in zip(together, apart, passes, strict=True):
        assert a.shape == p.latents.shape
        assert (a - b).abs().max() < 1e-5


def test_a_reference_image_changes_the_answer_and_its_place_counts() -> None:
    step = DYNAMIC.steps(4, image_tokens=6)[1]
    plain = Pass(noise(1, 1, 4, 4, 6), step, words(2))
    one, two = noise(3, 1, 4, 4, 4), noise(4, 1, 4, 4, 4)
    shown = [Pass(plain.latents, step, plain.conditioning, references=r) for r in ((one,), (one, two), (two, one))]
    answers = asked([plain, *shown])
    for i, a in enumerate(answers):
        assert all((a - b).abs().max() > 1e-4 for b in answers[:i])


def test_guidance_that_a_model_reads_is_wanted() -> None:
    with pytest.raises(ValueError, match="guidance_scale is None, but this transformer reads one"):
        asked([], guidance_scale=None)


# --------------------------------------------------------------------------------------------------------------- shown
def test_a_mask_is_shown_with_every_pixel_of_a_latent() -> None:
    mask, rows = (noise(1, 1, 1, 16, 32) > 0).float(), Rows(2, 1)
    latents = noise(2, 2, 4, 2, 4)
    seen: list[Pass] = []

    def predict(passes: Sequence[Pass]) -> Sequence[Tensor]:
        seen.extend(passes)
        return [p.latents for p in passes]

    step = DYNAMIC.steps(1, image_tokens=2)[0]
    ask = Pass(latents, step, words(3, 2))
    AddFillChannels()(predict, latents, mask, rows).predict([ask])
    AddControlChannels()(predict, latents).predict([ask])
    AddReferenceImage()(predict, latents).predict([ask])
    masked, controlled, referred = seen
    assert [t.shape[1] for t in masked.channels] == [4, 64]
    assert torch.equal(masked.channels[1][1, :, 1, 3].reshape(8, 8), mask[0, 0, 8:, 24:])
    assert [t.shape[1] for t in controlled.channels] == [4]
    assert len(referred.references) == 1


@given(st.integers(64, 4096), st.integers(64, 4096), st.integers(10_000, 2_000_000))
def test_an_area_is_met_from_below_and_its_shape_kept(height: int, width: int, area: int) -> None:
    fitted = FitArea(height=height, width=width, max_area=area)()
    assert fitted.height % 16 == fitted.width % 16 == 0
    shape = width / height
    if 1 / 4 < shape < 4:  # a long shape of a small area has a side of few tokens, and rounds far
        assert fitted.height * fitted.width <= area * 1.02
        assert abs(np.log(fitted.width / fitted.height / shape)) < 32 / min(fitted)


# ----------------------------------------------------------------------------------------------------------- schedules
@pytest.mark.parametrize("size", [(64, 64), (128, 128), (32, 200)])
def test_the_size_shifts_a_schedule_that_may_be_shifted(size: tuple[int, int]) -> None:
    """Larger pictures stay longer in the noise (Esser et al. 2024, section 5.3.2)."""
    latents = torch.zeros(1, 16, *size)
    steps = MakeSchedule(scheduler=DYNAMIC, num_inference_steps=4)(latents).steps
    expected = DYNAMIC.steps(4, sigmas=[1.0, 0.75, 0.5, 0.25, 0.0], image_tokens=size[0] * size[1] // 4)
    assert steps.sigmas == expected.sigmas
    smaller = MakeSchedule(scheduler=DYNAMIC, num_inference_steps=4)(torch.zeros(1, 16, 16, 16)).steps
    assert steps.sigmas[2] > smaller.sigmas[2]


@pytest.mark.parametrize("sigmas", [[1.0, 0.4], [1.0, 0.4, 0.0]])
def test_sigmas_end_at_zero_whether_it_is_said_or_not(sigmas: list[float]) -> None:
    steps = MakeSchedule(scheduler=EULER())(torch.zeros(1, 16, 8, 8), sigmas=sigmas).steps
    assert [round(s, 6) for s in steps.sigmas] == [1.0, 0.4, 0.0]


def test_uneven_schedules_are_the_schedulers_own() -> None:
    scheduler, latents = EULER(shift=3.0), torch.zeros(1, 16, 8, 8)
    made = [
        MakeSchedule(scheduler=scheduler, num_inference_steps=5, even=even)(latents).steps for even in (False, True)
    ]
    assert made[0].sigmas == scheduler.steps(5).sigmas != made[1].sigmas


@given(st.integers(1, 60), st.floats(0.01, 1.0))
def test_strength_keeps_a_step_that_it_cuts_through(n: int, strength: float) -> None:
    whole = EULER().steps(n)
    kept = len(CutSchedule(strength=strength)(whole).steps)
    assert kept == n - int(n - n * strength)
    assert 1 <= kept <= n


# -------------------------------------------------------------------------------------------------------------- prompts
class Letters:
    """A tokenizer of letters, and a tower that gives its ids back."""

    pad_token_id, eos_token_id, device = 0, 1, torch.device("cpu")

    def __call__(self, text: list[str]) -> Any:
        return SimpleNamespace(input_ids=[[*map(ord, text[0]), 1]])

    def decode(self, token_ids: list[int]) -> str:
        return "".join(map(chr, token_ids))

    def forward(self, input_ids: Tensor) -> Any:
        return SimpleNamespace(last_hidden_state=input_ids)


def test_t5_reads_so_many_tokens_its_end_included() -> None:
    letters = cast("Any", Letters())
    reading = T5Reading(letters, letters, 4, Plain())
    rows = read_by_t5(reading, ["ab", ""], ALONE)
    assert rows.tolist() == [[97, 98, 1, 0], [1, 0, 0, 0]]
    with pytest.warns(UserWarning, match=r"longer than the 4 tokens .* Dropped: 'de'"):
        rows = read_by_t5(reading, ["abcde"], ALONE)
    assert rows.tolist() == [[97, 98, 99, 1]]
