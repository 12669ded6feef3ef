"""DoRA, LoHa and LoKr in training: the numbers of PEFT, and files that compute the same."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig

import sfumato as sf
from sfumato import ConfigError, Graph
from sfumato.components.models.flux import FluxTransformer2DModel
from sfumato.components.models.unet_2d_condition import UNet2DConditionModel
from sfumato.components.training.adapters import train_adapter
from sfumato.components.training.patch_parameters import divided

from .support import fill, in_peft, optimized, preset, trained_steps, view_of
from .test_checkpointing import FAMILIES

TARGETS = ["to_k", "to_out.0", "conv1"]
CONFIGS: dict[str, tuple[Any, dict[str, Any]]] = {
    "dora": (LoraConfig(r=3, lora_alpha=2, use_dora=True, target_modules=TARGETS), {"kind": "dora"}),
    "dora with dropout": (
        LoraConfig(r=3, lora_alpha=2, use_dora=True, lora_dropout=0.2, target_modules=["to_k"]),
        {"kind": "dora", "dropout": 0.2, "targets": ["to_k"]},
    ),
    "loha": (LoHaConfig(r=3, alpha=2, target_modules=TARGETS), {"kind": "loha"}),
    "lokr": (LoKrConfig(r=2, alpha=3, target_modules=TARGETS), {"kind": "lokr", "rank": 2, "alpha": 3}),
    "lokr with whole factors": (
        LoKrConfig(r=3, alpha=2, decompose_factor=8, target_modules=TARGETS),
        {"kind": "lokr", "factor": 8},
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_steps_are_those_of_peft(unet: UNet2DConditionModel, name: str) -> None:
    config, settings = CONFIGS[name]
    merged: dict[str, Any] = {"rank": 3, "alpha": 2, "targets": TARGETS, **settings}
    trained = train_adapter(preset(unet=unet), **merged)
    model, parameters = in_peft(unet, trained, config)
    theirs = optimized(model, parameters, 4, lr=1e-3)
    ours = trained_steps(trained, 4, lr=1e-3)
    assert ours.losses == pytest.approx(theirs.losses, abs=1e-6)
    for path, tensor in theirs.weights.items():
        assert torch.allclose(ours.weights[path], tensor.reshape(ours.weights[path].shape), atol=1e-6), path


@pytest.mark.parametrize("kind", ["dora", "loha", "lokr"])
def test_a_saved_file_computes_what_training_does(unet: UNet2DConditionModel, kind: Any, tmp_path: Path) -> None:
    pipe = preset(unet=unet)
    trained = train_adapter(pipe, kind=kind, rank=3, alpha=2, targets=TARGETS)
    fill(trained, size=0.3)
    loaded = sf.load_adapter(trained.save(tmp_path / "file.safetensors"))
    assert set(loaded.kinds) == {{"dora": "DoRA", "loha": "LoHa", "lokr": "LoKr"}[kind]}
    latents, prompt = torch.randn(1, 4, 8, 8), torch.randn(1, 3, 24)
    with torch.no_grad():
        ours = view_of(trained)(latents, 7, prompt)
        saved, attached = (
            g.adapted_bindings["unet"].load()(latents, 7, prompt)
            for g in (pipe.with_adapters(loaded), trained.attached(pipe))
        )
        plain = unet(latents, 7, prompt)
    assert torch.equal(saved, attached)
    assert torch.allclose(ours, saved, atol=2e-5)
    assert (ours - plain).abs().max() > 0.01


def test_a_fresh_adapter_of_any_kind_changes_nothing(unet: UNet2DConditionModel) -> None:
    latents, prompt = torch.randn(1, 4, 8, 8), torch.randn(1, 3, 24)
    with torch.no_grad():
        plain = unet(latents, 7, prompt)
        for kind in ("dora", "loha", "lokr"):
            view = view_of(train_adapter(preset(unet=unet), kind=kind))
            assert torch.allclose(view(latents, 7, prompt), plain, atol=1e-6), kind


def test_flux_has_loha_in_the_names_of_lycoris(tmp_path: Path) -> None:
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        num_layers=1, num_single_layers=1, num_attention_heads=2, attention_head_dim=16, in_channels=16,
        axes_dims_rope=(4, 6, 6), joint_attention_dim=32, pooled_projection_dim=32,
    )  # fmt: skip
    pipe: Graph = sf.load("flux", transformer=transformer)
    trained = train_adapter(pipe, kind="loha", targets=["attn.to_k", "proj_out"])
    assert trained.layout == "lycoris"
    fill(trained)
    loaded = sf.load_adapter(trained.save(tmp_path / "file.safetensors"))
    assert "lycoris_transformer_blocks_0_attn_to_k" in [named.body for named in loaded.patches]
    pipe.with_adapters(loaded)


def test_sizes_are_divided_as_lycoris_does() -> None:
    assert [divided(128, 4), divided(128, -1), divided(127, 8), divided(24, 5)] == [(4, 32), (8, 16), (1, 127), (4, 6)]


def test_a_layout_that_cannot_express_the_kind_is_refused_before_the_training(unet: UNet2DConditionModel) -> None:
    with pytest.raises(ConfigError) as raised:
        train_adapter(preset(unet=unet), kind="loha", targets=["attn2.to_k"], layout="peft")
    assert str(raised.value) == (
        "layout: the layout 'peft' cannot express LoHa (unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2."
        "to_k). Save it with layout='kohya' or layout='comfy' or layout='lycoris'."
    )
    with pytest.raises(ConfigError, match=r"^layout: has no layout 'kohia'. Did you mean 'kohya'\?"):
        train_adapter(preset(unet=unet), layout="kohia")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("family", "count"), [("unet", 4 * 8), ("sd3", 2 * 8 - 1), ("flux", 2 * 12 + 2 * 3), ("pixart", 2 * 8)]
)
def test_default_layers_are_those_of_the_published_scripts(family: str, count: int) -> None:
    model, _ = FAMILIES[family]()
    name = "unet" if family == "unet" else "transformer"
    components: dict[str, Any] = {name: model}
    trained = train_adapter(sf.load("sd" if family == "unet" else family, **components))
    assert len(trained.layers[name]) == count


def test_an_unknown_kind_is_refused(unet: UNet2DConditionModel) -> None:
    with pytest.raises(
        ConfigError, match=r"^kind: has no adapter 'lora2'. Did you mean 'lora'\? There are: lora, dora"
    ):
        train_adapter(preset(unet=unet), kind="lora2")  # pyright: ignore[reportArgumentType]
