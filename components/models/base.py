"""The base of all models: a config with published keys, and reading and writing the published folder."""

import inspect
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar, cast

import torch
from torch import nn

from ...graph.errors import ConfigError, LoadError
from ...graph.layout import Layout
from ...graph.saving import saving_folder
from ...graph.space import LatentSpace
from ..quantization.config import Quantization
from ..quantization.files import quantization_of, save_quantized, weights_in
from ..quantization.load import load_quantized
from ..storage.building import on_meta, refuse_larger_than_memory
from ..storage.files import read_json, write_json
from ..storage.tensors import Tensors
from ..storage.weights import STEM, Device, load_tensors, save_weights
from .config import Config
from .layouts import layout_of_config
from .spaces import space_of_config

C = TypeVar("C", bound=Config)


class Model(nn.Module, Generic[C]):
    """Base of models: a `torch.nn.Module` that is made from a config, and that saves and loads itself.

    A subclass sets `config_class` and makes its layers in `build(config)`. Parameter names and config keys are those
    of the published files. Where files of another age name tensors differently, it overrides `published_name`.

    >>> import tempfile
    >>> import torch
    >>> class UpscalerConfig(Config):
    ...     channels: int = 3
    ...     factor: int = 2
    >>> class Upscaler(Model[UpscalerConfig]):
    ...     config_class = UpscalerConfig
    ...
    ...     def build(self, config: UpscalerConfig) -> None:
    ...         self.conv = nn.Conv2d(config.channels, config.channels * config.factor**2, 3, padding=1)
    ...
    ...     def forward(self, x: torch.Tensor) -> torch.Tensor:
    ...         return nn.functional.pixel_shuffle(self.conv(x), self.config.factor)
    >>> upscaler = Upscaler(factor=4)
    >>> upscaler.to_config()
    {'_class_name': 'Upscaler', 'channels': 3, 'factor': 4}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     upscaler.save_pretrained(folder)  # config.json and diffusion_pytorch_model.safetensors
    ...     copy = Upscaler.from_pretrained(folder)
    >>> x = torch.rand(1, 3, 8, 8)
    >>> torch.equal(copy(x), upscaler(x)), copy(x).shape
    (True, torch.Size([1, 3, 32, 32]))
    >>> Upscaler(facter=4)
    Traceback (most recent call last):
    sfumato.graph.errors.ConfigError: Upscaler cannot be made from this config (1 problem):
      facter  no such key. Did you mean 'factor'?
    """

    config_class: ClassVar[type[Config]]
    """The class of its config."""
    stem: ClassVar[str] = STEM
    """The name of its weight files before the variant and the suffix."""
    keeps_file_dtype: ClassVar[bool] = False
    """Whether `from_pretrained(dtype=None)` keeps the dtype of the files; otherwise it is torch's default dtype."""
    takes_backend: ClassVar[bool] = False
    """Whether it has layers of `AttentionCore`, which compute attention by any backend."""
    is_remote: ClassVar[bool] = False
    """Whether another program computes it, so that it has no weights here."""
    quantization: Quantization | None = None
    """The quantization of its weights; None for plain weights."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "config_class" in cls.__dict__:  # help() and editors then show the published keys and defaults
            cls.__signature__ = inspect.signature(cls.config_class)

    def __init__(self, **config: Any) -> None:
        """Make a model with fresh random weights from the published config keys; see `config_class`.

        Raises:
            ConfigError: unknown keys, or values that are not supported, all of them at once; weights that are larger
                than the memory of this machine.
        """
        super().__init__()
        self._config = cast("C", self.config_class.read(type(self).__name__, config))
        if torch.empty(0).device.type == "cpu":  # not within `on_meta`
            refuse_larger_than_memory(type(self).__name__, lambda: self._unbuilt().build(self._config))
        self.build(self._config)

    def _unbuilt(self) -> Self:
        """Another object of this class and config, without layers."""
        made = type(self).__new__(type(self))
        nn.Module.__init__(made)
        made._config = self._config
        return made

    def build(self, config: C) -> None:
        """Make the layers. The constructor calls it once; every subclass overrides it."""
        raise NotImplementedError(f"{type(self).__name__} needs a build(config) method that makes its layers.")

    @classmethod
    def published_name(cls, name: str) -> str | None:
        """Return the parameter name for a tensor name in a file, or None for a tensor that is not read."""
        return name

    @classmethod
    def stays_float32(cls, name: str) -> bool:
        """Return whether this parameter stays float32 where the others are float16. It is never quantized."""
        return False

    @property
    def config(self) -> C:
        """The frozen config: `vae.config.scaling_factor`."""
        return self._config

    @property
    def space(self) -> LatentSpace | None:
        """The latent space that its config names, which a graph compares when it is bound; None without one."""
        return space_of_config(type(self).__name__, self.to_config())

    @property
    def layout(self) -> Layout | None:
        """The sizes that a denoiser and the models that add to it must share; None for other models."""
        return layout_of_config(type(self).__name__, self.to_config())

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the first floating-point parameter or buffer."""
        return next((t.dtype for t in self._tensors() if t.is_floating_point()), torch.get_default_dtype())

    @property
    def device(self) -> torch.device:
        """The device of the first parameter or buffer."""
        return next((t.device for t in self._tensors()), torch.device("cpu"))

    def _tensors(self) -> Iterator[torch.Tensor]:
        return chain(self.parameters(), self.buffers())

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Make a model with fresh random weights from the content of a `config.json`.

        Raises:
            ConfigError: a config of another class, unknown keys, or values that are not supported.
        """
        name = config.get("_class_name", cls.__name__)
        if name != cls.__name__:
            raise ConfigError(
                f"Needs a config of {cls.__name__}, got one of {name}. Use sf.models.{name} if there is one."
            )
        return cls(**config)

    def to_config(self) -> dict[str, Any]:
        """Return all config keys, sorted, and `_class_name`, as JSON values."""
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
        """Read `config.json` and the weights in the same folder, in evaluation mode and without gradients.

        Args:
            folder: the model's folder, or with `subfolder` the folder of its pipeline.
            subfolder: the model's folder inside of `folder`, such as "unet".
            variant: the word in the file names, such as "fp16".
            dtype: of the weights. None is torch's default dtype, whatever the files hold: half-precision files then
                run on every device. On the CPU, weights in the dtype of the files stay memory-mapped.
            device: a device, or a function from a parameter's name to its device.
            quantization: a config, its JSON, or a name such as "nf4". Files that are quantized already need none.

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
        """Read all weights of a model that was made under `on_meta`; see `load_tensors` and `load_quantized`.

        Raises:
            LoadError: weights that do not fit the config.
            ConfigError: a quantized model on several devices.
        """
        names: Any = {"rename": self.published_name, "stays_float32": self.stays_float32}
        if quantization is None:
            load_tensors(self, tensors, dtype=dtype, device=device, **names)
        elif callable(device):
            raise ConfigError(f"A quantized {type(self).__name__} needs one device, got a function. Pass device=.")
        else:
            self.quantization = load_quantized(self, tensors, quantization, dtype=dtype, device=device, **names)

    def save_pretrained(
        self, folder: str | Path, *, variant: str | None = None, max_shard_size: int | str = "10GB"
    ) -> None:
        """Write `config.json` and the weights as safetensors, all files together or none.

        Quantized weights are written as they are: under the names that diffusers reads, or as a GGUF file.

        Args:
            folder: made if it is missing.
            variant: a word for the file names, such as "fp16".
            max_shard_size: of one file, in bytes or with a unit. Larger weights are split, with an index file.

        Raises:
            SaveError: a folder that cannot be written; parameters on the meta device, which have no values.
        """
        how: Any = {"stem": self.stem, "variant": variant, "max_shard_size": max_shard_size}
        with saving_folder(folder) as draft:
            if self.quantization is None:
                save_weights(self.state_dict(), draft, **how)
            else:
                save_quantized(self, draft, **how)
            write_json(draft.path / "config.json", self.to_config())

    def _with_quantization(self, config: dict[str, Any]) -> dict[str, Any]:
        return config if self.quantization is None else {**config, "quantization_config": self.quantization.to_json()}


def read_config(folder: Path) -> dict[str, Any]:
    """Read the `config.json` of a folder.

    Raises:
        LoadError: no such file, or no JSON object in it.
    """
    if not (path := folder / "config.json").exists():
        raise LoadError(f"{folder} has no config.json. Pass the model's own folder, or subfolder=.")
    return read_json(path)
