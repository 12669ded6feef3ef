"""Weights are checked before they are read, cast while they are read, and never written half."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sfumato.components.models.autoencoder_kl import AutoencoderKL
from sfumato.components.storage.building import on_meta
from sfumato.components.storage.weights import load_weights, save_weights, weight_files
from sfumato.graph.errors import LoadError, SaveError
from sfumato.graph.saving import Draft

CONFIG: dict[str, Any] = {
    "block_out_channels": [8, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "norm_num_groups": 4,
}
NAME = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def vae() -> AutoencoderKL:
    return AutoencoderKL(**CONFIG)


def same(a: nn.Module, b: nn.Module) -> bool:
    mine, others = a.state_dict(), b.state_dict()
    return mine.keys() == others.keys() and all(torch.equal(mine[name], others[name]) for name in mine)


def refusal(folder: Path, **how: Any) -> str:
    """The text of the error about the autoencoder in a folder."""
    with pytest.raises(LoadError) as caught:
        AutoencoderKL.from_pretrained(folder, **how)
    return str(caught.value)


def test_what_is_saved_is_loaded_again(vae: AutoencoderKL, tmp_path: Path) -> None:
    vae.save_pretrained(tmp_path / "vae")
    again = AutoencoderKL.from_pretrained(tmp_path, subfolder="vae")
    assert same(again, vae)
    assert not again.training
    assert not any(p.requires_grad for p in again.parameters())
    assert sorted(path.name for path in (tmp_path / "vae").iterdir()) == ["config.json", NAME]


def test_a_model_is_cast_while_it_is_read(vae: AutoencoderKL, tmp_path: Path) -> None:
    vae.save_pretrained(tmp_path)
    half = AutoencoderKL.from_pretrained(tmp_path, dtype=torch.float16)
    assert half.dtype == torch.float16
    assert half.device == torch.device("cpu")
    assert same(half, vae.half())


def test_half_precision_files_become_float32_as_published(vae: AutoencoderKL, tmp_path: Path) -> None:
    vae.half().save_pretrained(tmp_path)
    assert AutoencoderKL.from_pretrained(tmp_path).dtype == torch.float32


def test_variants_live_side_by_side(vae: AutoencoderKL, tmp_path: Path) -> None:
    vae.save_pretrained(tmp_path)
    vae.half().save_pretrained(tmp_path, variant="fp16")
    assert weight_files(tmp_path)[0].name == NAME
    assert weight_files(tmp_path, variant="fp16")[0].name == "diffusion_pytorch_model.fp16.safetensors"
    assert same(AutoencoderKL.from_pretrained(tmp_path, variant="fp16", dtype=torch.float16), vae)


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_large_models_are_written_in_shards(variant: str | None, vae: AutoencoderKL, tmp_path: Path) -> None:
    vae.save_pretrained(tmp_path, variant=variant, max_shard_size="20KB")
    stem = "diffusion_pytorch_model.fp16" if variant else "diffusion_pytorch_model"
    files = weight_files(tmp_path, variant=variant)
    assert len(files) > 2
    assert files[0].name == f"{stem}-00001-of-{len(files):05d}.safetensors"
    assert (tmp_path / f"{NAME}.index{'.fp16' if variant else ''}.json").is_file()
    assert same(AutoencoderKL.from_pretrained(tmp_path, variant=variant), vae)


def test_the_reference_reads_our_shards(vae: AutoencoderKL, tmp_path: Path, reference: Any) -> None:
    vae.save_pretrained(tmp_path, max_shard_size="20KB")
    assert same(reference.AutoencoderKL.from_pretrained(tmp_path), vae)


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_we_read_the_shards_of_the_reference(
    variant: str | None, vae: AutoencoderKL, tmp_path: Path, reference: Any
) -> None:
    theirs = reference.AutoencoderKL.from_config(vae.to_config())
    theirs.save_pretrained(tmp_path, variant=variant, max_shard_size="20KB")
    assert same(AutoencoderKL.from_pretrained(tmp_path, variant=variant), theirs)


def test_the_other_spelling_of_a_variants_index_is_read(vae: AutoencoderKL, tmp_path: Path) -> None:
    vae.save_pretrained(tmp_path, variant="fp16", max_shard_size="20KB")
    index = tmp_path / f"{NAME}.index.fp16.json"
    index.rename(tmp_path / "diffusion_pytorch_model.fp16.safetensors.index.json")
    assert same(AutoencoderKL.from_pretrained(tmp_path, variant="fp16"), vae)


def test_a_save_leaves_nothing_of_an_earlier_one(vae: AutoencoderKL, tmp_path: Path) -> None:
    vae.save_pretrained(tmp_path)
    vae.save_pretrained(tmp_path, max_shard_size="20KB")
    assert not (tmp_path / NAME).exists()
    (tmp_path / "diffusion_pytorch_model_of_mine.safetensors").touch()
    vae.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        NAME,
        "config.json",
        "diffusion_pytorch_model_of_mine.safetensors",
    }


def test_a_model_can_be_saved_over_the_files_it_is_mapped_from(vae: AutoencoderKL, tmp_path: Path) -> None:
    vae.save_pretrained(tmp_path)
    mapped = AutoencoderKL.from_pretrained(tmp_path)
    mapped.save_pretrained(tmp_path, max_shard_size="20KB")
    assert same(mapped, vae)
    assert same(AutoencoderKL.from_pretrained(tmp_path), vae)


def test_weights_of_transformers_have_another_stem(tmp_path: Path) -> None:
    save_weights({"a": torch.ones(2)}, Draft(tmp_path, tmp_path), stem="model")
    assert weight_files(tmp_path, stem="model")[0].name == "model.safetensors"


def test_a_folder_without_weights_lists_the_names_looked_for(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=f"{tmp_path.name} has no weights. Looked for {NAME}, {NAME}.index.json"):
        weight_files(tmp_path)
    with pytest.raises(LoadError, match="nowhere is not a folder"):
        weight_files(tmp_path / "nowhere")
    (tmp_path / "diffusion_pytorch_model.fp16.safetensors").touch()
    with pytest.raises(LoadError, match=r"There are: diffusion_pytorch_model.fp16.safetensors; choose with variant="):
        weight_files(tmp_path)


def test_pickles_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "diffusion_pytorch_model.bin").touch()
    with pytest.raises(
        LoadError, match=r"only pickles \(diffusion_pytorch_model.bin\).*not read by default.*allow_pickle=True"
    ):
        weight_files(tmp_path)


@pytest.mark.parametrize("shard", ["../../secret.safetensors", "/etc/x.safetensors", "a\\b.safetensors", "x.bin"])
def test_an_index_names_files_beside_it_only(shard: str, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(LoadError, match=r"names the shard .*beside its index"):
        weight_files(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}'])
def test_a_damaged_index_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.index.json").write_text(text)
    with pytest.raises(LoadError, match=f"{NAME}.index.json"):
        weight_files(tmp_path)


def test_a_missing_shard_is_named(vae: AutoencoderKL, tmp_path: Path) -> None:
    vae.save_pretrained(tmp_path, max_shard_size="20KB")
    gone = weight_files(tmp_path)[1]
    gone.unlink()
    assert f"lacks {gone.name} of" in refusal(tmp_path)


def test_a_truncated_file_is_named(vae: AutoencoderKL, tmp_path: Path) -> None:
    vae.save_pretrained(tmp_path)
    file = tmp_path / NAME
    file.write_bytes(file.read_bytes()[:-100])
    assert f"{file} is damaged or not a safetensors file" in refusal(tmp_path)
    file.write_bytes(b"PK\x03\x04")
    assert "Download it again" in refusal(tmp_path)


def test_weights_that_do_not_fit_are_listed_before_any_is_read(vae: AutoencoderKL, tmp_path: Path) -> None:
    vae.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / NAME)
    del tensors["decoder.conv_in.weight"]
    tensors["decoder.conv_inn.weight"] = torch.zeros(1)
    tensors["encoder.conv_in.bias"] = torch.zeros(5)
    save_file(tensors, tmp_path / NAME)
    assert refusal(tmp_path) == (
        f"{tmp_path / NAME} does not fit AutoencoderKL.\n"
        "  missing: decoder.conv_in.weight\n"
        "  unexpected: decoder.conv_inn.weight\n"
        f"  other shape: encoder.conv_in.bias is [5] in {NAME}, wanted [8]\n"
        "  The config belongs to other weights, or the class is wrong. Pass the weights' own folder."
    )


def test_long_lists_are_cut_and_counted(vae: AutoencoderKL, tmp_path: Path) -> None:
    vae.save_pretrained(tmp_path)
    save_file({"x": torch.zeros(1)}, tmp_path / NAME)
    assert f"… ({len(vae.state_dict())} in all)" in refusal(tmp_path)


class Odd(nn.Module):
    """A model with a buffer that no file has, and one of whole numbers that files have."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.register_buffer("positions", torch.arange(4).float(), persistent=False)
        self.register_buffer("count", torch.tensor([7]))


def test_buffers_that_no_file_has_are_real(tmp_path: Path) -> None:
    save_weights(Odd().state_dict(), Draft(tmp_path, tmp_path))
    with on_meta():
        model = Odd()
    assert model.linear.weight.is_meta
    load_weights(model, weight_files(tmp_path), dtype=torch.float16)
    assert model.get_buffer("positions").tolist() == [0, 1, 2, 3]
    assert model.linear.weight.dtype == torch.float16
    assert model.get_buffer("count").dtype == torch.int64


def test_names_can_be_translated_or_ignored(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    stored = {"old.weight": torch.ones(2, 2), "bias": torch.ones(2), "ids": torch.ones(1)}
    save_weights(stored, Draft(tmp_path, tmp_path))
    names: dict[str, str | None] = {"old.weight": "weight", "bias": "bias", "ids": None}
    load_weights(model, weight_files(tmp_path), rename=lambda name: names[name])
    assert model.weight.sum() == 4


def test_a_model_without_values_is_not_written(tmp_path: Path) -> None:
    with on_meta():
        model = AutoencoderKL(**CONFIG)
    with pytest.raises(SaveError, match="meta device"):
        model.save_pretrained(tmp_path)


def test_a_size_that_is_no_number_is_refused(vae: AutoencoderKL, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_shard_size is '5 potatoes'"):
        vae.save_pretrained(tmp_path, max_shard_size="5 potatoes")
