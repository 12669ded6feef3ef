"""Models that transformers publishes: a `config.json` with a `model_type`, and weights in `model.safetensors`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch

from ...graph.errors import ConfigError
from ..loading.files import write_json
from ..loading.weights import load_weights, on_meta, save_weights, weight_files
from .base import C, Model, read_config

_STEM = "model"  # transformers' name for weight files


class TransformersModel(Model[C]):
    """A model of ours that reads and writes the files of a model of transformers."""

    model_type: ClassVar[str]

    @classmethod
    def keys_of(cls, config: Mapping[str, Any]) -> Mapping[str, Any]:  # Any: JSON values
        """The keys of this model in a file of transformers; ConfigError where the file is of another model."""
        if (came := config["model_type"]) != cls.model_type:
            raise ConfigError(f"This config is of model_type {came!r}, and a {cls.__name__} wants {cls.model_type!r}.")
        return config

    @classmethod
    def stays_float32(cls, name: str) -> bool:
        """Whether the tensor of that name is kept in float32 where the others are float16."""
        return False

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """A model with fresh random weights, from a `config.json` of transformers or from the keys of ours.

        A file of transformers (one with `model_type`) holds dozens of keys that say nothing about the model (`top_p`,
        `torchscript`); those are passed over. Elsewhere an unknown key is a ConfigError.
        """
        keys = dict(config)
        if "model_type" in config:
            known = {*cls.config_class.model_fields, "quantization_config"}
            keys = {key: value for key, value in cls.keys_of(config).items() if key in known}
        return super().from_config(keys)

    def to_config(self) -> dict[str, Any]:
        """The config as transformers writes it; can be written as JSON."""
        dtype = str(self.dtype).removeprefix("torch.")
        ours = {"architectures": [type(self).__name__], "model_type": self.model_type, "dtype": dtype}
        return dict(sorted({**ours, **self.config.to_dict()}.items()))

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        subfolder: str | None = None,
        variant: str | None = None,
        dtype: torch.dtype | None = None,
        device: str | torch.device = "cpu",
    ) -> Self:
        """Read `config.json` and `model[.variant].safetensors`, straight into `dtype` on `device`. See `Model`."""
        place = Path(folder, subfolder or "")
        config = read_config(place)
        files = weight_files(place, stem=_STEM, variant=variant)
        with on_meta():
            model = cls.from_config(config)
        load_weights(
            model, files, dtype=dtype, device=device, rename=cls.published_name, stays_float32=cls.stays_float32
        )
        return model.eval().requires_grad_(False)

    def save_pretrained(
        self, folder: str | Path, *, variant: str | None = None, max_shard_size: int | str = "10GB"
    ) -> None:
        """Write `config.json` and `model[.variant].safetensors`, which transformers 4 and 5 read."""
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        save_weights(self.state_dict(), place, stem=_STEM, variant=variant, max_shard_size=max_shard_size)
        write_json(place / "config.json", self.to_config())
