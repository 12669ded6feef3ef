"""Images as input of image encoders: `preprocessor_config.json` as transformers publishes it."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..graph.errors import ConfigError, UnfitValue
from .models.config import Config
from .pictures import colours, each_picture, eight_bits, in_range
from .storage.files import read_json, write_json

FILE = "preprocessor_config.json"

Extent = tuple[int, int] | int
"""(rows, columns), or the shorter edge alone."""


class ImageProcessorConfig(Config):
    """The published keys. `size` and `crop_size` are (rows, columns), or for `size` the shorter edge alone."""

    crop_size: tuple[int, int] | None = None
    do_center_crop: bool = False
    do_convert_rgb: bool = True
    """Published, and without effect: an image is always converted to red, green and blue."""
    do_normalize: bool = True
    do_rescale: bool = True
    do_resize: bool = True
    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    resample: Literal[0, 1, 2, 3, 4, 5] = 3
    """Pillow's number of a filter; 3 is bicubic."""
    rescale_factor: float = 1 / 255
    size: Extent = (224, 224)


class ImageProcessor:
    """Resizes images, crops their middle, and normalizes their values by the mean and deviation of the training data.

    Pillow resizes values from 0 to 255, as in training. transformers' own processor does the same without torchvision;
    with torchvision its values differ by rounding.
    """

    defaults: ClassVar[Mapping[str, object]] = {}
    """The published defaults of a subclass, where they differ from those of `ImageProcessorConfig`."""

    def __init__(self, **config: Any) -> None:  # Any: JSON values
        """Take the published keys; see `ImageProcessorConfig`.

        Raises:
            ConfigError: unknown keys, or values that are not supported; all of them at once.
        """
        keys = {**self.defaults, **{key: value for key, value in config.items() if value is not None}}
        for key in {"size", "crop_size"} & keys.keys():
            keys[key] = _extent(type(self).__name__, key, keys[key])
        self.config = ImageProcessorConfig.read(type(self).__name__, keys)

    def __call__(self, images: Sequence[Image.Image | Tensor]) -> Tensor:
        """Return `pixel_values` (batch, 3, rows, columns). Tensors among `images` are (3, rows, columns) from 0 to 1.

        What is transparent becomes white.

        Raises:
            UnfitValue: no image, or images that are resized to different sizes.
        """
        if not images:
            raise UnfitValue("Needs at least one image, got an empty list.")
        values = [self._pixel_values(image) for image in images]
        if len(sizes := {tuple(one.shape[1:]) for one in values}) > 1:
            raise UnfitValue(
                f"Needs images of one size, got {sorted(sizes)}. Set do_center_crop, or a size of rows and columns."
            )
        return torch.stack(values)

    def _pixel_values(self, image: Image.Image | Tensor) -> Tensor:
        config = self.config
        image = eight_bits(colours(in_range(each_picture(image)[0]))).convert("RGB")
        if config.do_resize:
            rows, columns = _new_size(config.size, image.height, image.width)
            image = image.resize((columns, rows), Image.Resampling(config.resample))
        pixels = torch.from_numpy(np.array(image)).movedim(-1, 0)  # 3 rows columns
        if config.do_center_crop and config.crop_size:
            pixels = _crop(pixels, *config.crop_size)
        values = pixels.double() * config.rescale_factor if config.do_rescale else pixels.double()
        if config.do_normalize:
            mean, std = (torch.tensor(key).double()[:, None, None] for key in (config.image_mean, config.image_std))
            values = (values - mean) / std
        return values.float()

    # -- files ---------------------------------------------------------------------------------------------------------

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:  # Any: JSON values
        """Make a processor from a `preprocessor_config.json`; notes and keys of other processors are ignored."""
        return cls(**{key: value for key, value in config.items() if key in ImageProcessorConfig.model_fields})

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], subfolder: str | None = None) -> Self:
        """Read `preprocessor_config.json`.

        Raises:
            LoadError: no such file, or no JSON object in it.
        """
        return cls.from_config(read_json(Path(folder, subfolder or "", FILE)))

    def to_config(self) -> dict[str, Any]:  # Any: JSON values
        """Return the config as transformers writes it."""
        keys = self.config.to_dict()
        for key in ("size", "crop_size"):
            keys[key] = _extent_to_json(cast("Extent | None", getattr(self.config, key)))
        keys = {key: value for key, value in keys.items() if value is not None}
        return dict(sorted({**keys, "image_processor_type": type(self).__name__}.items()))

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write `preprocessor_config.json`. SaveError if it cannot be written; an old file is then unchanged."""
        write_json(Path(folder, FILE), self.to_config())


class CLIPImageProcessor(ImageProcessor):
    """CLIP's: the shorter edge is 224, then the middle, normalized by CLIP's training data (Radford et al. 2021)."""

    defaults: ClassVar[Mapping[str, object]] = {
        "crop_size": 224,
        "do_center_crop": True,
        "image_mean": (0.48145466, 0.4578275, 0.40821073),
        "image_std": (0.26862954, 0.26130258, 0.27577711),
        "size": 224,
    }


class SiglipImageProcessor(ImageProcessor):
    """SigLIP's: the whole image, resized to a square, with values from -1 to 1 (Zhai et al. 2023)."""


def _extent(owner: str, key: str, value: object) -> Extent:
    """Read a published size: a number, or an object with height and width or the shortest edge."""
    if isinstance(value, Mapping):
        sides = {str(name): size for name, size in cast("Mapping[object, object]", value).items() if size is not None}
        match sides:
            case {"height": int(rows), "width": int(columns)} if len(sides) == 2:
                return rows, columns
            case {"shortest_edge": int(edge)} if len(sides) == 1 and key == "size":
                return edge
            case _:
                pass
    elif isinstance(value, int) and not isinstance(value, bool):
        return value if key == "size" else (value, value)
    elif isinstance(value, tuple | list) and len(pair := cast("Sequence[object]", value)) == 2:
        return cast("Extent", tuple(pair))
    edge = ' or {"shortest_edge": 224}' if key == "size" else ""
    raise ConfigError(f'{owner} needs {key} like {{"height": 224, "width": 224}}{edge}, got {value!r}.')


def _extent_to_json(extent: Extent | None) -> dict[str, int] | None:
    if isinstance(extent, int):
        return {"shortest_edge": extent}
    return extent and {"height": extent[0], "width": extent[1]}


def _new_size(size: Extent, rows: int, columns: int) -> tuple[int, int]:
    if isinstance(size, tuple):
        return size
    longer = int(size * max(rows, columns) / min(rows, columns))
    return (longer, size) if columns <= rows else (size, longer)


def _crop(pixels: Tensor, rows: int, columns: int) -> Tensor:
    """Crop the middle of an image; an image that is too small gets a black border."""
    missing = [max(new - old, 0) for new, old in zip((rows, columns), pixels.shape[1:], strict=True)]
    (top, left), (bottom, right) = ([(-(-n // 2)) for n in missing], [n // 2 for n in missing])
    pixels = torch.nn.functional.pad(pixels, (left, right, top, bottom))
    y, x = (pixels.shape[1] - rows) // 2, (pixels.shape[2] - columns) // 2
    return pixels[:, y : y + rows, x : x + columns]
