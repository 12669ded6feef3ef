"""Matrices in bitsandbytes' four bits, cut and decoded without it, are what it makes of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import sfumato as sf
from sfumato.components.loading.single_file.checkpoint import component_of
from sfumato.components.loading.single_file.whole_tensors import WholeTensors
from sfumato.components.loading.single_file.writing import write_checkpoint
from sfumato.components.memory.estimate import estimated_bytes, model_bytes
from sfumato.components.quantization import method
from sfumato.components.quantization.four_bit import FourBit
from sfumato.components.storage.hub import Access
from sfumato.components.storage.tensors import SafetensorFiles
from sfumato.graph.errors import LoadError

Package = Callable[[str], Any]
Kind = Literal["nf4", "fp4"]
INPUTS: dict[str, Any] = {
    "hidden_states": torch.linspace(-1, 1, 4 * 8).view(1, 4, 8),
    "encoder_hidden_states": torch.linspace(-1, 1, 3 * 24).view(1, 3, 24),
    "pooled_projections": torch.linspace(-1, 1, 12).view(1, 12),
    "timestep": torch.tensor([0.5]),
    "img_ids": torch.zeros(4, 3),
    "txt_ids": torch.zeros(3, 3),
}


def packed(bnb: Any, weight: Tensor, kind: Kind, *, nested: bool = False, blocksize: int = 64) -> dict[str, Tensor]:
    """A weight as files have it, by the ends of its names."""
    codes, state = bnb.functional.quantize_4bit(
        weight, quant_type=kind, compress_statistics=nested, blocksize=blocksize
    )
    parts = {f".{name}": tensor for name, tensor in state.as_dict(packed=True).items()}
    return {"": codes, **parts}


def stored(bnb: Any, file: Path, weight: Tensor, kind: Kind, **how: Any) -> FourBit:
    save_file({f"x.weight{end}": tensor for end, tensor in packed(bnb, weight, kind, **how).items()}, file)
    tensors = WholeTensors(SafetensorFiles([file]))
    assert tensors.shapes() == {"x.weight": tuple(weight.shape)}
    found = tensors.read("x.weight")
    assert isinstance(found, FourBit)
    return found


def decoded(bnb: Any, parts: dict[str, Tensor]) -> Tensor:
    """What the package makes of a weight."""
    state = bnb.functional.QuantState.from_dict({k[1:]: v for k, v in parts.items() if k}, torch.device("cpu"))
    flat = torch.Size([1, state.shape.numel()])  # its CPU kernel begins each row with a block of its own
    shape, state.shape = state.shape, flat
    return bnb.functional.dequantize_4bit(parts[""], state).view(shape)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(("rows", "width"), [(96, 128), (7, 20), (3, 11)])
def test_numbers_are_the_package_s(
    kind: Kind, nested: bool, rows: int, width: int, package: Package, tmp_path: Path
) -> None:
    bnb = package("bitsandbytes")
    weight = torch.randn(rows, width)
    found = stored(bnb, tmp_path / "x.safetensors", weight, kind, nested=nested)
    assert torch.equal(found.dequantize(), decoded(bnb, packed(bnb, weight, kind, nested=nested)))
    assert (found.dequantize() - weight).abs().max() < 0.2 * weight.abs().max()


@settings(max_examples=60)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.sampled_from([16, 20, 64]), st.booleans())
def test_pieces_are_rows_and_join_to_the_whole(
    package: Package, tmp_path_factory: pytest.TempPathFactory, sizes: list[int], width: int, nested: bool
) -> None:
    weight = torch.randn(sum(sizes), width, generator=torch.Generator().manual_seed(sum(sizes)))
    file = tmp_path_factory.mktemp("cut") / "x.safetensors"
    whole = stored(package("bitsandbytes"), file, weight, "nf4", nested=nested)
    pieces = whole.split(sizes)
    numbers = [piece.dequantize() if isinstance(piece, FourBit) else piece for piece in pieces]
    assert all(map(torch.equal, numbers, whole.dequantize().split(sizes)))
    ends = [sum(sizes[: i + 1]) * width for i in range(len(sizes) - 1)]
    aligned = all(end % 64 == 0 for end in ends)
    assert all(isinstance(piece, FourBit) == aligned for piece in pieces)
    if aligned:
        again: Any = torch.cat(list(pieces))  # pyright: ignore[reportArgumentType, reportCallIssue]  it does alike
        assert torch.equal(again.dequantize(), whole.dequantize())


def flux(bnb: Any, folder: Path, heads: int, head: int, kind: Kind, nested: bool) -> tuple[Path, nn.Module]:
    """A transformer in one file of original layout with its matrices in four bits, and one with what they mean."""
    axes = [head - 8, 4, 4]
    model = sf.models.FluxTransformer2DModel(
        num_layers=1, num_single_layers=1, num_attention_heads=heads, attention_head_dim=head, in_channels=8,
        joint_attention_dim=24, pooled_projection_dim=12, guidance_embeds=False, axes_dims_rope=tuple(axes),
    )  # fmt: skip
    write_checkpoint(folder / "plain.safetensors", "flux", {"transformer": model})
    tensors: dict[str, Tensor] = {}
    meant: dict[str, Tensor] = {}
    for name, tensor in load_file(folder / "plain.safetensors").items():
        parts = {"": tensor}
        if tensor.ndim == 2 and "img_in" not in name:
            parts = packed(bnb, tensor, kind, nested=nested)
        tensors |= {f"{name}{end}": part for end, part in parts.items()}
        meant[name] = decoded(bnb, parts) if len(parts) > 1 else tensor
    save_file(tensors, folder / "packed.safetensors")
    save_file(meant, folder / "meant.safetensors")
    config = {"axes_dims_rope": axes}
    plain = sf.load_component(folder / "meant.safetensors", manager=sf.ComponentsManager(), config=config)
    return folder / "packed.safetensors", plain


@pytest.mark.parametrize(("kind", "nested"), [("nf4", False), ("nf4", True), ("fp4", False)])
def test_a_file_of_original_layout_is_held_as_it_is_stored(
    kind: Kind, nested: bool, package: Package, tmp_path: Path, apart: Callable[[Tensor, Tensor], float]
) -> None:
    file, plain = flux(package("bitsandbytes"), tmp_path, 2, 16, kind, nested)
    model = sf.load_component(file, manager=sf.ComponentsManager(), config={"axes_dims_rope": [8, 4, 4]})
    kinds = {path: type(layer).__name__ for path, layer in model.named_modules() if path.endswith("to_q")}
    assert set(kinds.values()) == {"Linear4bit"}
    assert type(model.x_embedder) is nn.Linear  # which the file has as numbers
    assert model.quantization.to_json()["bnb_4bit_quant_type"] == kind
    assert apart(model(**INPUTS), plain(**INPUTS)) < 1e-4
    spec = component_of(file, Access(), None)
    spec = spec.using(config={**spec.read_config(), "axes_dims_rope": [8, 4, 4]})
    assert estimated_bytes(spec, "float32") == model_bytes(model)
    model.save_pretrained(tmp_path / "saved")
    again = sf.models.FluxTransformer2DModel.from_pretrained(tmp_path / "saved")
    assert torch.equal(again(**INPUTS), model(**INPUTS))


def test_matrices_whose_blocks_lie_across_the_cuts_are_decoded_and_named(
    package: Package, tmp_path: Path, apart: Callable[[Tensor, Tensor], float], caplog: pytest.LogCaptureFixture
) -> None:
    file, plain = flux(package("bitsandbytes"), tmp_path, 1, 20, "nf4", True)
    with caplog.at_level("INFO", "sfumato"):
        model = sf.load_component(file, manager=sf.ComponentsManager(), config={"axes_dims_rope": [12, 4, 4]})
    assert type(model.transformer_blocks[0].attn.to_q) is nn.Linear
    assert type(model.transformer_blocks[0].attn.to_out[0]).__name__ == "Linear4bit"
    [said] = [record.message for record in caplog.records if "blocks cross the rows" in record.message]
    assert "transformer_blocks.0.attn.to_q" in said
    assert apart(model(**INPUTS), plain(**INPUTS)) < 1e-4


def test_without_the_package_the_pip_line_is_said_and_the_numbers_can_be_had(
    package: Package, tmp_path: Path, apart: Callable[[Tensor, Tensor], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, plain = flux(package("bitsandbytes"), tmp_path, 2, 16, "nf4", False)
    monkeypatch.setattr(method, "_installed", {"bitsandbytes": False}.get)
    method.method_for.cache_clear()
    config: dict[str, Any] = {"axes_dims_rope": [8, 4, 4]}
    with pytest.raises(
        LoadError, match=r'BitsAndBytesConfig needs bitsandbytes.*pip install "sfumato\[bitsandbytes\]"'
    ):
        sf.load_component(file, manager=sf.ComponentsManager(), config=config)
    assert "bitsandbytes, which is not installed" in sf.inspect(file).missing[-1]
    config["quantization_config"] = None
    model = sf.load_component(file, manager=sf.ComponentsManager(), config=config)
    assert apart(model(**INPUTS), plain(**INPUTS)) < 1e-6


def test_another_kind_than_the_file_s_is_refused(package: Package, tmp_path: Path) -> None:
    file, _ = flux(package("bitsandbytes"), tmp_path, 2, 16, "nf4", False)
    with pytest.raises(LoadError, match=r"stored as BitsAndBytesConfig\(.*, not as BitsAndBytesConfig.*fp4"):
        sf.load_component(
            file, quantization="fp4", manager=sf.ComponentsManager(), config={"axes_dims_rope": [8, 4, 4]}
        )


def state(**changed: Any) -> Tensor:
    data = {"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [12, 64], **changed}
    return torch.tensor(list(json.dumps(data).encode()), dtype=torch.uint8)


STATE = ".quant_state.bitsandbytes__nf4"
SPOILT: dict[str, tuple[str, Callable[[Tensor], Tensor], str]] = {
    "scales": (".absmax", lambda t: t[:-1], "needs .*'.absmax': 12.* got .*'.absmax': 11"),
    "codes": ("", lambda t: t[:-8], "needs {'': 384.* got {'': 376"),
    "dtype": ("", lambda t: t.to(torch.int16), "codes in uint8.* codes in torch.int16"),
    "no state": (STATE, lambda t: t[:1], "is damaged"),
    "shape": (STATE, lambda t: state(shape=[12]), r"the shape \[12\]"),
    "sizes": (STATE, lambda t: state(shape=[12, -64]), r"the shape \[12, -64\]"),
    "blocks": (STATE, lambda t: state(blocksize=0), "blocks of 0"),
    "kind": (STATE, lambda t: state(quant_type="int4"), "the type 'int4' for 'nf4'"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_parts_that_do_not_fit_are_refused(case: str, package: Package, tmp_path: Path) -> None:
    end, spoil, said = SPOILT[case]
    parts = packed(package("bitsandbytes"), torch.randn(12, 64), "nf4")
    parts[end] = spoil(parts[end])
    save_file({f"x.weight{end}": tensor for end, tensor in parts.items()}, tmp_path / "x.safetensors")
    with pytest.raises(LoadError, match=said):
        WholeTensors(SafetensorFiles([tmp_path / "x.safetensors"])).read("x.weight")
