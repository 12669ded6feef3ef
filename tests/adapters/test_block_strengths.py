"""Strengths of single blocks: names, published lists, and their place among steps and rows."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sfumato as sf
from sfumato import Adapter, ConfigError, Graph, SaveError
from sfumato.components.adapters.block_strengths import factor_of, places_of, read_blocks
from sfumato.components.adapters.combine import combine
from sfumato.components.adapters.reading import adapter_of


@pytest.fixture(scope="module")
def pipe() -> Graph:
    return sf.load("emoji").only("latents")


@pytest.fixture(scope="module")
def style(pipe: Graph) -> Adapter:
    """LoRA for a layer of each attention of the U-Net, and of the text encoder."""
    return _lora(pipe, lambda path: True)


def _lora(pipe: Graph, chosen: Callable[[str], bool], factor: float = 1.0) -> Adapter:
    generator = torch.Generator().manual_seed(1)
    tensors: dict[str, Tensor] = {}
    for component, ends in (("unet", ("to_q", "to_v")), ("text_encoder", ("q_proj",))):
        for path, layer in pipe.bindings[component].load().named_modules():
            if path.endswith(ends) and isinstance(layer, nn.Linear):
                down = torch.randn(2, layer.in_features, generator=generator) * 0.2
                up = torch.randn(layer.out_features, 2, generator=generator) * 0.2
                if chosen(path):
                    tensors[f"{component}.{path}.lora_A.weight"] = down
                    tensors[f"{component}.{path}.lora_B.weight"] = up * factor
    return adapter_of(tensors.items(), name="style", source="made here")


def latents(pipe: Graph, *adapters: Any, **more: Any) -> Tensor:
    return pipe(adapters=list(adapters), **{"prompt": "a fox", "num_inference_steps": 2, "seed": 1, **more}).latents


def test_a_block_at_strength_zero_is_a_file_without_its_patches(pipe: Graph, style: Adapter) -> None:
    without = _lora(pipe, lambda path: not path.startswith(("mid_block.", "up_blocks.1.")))
    got = latents(pipe, style.scaled(blocks={"mid": 0, "up.1": 0}))
    assert torch.allclose(got, latents(pipe, without), atol=1e-6)
    assert not torch.allclose(got, latents(pipe, style), atol=1e-3)


def test_a_block_at_half_strength_is_a_file_with_half_of_its_patches(pipe: Graph, style: Adapter) -> None:
    half, none = _lora(pipe, lambda p: p.startswith("down_"), 0.5), style.scaled(blocks={"down": 0})
    assert torch.allclose(
        latents(pipe, style.scaled(blocks={"down": 0.5})), latents(pipe, none, _named(half)), atol=1e-5
    )


def _named(adapter: Adapter) -> Adapter:
    """The same patches, as another file."""
    return replace(adapter, name="other")


def test_they_multiply_curves_and_strengths_of_components_and_hold_in_merged_models(
    pipe: Graph, style: Adapter
) -> None:
    some = style.scaled(0.5, blocks={"mid": 0.4, "up": 2.0}, unet=0.7)
    assert some.strength_of("unet", path="mid_block.attentions.0.proj") == pytest.approx(0.5 * 0.7 * 0.4)
    assert torch.equal(latents(pipe, some.along((0, 1.0), (1, 1.0))), latents(pipe, some))
    assert not torch.equal(latents(pipe, some.during(0, 0.5)), latents(pipe, some))
    expected = latents(pipe, some)
    assert torch.allclose(latents(pipe.with_adapters(some).merged()), expected, atol=1e-5)


def test_each_prompt_has_its_own(pipe: Graph, style: Adapter) -> None:
    sets = [style.scaled(blocks={"mid": 0}), style.scaled(blocks={"up": 0.3})]
    two = latents(pipe, *[[one] for one in sets], prompt=["a fox", "an owl"], seed=[1, 2])
    for row, (prompt, one) in enumerate(zip(["a fox", "an owl"], sets, strict=True)):
        alone = latents(pipe, one, prompt=prompt, seed=row + 1)
        assert (two[row : row + 1] - alone).abs().max() <= 1e-5 * max(1.0, alone.abs().max().item())


def test_the_longest_name_counts() -> None:
    blocks = {"up.1": 0.5, "up": 0.0, "up.1.attentions": 2.0}
    places = (
        "up_blocks.0.resnets.1",
        "up_blocks.1.resnets.0",
        "up_blocks.1.attentions.0.proj_in",
        "mid_block.x",
        "up_blocks.10",
    )
    assert [factor_of(blocks, path) for path in places] == [0.0, 0.5, 2.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("IN00", ("conv_in",)),
        ("IN01", ("down_blocks.0.resnets.0", "down_blocks.0.attentions.0")),
        ("IN03", ("down_blocks.0.downsamplers",)),
        ("IN08", ("down_blocks.2.resnets.1", "down_blocks.2.attentions.1")),
        ("M00", ("mid_block",)),
        ("OUT05", ("up_blocks.1.resnets.2", "up_blocks.1.attentions.2", "up_blocks.1.upsamplers")),
        ("OUT11", ("up_blocks.3.resnets.2", "up_blocks.3.attentions.2", "up_blocks.3.upsamplers")),
        ("D18", ("transformer_blocks.18",)),
        ("S00", ("single_transformer_blocks.0",)),
    ],
)  # fmt: skip
def test_names_of_lists_are_the_blocks_of_the_authors(name: str, places: tuple[str, ...]) -> None:
    assert places_of(name) == places


def test_the_names_of_lists_agree_with_the_table_of_single_files() -> None:
    """`input_blocks.N` of the authors' U-Net, by the table that reads single files."""
    from sfumato.components.loading.single_file.latent_diffusion import unet
    from sfumato.components.loading.single_file.tables import ties

    with torch.device("meta"):  # it has the published size
        model = sf.models.UNet2DConditionModel.from_config({})
    config = model.to_config()
    checked = 0
    for tie in ties(dict(model.named_parameters()), unet(config)):
        side, *rest = tie.theirs.split(".")
        kind = {"input_blocks": "IN", "output_blocks": "OUT", "middle_block": "M"}.get(side)
        if kind is not None:
            name = f"{kind}{0 if kind == 'M' else int(rest[0]):02}"
            assert factor_of({name: 0.5}, tie.ours[0]) == 0.5, (name, tie.ours)
            checked += 1
    assert checked > 600


@pytest.mark.parametrize(
    ("count", "named", "zero", "components"),
    [(17, 16, 9, 3), (26, 25, 0, 3), (12, 11, 8, 3), (20, 19, 0, 3), (19, 19, 0, 0), (57, 57, 0, 0), (61, 59, 0, 2)],
)
def test_lists_of_numbers(count: int, named: int, zero: int, components: int) -> None:
    blocks, parts = read_blocks([0.5] * count)
    assert (list(blocks.values()).count(0.5), list(blocks.values()).count(0.0), len(parts)) == (named, zero, components)


def test_lists_as_text_and_presets() -> None:
    assert read_blocks("OUTALL") == read_blocks("1,0,0,0,0,0,0,0,1,1,1,1,1,1,1,1,1")
    blocks, parts = read_blocks("MIDD")
    assert (blocks["IN01"], blocks["IN05"], blocks["M00"], blocks["OUT06"], blocks["OUT07"]) == (0, 1, 1, 1, 0)
    assert parts == {"text_encoder": 1, "text_encoder_2": 1, "text_encoder_3": 1}


@pytest.mark.parametrize(
    ("blocks", "text"),
    [
        ([1.0] * 16, r"needs 12 or 20 for SDXL, 17 or 26 for SD 1 and 2, 19, 57 or 61 for Flux\. Got a list of 16\."),
        ("OUTAL", r"there is no preset 'OUTAL'\. Did you mean 'OUTALL'"),
        ("1,a", r"needs numbers with commas, or the name of a preset\. Got '1,a'\."),
        ({1: 0.5}, r"needs names of blocks, such as 'mid' or 'up\.1'\. Got 1\."),
        ({"mid": float("nan")}, r"mid: needs a finite number\. Got nan\."),
        (3, r"needs factors by name, a list of numbers, or the name of a preset\. Got 3\."),
    ],
)  # fmt: skip
def test_what_is_no_strength_of_blocks_is_refused(style: Adapter, blocks: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        style.scaled(blocks=blocks)


def test_a_block_that_no_model_has_is_refused(pipe: Graph, style: Adapter) -> None:
    with pytest.raises(ConfigError, match=r"style: the models of the graph have no block 'up\.7'\. There are: conv_in"):
        pipe.with_adapters(style.scaled(blocks={"up.7": 0.5}))
    with pytest.raises(ConfigError, match=r"style: the models of the graph have no block 'OUT11'"):
        pipe.with_adapters(style.scaled(blocks={"OUT11": 0.5}))


def test_strengths_of_blocks_are_not_lost_in_files_and_sums(style: Adapter, tmp_path: Path) -> None:
    some = style.scaled(blocks={"mid": 0})
    with pytest.raises(SaveError, match=r"the strength of 'style' differs between blocks, which no layout"):
        some.save(tmp_path / "style.safetensors")
    with pytest.raises(ConfigError, match=r"combine: the strength of 'style' differs between blocks\."):
        combine([some, replace(style, name="other")])
