"""Pixels at another size, for a second pass that draws details into them."""

from typing import Annotated, NamedTuple

import numpy as np
import torch
from annotated_types import Gt
from PIL import Image

from ...components.types import Count, Images
from ...graph import Block


class Enlarged(NamedTuple):
    """Pixels at another size."""

    images: Images


class EnlargeImages(Block):
    """Resize pixels by Lanczos' filter: by a factor, or to a height and a width where these are not 0.

    multiple: sides are rounded down to multiples of so many pixels.
    """

    factor: Annotated[float, Gt(0)] = 2.0
    height: int = 0
    width: int = 0
    multiple: Count = 8

    def __call__(self, images: Images) -> Enlarged:
        rows, columns = images.shape[2:]
        height, width = (
            side // self.multiple * self.multiple
            for side in (self.height or int(rows * self.factor), self.width or int(columns * self.factor))
        )
        made: list[torch.Tensor] = []
        for pixels in images:
            picture = Image.fromarray((pixels.movedim(0, -1).clamp(0, 1) * 255).round().byte().cpu().numpy())
            array = np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS), dtype=np.float32)
            made.append(torch.from_numpy(array / 255).movedim(-1, 0))
        return Enlarged(torch.stack(made).to(images))
