"""Images that Flux Kontext reads, and the sizes that it makes (Labs et al. 2025)."""

from typing import Any, NamedTuple

from ...components.models.autoencoder import Autoencoder, upcast_vae
from ...components.models.tiling import encode
from ...components.pictures import PictureInput, each_picture, size_of
from ...components.types import Count, ImageLatents, Images, Rows, Side
from ...graph import Block, component, knob
from ...graph.errors import UnfitValue
from ...registry import counted
from .encode import row_for_each
from .read import ReadImage

SIZES = (
    (672, 1568), (688, 1504), (720, 1456), (752, 1392), (800, 1328), (832, 1248), (880, 1184), (944, 1104),
    (1024, 1024), (1104, 944), (1184, 880), (1248, 832), (1328, 800), (1392, 752), (1456, 720), (1504, 688),
    (1568, 672),
)  # fmt: skip
"""Widths and heights of the images that Kontext was trained with."""


class Read(NamedTuple):
    """Pixels of the image that the transformer reads."""

    reference: Images


class ReadReference(Block):
    """Read the image that the transformer looks at, resized to the size of `SIZES` whose shape is closest.

    auto_resize, multiple: as in `FitImage`. Several images take the size of the first. background: as in `ReadImage`.

    Raises:
        UnfitValue: no picture, or values outside 0 to 1.
    """

    multiple: Count = 16
    background: str = "white"
    auto_resize: bool = knob(True)

    def __call__(self, image: PictureInput) -> Read:
        pictures, height, width = FitImage(multiple=self.multiple, auto_resize=self.auto_resize)(image)
        read = ReadImage(multiple=self.multiple, height=height, width=width, background=self.background)
        return Read(read(pictures).pixels)


class Encoded(NamedTuple):
    """Latents of the image that the transformer reads, a row for each picture to make."""

    reference_latents: ImageLatents


class EncodeReference(Block):
    """Turn the image into latents, the most likely ones, so that no noise is drawn.

    tile, slicing: as in `DecodeLatents`.

    Raises:
        UnfitValue: neither one image, nor one for each prompt or for each picture to make.
    """

    vae: Autoencoder[Any] = component(own="encoder")  # Any: whichever config its class has
    tile: Count | None = None
    slicing: bool = False

    def __call__(self, reference: Images, rows: Rows) -> Encoded:
        if len(reference) not in (1, rows.prompts, rows.total):
            raise UnfitValue(
                f"Got {counted(len(reference), 'image')} for {counted(rows.prompts, 'prompt')}. "
                "Give one for all, or one each."
            )
        vae = upcast_vae(self.vae)
        mean = encode(vae, (reference * 2 - 1).to(vae.device, vae.dtype), self.tile, self.slicing).mean
        return Encoded(row_for_each(vae.scale(mean.float()), rows))


class ChooseReference(Block):
    """Choose the image that the transformer looks at while it inpaints: `image_reference`, or else the inpainted image.

    For the settings see `ReadReference` and `EncodeReference`.

    Raises:
        ValueError: neither one `image_reference`, nor one for each prompt or for each picture to make.
    """

    vae: Autoencoder[Any] = component(own="encoder")  # Any: whichever config its class has
    tile: Count | None = None
    slicing: bool = False
    multiple: Count = 16
    background: str = "white"
    auto_resize: bool = knob(True)

    def __call__(self, image_latents: ImageLatents, rows: Rows, image_reference: PictureInput | None = None) -> Encoded:
        if image_reference is None:
            return Encoded(image_latents)
        read = ReadReference(multiple=self.multiple, background=self.background, auto_resize=self.auto_resize)
        encode = EncodeReference(vae=self.vae, tile=self.tile, slicing=self.slicing)
        return encode(read(image_reference).reference, rows)


class Fitted(NamedTuple):
    """The size of the picture to make, in pixels."""

    height: Side
    width: Side


class FitArea(Block):
    """Scale `height` and `width` to an area of about `max_area` pixels, in multiples of `multiple`."""

    multiple: Count = 16
    height: Side = knob(1024)
    width: Side = knob(1024)
    max_area: Count = knob(1024 * 1024)

    def __call__(self) -> Fitted:
        shape = self.width / self.height
        sides = round((self.max_area / shape) ** 0.5), round((self.max_area * shape) ** 0.5)
        height, width = (max(side // self.multiple, 1) * self.multiple for side in sides)
        return Fitted(height, width)


class ImageFitted(NamedTuple):
    """The image, opened, and the size at which it is painted, in pixels."""

    image: PictureInput
    height: Count
    width: Count


class FitImage(Block):
    """Open an image and choose its size: that of `SIZES` whose shape is closest, or its own (`auto_resize=False`).

    Its own size is rounded down to a multiple of `multiple` pixels. Of several images, the first counts.
    """

    multiple: Count = 16
    auto_resize: bool = knob(True)

    def __call__(self, image: PictureInput) -> ImageFitted:
        pictures = each_picture(image)
        height, width = size_of(pictures[0])
        if self.auto_resize:
            _, width, height = min((abs(width / height - w / h), w, h) for w, h in SIZES)
        height, width = (max(side // self.multiple, 1) * self.multiple for side in (height, width))
        return ImageFitted(pictures, height, width)
