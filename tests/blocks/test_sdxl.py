"""SDXL's own blocks, with towers and tokenizers of five lines: two towers, sizes, windows of schedules, cut-outs."""

import math
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from sfumato.blocks.denoise.unet import embedded_guidance
from sfumato.blocks.image.crop import WHOLE, CropToMask, PutBackCrop
from sfumato.blocks.latents.denoising_range import (
    BeginSchedule,
    ContinueOrNoise,
    DrawNoiseToBegin,
    SplitSchedule,
)
from sfumato.blocks.latents.parts import steps_before
from sfumato.blocks.text.micro_conditioning import AddSizes, ChooseSizes, UseAestheticScore
from sfumato.blocks.text.sdxl import EncodePrompt, EncodeRefinerPrompt, MatchNegative
from sfumato.components.conditioning import SDXLConditioning, SDXLText
from sfumato.components.models.autoencoder import upcast_vae
from sfumato.components.models.autoencoder_kl import AutoencoderKL
from sfumato.components.random import Random
from sfumato.components.schedulers import DDIMScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler
from sfumato.components.types import Rows
from sfumato.graph.errors import UnfitValue


# -------------------------------------------------------------------------------------------------------------- prompts
class Ids(NamedTuple):
    input_ids: list[list[int]]


class Letters:
    """A token for each letter; 1 begins, 2 ends, the padding fills."""

    model_max_length, bos_token_id, eos_token_id = 5, 1, 2

    def __init__(self, padding: int) -> None:
        self.pad_token_id = padding

    def __call__(self, text: list[str]) -> Ids:
        return Ids([[1, *map(ord, t), 2] for t in text])

    def decode(self, token_ids: list[int]) -> str:
        return "".join(map(chr, token_ids))


class Said(NamedTuple):
    text_embeds: Tensor
    last_hidden_state: Tensor
    hidden_states: tuple[Tensor, ...]


class Tower:
    """Says the ids, less by 100 a layer before the last; pooled, their first letter."""

    device = torch.device("cpu")

    def __init__(self, width: int) -> None:
        self.config = SimpleNamespace(hidden_size=width, projection_dim=1)
        self.calls = 0

    def forward(self, input_ids: Tensor, *, output_hidden_states: bool = False) -> Said:
        self.calls += 1
        last = input_ids[..., None].float().expand(-1, -1, self.config.hidden_size)
        return Said(input_ids[:, 1:2].float(), last, (last - 300, last - 200, last - 100, last))


def encoder(**fields: Any) -> EncodePrompt:
    towers: Any = {"text_encoder": Tower(2), "text_encoder_2": Tower(3)}
    return EncodePrompt(**towers, tokenizer=Letters(2), tokenizer_2=Letters(0), **fields)


A, B, C, D, E = map(ord, "ABCDE")


def test_two_towers_stand_side_by_side_each_with_its_own_padding() -> None:
    text = encoder()("A").text
    assert text.tokens.shape == (1, 5, 5)
    assert (text.tokens[0, :, 0] + 100).tolist() == [1, A, 2, 2, 2]
    assert (text.tokens[0, :, 4] + 100).tolist() == [1, A, 2, 0, 0]
    assert text.pooled.tolist() == [[A]]


def test_the_second_tower_may_read_something_else() -> None:
    text = encoder()(["A", "B"], "C").text
    assert (text.tokens[:, 1, 0] + 100).tolist() == [A, B]
    assert (text.tokens[:, 1, 4] + 100).tolist() == [C, C]
    assert text.pooled.tolist() == [[C], [C]]
    with pytest.raises(ValueError, match="Give one for all, or one each"):
        encoder()(["A", "B"], ["A", "B", "C"])


def test_clip_skip_counts_from_the_last_layer_but_one() -> None:
    assert (encoder(clip_skip=1)("A").text.tokens[0, 1, 0] + 200).item() == A
    with pytest.raises(ValueError, match="clip_skip=3"):
        encoder(clip_skip=3)("A")


def test_chunks_of_both_towers_are_as_many_and_the_first_is_pooled() -> None:
    text = encoder(long_prompt="chunk")("ABCDE", "B").text
    assert (text.tokens[0, :, 0] + 100).tolist() == [1, A, B, C, 2, 1, D, E, 2, 2]
    assert (text.tokens[0, :, 4] + 100).tolist() == [1, B, 2, 0, 0, 1, 2, 0, 0, 0]
    assert text.pooled.tolist() == [[B]]


def test_no_prompt_is_zeros_and_asks_no_tower() -> None:
    block = encoder()
    text = block(None).text
    assert (text.tokens.shape, text.pooled.shape) == ((1, 5, 5), (1, 1))
    assert not text.tokens.any() and not text.pooled.any()
    towers: Any = block.text_encoder, block.text_encoder_2
    assert [tower.calls for tower in towers] == [0, 0]


def test_the_refiner_reads_the_second_tower_alone() -> None:
    tower: Any = Tower(3)
    block = EncodeRefinerPrompt(text_encoder_2=tower, tokenizer_2=Letters(0))
    both = encoder()("A", "B").text
    alone = block("A", "B").text
    assert torch.equal(alone.tokens, both.tokens[..., 2:])
    assert torch.equal(alone.pooled, both.pooled)


def test_no_negative_prompt_is_none_or_an_empty_one() -> None:
    rows = Rows(2, 1)
    assert MatchNegative()(rows) == (None, None)
    assert MatchNegative(force_zeros_for_empty_prompt=False)(rows) == (("",), None)
    assert MatchNegative()(rows, "") == (("",), None)
    assert MatchNegative()(rows, negative_prompt_2="blue") == (("",), ("blue",))
    assert MatchNegative()(rows, ["a", "b"], "c") == (("a", "b"), ("c",))
    with pytest.raises(ValueError, match="negative_prompt_2 has 3 texts for 2 prompts"):
        MatchNegative()(rows, "a", ["a", "b", "c"])


# ---------------------------------------------------------------------------------------------------------------- sizes
LATENTS = torch.zeros(2, 4, 8, 6)


def test_sizes_are_the_pictures_unless_said() -> None:
    assert ChooseSizes()(LATENTS) == (((64, 48, 0, 0, 64, 48),),) * 2
    assert ChooseSizes(factor=4)(LATENTS, target_size=(1, 2)).sizes == ((32, 24, 0, 0, 1, 2),)


def test_the_negative_prompts_sizes_are_the_positives_unless_said() -> None:
    sizes, negative = ChooseSizes()(LATENTS, (1, 2), (3, 4), (5, 6), None, (7, 8), None)
    assert sizes == ((1, 2, 3, 4, 5, 6),)
    assert negative == ((1, 2, 7, 8, 5, 6),)
    assert ChooseSizes()(LATENTS, crops_coords_top_left=(3, 4)).negative_sizes == ((64, 48, 3, 4, 64, 48),)


def test_a_score_stands_in_place_of_the_target() -> None:
    sizes = ChooseSizes()(LATENTS)
    assert UseAestheticScore()(*sizes) == (((64, 48, 0, 0, 6.0),), ((64, 48, 0, 0, 2.5),))


def test_each_prompt_may_have_its_own_sizes() -> None:
    sizes, negative = ChooseSizes()(LATENTS, [(1, 2), (3, 4)], negative_target_size=(7, 8))
    assert sizes == ((1, 2, 0, 0, 64, 48), (3, 4, 0, 0, 64, 48))
    assert negative == ((1, 2, 0, 0, 7, 8), (3, 4, 0, 0, 7, 8))
    text = SDXLText(torch.ones(2, 3, 4), torch.ones(2, 5))
    assert AddSizes()(text, sizes).conditioning.time_ids[:, :2].tolist() == [[1, 2], [3, 4]]
    assert AddSizes()(text[:1], sizes).conditioning.rows == 2
    with pytest.raises(UnfitValue, match=r"Got 2 sizes for 3 prompts. Give one for all, or one each."):
        AddSizes()(text[:1].expand(3, 1), sizes)
    with pytest.raises(UnfitValue) as error:
        ChooseSizes()(LATENTS, [(1, 2), (3, 4)], target_size=[(1, 2)] * 3)
    assert str(error.value) == (
        "original_size has 2 pairs, crops_coords_top_left has 1 pair, and target_size has 3 pairs. Give one for all "
        "prompts, or one each."
    )


def test_each_row_is_told_the_sizes() -> None:
    text = SDXLText(torch.ones(2, 3, 4), torch.ones(2, 5))
    conditioning = AddSizes()(text, ((1.0, 2.0, 3.0),)).conditioning
    assert isinstance(conditioning, SDXLConditioning)
    assert conditioning.time_ids.tolist() == [[1, 2, 3]] * 2
    assert conditioning.expand(2, 3).time_ids.shape == (6, 3)


# -------------------------------------------------------------------------------------------------------------- windows
@given(st.sampled_from([EulerDiscreteScheduler(), DDIMScheduler(), HeunDiscreteScheduler()]), st.integers(2, 40),
       st.floats(0.15, 0.95))  # fmt: skip
def test_two_parts_are_the_whole(scheduler: Any, n: int, share: float) -> None:
    """Whatever the scheduler: no turn is lost or taken twice, and no step of two turns is cut in the middle."""
    whole = scheduler.steps(n)
    first, rest = SplitSchedule(scheduler=scheduler, split_at=share)(whole)
    assert [step.index for step in (*first, *rest)] == [step.index for step in whole]
    if first and rest:
        assert whole.places[first.end - 1] != whole.places[rest.begin]
        assert steps_before(whole, scheduler, share) == len(first)
        assert BeginSchedule(scheduler=scheduler, denoising_start=share)(whole).steps == rest


def test_a_share_is_one_of_the_training_timesteps_not_of_the_steps() -> None:
    scheduler = EulerDiscreteScheduler(timestep_spacing="leading")
    whole = scheduler.steps(2, timesteps=[999, 100])
    assert steps_before(whole, scheduler, 0.5) == 1
    assert steps_before(whole, scheduler, 0.95) == steps_before(whole, scheduler, 1.0) == 2
    whole = scheduler.steps(3, timesteps=[999, 500, 100])  # a timestep at the border belongs to the first part
    assert [s.timestep for s in whole[: steps_before(whole, scheduler, 0.5)]] == [999, 500]
    assert [s.timestep for s in BeginSchedule(scheduler=scheduler, denoising_start=0.5)(whole).steps] == [100]


def test_where_a_run_goes_on_strength_is_not_looked_at() -> None:
    scheduler = DDIMScheduler()
    whole = scheduler.steps(10)
    steps = BeginSchedule(scheduler=scheduler, strength=0.2, denoising_start=0.5)(whole).steps
    assert len(steps) == 5
    assert len(BeginSchedule(scheduler=scheduler, strength=0.2)(whole).steps) == 2


def test_where_a_run_goes_on_nothing_is_drawn_or_added() -> None:
    scheduler, random = DDIMScheduler(), Random.seeded([0])
    steps = scheduler.steps(4)[2:]
    image = torch.ones(1, 4, 2, 2)
    latents, after = DrawNoiseToBegin(denoising_start=0.5)(image, random)
    assert after is random
    words = SDXLText(torch.ones(1, 3, 4), torch.ones(1, 5))
    going = ContinueOrNoise(scheduler=scheduler, denoising_start=0.5)
    assert torch.equal(going(image, latents, steps, words, Rows(1, 1)).latents, image)
    noise, after = DrawNoiseToBegin()(image, random)
    assert after is not random
    noised = ContinueOrNoise(scheduler=scheduler)(image, noise, steps, words, Rows(1, 1)).latents
    assert torch.equal(noised, scheduler.add_noise(image, noise, steps[0]))
    with pytest.raises(ValueError, match="Got 2 rows of latents for 1 picture"):
        going(torch.ones(2, 4, 2, 2), latents, steps, words, Rows(1, 1))


# ------------------------------------------------------------------------------------------------------------- cut-outs
def masked(columns: int, rows: int, box: tuple[int, int, int, int]) -> Image.Image:
    mask = Image.new("L", (columns, rows))
    mask.paste(255, box)
    return mask


@given(
    st.tuples(st.integers(0, 90), st.integers(0, 60), st.integers(1, 40), st.integers(1, 40)),
    st.integers(0, 30), st.sampled_from([(64, 64), (64, 96), (96, 32)]),
)  # fmt: skip
def test_a_region_holds_the_mask_and_lies_in_the_picture(
    box: tuple[int, int, int, int], padding: int, size: tuple[int, int]
) -> None:
    left, upper = box[:2]
    right, lower = min(left + box[2], 100), min(upper + box[3], 70)
    crop = CropToMask(width=size[0], height=size[1], padding_mask_crop=padding)
    out = crop(Image.new("RGB", (100, 70)), masked(100, 70, (left, upper, right, lower)))
    x, y, x2, y2 = out.region
    assert 0 <= x <= left and right <= x2 <= 100
    assert 0 <= y <= upper and lower <= y2 <= 70
    assert isinstance(out.image, Image.Image) and isinstance(out.mask_image, Image.Image)
    assert out.image.size == out.mask_image.size == size


def test_what_is_put_back_shows_where_the_mask_is_white() -> None:
    picture, mask = Image.new("RGB", (100, 70), "red"), masked(100, 70, (40, 30, 60, 50))
    region = CropToMask(width=64, height=64, padding_mask_crop=5)(picture, mask).region
    blue = torch.tensor([0.0, 0, 1]).reshape(1, 3, 1, 1).expand(2, 3, 64, 64)
    images = PutBackCrop()(blue, picture, mask, region).images
    assert images.shape == (2, 3, 70, 100)
    white = torch.from_numpy(np.array(mask) > 0)
    assert torch.equal(images[1, 2] == 1, white)
    assert torch.equal(images[1, 0] == 1, ~white)


def test_without_padding_nothing_is_cut_and_nothing_put_back() -> None:
    picture, mask = Image.new("RGB", (100, 70)), masked(100, 70, (0, 0, 5, 5))
    out = CropToMask()(picture, mask)
    assert out == (picture, mask, WHOLE)
    images = torch.zeros(1, 3, 8, 8)
    assert PutBackCrop()(images, picture, mask, WHOLE).images is images


def test_tensors_are_cut_out_too() -> None:
    pixels = torch.rand(3, 70, 100)
    mask = torch.zeros(1, 70, 100)
    mask[:, 30:50, 40:60] = 1
    region = CropToMask(width=64, height=64, padding_mask_crop=5)(pixels, mask).region
    assert region == (35, 25, 65, 55)


WRONG: list[tuple[Any, Any, str]] = [
    (Image.new("RGB", (9, 9)), Image.new("L", (9, 9)), "mask_image is black, so there is nothing to crop to"),
    (Image.new("RGB", (9, 9)), masked(9, 8, (0, 0, 5, 5)), "needs image and mask_image of one size, got 9x9 and 9x8"),
    (
        [Image.new("RGB", (9, 9))] * 2,
        masked(9, 9, (0, 0, 5, 5)),
        "padding_mask_crop needs one picture a call, got 2 as image",
    ),
]


@pytest.mark.parametrize(("image", "mask", "told"), WRONG)
def test_what_cannot_be_cut_is_refused(image: Any, mask: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        CropToMask(padding_mask_crop=4)(image, mask)


# ---------------------------------------------------------------------------------------------- numbers of other models
KEYS: dict[str, Any] = {"block_out_channels": (8,), "norm_num_groups": 4}


def test_an_autoencoder_that_float16_cannot_hold_is_copied_to_float32() -> None:
    torch.manual_seed(0)
    vae = AutoencoderKL(**KEYS, force_upcast=True)
    latents = 30 * torch.randn(1, 4, 4, 4)
    vae.decoder.conv_in.weight.data *= 1e5  # normalised right after, but float16 ends at 65504
    expected = vae.decode(latents)
    half = vae.half()
    assert not half.decode(latents.half()).isfinite().all()
    whole = upcast_vae(half)
    assert whole.dtype == torch.float32
    assert half.dtype == torch.float16
    assert (whole.decode(latents) - expected).abs().max() < 0.05


@pytest.mark.parametrize("keys", [{}, {"force_upcast": False}], ids=["silent", "no"])
def test_other_autoencoders_stay_what_they_are(keys: dict[str, bool]) -> None:
    vae = AutoencoderKL(**KEYS, **keys).half()
    assert upcast_vae(vae) is vae
    vae = AutoencoderKL(**KEYS, force_upcast=True)
    assert upcast_vae(vae) is vae
    assert upcast_vae(vae.bfloat16()) is vae


def test_an_embedded_guidance_scale_is_waves_of_what_is_above_1() -> None:
    """The picture that a distilled U-Net gives is compared with the reference's in tests/presets."""
    config = SimpleNamespace(time_cond_proj_dim=4)
    unet: Any = SimpleNamespace(config=config, device=torch.device("cpu"), dtype=torch.float32)
    waves = [f(angle) for f in (math.sin, math.cos) for angle in (6500, 0.65)]
    assert (embedded_guidance(unet, 7.5) - torch.tensor([waves])).abs().max() < 1e-3
    config.time_cond_proj_dim = None
    with pytest.raises(ValueError, match="was not distilled to read a guidance scale"):
        embedded_guidance(unet, 7.5)
