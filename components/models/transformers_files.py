"""Models that transformers publishes: a `config.json` with a `model_type`, and weights in `model.safetensors`."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from ...graph.errors import ConfigError
from .base import C, Model


class TransformersModel(Model[C]):
    """A model of ours that reads and writes the files of a model of transformers."""

    stem = "model"
    keeps_file_dtype = True
    model_type: ClassVar[str]

    @classmethod
    def keys_of(cls, config: Mapping[str, Any]) -> Mapping[str, Any]:  # Any: JSON values
        """The keys of this model in a file of transformers; ConfigError where the file is of another model."""
        if (came := config["model_type"]) != cls.model_type:
            raise ConfigError(f"This config is of model_type {came!r}, and a {cls.__name__} wants {cls.model_type!r}.")
        return config

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
        return self._with_quantization(dict(sorted({**ours, **self.config.to_dict()}.items())))
