"""A quantization is a value: read from names and published JSON, written back, compared, and refused with a way out."""

from typing import Any

import pytest
import torch

from sfumato.components.quantization.config import (
    SHORT,
    BitsAndBytesConfig,
    GGUFQuantizationConfig,
    MixedQuantization,
    QuantoConfig,
    TorchAoConfig,
    read_quantization,
)
from sfumato.components.quantization.files import quantization_of
from sfumato.components.quantization.paths import names
from sfumato.graph.errors import ConfigError, LoadError

# As transformers 5 and diffusers 0.42 write them.
PUBLISHED: dict[str, dict[str, Any]] = {
    "nf4": {
        "_load_in_4bit": True,
        "_load_in_8bit": False,
        "bnb_4bit_compute_dtype": "bfloat16",
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "llm_int8_enable_fp32_cpu_offload": False,
        "llm_int8_has_fp16_weight": False,
        "llm_int8_skip_modules": ["proj_out"],
        "llm_int8_threshold": 6.0,
        "load_in_4bit": True,
        "load_in_8bit": False,
        "quant_method": "bitsandbytes",
    },
    "torchao": {
        "modules_to_not_convert": None,
        "quant_method": "torchao",
        "quant_type": {
            "default": {"_data": {"group_size": None}, "_type": "Int8WeightOnlyConfig", "_version": 2},
        },
    },
    "quanto": {"modules_to_not_convert": [None], "quant_method": "quanto", "weights_dtype": "int4"},
    "quanto of transformers": {
        "activations": None,
        "modules_to_not_convert": None,
        "quant_method": "quanto",
        "weights": "int8",
    },
}


def test_published_configs_are_read() -> None:
    nf4 = read_quantization(PUBLISHED["nf4"])
    assert isinstance(nf4, BitsAndBytesConfig)
    assert (nf4.bnb_4bit_quant_type, nf4.bnb_4bit_compute_dtype, nf4.bnb_4bit_use_double_quant) == (
        "nf4",
        "bfloat16",
        True,
    )
    assert nf4.excluded == ("proj_out",)
    torchao = read_quantization(PUBLISHED["torchao"])
    assert isinstance(torchao, TorchAoConfig) and torchao.kind == "Int8WeightOnlyConfig"
    assert read_quantization(PUBLISHED["quanto"]) == QuantoConfig(weights_dtype="int4")
    assert read_quantization(PUBLISHED["quanto of transformers"]) == QuantoConfig(weights_dtype="int8")


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_is_written_has_published_keys_only_and_the_same_values(name: str) -> None:
    written = read_quantization(PUBLISHED[name])
    assert written is not None
    there = {"weights_dtype": "int8", **PUBLISHED[name]}
    assert {key: there[key] for key in written.to_json()} == written.to_json()


@pytest.mark.parametrize("name", SHORT)
def test_a_config_survives_its_json(name: str) -> None:
    config = read_quantization(name)
    assert config is not None
    again = read_quantization(config.to_json())
    assert again == config and hash(again) == hash(config)
    more = config.model_copy(update={"modules_to_not_convert": ("a.b",), "keep_in_fp32_modules": ("c",)})
    assert read_quantization(more.to_json()) == more


def test_a_mixed_config_survives_its_json() -> None:
    mixed = MixedQuantization(modules={"attn*": "nf4", "proj_out": None}, default="quanto_int8")
    assert read_quantization(mixed.to_json()) == mixed
    assert mixed.modules == {"attn*": read_quantization("nf4"), "proj_out": None}


def test_the_method_is_told_by_a_key_that_only_it_has() -> None:
    assert read_quantization({"load_in_8bit": True}) == read_quantization("llm_int8")
    assert read_quantization({"weights_dtype": "int2"}) == QuantoConfig(weights_dtype="int2")
    assert read_quantization({"compute_dtype": torch.bfloat16}) == GGUFQuantizationConfig(compute_dtype="bfloat16")
    assert read_quantization(None) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nf5", r"'nf5' is unknown\. Did you mean 'nf4'\?"),
        (3, "needs a published quantization_config, .* got 3"),
        ({"quant_method": "bitsandbites"}, r"quant_method 'bitsandbites'\. Did you mean 'bitsandbytes'\?"),
        ({"bits": 4}, "has no quant_method"),
        ({"load_in_4bit": True, "bnb_4bit_quant_typ": "nf4"}, r"no such key\. Did you mean 'bnb_4bit_quant_type'\?"),
        ({"load_in_4bit": True, "load_in_8bit": True}, "needs exactly one of load_in_4bit and load_in_8bit"),
        ({"load_in_4bit": True, "bnb_4bit_compute_dtype": "int8"}, "came 'int8'. Input should be 'float32'"),
        ({"load_in_8bit": True, "llm_int8_has_fp16_weight": True}, "came True. Input should be False"),
        ({"quant_method": "torchao", "quant_type": "int8_weight_onli"}, "Did you mean 'int8_weight_only'"),
        ({"quant_method": "torchao", "quant_type": 8}, "quant_type: needs one of int8_weight_only.* got 8"),
        ({"quant_method": "quanto", "weights_dtype": "int3"}, "'float8', 'int8', 'int4' or 'int2'"),
        ({"quant_method": "quanto", "activations": "int8"}, "activations: no such key"),
        ({"quant_method": "mixed", "modules": {"x": "gguf"}}, "gguf cannot be used for single modules"),
        ({"quant_method": "mixed", "modules": ["x"]}, "needs a quantization or None for each name of a module"),
    ],
)
def test_what_is_wrong_is_told_with_a_way_out(given: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_quantization(given)


def test_files_that_are_quantized_rule_and_may_be_computed_with_otherwise() -> None:
    stored = {"quantization_config": PUBLISHED["nf4"]}
    assert quantization_of(stored) == read_quantization(PUBLISHED["nf4"])
    wanted = read_quantization({**PUBLISHED["nf4"], "bnb_4bit_compute_dtype": "float32"})
    assert quantization_of(stored, wanted) == wanted
    assert quantization_of({}, "nf4") == read_quantization("nf4")
    assert quantization_of({}) is None
    with pytest.raises(LoadError, match=r"stored as BitsAndBytesConfig\(.*, not as .*fp4"):
        quantization_of(stored, "fp4")


@pytest.mark.parametrize(
    ("entry", "path", "is_named"),
    [
        ("proj_out", "proj_out", True),
        ("proj_out", "blocks.3.proj_out", True),
        ("proj_out", "blocks.3.proj_out.0", True),
        ("proj_out", "blocks.3.proj_out2", False),
        ("proj", "blocks.3.proj_out", False),
        ("blocks.3", "single.blocks.3.attn", True),
        ("blocks.3", "blocks.31.attn", False),
        ("blocks.*.attn", "blocks.31.attn.to_q", True),
        ("blocks.attn", "blocks.31.attn", False),
        ("attn*", "blocks.31.attn2.to_q", True),
    ],
)
def test_an_entry_names_whole_parts_of_a_path(entry: str, path: str, is_named: bool) -> None:
    assert names(entry, path) is is_named
