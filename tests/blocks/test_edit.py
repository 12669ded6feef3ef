"""Pictures and masks that blocks change, and their edges."""

import pytest
import torch
from torch import Tensor

from sfumato.blocks.control.prompt_parts import AddPrompt
from sfumato.blocks.image.edges import DetectEdges
from sfumato.blocks.image.edit import (
    BlurImages,
    CropImages,
    GrowMask,
    PasteImages,
    ReadChannel,
    ShowMask,
    StitchImages,
    TakeImages,
)
from sfumato.components.prompt_parts import Area
from sfumato.graph import ConfigError, UnfitValue


def square(level: float = 1.0) -> Tensor:
    """A grey square of 12 x 12 on black."""
    picture = torch.zeros(1, 3, 24, 24)
    picture[..., 6:18, 6:18] = level
    return picture


# ------------------------------------------------------------------------------------------------ edges
def test_edges_are_thin_closed_lines_around_a_shape() -> None:
    edges = DetectEdges(low=0.5, high=1.0)(square()).images
    assert set(edges.unique().tolist()) == {0.0, 1.0} and torch.equal(edges[:, :1].expand(-1, 3, -1, -1), edges)
    lines = edges[0, 0, 10:14]
    assert (lines == lines[:1]).all() and lines[0].nonzero().flatten().tolist() == [5, 17]
    assert torch.equal(edges[0, 0, :, 10:14], lines.T)
    assert not edges[..., 9:15, 9:15].any() and not edges[..., :4, :].any()


def test_weak_edges_count_where_they_touch_strong_ones() -> None:
    fading = square()
    fading[..., 6:18, 6:18] *= torch.linspace(0.2, 1, 12)
    both = DetectEdges(low=0.6, high=2.0)(fading).images
    strong = DetectEdges(low=2.0, high=2.0)(fading).images
    assert both.sum() > strong.sum() > 0 and (both >= strong).all()
    assert not DetectEdges(low=0.5, high=2.0)(square(0.3)).images.any()
    with pytest.raises(ConfigError, match="low"):
        DetectEdges(low=0.8, high=0.4)


# ------------------------------------------------------------------------------------------------ pictures
def test_pictures_are_cut_taken_and_put_side_by_side() -> None:
    batch = torch.rand(3, 3, 10, 8)
    assert torch.equal(TakeImages(first=1, length=5)(batch).images, batch[1:])
    with pytest.raises(UnfitValue, match="no picture 3 among 3 pictures"):
        TakeImages(first=3)(batch)
    assert torch.equal(CropImages(left=2, top=1, width=4, height=90)(batch).images, batch[..., 1:, 2:6])
    wide = StitchImages(spacing=3, colour=0.0)(batch, torch.rand(1, 3, 5, 4)).images
    assert tuple(wide.shape) == (3, 3, 10, 19) and not wide[..., 8:11].any()
    tall = StitchImages(side="up", match=False)(batch[:1], torch.ones(1, 3, 4, 4)).images
    assert torch.equal(tall[..., 4:, :], batch[:1]) and tall[0, 0, 0].tolist() == [0, 0, 1, 1, 1, 1, 0, 0]


def test_a_blur_keeps_the_mean_and_sharpening_is_its_opposite() -> None:
    picture = square(0.5)
    blurred = BlurImages(radius=3)(picture).images
    assert torch.allclose(blurred.mean(), picture.mean(), atol=1e-4) and blurred.max() < 0.5001
    assert torch.equal(BlurImages(radius=0)(picture).images, picture)
    sharp = BlurImages(radius=3, sharpen=0.4)(picture).images
    assert torch.allclose(sharp, (picture + 0.4 * (picture - blurred)).clamp(0, 1))


def test_pictures_are_put_on_others() -> None:
    under, over = torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 4, 4)
    put = PasteImages(left=6, top=-2)(under, over).images
    assert put.sum() == 3 * 2 * 2 and put[0, 0, :2, 6:].all() and not under.any()
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2] = 0.5
    assert PasteImages()(under, over, mask).images.sum() == 3 * 4 * 2 * 0.5
    assert PasteImages(left=9)(under, over).images is under
    assert PasteImages(resize=True)(under, over).images.all()


def test_masks_grow_and_shrink() -> None:
    dot = torch.zeros(1, 1, 9, 9)
    dot[..., 4, 4] = 1
    assert GrowMask(pixels=2)(dot).mask.sum() == 25
    diamond = GrowMask(pixels=2, corners=False)(dot).mask
    assert diamond.sum() == 13
    assert torch.equal(GrowMask(pixels=-2)(GrowMask(pixels=2)(dot).mask).mask, dot)
    assert torch.equal(ReadChannel(channel="blue")(ShowMask()(dot).images).mask, dot)


# ------------------------------------------------------------------------------------------------ areas of prompts
def test_an_area_in_pixels_is_that_in_shares() -> None:
    shares, pixels = Area(0.5, 0.25, 0.5, 0.5), Area(32, 16, 32, 32, 8)
    assert shares.cells(8, 8) == pixels.cells(8, 8) == (slice(2, 6), slice(4, 8))
    assert torch.equal(Area(0, 0, 1, 1).weights(4, 4), torch.ones(1, 1, 4, 4))
    ramp = Area(0.5, 0, 0.5, 1).weights(1, 32)[0, 0, 0]
    assert ramp[:8].tolist() == [(i + 1) / 8 for i in range(8)] and ramp[8:].all()
    with pytest.raises(ConfigError, match="needs shares from 0 to 1"):
        AddPrompt(area=(0, 0, 64, 64))
