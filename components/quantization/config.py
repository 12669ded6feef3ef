"""The published `quantization_config` of a component's `config.json`, as a value."""

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
"""The name of the dtype that layers compute in. A `torch.dtype` is accepted."""


class Quantization(BaseModel):
    """Base of the quantization configs. Frozen; equal configs have equal JSON.

    `modules_to_not_convert` and `keep_in_fp32_modules` name modules by their path, or by whole names of it: "proj_out",
    "mid_block", "blocks.*.attn". These modules and their children are not quantized. Those of the second field are also
    loaded in float32.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    quant_method: ClassVar[str]
    """The published name of the method."""
    ignored_keys: ClassVar[frozenset[str]] = frozenset()
    """Keys of published files that do not affect the weights. Other unknown keys must be empty."""

    modules_to_not_convert: Paths = ()
    keep_in_fp32_modules: Paths = ()

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:  # JSON values
        """The config of a file. ConfigError for unknown keys and unfit values, all at once."""
        try:
            return cls.model_validate({key: value for key, value in data.items() if not cls._is_ignored(key, value)})
        except ValidationError as error:
            raise ConfigError(f"{cls.__name__}: {'; '.join(_explain(error, cls))}") from error

    @classmethod
    def _is_ignored(cls, key: str, value: object) -> bool:
        return key == "quant_method" or key in cls.ignored_keys or (key not in cls.model_fields and not value)

    def to_json(self) -> dict[str, JsonValue]:
        """The published keys, without empty values. `read_quantization` is the inverse."""
        data = {name: value for name, value in self.model_dump(mode="json").items() if value not in (None, [])}
        return {"quant_method": self.quant_method, **data}

    @property
    def stored_as(self) -> tuple[object, ...]:
        """The settings that decide the form of stored weights. The others decide how layers compute."""
        return (self.quant_method,)

    @property
    def excluded(self) -> tuple[str, ...]:
        """All entries that name modules which are not quantized."""
        return (*self.modules_to_not_convert, *self.keep_in_fp32_modules)

    def __hash__(self) -> int:
        return hash(json.dumps(self.to_json(), sort_keys=True))

    def __str__(self) -> str:
        fields = {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in fields.items())})"


class BitsAndBytesConfig(Quantization):
    """bitsandbytes: `load_in_4bit` (QLoRA's nf4, or fp4; Dettmers et al. 2023) or `load_in_8bit` (LLM.int8, 2022).

    `bnb_4bit_compute_dtype=None` computes in the dtype of the input; published files have "float32" there.
    """

    quant_method: ClassVar[str] = "bitsandbytes"
    ignored_keys: ClassVar[frozenset[str]] = frozenset(
        {"_load_in_4bit", "_load_in_8bit", "llm_int8_enable_fp32_cpu_offload"}
    )

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
    def _published_name_of_exclusions(cls, data: Any) -> Any:  # any input of pydantic
        if isinstance(data, Mapping) and "llm_int8_skip_modules" in data:
            fields = dict(cast("Mapping[str, Any]", data))
            skipped = fields.pop("llm_int8_skip_modules")
            fields.setdefault("modules_to_not_convert", skipped)
            return fields
        return data

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.load_in_4bit == self.load_in_8bit:
            raise ValueError("needs exactly one of load_in_4bit and load_in_8bit")
        return self

    def to_json(self) -> dict[str, JsonValue]:
        """The published keys, with those of this method."""
        data = super().to_json()
        skipped = data.pop("modules_to_not_convert", None)
        return data if skipped is None else {**data, "llm_int8_skip_modules": skipped}

    @property
    def stored_as(self) -> tuple[object, ...]:
        """The method and the form of its weights."""
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
    """torchao: `quant_type` is a short name ("int8_weight_only"), or the JSON or an object of a config of torchao.

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
            return import_module("torchao.core.config").config_to_dict(value)  # its object, so it is installed
        if isinstance(value, Mapping):
            found = cast("Mapping[str, Any]", value)
            found = found.get("default", found)
            if isinstance(found, Mapping) and isinstance(found.get("_type"), str):
                return dict(cast("Mapping[str, Any]", found))
        raise ValueError(f"needs one of {', '.join(_TORCHAO)}, or the JSON of a config of torchao, got {value!r}")

    @property
    def kind(self) -> str:
        """The name of the config class of torchao."""
        return str(self.quant_type["_type"])

    def to_json(self) -> dict[str, JsonValue]:
        """The published keys, with those of this method."""
        return {**super().to_json(), "quant_type": {"default": self.quant_type}}

    @property
    def stored_as(self) -> tuple[object, ...]:
        """The method and the form of its weights."""
        return (self.quant_method, self.kind)


class QuantoConfig(Quantization):
    """optimum-quanto: weights in int8, int4, int2 or float8, with a scale for each row or group."""

    quant_method: ClassVar[str] = "quanto"

    weights_dtype: Literal["float8", "int8", "int4", "int2"] = "int8"

    @model_validator(mode="before")
    @classmethod
    def _transformers_name(cls, data: Any) -> Any:  # any input of pydantic
        if isinstance(data, Mapping) and "weights" in data and "weights_dtype" not in data:
            fields = dict(cast("Mapping[str, Any]", data))
            return {**{k: v for k, v in fields.items() if k != "weights"}, "weights_dtype": fields["weights"]}
        return data

    @property
    def stored_as(self) -> tuple[object, ...]:
        """The method and the form of its weights."""
        return (self.quant_method, self.weights_dtype)


class GGUFQuantizationConfig(Quantization):
    """Weights of a GGUF file, decoded at each call of a layer. `compute_dtype=None` computes in the input's dtype."""

    quant_method: ClassVar[str] = "gguf"
    ignored_keys: ClassVar[frozenset[str]] = frozenset({"pre_quantized"})

    compute_dtype: Dtype | None = None


class MixedQuantization(Quantization):
    """A quantization for each module: that of the first entry of `modules` that names the layer, else `default`.

    MixedQuantization(modules={"attn*": "nf4", "proj_out": None}, default="int8_weight_only")
    """

    quant_method: ClassVar[str] = "mixed"

    modules: dict[str, Any]  # a Quantization or None; the classes are not all defined here
    default: Any = None

    @field_validator("modules", mode="before")
    @classmethod
    def _read_modules(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            raise ValueError(f"needs a quantization or None for each name of a module, got {value!r}")
        return {str(name): _plain(kind) for name, kind in cast("Mapping[object, object]", value).items()}

    @field_validator("default", mode="before")
    @classmethod
    def _read_default(cls, value: object) -> object:
        return _plain(value)

    def to_json(self) -> dict[str, JsonValue]:
        """The published keys, with those of this method."""
        modules = {name: None if kind is None else kind.to_json() for name, kind in self.modules.items()}
        default = None if self.default is None else self.default.to_json()
        return {**super().to_json(), "modules": modules, "default": default}

    @property
    def stored_as(self) -> tuple[object, ...]:
        """The method and the form of its weights."""
        return (self.quant_method, json.dumps(self.to_json(), sort_keys=True))


METHODS: dict[str, type[Quantization]] = {
    kind.quant_method: kind
    for kind in (BitsAndBytesConfig, TorchAoConfig, QuantoConfig, GGUFQuantizationConfig, MixedQuantization)
}
"""The config classes by the key `quant_method` of a file."""

SHORT: dict[str, Mapping[str, Any]] = {
    "nf4": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "fp4": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    "llm_int8": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    **{name: {"quant_method": "torchao", "quant_type": name} for name in _TORCHAO},
    **{f"quanto_{dtype}": {"quant_method": "quanto", "weights_dtype": dtype} for dtype in ("int8", "int4", "int2")},
    "quanto_float8": {"quant_method": "quanto", "weights_dtype": "float8"},
    "gguf": {"quant_method": "gguf"},
}
"""Short names of configs with their defaults."""


def read_quantization(value: object) -> Quantization | None:
    """The config of a `quantization=` argument: a config, its published JSON, a short name ("nf4"), or None.

    Raises:
        ConfigError: an unknown name, method or key, or a value that does not fit.
    """
    match value:
        case None | Quantization():
            return value
        case str():
            if value not in SHORT:
                raise ConfigError(f"quantization: {value!r} is unknown. {did_you_mean(value, SHORT)}")
            return read_quantization(SHORT[value])
        case Mapping():
            data = cast("Mapping[str, Any]", value)
            method = data.get("quant_method") or _guess(data)
            if method not in METHODS:
                fault = "has no quant_method" if method is None else f"has the unknown quant_method {method!r}"
                raise ConfigError(f"quantization: {fault}. {did_you_mean(str(method), METHODS)}")
            return METHODS[method].from_json(data)
        case _:
            raise ConfigError(
                f"quantization: needs a published quantization_config, a class of components.quantization.config, or a "
                f"name ({', '.join(SHORT)}), got {value!r}."
            )


def _guess(data: Mapping[str, Any]) -> str | None:
    """The method of a config without `quant_method` (old files of bitsandbytes), by a key that only it has."""
    common = set(Quantization.model_fields)
    fitting = [name for name, kind in METHODS.items() if (set(kind.model_fields) - common) & set(data)]
    return fitting[0] if len(fitting) == 1 else None


def _plain(value: object) -> Quantization | None:
    config = read_quantization(value)
    if isinstance(config, MixedQuantization | GGUFQuantizationConfig):
        raise ValueError(f"{config.quant_method} cannot be used for single modules, only for a whole component")
    return config


def _explain(error: ValidationError, cls: type[Quantization]) -> Iterator[str]:
    for problem in error.errors():
        place = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = f"no such key. {did_you_mean(place, cls.model_fields)}"
        elif problem["type"] != "value_error":
            message = f"came {problem['input']!r}. {message}"
        yield f"{place}: {message}" if place else message
