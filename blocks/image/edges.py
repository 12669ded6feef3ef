"""The edges of pictures, for control nets that were trained on them."""

from typing import Annotated, NamedTuple

import torch
from annotated_types import Gt
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d, pad

from ...components.types import Images
from ...graph import Above, Block

_GREY = (0.299, 0.587, 0.114)
_BLUR = 5
_SOBEL = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))
_NEIGHBOURS = ((0, 1), (1, 1), (1, 0), (1, -1))
"""Down and across, for directions of 0, 45, 90 and 135 degrees."""
_EQUAL = 1e-5
"""Gradients that differ by less are equal."""
Threshold = Annotated[float, Gt(0)]


class Edges(NamedTuple):
    """Pictures of edges: white lines on black."""

    images: Images


class DetectEdges(Block):
    """Draw the edges of pictures as white lines, one pixel wide (Canny 1986).

    Steps of brightness of at least `high` are edges, and those of at least `low` that touch one. The step is the length
    of Sobel's gradient, of pixels from 0 to 1 after a blur of one pixel.
    """

    low: Threshold = 0.4
    high: Annotated[Threshold, Above("low", or_equal=True)] = 0.8

    def __call__(self, images: Images) -> Edges:
        across, down = _gradient(_blurred(_grey(images)))
        strength = (across.square() + down.square()).sqrt()
        thin = torch.where(_is_ridge(strength, across, down), strength, 0.0)
        edges = _connected(thin >= self.high, thin >= self.low)
        return Edges(edges.to(images.dtype).expand(-1, 3, -1, -1))


def _grey(images: Tensor) -> Tensor:
    weights = torch.tensor(_GREY, device=images.device).view(1, 3, 1, 1)
    return (images.float() * weights).sum(1, keepdim=True)


def _blurred(grey: Tensor) -> Tensor:
    """With a Gaussian of one pixel."""
    places = torch.arange(_BLUR, device=grey.device) - _BLUR // 2
    line = torch.exp(-places.float().square() / 2)
    line = line / line.sum()
    padded = pad(grey, [_BLUR // 2] * 4, mode="replicate")
    return conv2d(conv2d(padded, line.view(1, 1, 1, -1)), line.view(1, 1, -1, 1))


def _gradient(grey: Tensor) -> tuple[Tensor, Tensor]:
    """Across and down."""
    kernel = torch.tensor(_SOBEL, device=grey.device)
    padded = pad(grey, [1] * 4, mode="replicate")
    return conv2d(padded, kernel.view(1, 1, 3, 3)), conv2d(padded, kernel.T.reshape(1, 1, 3, 3))


def _is_ridge(strength: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """Where the gradient is longer than at both neighbours in its direction; of two equal ones, the first."""
    direction = torch.round(torch.atan2(down, across) / (torch.pi / 4)).long() % 4
    padded = pad(strength, [1] * 4)
    rows, columns = strength.shape[2:]

    def shifted(y: int, x: int) -> Tensor:
        return padded[..., 1 + y : 1 + y + rows, 1 + x : 1 + x + columns]

    ridge = torch.zeros_like(strength, dtype=torch.bool)
    for number, (y, x) in enumerate(_NEIGHBOURS):
        largest = (strength > shifted(-y, -x) + _EQUAL) & (strength > shifted(y, x) - _EQUAL)
        ridge |= (direction == number) & largest
    return ridge


def _connected(strong: Tensor, weak: Tensor) -> Tensor:
    """The strong pixels, and the weak ones that touch them, also by way of other weak ones."""
    while True:
        grown = (max_pool2d(strong.float(), 3, 1, 1) > 0) & weak | strong
        if torch.equal(grown, strong):
            return strong
        strong = grown
