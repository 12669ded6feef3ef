"""Pictures as vision towers want them: `preprocessor_config.json` as transformers publishes it."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..graph.errors import ConfigError
from .models.config import Config
from .storage.files import read_json, write_json

FILE = "preprocessor_config.json"

Extent = tuple[int, int] | int
"""(rows, columns), or the shorter edge alone."""


class ImageProcessorConfig(Config):
    """The published keys. `size` and `crop_size` are (rows, columns), or for `size` the shorter edge alone."""

    crop_size: tuple[int, int] | None = None
    do_center_crop: bool = False
    do_convert_rgb: bool = True
    """Published, and of no effect: a picture is always made red, green and blue."""
    do_normalize: bool = True
    do_rescale: bool = True
    do_resize: bool = True
    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    resample: Literal[0, 1, 2, 3, 4, 5] = 3
    """A filter by Pillow's number; 3 is bicubic."""
    rescale_factor: float = 1 / 255
    size: Extent = (224, 224)


class ImageProcessor:
    """Resizes pictures, cuts out their middle, and brings their values to the mean and spread of training.

    Resizing is Pillow's, on whole values from 0 to 255, as in training; transformers' own processor gives the same
    where torchvision is not installed, and with it differs by the rounding of another resizer.
    """

    defaults: ClassVar[Mapping[str, object]] = {}

    def __init__(self, **config: Any) -> None:  # Any: JSON values
        """Takes the published keys; see `ImageProcessorConfig`. ConfigError for unknown or unfit ones."""
        keys = {**self.defaults, **{key: value for key, value in config.items() if value is not None}}
        for key in {"size", "crop_size"} & keys.keys():
            keys[key] = _extent(type(self).__name__, key, keys[key])
        self.config = ImageProcessorConfig.read(type(self).__name__, keys)

    def __call__(self, pictures: Sequence[Image.Image | Tensor]) -> Tensor:
        """`pixel_values` (batch, 3, rows, columns). Tensors are (3, rows, columns) from 0 to 1."""
        if not pictures:
            raise ValueError("There is no picture: an empty list came.")
        ready = [self._prepared(picture) for picture in pictures]
        if len(sizes := {tuple(one.shape[1:]) for one in ready}) > 1:
            raise ValueError(
                f"The pictures have the sizes {sorted(sizes)}, and cannot go in one batch. Set do_center_crop, or a "
                "size of rows and columns."
            )
        return torch.stack(ready)

    def _prepared(self, picture: Image.Image | Tensor) -> Tensor:
        config = self.config
        if isinstance(picture, Tensor):
            picture = Image.fromarray((picture * 255).round().byte().movedim(0, -1).cpu().numpy())
        picture = picture.convert("RGB")
        if config.do_resize:
            rows, columns = _resized(config.size, picture.height, picture.width)
            picture = picture.resize((columns, rows), Image.Resampling(config.resample))
        pixels = torch.from_numpy(np.array(picture)).movedim(-1, 0)  # 3 rows columns
        if config.do_center_crop and config.crop_size:
            pixels = _middle(pixels, *config.crop_size)
        values = pixels.double() * config.rescale_factor if config.do_rescale else pixels.double()
        if config.do_normalize:
            mean, std = (torch.tensor(of).double()[:, None, None] for of in (config.image_mean, config.image_std))
            values = (values - mean) / std
        return values.float()

    # -- files ---------------------------------------------------------------------------------------------------------

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:  # Any: JSON values
        """From a published `preprocessor_config.json`, whose notes and keys of other processors are passed over."""
        return cls(**{key: value for key, value in config.items() if key in ImageProcessorConfig.model_fields})

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], subfolder: str | None = None) -> Self:
        """Read `preprocessor_config.json`. LoadError where it is missing or no JSON object."""
        return cls.from_config(read_json(Path(folder, subfolder or "", FILE)))

    def to_config(self) -> dict[str, Any]:  # Any: JSON values
        """The config as transformers writes it."""
        keys = self.config.to_dict()
        for key in ("size", "crop_size"):
            keys[key] = _written(cast("Extent | None", getattr(self.config, key)))
        keys = {key: value for key, value in keys.items() if value is not None}
        return dict(sorted({**keys, "image_processor_type": type(self).__name__}.items()))

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write `preprocessor_config.json`, whole or not at all."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_json(Path(folder, FILE), self.to_config())


class CLIPImageProcessor(ImageProcessor):
    """CLIP's: the shorter edge to 224, the middle of that, and the mean and spread of its training images."""

    defaults: ClassVar[Mapping[str, object]] = {
        "crop_size": 224,
        "do_center_crop": True,
        "image_mean": (0.48145466, 0.4578275, 0.40821073),
        "image_std": (0.26862954, 0.26130258, 0.27577711),
        "size": 224,
    }


class SiglipImageProcessor(ImageProcessor):
    """SigLIP's: the whole picture as a square, and values from -1 to 1."""


def _extent(where: str, key: str, value: object) -> Extent:
    """A published size: a number, or an object with rows and columns or the shorter edge."""
    if isinstance(value, Mapping):
        held = {str(name): size for name, size in cast("Mapping[object, object]", value).items() if size is not None}
        match held:
            case {"height": int(rows), "width": int(columns)} if len(held) == 2:
                return rows, columns
            case {"shortest_edge": int(edge)} if len(held) == 1 and key == "size":
                return edge
            case _:
                pass
    elif isinstance(value, int) and not isinstance(value, bool):
        return value if key == "size" else (value, value)
    elif isinstance(value, tuple | list) and len(pair := cast("Sequence[object]", value)) == 2:
        return cast("Extent", tuple(pair))
    edge = ' or {"shortest_edge": 224}' if key == "size" else ""
    raise ConfigError(f'{where} wants {key} as {{"height": 224, "width": 224}}{edge}, and it came as {value!r}.')


def _written(extent: Extent | None) -> dict[str, int] | None:
    if isinstance(extent, int):
        return {"shortest_edge": extent}
    return extent and {"height": extent[0], "width": extent[1]}


def _resized(size: Extent, rows: int, columns: int) -> tuple[int, int]:
    if isinstance(size, tuple):
        return size
    longer = int(size * max(rows, columns) / min(rows, columns))
    return (longer, size) if columns <= rows else (size, longer)


def _middle(pixels: Tensor, rows: int, columns: int) -> Tensor:
    """The middle of a picture, with black around it where it is too small."""
    over = [max(wanted - own, 0) for wanted, own in zip((rows, columns), pixels.shape[1:], strict=True)]
    (top, left), (bottom, right) = ([(-(-n // 2)) for n in over], [n // 2 for n in over])
    pixels = torch.nn.functional.pad(pixels, (left, right, top, bottom))
    y, x = (pixels.shape[1] - rows) // 2, (pixels.shape[2] - columns) // 2
    return pixels[:, y : y + rows, x : x + columns]
