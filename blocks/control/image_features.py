"""The features of image prompts: of pictures through an image encoder, or ready-made, and those of negative passes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...components.image_processor import CLIPImageProcessor, ImageProcessor, SiglipImageProcessor
from ...components.models.ip_adapter import Negative, Reads
from ...components.models.vision import SiglipVisionModel
from ...components.pictures import Picture, PictureInput, each_picture
from ...components.types import Rows
from ...graph.errors import UnfitValue
from ...registry import counted
from ..image.read import ReadMask

Pictures = PictureInput | Sequence[Sequence[Any]]  # Any: pictures of one prompt
"""One picture, several, or a list of several for each prompt."""
Embeds = Tensor | np.ndarray[Any, Any] | Sequence[Tensor | np.ndarray[Any, Any]]  # Any: shapes are checked
"""Features of pictures, or embeddings of faces."""


Projector = Callable[[Tensor | None, Tensor | None], Tensor]
"""Turns features and faces, (pictures, …) or None, into tokens (pictures, tokens, width)."""


class ImageEncoding(Protocol):
    """The output of an image encoder."""

    @property
    def hidden_states(self) -> tuple[Tensor, ...] | None:
        """The input of the layers and each layer's output, (pictures, tokens, width)."""
        ...

    @property
    def image_embeds(self) -> Tensor | None:
        """The projected embedding, (pictures, width)."""
        ...


class ImageEncoder(Protocol):
    """An image encoder."""

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        ...

    def forward(self, pixel_values: Tensor, output_hidden_states: bool = False) -> ImageEncoding:
        """Encode pixels (pictures, 3, rows, columns)."""
        ...


@dataclass(frozen=True, eq=False)
class Features:
    """Features of an image prompt, (rows, pictures, …): one row for all, or one for each picture to make.

    negative: those of negative passes; None where they are not known.
    """

    positive: Tensor
    negative: Tensor | None

    def or_zeros(self) -> "Features":
        """The same, with zeros for negative passes if they are not known."""
        return self if self.negative is not None else Features(self.positive, torch.zeros_like(self.positive[:1]))

    def each(self, change: Callable[[Tensor], Tensor]) -> "Features":
        """Both changed by a function."""
        return Features(change(self.positive), None if self.negative is None else change(self.negative))

    def expand(self, rows: Rows) -> "Features":
        """A row for each picture to make, where there is one for each prompt."""

        def grown(features: Tensor) -> Tensor:
            if len(features) in (1, rows.total):
                return features
            if len(features) != rows.prompts:
                raise UnfitValue(
                    f"The image prompt has {counted(len(features), 'row')} for {counted(rows.prompts, 'prompt')}. "
                    "Give one list of pictures for all, or one for each prompt."
                )
            return features.repeat_interleave(rows.each, 0)

        return self.each(grown)


def encode_pictures(
    image: Pictures, encoder: ImageEncoder, processor: ImageProcessor, reads: Reads, negative: Negative
) -> Features:
    """The features of pictures.

    Raises:
        UnfitValue: no picture, or lists of different lengths.
    """
    lists = picture_lists(image)
    pixels = processor([picture for one in lists for picture in one])
    found = encoded(pixels, encoder, reads).unflatten(0, (len(lists), -1))
    if negative == "zero features":
        return Features(found, None).or_zeros()
    none = negative_features(encoder, processor, reads, negative)
    return Features(found, none.expand(-1, found.shape[1], *none.shape[2:]))


def negative_features(encoder: ImageEncoder, processor: ImageProcessor, reads: Reads, negative: Negative) -> Tensor:
    """The features (1, 1, …) that negative passes read in place of those of a picture."""
    pixels = processor([Image.new("RGB", (8, 8))])
    # As published: zeros after normalization. They are grey and not black.
    return encoded(pixels if negative == "black picture" else torch.zeros_like(pixels), encoder, reads)[None]


def project(projector: Projector, features: Features | None, faces: Features | None) -> Features:
    """The tokens (rows, pictures, tokens, width) of features, of faces, or of both.

    Raises:
        UnfitValue: other numbers of pictures and of faces.
    """
    sides = features, faces
    positive = _tokens(projector, [None if one is None else one.positive for one in sides])
    if any(one is not None and one.negative is None for one in sides):
        return Features(positive, None)
    return Features(positive, _tokens(projector, [None if one is None else one.negative for one in sides]))


def _tokens(projector: Projector, parts: Sequence[Tensor | None]) -> Tensor:
    counts = [tuple(part.shape[:2]) for part in parts if part is not None]
    rows, pictures = max(counts)
    if any(count not in ((1, pictures), (rows, pictures)) for count in counts):
        texts = " and ".join(f"{rows} x {pictures}" for rows, pictures in counts)
        raise UnfitValue(f"Needs as many pictures as faces, got {texts} (rows x pictures).")
    flat = (None if part is None else part.expand(rows, *part.shape[1:]).flatten(0, 1) for part in parts)
    return projector(*flat).unflatten(0, (rows, pictures))


def default_processor(encoder: ImageEncoder) -> ImageProcessor:
    """The processor of an image encoder, SigLIP's or CLIP's, at its size: most adapters are published without one."""
    side = getattr(getattr(encoder, "config", None), "image_size", 224)
    if isinstance(encoder, SiglipVisionModel):
        return SiglipImageProcessor(size={"height": side, "width": side})
    return CLIPImageProcessor(size=side, crop_size=side)


def encoded(pixels: Tensor, encoder: ImageEncoder, reads: Reads) -> Tensor:
    """The output of the encoder for pixels that an adapter reads, (pictures, …)."""
    out = encoder.forward(pixels.to(encoder.device, encoder.dtype), output_hidden_states=reads == "hidden_states")
    if reads == "hidden_states":
        assert out.hidden_states is not None
        return out.hidden_states[-2]
    if out.image_embeds is None:
        raise UnfitValue(
            f"The image prompt adapter reads image_embeds, and {type(encoder).__name__} has none. "
            "Pass a CLIPVisionModelWithProjection as image_encoder=."
        )
    return out.image_embeds


def picture_lists(image: Pictures) -> list[list[Picture]]:
    """The pictures of an input: one list for all prompts, or one for each; all of one length."""
    nested = isinstance(image, list | tuple) and any(isinstance(one, list | tuple) for one in image)
    parts: Sequence[Any] = image if nested and isinstance(image, list | tuple) else [image]
    lists = [each_picture(part) for part in parts]
    if len(counts := {len(one) for one in lists}) > 1:
        raise UnfitValue(
            f"ip_adapter_image has lists of {' and '.join(map(str, sorted(counts)))} pictures. "
            "Give each prompt the same number of pictures."
        )
    return lists


def read_embeds(embeds: Embeds, dimensions: int, name: str = "ip_adapter_image_embeds") -> Features:
    """Ready-made features.

    Args:
        embeds: of one picture, of several, or (rows, pictures, …). An even number of rows is the negative ones and then
            the positive ones, as diffusers writes them. A list of one tensor is that tensor.
        dimensions: of the features of one picture.
        name: of the input, for errors.

    Raises:
        UnfitValue: another number of dimensions or of rows.
    """
    value: Any = embeds[0] if isinstance(embeds, list | tuple) and len(embeds) == 1 else embeds
    if isinstance(value, list | tuple):
        value = torch.stack([torch.as_tensor(one) for one in value])
    tensor = torch.as_tensor(value)
    if not tensor.is_floating_point() or not dimensions <= tensor.ndim <= dimensions + 2 or not tensor.numel():
        shape = "x".join(map(str, tensor.shape))
        raise UnfitValue(
            f"{name}: needs floats of {dimensions} to {dimensions + 2} dimensions (rows, pictures, features), got "
            f"{shape or 'a number'} of {str(tensor.dtype).removeprefix('torch.')}."
        )
    whole = tensor.reshape(*[1] * (dimensions + 2 - tensor.ndim), *tensor.shape).float()
    if len(whole) == 1:
        return Features(whole, None)
    if len(whole) % 2:
        raise UnfitValue(f"{name}: has {len(whole)} rows. Give one, or as many negative rows and then positive ones.")
    none, positive = whole.chunk(2)
    return Features(positive, none)


def read_masks(masks: PictureInput, count: int) -> list[Tensor]:
    """A mask (1, 1, rows, columns) for each picture of an image prompt: 1 where it counts.

    masks: pictures, white where the picture counts, or a tensor (1, pictures, rows, columns) as diffusers makes it.

    Raises:
        UnfitValue: another number of masks than of pictures.
    """
    value: Any = masks[0] if isinstance(masks, list | tuple) and len(masks) == 1 else masks
    if isinstance(value, Tensor) and value.ndim == 4 and len(value) == 1:
        value = value[0][:, None]
    found = [ReadMask(multiple=1)([one]).mask for one in each_picture(value)]
    if len(found) != count:
        raise UnfitValue(
            f"ip_adapter_masks has {counted(len(found), 'mask')} for {counted(count, 'picture')}. Give one each."
        )
    return found
