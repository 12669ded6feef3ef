"""Latents at another size, for a second pass that draws details into them."""

from typing import Annotated, Literal, NamedTuple

from annotated_types import Gt
from torch.nn.functional import interpolate

from ...components.types import ImageLatents, Latents
from ...graph import Block

Filter = Literal["nearest", "nearest-exact", "bilinear", "bicubic"]


class Enlarged(NamedTuple):
    """Latents at another size."""

    image_latents: ImageLatents


class EnlargeLatents(Block):
    """Resize latents: by a factor, or to a height and a width in latents where these are not 0.

    antialias: whether a smaller size reads all latents that it covers.
    """

    factor: Annotated[float, Gt(0)] = 2.0
    height: int = 0
    width: int = 0
    method: Filter = "bilinear"
    antialias: bool = False

    def __call__(self, latents: Latents) -> Enlarged:
        rows, columns = latents.shape[2:]
        size = self.height or int(rows * self.factor), self.width or int(columns * self.factor)
        return Enlarged(interpolate(latents, size=size, mode=self.method, antialias=self.antialias))
