"""Pictures and masks read, encoded and decoded, with an autoencoder of five lines."""

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sfumato.blocks.decode.images import DecodeLatents, FinishImages
from sfumato.blocks.image.encode import EncodeImage, EncodeStart, HideMasked, ShrinkMask
from sfumato.blocks.image.read import ReadImage, ReadMask
from sfumato.components.random import Random
from sfumato.components.schedulers import DDIMScheduler
from sfumato.components.types import Rows


class Spread(NamedTuple):
    mean: Tensor
    std: Tensor


class Pooling:
    """Every eighth pixel is a latent, with a deviation of a tenth; scaled by 2."""

    device, dtype, samples = torch.device("cpu"), torch.float32, True

    def moments(self, pixels: Tensor) -> Tensor:
        return pixels[:, :, ::8, ::8]

    def distribution(self, moments: Tensor) -> Spread:
        return Spread(moments, torch.full_like(moments, 0.1))

    def decode(self, latents: Tensor) -> Tensor:
        return latents.repeat_interleave(8, 2).repeat_interleave(8, 3)

    def scale(self, latents: Tensor) -> Tensor:
        return latents * 2

    def unscale(self, latents: Tensor) -> Tensor:
        return latents / 2


VAE: Any = Pooling()


def encoded(images: int, rows: Rows, *seeds: int) -> Tensor:
    pixels = torch.arange(images).float().reshape(-1, 1, 1, 1).expand(images, 3, 16, 16) / 10
    return EncodeImage(vae=VAE)(pixels, rows, Random.seeded(list(seeds or (0,)))).image_latents


def noise(seed: int, rows: int) -> Tensor:
    return Random.seeded([seed]).draw(rows, (3, 2, 2))[0]


# -------------------------------------------------------------------------------------------------------------- reading
def test_a_pictures_own_size_is_rounded_down() -> None:
    assert ReadImage()(Image.new("RGB", (30, 17))).pixels.shape == (1, 3, 16, 24)
    assert ReadImage()(torch.zeros(3, 17, 30)).pixels.shape == (1, 3, 16, 24)
    assert ReadImage()(Image.new("RGB", (3, 3))).pixels.shape == (1, 3, 8, 8)


@pytest.mark.parametrize("read", [ReadImage, ReadMask])
def test_pictures_of_unlike_sizes_are_read_at_one_that_is_given(read: type[ReadImage] | type[ReadMask]) -> None:
    pictures = [Image.new("RGB", (16, 8)), Image.new("RGB", (8, 16))]
    with pytest.raises(ValueError, match=r"have different sizes: 8x16, 16x8 \(height x width\)\. Pass height"):
        read()(pictures)
    assert read(height=8, width=8)(pictures)[0].shape[0] == 2


def test_a_size_may_be_asked_for_but_must_be_possible() -> None:
    assert ReadImage(height=8, width=32)(Image.new("RGB", (30, 17))).pixels.shape == (1, 3, 8, 32)
    assert ReadImage(multiple=2, height=6)(Image.new("RGB", (30, 17))).pixels.shape == (1, 3, 6, 30)
    with pytest.raises(ValueError, match=r"width=30 cannot be made: it must be a multiple of 8. The nearest is 32"):
        ReadImage(width=30)(Image.new("RGB", (64, 64)))


def test_colours_become_numbers_from_0_to_1() -> None:
    pixels = ReadImage()(Image.new("RGB", (8, 8), (255, 0, 51))).pixels
    assert pixels[0, :, 0, 0].tolist() == pytest.approx([1.0, 0.0, 0.2])


def test_lists_of_any_kind_become_one_batch() -> None:
    pictures: list[Any] = [Image.new("RGB", (8, 8)), np.zeros((8, 8, 3), np.float32), torch.zeros(2, 3, 8, 8)]
    assert ReadImage()(pictures).pixels.shape == (4, 3, 8, 8)


@pytest.mark.parametrize(
    ("picture", "text"),
    [
        (torch.zeros(4, 8, 8), "Tensor of shape"),
        (np.zeros((3, 8, 8), np.float32), "ndarray of shape"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), "torch.int64"),
        (torch.full((3, 8, 8), -0.5), "needs values from 0 to 1, got -0.5 to -0.5."),
        (np.full((8, 8, 3), 255.0), "needs values from 0 to 1, got 255 to 255."),
    ],
)
def test_pictures_that_cannot_be_meant_are_refused(picture: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        ReadImage()(picture)


def test_a_mask_is_1_where_it_is_at_least_half_white() -> None:
    grey = np.array([[0.0, 0.49], [0.5, 1.0]], np.float32).repeat(8, 0).repeat(8, 1)
    mask = ReadMask()(grey).mask
    assert mask.shape == (1, 1, 16, 16)
    assert mask[0, 0, ::8, ::8].tolist() == [[0, 0], [1, 1]]
    assert ReadMask()(torch.ones(8, 8, dtype=torch.bool)).mask.min() == 1
    assert ReadMask()(Image.new("RGB", (8, 8), "white")).mask.min() == 1


# ------------------------------------------------------------------------------------------------------------- encoding
def test_one_generator_draws_once_an_image_and_its_rows_share_that() -> None:
    latents = encoded(2, Rows(2, 2))
    means = torch.tensor([-1.0, -0.8]).reshape(2, 1, 1, 1)
    expected = 2 * (means + 0.1 * noise(0, 2))
    assert (latents - expected.repeat_interleave(2, 0)).abs().max() < 1e-6


def test_a_generator_for_each_row_draws_for_each() -> None:
    latents = encoded(1, Rows(1, 2), 3, 4)
    expected = 2 * (-1 + 0.1 * torch.cat([noise(3, 1), noise(4, 1)]))
    assert (latents - expected).abs().max() < 1e-6


def test_an_image_serves_all_prompts_or_there_is_one_each() -> None:
    assert len(encoded(1, Rows(3, 1))) == 3
    assert len(encoded(4, Rows(2, 2))) == 4
    with pytest.raises(ValueError, match="Got 2 images for 3 prompts"):
        encoded(2, Rows(3, 1))


def test_a_start_in_pure_noise_draws_nothing_for_the_image() -> None:
    steps, random, pixels = DDIMScheduler().steps(10), Random.seeded([0]), torch.zeros(1, 3, 16, 16)
    start = EncodeStart(vae=VAE)
    assert start(pixels, Rows(1, 1), random, steps).random is random
    assert not torch.equal(start(pixels, Rows(1, 1), random, steps[3:]).random.states[0], random.states[0])


def test_masks_shrink_to_a_row_for_each_picture() -> None:
    mask = torch.zeros(2, 1, 16, 16)
    mask[1, :, :, 8:] = 1
    rows = ShrinkMask()(mask, torch.zeros(4, 3, 2, 2), Rows(2, 2)).latent_mask
    assert rows[:, 0, 0].tolist() == [[0, 0], [0, 0], [0, 1], [0, 1]]
    with pytest.raises(ValueError, match="Got 2 masks for 1 prompt"):
        ShrinkMask()(mask, torch.zeros(4, 3, 2, 2), Rows(1, 4))


def test_what_will_be_painted_is_hidden_in_grey() -> None:
    mask = torch.tensor([[0.0, 1.0]]).reshape(1, 1, 1, 2)
    hidden = HideMasked()(torch.ones(1, 3, 1, 2), mask).hidden
    assert hidden[0, 0].tolist() == [[1.0, 0.5]]


# ------------------------------------------------------------------------------------------------------------- decoding
def test_decoding_undoes_encoding_and_stays_within_0_and_1() -> None:
    latents = torch.tensor([-2.0, 0.0, 2.0, 9.0]).reshape(4, 1, 1, 1).expand(4, 3, 1, 1)
    images = DecodeLatents(vae=VAE)(latents).images
    assert images[:, 0, 0, 0].tolist() == [0, 0.5, 1, 1]


def test_pictures_take_the_form_that_was_asked_for() -> None:
    images = torch.tensor([0.0, 0.5, 1.0]).reshape(1, 3, 1, 1).expand(1, 3, 4, 6)
    assert torch.equal(FinishImages(output_type="pt")(images).images, images)
    array = FinishImages(output_type="np")(images).images
    assert (array.shape, array[0, 0, 0].tolist()) == ((1, 4, 6, 3), [0, 0.5, 1])
    (picture,) = FinishImages()(images).images
    assert (picture.size, picture.getpixel((0, 0))) == ((6, 4), (0, 128, 255))
