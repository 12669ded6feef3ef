"""What a component will take is told before it is loaded, and a budget holds while it is loaded the first time."""

import json
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import sfumato as sf
from sfumato.components.loading.component import read_component
from sfumato.components.loading.single_file.checkpoint import component_of
from sfumato.components.loading.single_file.writing import write_checkpoint
from sfumato.components.memory.estimate import Estimate, estimate
from sfumato.components.memory.offload import Offload
from sfumato.components.memory.tensors import parts_of, tensors_of, total_bytes
from sfumato.components.models.autoencoder_kl import AutoencoderKL
from sfumato.components.models.t5 import T5EncoderModel
from sfumato.components.models.unet_2d_condition import UNet2DConditionModel
from sfumato.components.quantization.config import read_quantization
from sfumato.components.quantization.gguf.kinds import BY_NAME
from sfumato.components.quantization.gguf.packed import Packed
from sfumato.components.quantization.gguf.writer import write_gguf
from sfumato.components.quantization.method import missing_packages
from sfumato.components.spec import ComponentSpec
from sfumato.components.storage.hub import Access

from ..quantization.conftest import Alive
from .conftest import EMBEDDED, GPU, Simulated

HINTS = {
    "unet": ("diffusers", "UNet2DConditionModel"),
    "vae": ("diffusers", "AutoencoderKL"),
    "text_encoder": ("transformers", "CLIPTextModel"),
}
UNET = ComponentSpec(type_hint=HINTS["unet"], pretrained_model_name_or_path=str(EMBEDDED), subfolder="unet")
NF4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
KINDS: dict[str, Any] = {
    "nf4": "nf4",
    "nf4, scales quantized too": {**NF4, "bnb_4bit_use_double_quant": True},
    "nf4 but for some": {**NF4, "modules_to_not_convert": ["mid_block"], "keep_in_fp32_modules": ["time_embedding"]},
    "llm_int8": "llm_int8",
    "int8_weight_only": "int8_weight_only",
    "float8_weight_only": "float8_weight_only",
    "int8_dynamic_activation_int8_weight": "int8_dynamic_activation_int8_weight",
    "quanto_int8": "quanto_int8",
    "quanto_float8": "quanto_float8",
    "quanto_int4": "quanto_int4",
    "quanto_int2": "quanto_int2",
    "mixed": {
        "quant_method": "mixed",
        "modules": {"attn1": "nf4", "attn2": "int8_weight_only", "mid_block": None},
        "default": "quanto_int4",
    },
}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:  # the packages warn of what they deprecate
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(torchao|optimum|bitsandbytes|torch|transformers)(\..*)?")
        yield


def need(kind: Any) -> Any:
    """A kind of quantization whose package is there."""
    if missing := next(missing_packages(read_quantization(kind)), None):
        pytest.skip(missing)
    return kind


def same(spec: ComponentSpec, dtype: str = "float32") -> Estimate:
    """What was told, which is what is then counted."""
    told = estimate(spec, dtype)
    assert told.bytes == total_bytes([parts_of(read_component(spec, getattr(torch, dtype), "cpu"))]) > 0
    return told


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", HINTS)
def test_the_estimate_of_a_folder_is_exact(name: str, dtype: str) -> None:
    assert same(UNET.using(type_hint=HINTS[name], subfolder=name), dtype).loading_bytes == 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_estimate_of_a_component_that_is_quantized_while_it_loads(kind: str, dtype: str) -> None:
    told = same(UNET.using(quantization=need(KINDS[kind])), dtype)
    assert told.bytes < estimate(UNET, dtype).bytes
    assert (
        told.loading_bytes > 1280 * 160 * getattr(torch, dtype).itemsize
    )  # its largest linear layer, and what packing makes


@pytest.mark.parametrize("kind", ["nf4", "nf4, scales quantized too", "llm_int8", "int8_weight_only", "quanto_int4"])
def test_the_estimate_of_a_component_that_was_saved_quantized(kind: str, tmp_path: Path) -> None:
    how: Any = need(KINDS[kind])
    made = UNet2DConditionModel.from_pretrained(EMBEDDED / "unet", quantization=how, dtype=torch.bfloat16)
    made.save_pretrained(tmp_path / "unet")
    spec = UNET.using(pretrained_model_name_or_path=str(tmp_path))
    assert same(spec, "bfloat16") == (total_bytes([parts_of(made)]), 0, 0)


def test_tensors_that_stay_float32_are_estimated_in_float32(tmp_path: Path) -> None:
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 50}
    T5EncoderModel(**sizes).save_pretrained(tmp_path)
    spec = ComponentSpec(type_hint=("transformers", "T5EncoderModel"), pretrained_model_name_or_path=str(tmp_path))
    half, other = same(spec, "float16"), same(spec, "bfloat16")
    assert half.bytes - other.bytes == 2 * 2 * 32 * 64  # the last matrix of each of two layers
    same(spec.using(quantization=need("nf4")), "float16")


def packed(model: nn.Module, kind: str) -> dict[str, Any]:
    """Its tensors, those of matrices as blocks of zeros."""
    held = BY_NAME[kind]

    def pack(tensor: torch.Tensor) -> Any:
        if tensor.ndim < 2 or tensor.shape[-1] % held.values:
            return tensor
        return Packed(
            held, torch.zeros(tensor.numel() // held.values, held.bytes, dtype=torch.uint8), tuple(tensor.shape)
        )

    return {name: pack(tensor) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "IQ4_NL"])
@pytest.mark.parametrize("again", [None, "nf4"])
def test_the_estimate_of_a_folder_with_a_gguf_file(kind: str, again: str | None, tmp_path: Path) -> None:
    model = UNet2DConditionModel.from_pretrained(EMBEDDED / "unet")
    write_gguf(tmp_path / "diffusion_pytorch_model.gguf", packed(model, kind))
    config = {**model.to_config(), "quantization_config": {"quant_method": "gguf"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    spec = ComponentSpec(type_hint=HINTS["unet"], pretrained_model_name_or_path=str(tmp_path))
    if again is None:
        assert same(spec, "bfloat16").bytes < estimate(UNET, "bfloat16").bytes
    else:
        with pytest.raises(sf.LoadError):
            read_component(spec.using(quantization=need(again)), torch.float32, "cpu")
        assert estimate(spec.using(quantization=again), "float32") == Estimate()


@pytest.mark.parametrize("kind", [None, "nf4"])
def test_the_estimate_of_the_parts_of_a_single_file(kind: str | None, tmp_path: Path) -> None:
    """In the layout of its authors, where several tensors of ours are rows of one."""
    models = {
        "unet": UNet2DConditionModel.from_pretrained(EMBEDDED / "unet", dtype=torch.float16),
        "vae": AutoencoderKL.from_pretrained(EMBEDDED / "vae", dtype=torch.float16),
    }
    file = write_checkpoint(tmp_path / "all.safetensors", "sd1", models)
    for name, model in models.items():
        spec = component_of(file, Access(), HINTS[name], name).using(config=model.to_config())
        for dtype in ("float32", "float16"):
            same(spec.using(quantization=None if kind is None else need(kind)), dtype)


def test_the_estimate_of_a_packed_part_of_a_single_file(tmp_path: Path) -> None:
    flux = import_module("sfumato.components.models.flux").FluxTransformer2DModel
    sizes = {"num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2}
    model = flux(**sizes, in_channels=16, joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=[4, 6, 6])
    plain = write_checkpoint(tmp_path / "plain.safetensors", "flux", {"transformer": model})
    tensors = {name.removeprefix("model.diffusion_model."): t for name, t in load_file(plain).items()}
    held = BY_NAME["Q8_0"]
    blocks = {
        name: Packed(held, torch.zeros(t.numel() // 32, held.bytes, dtype=torch.uint8), tuple(t.shape))
        if t.ndim == 2 and t.shape[1] % 32 == 0
        else t
        for name, t in tensors.items()
    }
    write_gguf(tmp_path / "packed.gguf", blocks)
    for file in (plain, tmp_path / "packed.gguf"):
        spec = component_of(file, Access(), None, "transformer").using(config=model.to_config())
        same(spec, "bfloat16")


def test_the_estimate_of_pickles_inline_configs_and_classes_of_transformers(tmp_path: Path) -> None:
    transformers: Any = import_module("transformers")
    sizes = {"vocab_size": 40, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    bert = transformers.BertModel(transformers.BertConfig(**sizes, num_attention_heads=2)).half()
    bert.save_pretrained(tmp_path)
    spec = ComponentSpec(type_hint=("transformers", "BertModel"), pretrained_model_name_or_path=str(tmp_path))
    same(spec)
    same(spec, "bfloat16")
    same(spec.using(quantization=need("nf4")))
    config = AutoencoderKL.from_pretrained(EMBEDDED / "vae").to_config()
    same(ComponentSpec(type_hint=HINTS["vae"], config=config), "float16")


def test_the_estimate_without_weights_or_files_is_zero(tmp_path: Path) -> None:
    scheduler = ComponentSpec(type_hint=("diffusers", "DDIMScheduler"), config={})
    assert estimate(scheduler, "float32") == Estimate()
    assert estimate(UNET.using(subfolder="vae"), "float32") == Estimate()
    assert estimate(UNET.using(pretrained_model_name_or_path=str(tmp_path)), "float32") == Estimate()


def test_the_estimate_of_an_unknown_quantization_is_an_upper_bound() -> None:
    """Its JSON may be any of torchao's; the package need not be there."""
    unknown = {"quant_method": "torchao", "quant_type": {"default": {"_type": "SomeConfig", "_data": {}}}}
    assert estimate(UNET.using(quantization=unknown), "bfloat16").bytes == estimate(UNET, "bfloat16").bytes
    packed = estimate(UNET.using(quantization="int4_weight_only"), "bfloat16")
    assert packed.loading_bytes > 0


def test_scales_of_quantized_weights_are_counted() -> None:
    need("nf4")
    made = UNet2DConditionModel.from_pretrained(EMBEDDED / "unet", quantization="nf4", dtype=torch.bfloat16)
    layer: Any = made.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn1.to_q")
    state = layer.weight.quant_state
    counted = {id(tensor) for tensor in tensors_of(made)}
    assert {id(layer.weight), id(state.absmax), id(state.code)} <= counted


# ------------------------------------------------------------------------------------------------- the first load
@pytest.mark.parametrize("kind", ["nf4", "llm_int8", "int8_weight_only", "float8_weight_only", "quanto_int4"])
def test_the_first_load_of_a_quantized_component_stays_within_the_budget(kind: str) -> None:
    """Counted with torch's own allocations: files are mapped, and each tensor is cast, so that all of it is counted."""
    spec = UNET.using(quantization=need(KINDS[kind]))
    read_component(spec, torch.float32, "cpu")  # what a package makes at its first use, it keeps
    told = estimate(spec, "float32")
    tower = ComponentSpec(
        type_hint=HINTS["text_encoder"], pretrained_model_name_or_path=str(EMBEDDED), subfolder="text_encoder"
    )
    with pytest.raises(sf.LoadError, match=r"at once: unet .*, loading \(temporary\) "):
        sf.ComponentsManager(told.bytes + told.loading_bytes - 1).handle(spec, name="unet").load()
    budget = told.bytes + told.loading_bytes
    manager = sf.ComponentsManager(budget)
    manager.handle(tower).load()
    with Alive() as counted:
        model = manager.handle(spec, name="unet").load()
    assert told.bytes < counted.peak <= budget
    assert manager.bytes == total_bytes([parts_of(model)]) == told.bytes
    assert {row.name: row.where for row in manager.summary()} == {"text_encoder": "disk", "unet": "cpu"}


def test_the_estimate_of_streamed_and_narrowed_components() -> None:
    full, half = estimate(UNET, "float32"), estimate(UNET, "float16")
    narrow = estimate(UNET, "float32", Offload(storage="float8_e4m3fn"))
    assert half.bytes > narrow.bytes and narrow.bytes + narrow.loading_bytes == full.bytes
    streamed = estimate(UNET, "float32", Offload(by="blocks"))
    assert streamed.bytes == full.bytes and 0 < streamed.streaming_bytes < full.bytes / 2
    manager = sf.ComponentsManager("1GB")
    manager.offload("unet", by="blocks", storage="float8_e4m3fn")
    manager.handle(UNET).load()
    entry = manager._memory.inventory.entries[manager.handle(UNET).key]
    assert entry.known_estimate == estimate(UNET, "float32", Offload(by="blocks", storage="float8_e4m3fn"))


def test_a_component_is_narrowed_on_the_cpu(simulated: Simulated) -> None:
    full = estimate(UNET, "float32").bytes
    kept = estimate(UNET, "float32", Offload(storage="float8_e4m3fn")).bytes
    manager = sf.ComponentsManager({"cuda": kept + 1000, "cpu": full}, device="cuda", mover=simulated)
    manager.offload("unet", storage="float8_e4m3fn")
    manager.handle(UNET).load()
    assert simulated.peak[GPU] == kept and manager.bytes == kept
    tight = sf.ComponentsManager({"cuda": kept + 1000, "cpu": full - 1}, device="cuda", mover=Simulated())
    tight.offload("unet", storage="float8_e4m3fn")
    with pytest.raises(sf.LoadError, match=r"The memory budget of cpu is .* at once: loading \(temporary\) 29\.0 MB"):
        tight.handle(UNET).load()
