"""What all models share: a config with published keys, and reading and writing the published folder."""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar, cast

import torch
from torch import nn

from ...graph.errors import ConfigError, LoadError
from ...graph.layout import Layout
from ...graph.space import LatentSpace
from ..quantization.config import Quantization
from ..quantization.files import quantization_of, save_quantized, weights_in
from ..quantization.load import load_quantized
from ..storage.files import write_json
from ..storage.tensors import Tensors
from ..storage.weights import STEM, Device, load_tensors, on_meta, save_weights
from .config import Config
from .layouts import layout_of_config
from .spaces import space_of_config

C = TypeVar("C", bound=Config)


class Model(nn.Module, Generic[C]):
    """A `torch.nn.Module` with published parameter names and config keys.

    A subclass names its config class and builds itself from it:

        class Net(Model[NetConfig]):
            config_class = NetConfig

            def build(self, config: NetConfig) -> None:
                self.conv_in = nn.Conv2d(config.in_channels, 8, 3)

    `Net(in_channels=3)`, `Net.from_config({...})` and `Net.from_pretrained(folder)` are then there.
    """

    config_class: ClassVar[type[Config]]
    stem: ClassVar[str] = STEM
    """What its weight files are called."""
    keeps_file_dtype: ClassVar[bool] = False
    """Whether `dtype=None` is the dtype of the files, and not torch's default."""
    quantization: Quantization | None = None
    """How its weights are held, where they are quantized."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "config_class" in cls.__dict__:  # so that help() and editors show the published keys and defaults
            cls.__signature__ = inspect.signature(cls.config_class)

    def __init__(self, **config: Any) -> None:
        """Takes the published config keys; see `config_class`.

        Raises:
            ConfigError: unknown keys, or values that are not supported; all of them at once.
        """
        super().__init__()
        self._config = cast("C", self.config_class.read(type(self).__name__, config))
        self.build(self._config)

    def build(self, config: C) -> None:
        """Make the layers. Called once, from the constructor."""
        raise NotImplementedError(f"{type(self).__name__} has no build(config).")  # a subclass that forgot it

    @classmethod
    def published_name(cls, name: str) -> str | None:
        """Today's name of a tensor in a file, or None for one that is not held any more. Old checkpoints differ."""
        return name

    @classmethod
    def stays_float32(cls, name: str) -> bool:
        """Whether the tensor of that name is kept in float32 where the others are float16. It is never quantized."""
        return False

    @property
    def config(self) -> C:
        """The config, read only: `vae.config.scaling_factor`."""
        return self._config

    @property
    def space(self) -> LatentSpace | None:
        """The latent space it works in, as far as its config tells: what a graph compares when it is bound."""
        return space_of_config(type(self).__name__, self.to_config())

    @property
    def layout(self) -> Layout | None:
        """What a model that adds to a denoiser must share with it, as far as configs tell; None for others."""
        return layout_of_config(type(self).__name__, self.to_config())

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the first floating parameter."""
        return next((p.dtype for p in self.parameters() if p.is_floating_point()), torch.get_default_dtype())

    @property
    def device(self) -> torch.device:
        """Where the first parameter is."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """A model with fresh random weights, from a config as `config.json` holds it.

        Raises:
            ConfigError: a config of another class, unknown keys, or values that are not supported.
        """
        name = config.get("_class_name", cls.__name__)
        if name != cls.__name__:
            raise ConfigError(
                f"This config belongs to {name}, not to {cls.__name__}. Use sf.models.{name} if there is one."
            )
        return cls(**config)

    def to_config(self) -> dict[str, Any]:
        """All config keys, sorted, with `_class_name`; can be written as JSON."""
        return self._with_quantization({"_class_name": type(self).__name__, **self._config.to_dict()})

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        subfolder: str | None = None,
        variant: str | None = None,
        dtype: torch.dtype | None = None,
        device: Device = "cpu",
        quantization: object = None,
    ) -> Self:
        """Read `config.json` and the weights beside it, straight into `dtype` on `device`, ready for inference.

        `dtype=None` is torch's default dtype, float32, whatever the files hold: as published, so that half-precision
        files run everywhere. On the CPU, where the files hold that dtype, the weights stay memory-mapped.
        `device` may be a function that gives that of each tensor by its name.
        `quantization` is a config, its JSON or a name ("nf4"); files that are quantized already need none.

        Raises:
            LoadError: a missing or damaged file, or weights that do not fit the config.
            ConfigError: see `from_config`; a quantization that is unknown or does not fit.
        """
        place = Path(folder, subfolder or "")
        config = read_config(place)
        kind = quantization_of(config, quantization)
        tensors = weights_in(place, kind, stem=cls.stem, variant=variant)
        with on_meta():
            model = cls.from_config(config)
        dtype = dtype or (None if cls.keeps_file_dtype else torch.get_default_dtype())
        model.load(tensors, dtype=dtype, device=device, quantization=kind)
        return model.eval().requires_grad_(False)

    def load(
        self,
        tensors: Tensors,
        *,
        dtype: torch.dtype | None = None,
        device: Device = "cpu",
        quantization: Quantization | None = None,
    ) -> None:
        """Take all weights, made under `on_meta`, from any source; see `load_tensors` and `load_quantized`."""
        names: Any = {"rename": self.published_name, "stays_float32": self.stays_float32}
        if quantization is None:
            load_tensors(self, tensors, dtype=dtype, device=device, **names)
        elif callable(device):
            raise ConfigError(f"A quantized {type(self).__name__} is read to one device. Name it as device.")
        else:
            self.quantization = load_quantized(self, tensors, quantization, dtype=dtype, device=device, **names)

    def save_pretrained(
        self, folder: str | Path, *, variant: str | None = None, max_shard_size: int | str = "10GB"
    ) -> None:
        """Write `config.json` and safetensors as published. Each file appears whole or not at all.

        Quantized weights are written as they are held: under the names that diffusers reads, or as a GGUF file.

        Raises:
            LoadError: parameters that are still on the meta device.
        """
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        self._save_weights(place, variant, max_shard_size)
        write_json(place / "config.json", self.to_config())

    def _save_weights(self, place: Path, variant: str | None, max_shard_size: int | str) -> None:
        how: Any = {"stem": self.stem, "variant": variant, "max_shard_size": max_shard_size}
        if self.quantization is None:
            save_weights(self.state_dict(), place, **how)
        else:
            save_quantized(self, place, **how)

    def _with_quantization(self, config: dict[str, Any]) -> dict[str, Any]:
        return config if self.quantization is None else {**config, "quantization_config": self.quantization.to_json()}


def read_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of a folder.

    Raises:
        LoadError: no such file, or no JSON object in it.
    """
    path = folder / "config.json"
    try:
        config: object = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LoadError(f"{folder} has no config.json. Give the model's own folder, or its subfolder=.") from None
    except (OSError, ValueError) as error:
        raise LoadError(f"{path} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise LoadError(f"{path} holds no JSON object.")
    return cast("dict[str, Any]", config)
