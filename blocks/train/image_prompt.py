"""Pictures as prompts in training: their features, of which some are left out (Ye et al. 2023, section 3.3)."""

from typing import NamedTuple

import torch
from torch import Tensor

from ...components.image_processor import ImageProcessor
from ...components.models.ip_adapter import Negative, Reads
from ...components.random import Random
from ...components.types import Images, ZeroToOne
from ...graph import Block, component, knob
from ..control.image_features import ImageEncoder, default_processor, encoded, negative_features


class ImageFeatures(NamedTuple):
    """Features of pictures (rows, 1, …), and those of no picture (1, 1, …)."""

    image_features: Tensor
    no_image_features: Tensor


class EncodeImages(Block):
    """Turn the pictures of a batch into features, through the image encoder of an image prompt.

    It draws nothing, so it can be kept for all epochs. reads: the output of the encoder that the adapter reads.
    negative: the features of no picture. Both are properties of the adapter.
    """

    image_encoder: ImageEncoder = component()
    feature_extractor: ImageProcessor | None = component(default=None)
    reads: Reads = "image_embeds"
    negative: Negative = "zero features"

    def __call__(self, pixels: Images) -> ImageFeatures:
        processor = self.feature_extractor or default_processor(self.image_encoder)
        found = encoded(processor(list(pixels)), self.image_encoder, self.reads)[:, None]
        if self.negative == "zero features":
            return ImageFeatures(found, torch.zeros_like(found[:1]))
        return ImageFeatures(found, negative_features(self.image_encoder, processor, self.reads, self.negative))


class ImageEmbeds(NamedTuple):
    """Features as `ImagePrompt` reads them: those of no picture for each row, then those of each row."""

    ip_adapter_image_embeds: Tensor
    random: Random


class DropImages(Block):
    """Leave out some pictures, so that the model learns to draw without one: that is what guidance compares with.

    drop_images: the share of rows that get the features of no picture.
    """

    drop_images: ZeroToOne = knob(0.05)

    def __call__(self, image_features: Tensor, no_image_features: Tensor, random: Random) -> ImageEmbeds:
        u, random = random.uniform(len(image_features))
        dropped = (u < self.drop_images).to(image_features.device).view(-1, *[1] * (image_features.ndim - 1))
        none = no_image_features.expand_as(image_features)
        return ImageEmbeds(torch.cat([none, torch.where(dropped, none, image_features)]), random)
