"""How weights are quantized, as a value: the published `quantization_config` of a component's `config.json`."""

import json
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Annotated, Any, ClassVar, Literal, Self, cast

import torch
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    JsonValue,
    ValidationError,
    field_validator,
    model_validator,
)

from ...graph.errors import ConfigError
from ...registry import did_you_mean
from .paths import Paths


def _bare(value: object) -> object:
    return str(value).removeprefix("torch.") if isinstance(value, str | torch.dtype) else value


Dtype = Annotated[Literal["float32", "float16", "bfloat16"], BeforeValidator(_bare)]
"""The name of a dtype that layers compute in; a `torch.dtype` is taken too."""


class Quantization(BaseModel):
    """Base of the kinds of quantization. Frozen; equal configs are equal and have one JSON.

    `modules_to_not_convert` and `keep_in_fp32_modules` name modules, by their path or by a part of it made of whole
    names: "proj_out", "mid_block", "blocks.*.attn". Those, and all in them, are not quantized; the second kind is
    loaded in float32 besides.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    quant_method: ClassVar[str]
    notes: ClassVar[frozenset[str]] = frozenset()
    """Keys of published files that say nothing about the weights. Others may be there as long as they are empty."""

    modules_to_not_convert: Paths = ()
    keep_in_fp32_modules: Paths = ()

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:  # JSON values
        """The config of a file. ConfigError for unknown keys or unfit values, all of them at once."""
        try:
            return cls.model_validate({key: value for key, value in data.items() if not cls._idle(key, value)})
        except ValidationError as error:
            raise ConfigError(f"{cls.__name__}: {'; '.join(_explain(error, cls))}") from error

    @classmethod
    def _idle(cls, key: str, value: object) -> bool:
        return key == "quant_method" or key in cls.notes or (key not in cls.model_fields and not value)

    def to_json(self) -> dict[str, JsonValue]:
        """The keys as published; those that say nothing are left out. `read_quantization` is the inverse."""
        data = {name: value for name, value in self.model_dump(mode="json").items() if value not in (None, [])}
        return {"quant_method": self.quant_method, **data}

    @property
    def stored_as(self) -> tuple[object, ...]:
        """The keys that change the files of weights; the others change how layers compute."""
        return (self.quant_method,)

    @property
    def excluded(self) -> tuple[str, ...]:
        """All entries that name modules to leave as they are."""
        return (*self.modules_to_not_convert, *self.keep_in_fp32_modules)

    def __hash__(self) -> int:
        return hash(json.dumps(self.to_json(), sort_keys=True))

    def __str__(self) -> str:
        said = {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in said.items())})"


class BitsAndBytesConfig(Quantization):
    """bitsandbytes: `load_in_4bit` (QLoRA's nf4, or fp4; Dettmers et al. 2023) or `load_in_8bit` (LLM.int8, 2022).

    `bnb_4bit_compute_dtype` None computes in the dtype of what comes in; published files say "float32" instead.
    """

    quant_method: ClassVar[str] = "bitsandbytes"
    notes: ClassVar[frozenset[str]] = frozenset({"_load_in_4bit", "_load_in_8bit", "llm_int8_enable_fp32_cpu_offload"})

    load_in_4bit: bool = False
    load_in_8bit: bool = False
    bnb_4bit_quant_type: Literal["fp4", "nf4"] = "fp4"
    bnb_4bit_compute_dtype: Dtype | None = None
    bnb_4bit_use_double_quant: bool = False
    bnb_4bit_quant_storage: Literal["uint8"] = "uint8"
    llm_int8_threshold: float = 6.0
    llm_int8_has_fp16_weight: Literal[False] = False

    @model_validator(mode="before")
    @classmethod
    def _their_name_for_exclusions(cls, data: Any) -> Any:  # whatever was given
        if isinstance(data, Mapping) and "llm_int8_skip_modules" in data:
            given = dict(cast("Mapping[str, Any]", data))
            skipped = given.pop("llm_int8_skip_modules")
            given.setdefault("modules_to_not_convert", skipped)
            return given
        return data

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.load_in_4bit == self.load_in_8bit:
            raise ValueError("wanted one of load_in_4bit and load_in_8bit; came both or none")
        return self

    def to_json(self) -> dict[str, JsonValue]:
        """Return the published JSON of this config."""
        data = super().to_json()
        skipped = data.pop("modules_to_not_convert", None)
        return data if skipped is None else {**data, "llm_int8_skip_modules": skipped}

    @property
    def stored_as(self) -> tuple[object, ...]:
        """The keys that change the files of weights; the others change how layers compute."""
        return (self.quant_method, self.bnb_4bit_quant_type if self.load_in_4bit else "int8")


_TORCHAO: dict[str, str] = {
    "int8_weight_only": "Int8WeightOnlyConfig",
    "int4_weight_only": "Int4WeightOnlyConfig",
    "float8_weight_only": "Float8WeightOnlyConfig",
    "int8_dynamic_activation_int8_weight": "Int8DynamicActivationInt8WeightConfig",
    "float8_dynamic_activation_float8_weight": "Float8DynamicActivationFloat8WeightConfig",
}
"""Short names of torchao's configs: those that diffusers took before 0.36."""


class TorchAoConfig(Quantization):
    """torchao: `quant_type` is a short name ("int8_weight_only"), or the JSON of one of torchao's own configs.

    Files have `{"default": {"_type": "Int8WeightOnlyConfig", "_version": 2, "_data": {…}}}`.
    """

    quant_method: ClassVar[str] = "torchao"
    quant_type: dict[str, JsonValue]

    @field_validator("quant_type", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:  # a name, JSON, or an object of torchao's
        if isinstance(value, str):
            if value not in _TORCHAO:
                raise ValueError(f"came {value!r}. {did_you_mean(value, _TORCHAO)}")
            return {"_type": _TORCHAO[value], "_data": {}}
        if type(value).__module__.startswith("torchao."):
            return import_module("torchao.core.config").config_to_dict(value)  # it is there, since its object came
        if isinstance(value, Mapping):
            found = cast("Mapping[str, Any]", value)
            found = found.get("default", found)
            if isinstance(found, Mapping) and isinstance(found.get("_type"), str):
                return dict(cast("Mapping[str, Any]", found))
        raise ValueError(f"came {value!r}; wanted one of {', '.join(_TORCHAO)}, or the JSON of a config of torchao")

    @property
    def kind(self) -> str:
        """The name of torchao's config class."""
        return str(self.quant_type["_type"])

    def to_json(self) -> dict[str, JsonValue]:
        """Return the published JSON of this config."""
        return {**super().to_json(), "quant_type": {"default": self.quant_type}}

    @property
    def stored_as(self) -> tuple[object, ...]:
        """The keys that change the files of weights; the others change how layers compute."""
        return (self.quant_method, self.kind)


class QuantoConfig(Quantization):
    """optimum-quanto: weights in int8, int4, int2 or float8, with a scale for each row or group."""

    quant_method: ClassVar[str] = "quanto"

    weights_dtype: Literal["float8", "int8", "int4", "int2"] = "int8"

    @model_validator(mode="before")
    @classmethod
    def _transformers_name(cls, data: Any) -> Any:  # whatever was given
        if isinstance(data, Mapping) and "weights" in data and "weights_dtype" not in data:
            given = dict(cast("Mapping[str, Any]", data))
            return {**{k: v for k, v in given.items() if k != "weights"}, "weights_dtype": given["weights"]}
        return data

    @property
    def stored_as(self) -> tuple[object, ...]:
        """The keys that change the files of weights; the others change how layers compute."""
        return (self.quant_method, self.weights_dtype)


class GGUFQuantizationConfig(Quantization):
    """Weights of a GGUF file, decoded for each call of a layer. `compute_dtype` None is the dtype of what comes in."""

    quant_method: ClassVar[str] = "gguf"
    notes: ClassVar[frozenset[str]] = frozenset({"pre_quantized"})

    compute_dtype: Dtype | None = None


class MixedQuantization(Quantization):
    """Other kinds for other modules: the first entry of `modules` that names a layer rules it, else `default`.

    MixedQuantization(modules={"attn*": "nf4", "proj_out": None}, default="int8_weight_only")
    """

    quant_method: ClassVar[str] = "mixed"

    modules: dict[str, Any]  # a Quantization or None; pydantic does not know the table below yet
    default: Any = None

    @field_validator("modules", mode="before")
    @classmethod
    def _read_modules(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            raise ValueError(f"came {value!r}; wanted names of modules, each with a kind of quantization or None")
        return {str(name): _plain(kind) for name, kind in cast("Mapping[object, object]", value).items()}

    @field_validator("default", mode="before")
    @classmethod
    def _read_default(cls, value: object) -> object:
        return _plain(value)

    def to_json(self) -> dict[str, JsonValue]:
        """Return the published JSON of this config."""
        modules = {name: None if kind is None else kind.to_json() for name, kind in self.modules.items()}
        default = None if self.default is None else self.default.to_json()
        return {**super().to_json(), "modules": modules, "default": default}

    @property
    def stored_as(self) -> tuple[object, ...]:
        """The keys that change the files of weights; the others change how layers compute."""
        return (self.quant_method, json.dumps(self.to_json(), sort_keys=True))


METHODS: dict[str, type[Quantization]] = {
    kind.quant_method: kind
    for kind in (BitsAndBytesConfig, TorchAoConfig, QuantoConfig, GGUFQuantizationConfig, MixedQuantization)
}
"""By the key `quant_method` of a file."""

SHORT: dict[str, Mapping[str, Any]] = {
    "nf4": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "fp4": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    "llm_int8": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    **{name: {"quant_method": "torchao", "quant_type": name} for name in _TORCHAO},
    **{f"quanto_{dtype}": {"quant_method": "quanto", "weights_dtype": dtype} for dtype in ("int8", "int4", "int2")},
    "quanto_float8": {"quant_method": "quanto", "weights_dtype": "float8"},
    "gguf": {"quant_method": "gguf"},
}
"""Customary names, each for a config with its defaults."""


def read_quantization(value: object) -> Quantization | None:
    """What `quantization=` means: a config, its JSON as published, a customary name ("nf4"), or None.

    Raises:
        ConfigError: an unknown name, method or key, with the nearest; values that do not fit.
    """
    match value:
        case None | Quantization():
            return value
        case str():
            if value not in SHORT:
                raise ConfigError(f"quantization: came {value!r}. {did_you_mean(value, SHORT)}")
            return read_quantization(SHORT[value])
        case Mapping():
            data = cast("Mapping[str, Any]", value)
            method = data.get("quant_method") or _guess(data)
            if method not in METHODS:
                came = "no quant_method" if method is None else f"quant_method {method!r}"
                raise ConfigError(f"quantization: came {came}. {did_you_mean(str(method), METHODS)}")
            return METHODS[method].from_json(data)
        case _:
            raise ConfigError(
                f"quantization: came {value!r}; wanted a quantization_config as published, one of the classes in "
                f"components.quantization.config, or a name: {', '.join(SHORT)}."
            )


def _guess(data: Mapping[str, Any]) -> str | None:
    """The method of a config without `quant_method`, by a key that only it has. bitsandbytes' old files lack it."""
    common = set(Quantization.model_fields)
    found = [name for name, kind in METHODS.items() if (set(kind.model_fields) - common) & set(data)]
    return found[0] if len(found) == 1 else None


def _plain(value: object) -> Quantization | None:
    found = read_quantization(value)
    if isinstance(found, MixedQuantization | GGUFQuantizationConfig):
        raise ValueError(f"{found.quant_method} cannot stand for single modules; it is for a whole component")
    return found


def _explain(error: ValidationError, cls: type[Quantization]) -> Iterator[str]:
    for problem in error.errors():
        place = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = f"no such key. {did_you_mean(place, cls.model_fields)}"
        elif problem["type"] != "value_error":
            message = f"came {problem['input']!r}. {message}"
        yield f"{place}: {message}" if place else message
