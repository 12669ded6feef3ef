"""Adapters made of models and of other adapters."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import sfumato as sf
from sfumato import Adapter, ConfigError
from sfumato.components.adapters.reading import adapter_of

CONFIG: Mapping[str, Any] = {
    "block_out_channels": [16, 32], "layers_per_block": 1, "norm_num_groups": 4, "cross_attention_dim": 32,
    "attention_head_dim": 2, "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
}  # fmt: skip
Q = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
CONV = "down_blocks.0.resnets.0.conv1"


def unet(**more: Any) -> Any:  # a model of ours, whose layers a type checker does not know
    torch.manual_seed(0)
    made: Any = sf.models.UNet2DConditionModel.from_config({**CONFIG, **more})
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def base() -> Any:
    return unet()


def trained(rank: int = 2) -> Any:
    """The base with low-rank changes of two matrices, another bias and another norm."""
    model = unet()
    torch.manual_seed(1)
    for path in (Q, CONV):
        layer = model.get_submodule(path)
        flat = layer.weight.flatten(1)
        layer.weight += (torch.randn(len(flat), rank) @ torch.randn(rank, flat.shape[1]) * 0.1).reshape(
            layer.weight.shape
        )
    model.get_submodule(CONV).bias += 0.5
    model.conv_norm_out.weight += 0.25
    return model


def differences(adapter: Adapter, model: Any) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for named in adapter.patches:
        weight = model.get_submodule(named.body.removeprefix("unet.")).weight
        found[named.body] = named.patch.difference(torch.zeros_like(weight)) * adapter.strength
    return found


# --------------------------------------------------------------------------------------------------------- extract
def test_what_was_trained_is_extracted_whole_at_its_rank(base: Any) -> None:
    tuned = trained()
    made = sf.adapters.extract(tuned, base, 2)
    assert made.kinds == {"LoRA": 2, "full": 1}
    assert made.ranks == (2,)
    for body, difference in differences(made, base).items():
        path = body.removeprefix("unet.")
        assert torch.allclose(difference, tuned.get_submodule(path).weight - base.get_submodule(path).weight, atol=1e-5)
    (bias,) = (named.patch.bias for named in made.patches if named.body.endswith(CONV))
    assert bias is not None
    assert torch.allclose(bias, torch.full((16,), 0.5))


def test_a_smaller_rank_gives_the_nearest_matrices(base: Any) -> None:
    """Eckart and Young 1936: the error is the norm of the singular values that are left out."""
    tuned = trained(6)
    whole = (tuned.get_submodule(Q).weight - base.get_submodule(Q).weight).float()
    values = torch.linalg.svdvals(whole)
    made = differences(sf.adapters.extract(tuned, base, 3), base)[f"unet.{Q}"]
    assert torch.allclose((whole - made).norm(), values[3:].norm(), atol=1e-5)


def test_a_threshold_chooses_the_rank_of_each_matrix(base: Any) -> None:
    tuned = trained(6)
    whole = (tuned.get_submodule(Q).weight - base.get_submodule(Q).weight).float()
    made = sf.adapters.extract(tuned, base, 16, threshold=0.3)
    (patch,) = (named.patch for named in made.patches if named.body.endswith(Q))
    error = (whole - patch.difference(torch.zeros_like(whole))).norm() / whole.norm()
    values = torch.linalg.svdvals(whole)
    assert patch.rank is not None
    assert error <= 0.3
    assert values[patch.rank - 1 :].norm() / whole.norm() > 0.3
    exact = sf.adapters.extract(tuned, base, 16, threshold=1e-4)
    assert exact.ranks == (6,)


def test_the_rest_may_be_dropped(base: Any, tmp_path: Path) -> None:
    made = sf.adapters.extract(trained(), base, 2, rest="drop")
    assert made.kinds == {"LoRA": 2}
    assert all(named.patch.bias is None for named in made.patches)
    graph: Any = SimpleNamespace(bindings={"unet": base})
    assert sf.load_adapter(made.save(tmp_path / "a.safetensors", pipe=graph)).kinds == {"LoRA": 2}


def test_models_that_do_not_match_are_refused(base: Any) -> None:
    with pytest.raises(ConfigError, match=r"extract: the two models are equal"):
        sf.adapters.extract(base, base)
    with pytest.raises(ConfigError, match=r"extract: unet\..*: the models have 16x64 and 16x32\. Pass the model"):
        sf.adapters.extract(unet(cross_attention_dim=64), base)
    with pytest.raises(ConfigError, match=r"only one of the models has mid_block"):
        sf.adapters.extract(unet(mid_block_type=None), base)
    with pytest.raises(ConfigError, match=r"needs a rank of 1 or more\. Got 0\."):
        sf.adapters.extract(base, base, 0)
    with pytest.raises(ConfigError, match=r"tuned needs a graph, a model, a handle, a path, or models by component"):
        sf.adapters.extract(3, base)
    with pytest.raises(ConfigError, match=r"the two have no model in common\. One has vae, the other unet\."):
        sf.adapters.extract({"vae": nn.Identity()}, base)


def test_pipelines_and_paths_are_extracted_from(tmp_path: Path) -> None:
    """What an adapter merged into a pipeline changes is extracted from the saved pipeline; the latents are equal."""
    pipe = sf.load("emoji").only("latents")
    torch.manual_seed(0)
    tensors: dict[str, Tensor] = {}
    for component, ends in (("unet", "to_q"), ("text_encoder", "q_proj")):
        for name, layer in pipe.bindings[component].load().named_modules():
            if name.endswith(ends):
                tensors[f"{component}.{name}.lora_A.weight"] = torch.randn(2, layer.in_features) * 0.2
                tensors[f"{component}.{name}.lora_B.weight"] = torch.randn(layer.out_features, 2) * 0.2
    save_file(tensors, tmp_path / "a.safetensors")
    styled = pipe.with_adapters(sf.load_adapter(tmp_path / "a.safetensors"))
    with pytest.raises(ConfigError, match=r"one of the graphs has adapters\. Pass its merged\(\)"):
        sf.adapters.extract(styled, pipe, 2)
    styled.merged().save_pretrained(tmp_path / "styled")
    made = sf.adapters.extract(tmp_path / "styled", "emoji", 2)
    assert set(made.components) == {"denoiser", "text_encoder"}
    call: dict[str, Any] = {"prompt": "a fox", "seed": 1, "num_inference_steps": 2}
    assert torch.allclose(pipe(**call, adapters=[made]).latents, styled(**call).latents, atol=1e-4)


# --------------------------------------------------------------------------------------------------------- combine
def lora(seed: int, *paths: str, body: str = "unet.", rank: int = 2) -> Adapter:
    torch.manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for path in paths or (Q, CONV):
        shape = unet().get_submodule(path).weight.shape
        name = body + (path if body.endswith(".") else path.replace(".", "_"))
        tensors |= {
            f"{name}.lora_down.weight": torch.randn(rank, *shape[1:]),
            f"{name}.lora_up.weight": torch.randn(shape[0], rank, *[1] * (len(shape) - 2)),
            f"{name}.alpha": torch.tensor(1.0 + seed),
        }
    return adapter_of(tensors.items(), name=f"a{seed}", source="a")


@pytest.fixture(scope="module")
def graph(base: Any) -> Any:
    return SimpleNamespace(bindings={"unet": base})


@pytest.mark.parametrize("method", ["cat", "svd"])
def test_the_sum_is_exact(method: Any, base: Any, graph: Any) -> None:
    """Names of two layouts, a matrix that only one has, weights and strengths."""
    one, other = lora(1), lora(2, Q, body="lora_unet_").scaled(0.5)
    made = sf.adapters.combine([one, other], [0.7, -2.0], method, pipe=graph)
    first = differences(one, base)
    (second,) = (named.patch.difference(torch.zeros(16, 16)) for named in other.patches)
    got = differences(made, base)
    assert torch.allclose(got[f"unet.{Q}"], first[f"unet.{Q}"] * 0.7 - second, atol=1e-4)
    assert torch.allclose(got[f"unet.{CONV}"], first[f"unet.{CONV}"] * 0.7, atol=1e-4)
    assert made.ranks == ((2, 4) if method == "cat" else ())
    assert sf.adapters.combine([one, other], [0.7, -2.0], "svd", rank=1, pipe=graph).ranks == (1,)


def test_ties_keeps_the_largest_numbers_of_the_heavier_sign(base: Any, graph: Any) -> None:
    """Yadav et al. 2023, algorithm 1, number by number."""
    adapters = [lora(seed, Q) for seed in (1, 2, 3)]
    made = differences(sf.adapters.combine(adapters, [1, 0.5, 2], "ties", density=0.25, pipe=graph), base)
    parts = torch.stack([
        next(iter(differences(a, base).values())) * w for a, w in zip(adapters, [1, 0.5, 2], strict=True)
    ])  # fmt: skip
    for part in parts:
        part[part.abs() < part.abs().flatten().sort(descending=True).values[63]] = 0  # 64 of 256
    expected = torch.zeros(16, 16)
    for row in range(16):
        for column in range(16):
            numbers = parts[:, row, column]
            kept = [float(n) for n in numbers if n * numbers.sum() > 0]
            expected[row, column] = sum(kept) / max(1, len(kept))
    assert torch.allclose(made[f"unet.{Q}"], expected, atol=1e-6)


def test_dare_drops_numbers_by_seed_and_keeps_the_mean(base: Any, graph: Any) -> None:
    one, other = lora(1, Q), lora(2, CONV)

    def made(seed: int) -> Tensor:
        return differences(sf.adapters.combine([one, other], method="dare", density=0.5, seed=seed, pipe=graph), base)[
            f"unet.{Q}"
        ]

    whole = differences(one, base)[f"unet.{Q}"]
    assert torch.equal(made(0), made(0))
    assert not torch.equal(made(0), made(1))
    kept = made(0) != 0
    assert 0.3 < kept.float().mean() < 0.7
    assert torch.allclose(made(0)[kept], whole[kept] * 2, atol=1e-5)
    mean = torch.stack([made(seed) for seed in range(200)]).mean(0)
    assert (mean - whole).abs().max() < 0.4 * whole.abs().max()


def test_adapters_without_a_sum_are_refused(graph: Any) -> None:
    one = lora(1)
    dora = adapter_of(
        {
            f"unet.{Q}.lora_down.weight": torch.ones(2, 16), f"unet.{Q}.lora_up.weight": torch.ones(16, 2),
            f"unet.{Q}.dora_scale": torch.ones(16, 1),
        }.items(), name="dora", source="dora",
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"of 'dora' depends on the matrix, so it cannot be added up\. Attach"):
        sf.adapters.combine([one, dora], pipe=graph)
    with pytest.raises(ConfigError, match=r"needs two adapters or more\. Got 1\."):
        sf.adapters.combine([one])
    with pytest.raises(ConfigError, match=r"needs one weight for each of 2 adapters\. Got 1\."):
        sf.adapters.combine([one, one], [1.0])
    with pytest.raises(ConfigError, match=r"has no method 'tise'\. Did you mean 'ties'"):
        sf.adapters.combine([one, one], method="tise")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"cat keeps all ranks"):
        sf.adapters.combine([one, one], rank=4, pipe=graph)
    with pytest.raises(ConfigError, match=r"changes over the steps, so it has no sum"):
        sf.adapters.combine([one, one.during(0, 0.5)], pipe=graph)
    with pytest.raises(ConfigError, match=r"fits no published family"):
        sf.adapters.combine([one, one])
