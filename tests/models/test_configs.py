"""Configs have the published keys, and list all problems of a config at once."""

import inspect
import json
from pathlib import Path
from typing import Any

import pytest

import sfumato.components.models as models
from sfumato.components.models.autoencoder_kl import AutoencoderKL
from sfumato.components.models.autoencoder_tiny import AutoencoderTiny
from sfumato.components.models.unet_2d_condition import UNet2DConditionModel
from sfumato.graph.errors import ConfigError, LoadError

OURS = [UNet2DConditionModel, AutoencoderKL, AutoencoderTiny]
SMALL: dict[str, Any] = {"block_out_channels": [32, 64], "norm_num_groups": 8}


def refusal(config: dict[str, Any]) -> str:
    """The text of the error about a U-Net's config."""
    with pytest.raises(ConfigError) as caught:
        UNet2DConditionModel.from_config(config)
    return str(caught.value)


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)
def test_keys_and_defaults_are_the_published_ones(kind: type[Any], reference: Any) -> None:
    published = inspect.signature(getattr(reference, kind.__name__).__init__).parameters
    ours = {name: field.default for name, field in kind.config_class.model_fields.items()}
    extra = (
        {"block_out_channels"} if kind is AutoencoderTiny else set[str]()
    )  # published in files, not in the signature
    assert {key: value for key, value in ours.items() if key not in extra} == {
        name: parameter.default for name, parameter in published.items() if name != "self"
    }


def test_a_model_takes_its_keys_as_keywords() -> None:
    vae = AutoencoderKL(**SMALL, down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2)
    assert vae.config.block_out_channels == (32, 64)
    assert vae.config.scaling_factor == 0.18215
    assert "latent_channels" in inspect.signature(AutoencoderKL).parameters


def test_a_config_is_read_only() -> None:
    tiny = AutoencoderTiny()
    with pytest.raises(Exception, match="frozen"):
        tiny.config.scaling_factor = 2.0  # pyright: ignore[reportAttributeAccessIssue]  what is tested
    with pytest.raises(AttributeError):
        tiny.config = tiny.config  # pyright: ignore[reportAttributeAccessIssue]  what is tested


def test_a_written_config_can_be_read_as_json() -> None:
    config = AutoencoderTiny().to_config()
    assert config["_class_name"] == "AutoencoderTiny"
    assert config["block_out_channels"] == [64, 64, 64, 64]
    assert AutoencoderTiny.from_config(json.loads(json.dumps(config))).to_config() == config


def test_all_unknown_keys_are_named_at_once() -> None:
    assert refusal({"in_chanels": 4, "cross_attn_dim": 8, "zzz": 1, "_diffusers_version": "0.30.0"}) == (
        "UNet2DConditionModel cannot be made from this config (3 problems):\n"
        "  in_chanels      no such key. Did you mean 'in_channels'?\n"
        "  cross_attn_dim  no such key. Did you mean 'cross_attention_dim'?\n"
        "  zzz             no such key."
    )


def test_values_that_are_not_supported_are_refused_with_the_reason() -> None:
    assert refusal({"attention_type": "gated", "in_channels": "4"}) == (
        "UNet2DConditionModel cannot be made from this config (2 problems):\n"
        "  in_channels     needs int, got '4'.\n"
        "  attention_type  needs 'default', got 'gated'. Gated attention belongs to GLIGEN."
    )


@pytest.mark.parametrize(
    "key",
    ["dual_cross_attention", "resnet_skip_time_act", "time_embedding_type", "encoder_hid_dim_type", "mid_block_type"],
)
def test_no_key_is_ignored_silently(key: str) -> None:
    assert key in refusal({key: "something else"})


def test_quantization_config_is_no_key_of_the_model() -> None:
    model = UNet2DConditionModel.from_config({**_tiny_unet(), "quantization_config": {"quant_method": "bitsandbytes"}})
    assert "quantization_config" not in model.to_config()


def test_keys_that_must_agree_are_compared() -> None:
    assert "needs one entry for each of 2 levels (down_block_types), got 3." in refusal(
        {**_tiny_unet(), "attention_head_dim": [1, 2, 3]}
    )
    assert "needs to divide 32 channels, got 5 (heads)" in refusal({**_tiny_unet(), "attention_head_dim": [5, 4]})
    assert "needs to divide 32 channels, got 7" in refusal({**_tiny_unet(), "norm_num_groups": 7})
    assert "differs inside a level" in refusal({**_tiny_unet(), "transformer_layers_per_block": [1, [1, 2]]})
    text = refusal({**_tiny_unet(), "addition_embed_type": "text_time"})
    assert "projection_class_embeddings_input_dim  needs a number, got null: addition_embed_type asks for it" in text
    assert "addition_time_embed_dim " in text


def test_heads_can_be_named_by_their_right_name() -> None:
    unet = UNet2DConditionModel.from_config({**_tiny_unet(), "num_attention_heads": 2})
    assert unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn1").heads == 2


def test_a_config_of_another_class_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"Needs a config of UNet2DConditionModel, got one of AutoencoderKL\. Use sf\.models"
    ):
        UNet2DConditionModel.from_config({"_class_name": "AutoencoderKL"})


def test_a_folder_without_a_config_says_so(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"has no config\.json.*subfolder"):
        AutoencoderKL.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(LoadError, match=r"config\.json: is not JSON at line 1"):
        AutoencoderKL.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(LoadError, match="needs a JSON object, got list"):
        AutoencoderKL.from_pretrained(tmp_path)


def test_models_are_found_by_their_published_names() -> None:
    assert models.UNet2DConditionModel is UNet2DConditionModel
    assert "AutoencoderKL" in dir(models)
    with pytest.raises(AttributeError, match="Did you mean 'AutoencoderKL'"):
        getattr(models, "AutoencoderKI")  # noqa: B009  pyright knows that it is not there


def test_the_names_import_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, sfumato.components.models as m; dir(m); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def _tiny_unet() -> dict[str, Any]:
    down, up = ["CrossAttnDownBlock2D", "DownBlock2D"], ["UpBlock2D", "CrossAttnUpBlock2D"]
    return {**SMALL, "down_block_types": down, "up_block_types": up, "attention_head_dim": 4, "cross_attention_dim": 8}
