"""Adapter files from strangers: each is refused when it is read or attached, before anything large is computed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import sfumato as sf
from sfumato import Adapter, ConfigError, Graph, LoadError

LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
OUT = INTO = 96
NAN, INF = float("nan"), float("inf")
DOWN, UP = torch.ones(2, INTO), torch.ones(OUT, 2)
LORA = {"lora_A.weight": DOWN, "lora_B.weight": UP}
POINT = torch.ones(())


@pytest.fixture(scope="module")
def pipe() -> Graph:
    return sf.load("emoji")


def read(
    folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None = None, **header: str
) -> Adapter:
    named = {f"base_model.model.{LAYER}.{end}": tensor.clone() for end, tensor in tensors.items()}
    save_file(named, folder / "adapter_model.safetensors", metadata=header)
    (folder / "adapter_config.json").write_text(json.dumps(config or {}))
    return sf.load_adapter(folder)


NOT_FINITE: Mapping[str, Mapping[str, Tensor]] = {
    "down": {**LORA, "lora_A.weight": torch.full((2, INTO), NAN)},
    "float64": {**LORA, "lora_B.weight": torch.full((OUT, 2), 1e300, dtype=torch.float64)},
    "alpha": {**LORA, "alpha": torch.tensor(INF)},
    "magnitude": {**LORA, "dora_scale": torch.full((OUT, 1), NAN)},
    "bias": {**LORA, "diff_b": torch.full((OUT,), NAN)},
    "rotation": {"oft_blocks": torch.full((2, OUT // 2, OUT // 2), NAN)},
    "factor": {"ia3_l": torch.full((OUT, 1), NAN)},
    "whole": {"diff": torch.full((OUT, INTO), INF)},
}


@pytest.mark.parametrize("tensors", NOT_FINITE.values(), ids=NOT_FINITE)
def test_numbers_that_are_not_finite_are_refused(tensors: Mapping[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="has NaN or infinite numbers"):
        read(tmp_path, tensors)


MISFITS: Mapping[str, Mapping[str, Tensor]] = {
    "LoRA of points": {"lora_A.weight": POINT, "lora_B.weight": POINT},
    "core of a point": {"lora_down.weight": DOWN, "lora_up.weight": UP, "lora_mid.weight": POINT},
    "AdaLoRA": {"lora_A": DOWN, "lora_B": UP, "lora_E": POINT},
    "LoKr of vectors": {"lokr_w1": torch.ones(4), "lokr_w2": torch.ones(24)},
    "LoKr of points": {"lokr_w1": POINT, "lokr_w2": POINT},
    "LoKr core": {
        "lokr_w1": torch.ones(1, 1), "lokr_w2_a": torch.ones(2, OUT), "lokr_w2_b": torch.ones(2, INTO), "lokr_t2": POINT
    },
    "LoKr ranks": {"lokr_w1": torch.ones(1, 1), "lokr_w2_a": UP, "lokr_w2_b": torch.ones(3, INTO)},
    "LoHa of 40 GB": {
        "hada_w1_a": UP, "hada_w1_b": DOWN, "hada_w2_a": torch.ones(10**5, 2), "hada_w2_b": torch.ones(2, 10**5)
    },
    "GLoRA of 40 GB": {
        "a1": torch.ones(10**5, 1), "a2": torch.ones(1, 10**4), "b1": torch.ones(OUT, 1), "b2": torch.ones(1, INTO)
    },
    "BOFT of vectors": {"boft_R": torch.ones(1, 2, 2)},
    "BOFT without halves": {"boft_R": torch.ones(3, OUT, 1, 1)},
    "OFT of five axes": {"oft_blocks": torch.ones(1, 1, 2, 2, 2)},
}  # fmt: skip


@pytest.mark.parametrize("tensors", MISFITS.values(), ids=MISFITS)
def test_shapes_that_do_not_go_together_are_refused_when_they_are_read(
    tensors: Mapping[str, Tensor], tmp_path: Path
) -> None:
    with pytest.raises(LoadError, match="the shapes of its tensors do not go together"):
        read(tmp_path, tensors)


LARGE: Mapping[str, Mapping[str, Tensor]] = {
    "left": {"lokr_w1_a": torch.ones(10**6, 1), "lokr_w1_b": torch.ones(1, 10**6), "lokr_w2": torch.ones(1, 1)},
    "right": {"lokr_w1": torch.ones(1, 1), "lokr_w2_a": torch.ones(10**6, 1), "lokr_w2_b": torch.ones(1, 10**6)},
    "core": {
        "lokr_w1": torch.ones(1, 1), "lokr_w2_a": torch.ones(1, 10**6), "lokr_w2_b": torch.ones(1, 10**6),
        "lokr_t2": torch.ones(1, 1, 3, 3),
    },
    "GLoRA": {
        "a1": torch.ones(10**5, 1), "a2": torch.ones(1, 10**5), "b1": torch.ones(OUT, 1), "b2": torch.ones(1, INTO)
    },
}  # fmt: skip


@pytest.mark.parametrize("tensors", LARGE.values(), ids=LARGE)
def test_small_factors_of_a_product_of_terabytes_are_refused_by_their_sizes(
    tensors: Mapping[str, Tensor], pipe: Graph, tmp_path: Path
) -> None:
    adapter = read(tmp_path, tensors)
    with pytest.raises(ConfigError, match="have other shapes"):
        pipe.with_adapters(adapter)


ADALORA = {"lora_A": DOWN, "lora_B": UP, "lora_E": torch.ones(2, 1)}
LOKR = {"lokr_w1": torch.ones(1, 1), "lokr_w2": torch.ones(OUT, INTO)}
OFT = {"oft_R.weight": torch.zeros(2, 48 * 47 // 2)}


@pytest.mark.parametrize("value", ["x", [], {}, None, True])
@pytest.mark.parametrize(
    ("tensors", "key"),
    [(ADALORA, "lora_alpha"), (LOKR, "alpha"), (OFT, "num_cayley_neumann_terms")],
    ids=["AdaLoRA", "LoKr", "OFT"],
)
def test_numbers_of_the_config_are_checked(
    tensors: Mapping[str, Tensor], key: str, value: object, tmp_path: Path
) -> None:
    with pytest.raises(LoadError, match=f"needs a finite number at '{key}'"):
        read(tmp_path, tensors, {"r": 2, key: value})


@pytest.mark.parametrize("terms", [0, -1, 10**9, 1e300])
def test_a_series_of_a_billion_terms_is_refused(terms: float, tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"needs num_cayley_neumann_terms in 1…32"):
        read(tmp_path, OFT, {"num_cayley_neumann_terms": terms})


@pytest.mark.parametrize("config", [{"lora_alpha": 1e308, "r": 2}, {"lora_alpha": 1e300, "r": 1e-300}])
def test_a_scale_that_float32_cannot_hold_is_refused(config: Mapping[str, float], tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="needs a finite scale"):
        read(tmp_path, LORA, config)


def test_an_alpha_is_one_number(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"alpha: needs one number. Got 0."):
        read(tmp_path, {**LOKR, "alpha": torch.empty(0)}, ss_network_dim="4")


def test_a_rank_of_zero_in_the_header_counts_as_none(tmp_path: Path) -> None:
    assert read(tmp_path, {**LOKR, "alpha": torch.tensor(3.0)}, ss_network_dim="0").notes == ()


def test_the_number_of_tensors_is_bounded(tmp_path: Path) -> None:
    file = tmp_path / "many.safetensors"
    save_file({f"unet.x{i}.lora_A.weight": torch.empty(0) for i in range(10_000)}, file)
    with pytest.raises(LoadError, match="has more than 8,192 tensors, and the limit is 8,192"):
        sf.load_adapter(file)


def test_a_pickle_of_tensors_that_expand_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "wide.bin"
    torch.save({f"unet.{LAYER}.lora_A.weight": torch.ones(1).expand(10**9, INTO)}, file)
    with pytest.raises(LoadError, match="has more numbers than the file"):
        sf.load_adapter(file, allow_pickle=True)


@pytest.mark.parametrize(
    ("odd", "text"), [(DOWN.to("meta"), "has no values"), (DOWN.to_sparse(), "has no plain numbers")]
)
def test_tensors_without_plain_numbers_are_refused(odd: Tensor, text: str, tmp_path: Path) -> None:
    file = tmp_path / "odd.bin"
    torch.save({f"unet.{LAYER}.lora_A.weight": odd, f"unet.{LAYER}.lora_B.weight": UP}, file)
    with pytest.raises(LoadError, match=text):
        sf.load_adapter(file, allow_pickle=True)


def test_a_link_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_model.safetensors").symlink_to("adapter_model.safetensors")
    with pytest.raises(LoadError, match=r"cannot be followed|cannot be read: Too many levels of symbolic links"):
        sf.load_adapter(tmp_path)


@pytest.mark.parametrize("strength", [10**400, 1e39, NAN, INF])
def test_strengths_fit_into_float32(strength: float, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="strength: needs a finite number"):
        read(tmp_path, LORA).scaled(strength)


def test_finite_factors_with_an_infinite_product_are_refused_with_their_layer(pipe: Graph, tmp_path: Path) -> None:
    adapter = read(tmp_path, {"lora_A.weight": DOWN * 1e30, "lora_B.weight": UP * 1e30})
    with pytest.raises(ConfigError) as raised:
        pipe(prompt="a fox", num_inference_steps=1, adapters=[adapter])
    assert str(raised.value) == (
        f"{LAYER}: the factors of its adapters have numbers up to 1.0e+30 and 1.0e+30 in float32, and their product is "
        "infinite. Use another file, or a model in float32."
    )


def test_a_rotation_whose_rows_are_no_triangles_makes_no_blocks(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"the shapes of its tensors do not go together \(oft_R \(1, 1999\)\)"):
        read(tmp_path, {"oft_R.weight": torch.zeros(1, 1999)})
