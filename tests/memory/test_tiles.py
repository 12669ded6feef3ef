"""Tiles: against the reference's, and what holds for any model that is run on them."""

from importlib import import_module
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import sfumato as sf
from sfumato.blocks.decode.images import DecodeLatents
from sfumato.blocks.image.encode import EncodeImage
from sfumato.components.models.autoencoder_kl import AutoencoderKL
from sfumato.components.models.tiling import decode, encode, one_by_one, tiled
from sfumato.components.random import Random
from sfumato.components.types import Rows

CONFIG: dict[str, Any] = {
    "sample_size": 64,
    "block_out_channels": (8, 8, 8, 8),
    "norm_num_groups": 4,
    "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}


@pytest.fixture(scope="module")
def pair() -> tuple[AutoencoderKL, Any]:
    """Ours and the reference's with the same weights, the latter set to tiles of 64 pixels."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ours = AutoencoderKL(**CONFIG).eval().requires_grad_(False)
    theirs = import_module("diffusers").AutoencoderKL(**CONFIG).eval().requires_grad_(False)
    theirs.load_state_dict(ours.state_dict())
    theirs.enable_tiling()
    return ours, theirs


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("height", "width"), [(16, 16), (8, 24), (20, 7), (13, 17), (30, 9)])
def test_tiled_decoding_is_the_references(pair: tuple[AutoencoderKL, Any], height: int, width: int) -> None:
    ours, theirs = pair
    z = noise(2, 4, height, width)
    wanted = theirs.decode(z).sample
    got = decode(ours, z, 64, False)
    assert got.shape == wanted.shape == (2, 3, height * 8, width * 8)
    assert (got - wanted).abs().max() < 2e-6
    assert not torch.allclose(got, ours.decode(z), atol=1e-3)  # so that the agreement says something


@pytest.mark.parametrize(("height", "width"), [(128, 128), (64, 192), (72, 200)])
def test_tiled_encoding_is_the_references(pair: tuple[AutoencoderKL, Any], height: int, width: int) -> None:
    ours, theirs = pair
    x = noise(1, 3, height, width)
    wanted = theirs.encode(x).latent_dist
    got = encode(ours, x, 64, False)
    assert (got.mean - wanted.mean).abs().max() < 2e-6
    assert (got.logvar - wanted.logvar).abs().max() < 2e-6


def test_a_picture_no_larger_than_a_tile_is_run_as_it_is(pair: tuple[AutoencoderKL, Any]) -> None:
    ours, _ = pair
    z = noise(1, 4, 8, 5)
    assert torch.equal(decode(ours, z, 64, False), ours.decode(z))


def test_slicing_takes_one_picture_at_a_time(pair: tuple[AutoencoderKL, Any]) -> None:
    ours, _ = pair
    seen: list[int] = []

    def seeing(z: Tensor) -> Tensor:
        seen.append(len(z))
        return ours.decode(z)

    z = noise(3, 4, 12, 8)
    got = one_by_one(seeing)(z)
    assert seen == [1, 1, 1]
    assert (got - ours.decode(z)).abs().max() < 1e-5  # a batch of one is summed in another order
    assert torch.equal(decode(ours, z, None, True), got)
    assert (decode(ours, z, 64, True) - decode(ours, z, 64, False)).abs().max() < 1e-5


sides = st.integers(1, 60)


@settings(max_examples=40)
@given(height=sides, width=sides, quarter=st.integers(1, 5), factor=st.sampled_from([1, 2, 3]))
def test_a_model_that_sees_each_pixel_alone_gives_the_same_on_tiles(
    height: int, width: int, quarter: int, factor: int
) -> None:
    """So every tile lies where it belongs, at the edges too."""

    def enlarged(x: Tensor) -> Tensor:
        return (2 * x + 1).repeat_interleave(factor, 2).repeat_interleave(factor, 3)

    x = noise(1, 2, height, width).double()
    side = 4 * quarter
    assert torch.allclose(tiled(enlarged, side, side * factor)(x), enlarged(x), atol=1e-12)


@settings(max_examples=25)
@given(height=st.integers(9, 50), width=st.integers(9, 50), seed=st.integers(0, 99))
def test_no_number_lies_outside_what_the_tiles_say_and_no_step_is_a_seam(height: int, width: int, seed: int) -> None:
    """Tiles that say a constant each, from 0 to 1: blending gives no more, and no step between neighbours is larger
    than twice what a fade over a quarter of the tile makes. (Once, but for corners, where published fades multiply.)"""
    generator = torch.Generator().manual_seed(seed)

    def constant(x: Tensor) -> Tensor:
        return torch.rand((), generator=generator).expand_as(x).contiguous()

    side = 16
    out = tiled(constant, side, side)(torch.zeros(1, 1, height, width))
    assert out.min() >= 0 and out.max() <= 1
    for dim in (2, 3):
        if out.shape[dim] > 1:
            assert out.diff(dim=dim).abs().max() <= 2 / (side // 4) + 1e-6


def test_tiles_equal_the_whole_picture_where_they_see_all_that_a_pixel_depends_on() -> None:
    """A decoder without norms, whose pixels depend on less than 8 latents around: only what is blended differs."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        widths, blocks = (8, 8, 8), (1, 1, 1)
        vae = sf.models.AutoencoderTiny(
            encoder_block_out_channels=widths, decoder_block_out_channels=widths, num_encoder_blocks=blocks,
            num_decoder_blocks=blocks,
        ).eval()  # fmt: skip
    z = noise(1, 4, 60, 40)
    with torch.no_grad():
        whole, tiles = vae.decode(z), decode(vae, z, 128, False)
    blended = torch.zeros(240, 160, dtype=torch.bool)  # the first 32 pixels of a tile after the first
    blended[96:128] = blended[192:224] = True
    blended[:, 96:128] = True
    difference = (tiles - whole).abs()[0].amax(0)
    assert difference[~blended].max() < 2e-6 < 1e-3 < difference[blended].max()


def test_blocks_take_tiles_and_slicing_as_fields(pair: tuple[AutoencoderKL, Any]) -> None:
    vae, _ = pair
    latents = noise(2, 4, 12, 12)
    plain = DecodeLatents(vae=vae)(latents).images
    low = DecodeLatents(vae=vae, tile=64, slicing=True)(latents).images
    wanted = decode(vae, vae.unscale(latents), 64, True).add(1).div(2).clamp(0, 1)
    assert torch.equal(low, wanted)
    assert not torch.equal(low, plain)
    rows, random = Rows(2, 1), Random.seeded([0])
    got = EncodeImage(vae=vae, tile=64, slicing=True)(plain, rows, random).image_latents
    alone = [EncodeImage(vae=vae, tile=64)(plain[i : i + 1], Rows(1, 1), random).image_latents for i in (0, 1)]
    assert torch.allclose(got[0], alone[0][0], atol=1e-5)
    assert not torch.allclose(got, EncodeImage(vae=vae)(plain, rows, random).image_latents, atol=1e-3)


def test_a_side_that_does_not_divide_is_refused_with_one_that_does(pair: tuple[AutoencoderKL, Any]) -> None:
    vae, _ = pair
    with pytest.raises(sf.ConfigError, match=r"in multiples of 32 pixels, got 100\. Pass tile=96"):
        DecodeLatents(vae=vae, tile=100)(noise(1, 4, 4, 4))
    with pytest.raises(sf.ConfigError, match=r"in multiples of 32 pixels, got 8\. Pass tile=32"):
        DecodeLatents(vae=vae, tile=8)(noise(1, 4, 4, 4))
