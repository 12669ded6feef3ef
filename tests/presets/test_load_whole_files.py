"""Single files of Flux and SD 3 that need nothing beside them: no config, no tokenizer, no network."""

import json
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import sfumato as sf
from sfumato.components.quantization.gguf.kinds import BY_NAME
from sfumato.components.quantization.gguf.layers import packed_in
from sfumato.components.quantization.gguf.packed import Packed
from sfumato.components.quantization.gguf.writer import write_gguf

from .support import fresh, held
from .whole_files import in_blocks

CALL: dict[str, Any] = {"num_inference_steps": 1, "seed": 0, "output_type": "pt", "max_sequence_length": 16}
SIZE = {"height": 32, "width": 32}
Whole = Callable[[str], Path]


def load(x: Path, **more: Any) -> sf.Graph:
    return sf.load(x, manager=fresh(), **more)


def picture(pipe: sf.Graph, **more: Any) -> Tensor:
    return pipe(**{"prompt": "a photo of a cat", **CALL, **SIZE, **more}).images


@pytest.fixture(scope="module")
def beside(whole_file: Whole) -> Mapping[str, Any]:
    """The components of the whole Flux beside its transformer."""
    pipe = load(whole_file("flux"))
    names = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
    return {name: held(pipe, name) for name in names}


# --------------------------------------------------------------------------------------------------- T5's vocabulary
@pytest.mark.parametrize(("family", "name"), [("flux", "tokenizer_2"), ("sd3", "tokenizer_3")])
def test_a_file_is_drawn_with_by_the_vocabularies_that_come_with_us(
    family: str, name: str, whole_file: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = whole_file(family)
    monkeypatch.setattr(socket.socket, "connect", None)  # no network
    assert sf.inspect(file).missing == ()
    pipe = load(file)
    assert not pipe.check()
    assert held(pipe, name).encode("a photo of a cat") == [3, 9, 1202, 13, 3, 9, 1712, 1]
    cat, dog = (picture(pipe, **{name.replace("tokenizer", "prompt"): text}) for text in ("a cat", "a dog"))
    assert torch.isfinite(cat).all() and (cat - dog).abs().max() > 1e-4  # in what T5 reads alone


# ------------------------------------------------------------------------------------------- scaled and plain float8
def in_float8(tensors: Mapping[str, Tensor], spelling: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The file as ComfyUI stores it, and the numbers that it then has."""
    weight, given = {"old": ("scale_weight", "scale_input"), "new": ("weight_scale", "input_scale")}[spelling]
    stored: dict[str, Tensor] = {}
    meant: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        stored[name] = meant[name] = tensor
        layer = name.removesuffix(".weight")
        if tensor.ndim != 2 or not name.startswith(("model.diffusion_model.", "text_encoders.t5xxl.")):
            continue
        by_row = "linear1" in name
        scale = (tensor.abs().amax(1, keepdim=True) if by_row else tensor.abs().amax()) / 448
        stored[name] = (tensor / scale).to(torch.float8_e4m3fn)
        stored[f"{layer}.{weight}"] = scale if by_row or "qkv" not in name else scale.reshape(1)
        stored[f"{layer}.{given}"] = torch.tensor(1.0)
        meant[name] = stored[name].float() * scale
        if spelling == "new":
            marker = json.dumps({"format": "float8_e4m3fn"}).encode()
            stored[f"{layer}.comfy_quant"] = torch.tensor(list(marker), dtype=torch.uint8)
    if spelling == "old":
        for prefix in ("model.diffusion_model.", "text_encoders.t5xxl.transformer."):
            stored[f"{prefix}scaled_fp8"] = torch.empty(0, dtype=torch.float8_e4m3fn)
        stored["text_encoders.t5xxl.transformer.spiece_model"] = torch.zeros(8, dtype=torch.uint8)
    return stored, meant


@pytest.mark.parametrize(("family", "spelling"), [("flux", "old"), ("flux", "new"), ("sd3", "old")])
def test_scaled_float8_is_the_product_of_weight_and_scale(
    family: str, spelling: str, whole_file: Whole, tmp_path: Path
) -> None:
    stored, meant = in_float8(load_file(whole_file(family)), spelling)
    save_file(stored, tmp_path / "scaled.safetensors")
    save_file(meant, tmp_path / "meant.safetensors")
    scaled, plain = load(tmp_path / "scaled.safetensors"), load(tmp_path / "meant.safetensors")
    assert not scaled.check() and sf.inspect(tmp_path / "scaled.safetensors").missing == ()
    for name in ("transformer", "text_encoder_2" if family == "flux" else "text_encoder_3"):
        ours, wanted = (held(pipe, name).state_dict() for pipe in (scaled, plain))
        assert all(torch.equal(ours[key], tensor) for key, tensor in wanted.items()), name
    assert (picture(scaled) - picture(plain)).abs().max() < 1e-5


def test_float8_without_scales_is_read_as_it_is(whole_file: Whole, tmp_path: Path) -> None:
    tensors = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in load_file(whole_file("flux")).items()}
    save_file(tensors, tmp_path / "fp8.safetensors")
    save_file({name: tensor.float() for name, tensor in tensors.items()}, tmp_path / "float.safetensors")
    fp8 = load(tmp_path / "fp8.safetensors")
    assert held(fp8, "transformer").dtype == torch.float32
    assert (picture(fp8) - picture(load(tmp_path / "float.safetensors"))).abs().max() < 1e-5


def test_scales_that_do_not_fit_and_packings_that_are_not_read_are_refused(whole_file: Whole, tmp_path: Path) -> None:
    tensors = load_file(whole_file("flux"))
    head = "model.diffusion_model.img_in"
    fp8 = tensors[f"{head}.weight"].to(torch.float8_e4m3fn)

    def loaded(**changed: Tensor) -> Any:
        save_file({**tensors, **{f"{head}.{end}": t for end, t in changed.items()}}, tmp_path / "bad.safetensors")
        return load(tmp_path / "bad.safetensors")

    with pytest.raises(sf.LoadError, match=r"img_in.scale_weight needs one number, or one for each row of .*\[3\]"):
        held(loaded(weight=fp8, scale_weight=torch.ones(3)), "transformer")
    with pytest.raises(
        sf.LoadError, match=r"img_in.weight has a scale, so it needs to be float8, and is torch.float32"
    ):
        held(loaded(scale_weight=torch.ones(1)), "transformer")
    marker = torch.tensor(list(b'{"format": "nvfp4"}'), dtype=torch.uint8)
    pipe = loaded(comfy_quant=marker)
    said = "1 weights of its transformer are packed as nvfp4, which cannot be read"
    assert said in str(pipe.check()[0]) and said in sf.inspect(tmp_path / "bad.safetensors").missing[0]
    with pytest.raises(sf.LoadError, match=said):
        held(pipe, "transformer")
    assert held(pipe, "vae")


# ---------------------------------------------------------------------------------------------------------- T5 alone
def t5_of(file: Path) -> dict[str, Tensor]:
    head = "text_encoders.t5xxl.transformer."
    return {name.removeprefix(head): t for name, t in load_file(file).items() if name.startswith(head)}


def test_t5_alone_scaled_or_not_serves_a_denoiser_alone(whole_file: Whole, tmp_path: Path) -> None:
    stored, meant = in_float8(load_file(whole_file("flux")), "old")
    head = "text_encoders.t5xxl.transformer."
    save_file({n.removeprefix(head): t for n, t in stored.items() if n.startswith(head)}, tmp_path / "t5.safetensors")
    save_file({n: t for n, t in stored.items() if not n.startswith(head)}, tmp_path / "rest.safetensors")
    save_file(meant, tmp_path / "meant.safetensors")
    t5 = sf.load_component(tmp_path / "t5.safetensors", "T5EncoderModel", manager=fresh())
    assert [p.place for p in load(tmp_path / "rest.safetensors").check()] == ["text_encoder_2"]
    pipe = load(tmp_path / "rest.safetensors", text_encoder_2=t5)
    assert (picture(pipe) - picture(load(tmp_path / "meant.safetensors"))).abs().max() < 1e-5
    found = sf.inspect(tmp_path / "t5.safetensors")
    assert found.layout == "holds t5 in transformers' layout" and found.components[0].class_name == "T5EncoderModel"


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q5_1", "Q4_K", "Q6_K"])
def test_t5_with_llama_cpps_names_reads_prompts_as_its_decoded_weights_do(
    kind: str, whole_file: Whole, beside: Mapping[str, Any], tmp_path: Path
) -> None:
    gguf: Any = pytest.importorskip("gguf", reason="pip install gguf")
    theirs = gguf.get_tensor_name_map(gguf.MODEL_ARCH.T5ENCODER, 2)  # llama.cpp's own table
    stored: dict[str, Tensor | Packed] = {}
    meant: dict[str, Tensor] = {}
    for name, tensor in t5_of(whole_file("flux")).items():
        packed: Tensor | Packed = tensor
        if tensor.ndim == 2 and "relative" not in name:
            packed = tensor.half() if kind == "F16" else in_blocks(gguf, kind, tensor)
        stored[f"{theirs.get_name(name.removesuffix('.weight'))}.weight"] = packed
        meant[name] = packed.dequantize() if isinstance(packed, Packed) else packed.float()
    stored["dec.output_norm.weight"] = torch.ones(256)  # a whole T5 is taken too
    write_gguf(tmp_path / "t5.gguf", stored, architecture="t5encoder")
    save_file(meant, tmp_path / "meant.safetensors")
    t5, plain = (
        sf.load_component(tmp_path / name, "T5EncoderModel", manager=fresh())
        for name in ("t5.gguf", "meant.safetensors")
    )
    assert len(packed_in(t5)) == (0 if kind == "F16" else 15)
    ids = torch.tensor([[3, 9, 1202, 13, 3, 9, 1712, 1]])
    assert (t5(ids).last_hidden_state - plain(ids).last_hidden_state).abs().max() < 1e-5
    assert "in the names of llama.cpp" in sf.inspect(tmp_path / "t5.gguf").layout
    drawn = [picture(load(whole_file("flux"), **{**beside, "text_encoder_2": one})) for one in (t5, plain)]
    assert (drawn[0] - drawn[1]).abs().max() < 1e-5


# ------------------------------------------------------------------------------------- whole files that are quantized
def test_a_whole_file_with_its_transformer_in_four_bits_draws_what_its_numbers_draw(
    whole_file: Whole, tmp_path: Path
) -> None:
    """As lllyasviel/flux1-dev-bnb-nf4: beside it T5 in float8, CLIP in float16 and the autoencoder as it is."""
    bnb: Any = pytest.importorskip("bitsandbytes", reason="pip install bitsandbytes")
    stored: dict[str, Tensor] = {}
    meant: dict[str, Tensor] = {}
    for name, tensor in load_file(whole_file("flux")).items():
        stored[name] = tensor
        if name.startswith("model.diffusion_model.") and tensor.ndim == 2:
            stored[name], state = bnb.functional.quantize_4bit(tensor, quant_type="nf4", compress_statistics=True)
            stored |= {f"{name}.{part}": told for part, told in state.as_dict(packed=True).items()}
            meant[name] = bnb.functional.dequantize_4bit(stored[name], state)
        elif name.startswith("text_encoders."):
            stored[name] = tensor.to(torch.float8_e4m3fn if "t5xxl" in name else torch.float16)
        meant.setdefault(name, stored[name].float())
    save_file(stored, tmp_path / "packed.safetensors")
    save_file(meant, tmp_path / "meant.safetensors")
    pipe = load(tmp_path / "packed.safetensors")
    assert not pipe.check()
    told = {part.name: part for part in sf.inspect(tmp_path / "packed.safetensors").components}
    assert told["text_encoder_2"].dtype == "float8_e4m3fn"
    assert (picture(pipe) - picture(load(tmp_path / "meant.safetensors"))).abs().max() < 1e-3
    block = held(pipe, "transformer").single_transformer_blocks[0]
    assert type(block.proj_mlp).__name__ == type(block.attn.to_v).__name__ == "Linear4bit"


@pytest.mark.parametrize("kind", [name for name, kind in BY_NAME.items() if kind.dtype is None])
def test_a_gguf_file_in_each_type_draws_what_its_decoded_tensors_draw(
    kind: str, whole_file: Whole, beside: Mapping[str, Any], tmp_path: Path
) -> None:
    """Blocks that the format's package cannot write are random bytes; `kind` also holds the fused matrices."""
    gguf: Any = pytest.importorskip("gguf", reason="pip install gguf")
    writer = gguf.GGUFWriter(str(tmp_path / "flux.gguf"), "flux")
    head = "model.diffusion_model."
    meant = {name: tensor for name, tensor in load_file(whole_file("flux")).items() if name.startswith(head)}
    for name, tensor in meant.items():
        if tensor.ndim == 2 and tensor.shape[1] % 256 == 0:
            packed = in_blocks(gguf, kind, tensor)
            rows = packed.blocks.view(tensor.shape[0], -1).numpy()
            theirs = gguf.GGMLQuantizationType[kind]
            writer.add_tensor(name.removeprefix(head), rows, raw_dtype=theirs)
            meant[name] = torch.from_numpy(gguf.dequantize(rows, theirs))
        else:
            writer.add_tensor(name.removeprefix(head), tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file(meant, tmp_path / "meant.safetensors")
    pipe, plain = (load(tmp_path / name, **beside) for name in ("flux.gguf", "meant.safetensors"))
    assert not pipe.check()
    assert (picture(pipe) - picture(plain)).abs().max() < 1e-4
    packed_paths = packed_in(held(pipe, "transformer"))
    assert len(packed_paths) > 30 and {str(packed.kind) for packed in packed_paths.values()} == {kind}
