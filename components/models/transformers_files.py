"""The base of models in files of transformers: a `config.json` with a `model_type`, and `model.safetensors`."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from ...graph.errors import ConfigError
from .base import C, Model


class TransformersModel(Model[C]):
    """Base of models that read and write the files of a model of transformers."""

    stem = "model"
    keeps_file_dtype = True
    model_type: ClassVar[str]
    """The `model_type` of its files."""

    @classmethod
    def keys_of(cls, config: Mapping[str, Any]) -> Mapping[str, Any]:  # Any: JSON values
        """Return the keys of this model from a `config.json` of transformers.

        Raises:
            ConfigError: the file of another model.
        """
        if (got := config["model_type"]) != cls.model_type:
            raise ConfigError(f"{cls.__name__} needs a config of model_type {cls.model_type!r}, got {got!r}.")
        return config

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Make a model with fresh random weights from a `config.json` of transformers, or from config keys.

        A file of transformers (one with `model_type`) holds dozens of keys that do not change the model (`top_p`,
        `torchscript`), and they are ignored. Without `model_type`, an unknown key is a ConfigError.
        """
        keys = dict(config)
        if "model_type" in config:
            known = {*cls.config_class.model_fields, "quantization_config"}
            keys = {key: value for key, value in cls.keys_of(config).items() if key in known}
        return super().from_config(keys)

    def to_config(self) -> dict[str, Any]:
        """Return the config as transformers writes it, as JSON values."""
        dtype = str(self.dtype).removeprefix("torch.")
        notes = {"architectures": [type(self).__name__], "model_type": self.model_type, "dtype": dtype}
        return self._with_quantization(dict(sorted({**notes, **self.config.to_dict()}.items())))
