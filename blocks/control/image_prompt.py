"""Image prompts: the denoiser attends to pictures as it attends to the prompt (Ye et al. 2023, IP-Adapter)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, NamedTuple, Protocol

from torch import Tensor

from ...components.image_processor import ImageProcessor
from ...components.models.image_attention import AddsImages, ImageBranch, ImageTokens
from ...components.models.ip_adapter import Negative, Reads
from ...components.pictures import PictureInput
from ...components.types import Number, Pass, Predict, Rows, ZeroToOne
from ...graph import Above, Block, component, knob
from ...graph.errors import UnfitValue
from ...registry import counted
from .image_features import (
    Embeds,
    Features,
    ImageEncoder,
    Pictures,
    default_processor,
    encode_pictures,
    negative_features,
    project,
    read_embeds,
    read_masks,
)
from .residuals import is_inside

ImageScale = Number | tuple[Number, ...] | Mapping[str, Any]  # Any: numbers and tables of them
"""A number; with masks, one for each picture; or a table of blocks, {"up": {"block_0": [0, 1, 0]}}."""


class ImageAdapter(AddsImages, Protocol):
    """A model that turns features of pictures into tensors that the layers of a denoiser read."""

    @property
    def depends_on_time(self) -> bool:
        """Whether `layers` differs from step to step."""
        ...

    @property
    def reads(self) -> Reads:
        """The output of the image encoder that it reads."""
        ...

    @property
    def negative(self) -> Negative:
        """The features of negative passes."""
        ...

    @property
    def reads_faces(self) -> bool:
        """Whether it reads the embedding of a face."""
        ...

    def project(self, features: Tensor | None, faces: Tensor | None = None) -> Tensor:
        """Turn features and faces (pictures, …) into tokens (pictures, tokens, width)."""
        ...

    def layers(self, tokens: Tensor, time: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the tensors that the layers read for tokens (rows, tokens, width), at the time of a step."""
        ...


class Branch:
    """A branch of one run, and its tokens for positive and negative passes, (rows, tokens, width)."""

    def __init__(self, branch: ImageBranch, adapter: ImageAdapter, tokens: Features) -> None:
        self._branch, self._adapter, self._features = branch, adapter, tokens
        self._made: dict[tuple[bool, int | None], ImageTokens] = {}

    def tokens(self, p: Pass) -> ImageTokens:
        """The image prompt of a pass. Tensors that do not depend on the time are computed once."""
        key = p.role == "negative", p.step.index if self._adapter.depends_on_time else None
        if key not in self._made:
            if key[1] is not None:
                self._made = {known: made for known, made in self._made.items() if known[1] == key[1]}
            tokens = self._features.negative if key[0] else self._features.positive
            if tokens is None:
                raise UnfitValue(
                    "The guider asks for negative passes, and ip_adapter_image_embeds has no negative rows. Pass them "
                    "first, or pass image_encoder=."
                )
            self._made[key] = ImageTokens(self._branch, self._adapter.layers(tokens, p.step.t))
        made = self._made[key]
        if all(len(t) in (1, len(p.latents)) for t in made.layers):
            return made
        return ImageTokens(made.branch, tuple(map(p.rows_of, made.layers)))


class Prompted(NamedTuple):
    """The denoiser as a function, with an image prompt."""

    predict: Predict


class ImagePrompt(Block):
    """Let the denoiser attend to pictures, through the tokens that an adapter makes of them (Ye et al. 2023).

    Insert it before the guider, once for each adapter. `ip_adapter_image` is one picture, or several that
    count together; a list of lists has the pictures of each prompt. `ip_adapter_image_embeds` are features in place of
    pictures: (rows, pictures, …), the negative rows first. FaceID reads embeddings of faces (512 numbers, of
    insightface) there, and FaceID Plus the pictures of the aligned faces too. `ip_adapter_masks` has a mask for each
    picture: white where it counts.

    ip_adapter_scale: see `ImageScale`; 0 is no image prompt. ip_adapter_start, ip_adapter_end: the interval in which it
    counts, as fractions of the steps of this run; a step counts where it lies wholly inside.

    Raises:
        UnfitValue: neither pictures nor features, features of another image encoder, or another number of rows, masks
            or scales.
    """

    ip_adapter: ImageAdapter = component()
    image_encoder: ImageEncoder | None = component(default=None)
    feature_extractor: ImageProcessor | None = component(default=None)
    ip_adapter_scale: ImageScale = knob(1.0)
    ip_adapter_start: ZeroToOne = knob(0.0)
    ip_adapter_end: Annotated[ZeroToOne, Above("ip_adapter_start")] = knob(1.0)

    def __call__(
        self,
        predict: Predict,
        rows: Rows,
        ip_adapter_image: Pictures | None = None,
        negative_ip_adapter_image: Pictures | None = None,
        ip_adapter_image_embeds: Embeds | None = None,
        ip_adapter_masks: PictureInput | None = None,
    ) -> Prompted:
        if self.ip_adapter_scale == 0:
            return Prompted(predict)
        features = self._tokens(ip_adapter_image, negative_ip_adapter_image, ip_adapter_image_embeds)
        branches = self._branches(features.expand(rows), ip_adapter_masks)

        def prompted(passes: Sequence[Pass]) -> Sequence[Tensor]:
            return predict([self._with_images(p, branches) for p in passes])

        return Prompted(prompted)

    def _with_images(self, p: Pass, branches: Sequence[Branch]) -> Pass:
        if not is_inside(p.step, self.ip_adapter_start, self.ip_adapter_end):
            return p
        return replace(p, images=(*p.images, *(branch.tokens(p) for branch in branches)))

    def _tokens(self, image: Pictures | None, negative: Pictures | None, embeds: Embeds | None) -> Features:
        """The tokens of the image prompt, (rows, pictures, tokens, width)."""
        adapter, features, faces = self.ip_adapter, None, None
        if adapter.reads_faces:
            if embeds is None:
                raise UnfitValue(
                    "This adapter reads embeddings of faces. Pass ip_adapter_image_embeds=, 512 numbers for each face."
                )
            faces = read_embeds(embeds, 1).or_zeros()
        elif embeds is not None:
            if image is not None:
                raise UnfitValue(
                    "The image prompt has pictures and features. Pass ip_adapter_image= or ip_adapter_image_embeds=."
                )
            features = self._ready_made(embeds)
        if adapter.reads and features is None:
            features = encode_pictures(_needed(image), *self._encoder(), adapter.reads, adapter.negative)
        if negative is not None and adapter.reads and features is not None:
            own = encode_pictures(negative, *self._encoder(), adapter.reads, adapter.negative)
            features = replace(features, negative=own.positive)
        return project(adapter.project, features, faces)

    def _ready_made(self, embeds: Embeds) -> Features:
        """Features in place of pictures. Those of negative passes are computed where they are not passed."""
        adapter = self.ip_adapter
        found = read_embeds(embeds, 1 if adapter.reads == "image_embeds" else 2)
        if found.negative is not None or (adapter.negative != "zero features" and self.image_encoder is None):
            return found
        if adapter.negative == "zero features":
            return found.or_zeros()
        return replace(found, negative=negative_features(*self._encoder(), adapter.reads, adapter.negative))

    def _encoder(self) -> tuple[ImageEncoder, ImageProcessor]:
        if self.image_encoder is None:
            raise UnfitValue(
                "This adapter reads pictures through an image encoder, which is published in a folder image_encoder "
                "beside it. Pass image_encoder=."
            )
        return self.image_encoder, self.feature_extractor or default_processor(self.image_encoder)

    def _branches(self, tokens: Features, masks: PictureInput | None) -> list[Branch]:
        """One branch for all pictures, with their tokens joined; one for each picture where there are masks."""
        count = tokens.positive.shape[1]
        if masks is None:
            joined = tokens.each(lambda t: t.flatten(1, 2))
            return [Branch(ImageBranch(self.ip_adapter, self.ip_adapter_scale), self.ip_adapter, joined)]
        scale = self.ip_adapter_scale
        scales = list(scale) if isinstance(scale, tuple) else [scale] * count
        if len(scales) != count:
            raise UnfitValue(
                f"ip_adapter_scale has {counted(len(scales), 'number')} for {counted(count, 'picture')}. "
                "Give one for all, or one each."
            )
        pairs = zip(scales, read_masks(masks, count), strict=True)
        return [
            Branch(ImageBranch(self.ip_adapter, own, mask), self.ip_adapter, tokens.each(partial(_picture, number)))
            for number, (own, mask) in enumerate(pairs)
        ]


def _picture(number: int, tokens: Tensor) -> Tensor:
    return tokens[:, number]


def _needed(image: Pictures | None) -> Pictures:
    if image is None:
        raise UnfitValue("The image prompt has no picture. Pass ip_adapter_image=, or ip_adapter_image_embeds=.")
    return image
