"""Models of GGUF files compute with what their bytes mean, hold no more than those bytes, and are saved as they are."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from sfumato.components.loading.single_file.checkpoint import component_of
from sfumato.components.loading.single_file.writing import write_checkpoint
from sfumato.components.manager import ComponentsManager
from sfumato.components.models.attention import Attention
from sfumato.components.models.flux import FluxTransformer2DModel
from sfumato.components.models.unet_2d_condition import UNet2DConditionModel
from sfumato.components.models.views import as_class, view
from sfumato.components.quantization.config import GGUFQuantizationConfig, read_quantization
from sfumato.components.quantization.gguf.kinds import BY_NAME, Kind
from sfumato.components.quantization.gguf.layers import GGUFConv2d, GGUFEmbedding, GGUFLinear, packed_in, packed_layer
from sfumato.components.quantization.gguf.packed import Packed
from sfumato.components.quantization.gguf.reader import GGUFFile
from sfumato.components.quantization.gguf.writer import write_gguf
from sfumato.components.quantization.load import load_quantized
from sfumato.components.spec import ComponentSpec
from sfumato.components.storage.building import on_meta
from sfumato.components.storage.hub import Access
from sfumato.graph.errors import ConfigError, LoadError

from .conftest import Alive, Inputs

Apart = Callable[[Tensor, Tensor], float]
KINDS = [name for name, kind in BY_NAME.items() if kind.dtype is None]
GGUF = "diffusion_pytorch_model.gguf"
ATTENTION = "mid_block.attentions.0.transformer_blocks.0.attn1"


def random_blocks(kind: Kind, shape: tuple[int, ...], seed: int = 0) -> Packed:
    """Random bytes with scales of about 0.01, where the type has them."""
    count = int(np.prod(shape)) // kind.values
    made = np.random.default_rng(seed).integers(0, 256, (count, kind.bytes), dtype=np.uint8)
    scale = np.frombuffer(np.float16(0.01).tobytes(), dtype=np.uint8)
    at_end = {"Q2_K": (-4, -2), "Q3_K": (-2,), "Q6_K": (-2,)}
    two = ("Q4_1", "Q5_1", "Q4_K", "Q5_K")
    for place in at_end.get(kind.name, (0, 2) if kind.name in two else (0,)):
        made[:, place % kind.bytes : place % kind.bytes + 2] = scale
    return Packed(kind, torch.from_numpy(made), shape)


def write_folder(model: nn.Module, folder: Path, pack: Callable[[str, Tensor], Tensor | Packed]) -> None:
    """A folder whose weights are packed as `pack` says."""
    folder.mkdir(exist_ok=True)
    state = {name: pack(name, tensor) for name, tensor in model.state_dict().items()}
    write_gguf(folder / GGUF, state)
    config: dict[str, Any] = getattr(model, "to_config")()  # noqa: B009  a Model of any class
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gguf"}}))


def pack_with(gguf: Any, name: str) -> Callable[[str, Tensor], Tensor | Packed]:
    """Packs matrices and kernels with the format's own package, as the tools for image models do."""
    kind, theirs = BY_NAME[name], gguf.GGMLQuantizationType[name]

    def pack(path: str, tensor: Tensor) -> Tensor | Packed:
        if tensor.ndim < 2 or tensor.numel() % kind.values:
            return tensor
        data = gguf.quantize(tensor.float().reshape(-1, kind.values).numpy(), theirs)
        return Packed(kind, torch.from_numpy(data).view(-1, kind.bytes), tuple(tensor.shape))

    return pack


@pytest.fixture(scope="module")
def gguf() -> Any:
    return pytest.importorskip("gguf", reason="pip install gguf")


@pytest.fixture
def plain(unet: Path) -> UNet2DConditionModel:
    return UNet2DConditionModel.from_pretrained(unet)


@pytest.fixture
def folder(gguf: Any, plain: UNet2DConditionModel, tmp_path: Path) -> Path:
    """The embedded U-Net in Q8_0."""
    write_folder(plain, tmp_path / "q8", pack_with(gguf, "Q8_0"))
    return tmp_path / "q8"


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_layer_computes_with_what_its_bytes_mean(name: str, dtype: torch.dtype) -> None:
    kind = BY_NAME[name]
    linear, conv = nn.Linear(512, 24), nn.Conv2d(32, 16, 3, padding=1, stride=2)
    table = nn.Embedding(16, 256)
    x, image = torch.randn(3, 512, dtype=dtype), torch.randn(2, 32, 8, 8, dtype=dtype)
    cases = ((linear, GGUFLinear, x), (conv, GGUFConv2d, image), (table, GGUFEmbedding, torch.tensor([[3, 0], [9, 3]])))
    for layer, packed_class, given in cases:
        weight = random_blocks(kind, tuple(layer.weight.shape))
        compute = dtype if layer is table else None
        packed = packed_layer(layer.to(dtype), weight, compute)
        layer.weight = nn.Parameter(weight.dequantize(dtype))
        assert type(packed) is packed_class and packed(given).dtype == dtype
        assert torch.equal(packed(given), layer(given)), layer
        assert torch.equal(packed.weight, layer.weight) or dtype != torch.float32


BOUNDS = {"Q8_0": 0.02, "Q5_1": 0.1, "Q5_0": 0.15, "Q4_1": 0.25, "Q4_0": 0.3}


@pytest.mark.parametrize(("name", "bound"), BOUNDS.items())
def test_a_packed_model_says_nearly_the_same(
    name: str,
    bound: float,
    gguf: Any,
    plain: UNet2DConditionModel,
    inputs: Inputs,
    exact: Tensor,
    apart: Apart,
    tmp_path: Path,
) -> None:
    write_folder(plain, tmp_path, pack_with(gguf, name))
    model = UNet2DConditionModel.from_pretrained(tmp_path)
    said = model(*inputs)
    assert bound / 8 < apart(said, exact) < bound
    packed = packed_in(model)
    assert {type(model.get_submodule(path)) for path in packed} == {GGUFLinear, GGUFConv2d}
    matrices = {n.removesuffix(".weight") for n, p in plain.named_parameters() if p.ndim > 1}
    assert set(packed) == matrices

    for path, weight in packed.items():
        plain.get_submodule(path).weight = nn.Parameter(weight.dequantize())
    assert torch.equal(plain(*inputs), said)

    model.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / GGUF).stat().st_size < 1.02 * (tmp_path / GGUF).stat().st_size
    again = UNet2DConditionModel.from_pretrained(tmp_path / "again")
    assert torch.equal(again(*inputs), said) and again.quantization == model.quantization


def test_the_model_is_never_there_in_full_precision(folder: Path, plain: UNet2DConditionModel, inputs: Inputs) -> None:
    """Neither while it loads nor while it runs: what is alive at most is one decoded layer and what flows."""
    full = sum(p.nbytes for p in plain.parameters())
    largest = max(p.nbytes for p in plain.parameters())
    loading, running = Alive(), Alive()
    with loading:
        model = UNet2DConditionModel.from_pretrained(folder)
    with running:
        model(*inputs)
    small = sum(p.nbytes for p in plain.parameters() if p.ndim < 2)
    assert loading.peak < 2 * small < full / 20
    assert largest < running.peak < full / 4
    held = sum(b.nbytes for b in model.buffers()) + sum(p.nbytes for p in model.parameters())
    assert held < 0.3 * full


def test_views_of_a_packed_model_share_its_bytes(folder: Path, inputs: Inputs) -> None:
    model = UNet2DConditionModel.from_pretrained(folder)
    before = model(*inputs)

    class Identity(Attention):
        def scaled_dot_product(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, start: int = 0) -> Tensor:
            return v

    class Doubled(nn.Module):
        def __init__(self, base: nn.Module) -> None:
            super().__init__()
            self.base = base

        def forward(self, x: Tensor) -> Tensor:
            return self.base(x) * 2

    seen = view(model, {ATTENTION: as_class(Identity), f"{ATTENTION}.to_v": Doubled})
    assert not torch.equal(seen(*inputs), before)
    shared = packed_in(seen)[f"{ATTENTION}.to_v.base"].blocks
    assert shared is packed_in(model)[f"{ATTENTION}.to_v"].blocks
    assert torch.equal(model(*inputs), before)


def test_threads_share_a_packed_model(folder: Path, inputs: Inputs) -> None:
    model = UNet2DConditionModel.from_pretrained(folder)
    latents, time, prompt = inputs

    def say(k: int) -> Tensor:
        with torch.no_grad():
            return model(latents * k, time, prompt)

    wanted = [say(k) for k in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for said, expected in zip(pool.map(say, list(range(4)) * 2), wanted * 2, strict=True):
            assert torch.equal(said, expected)


def test_what_is_excluded_is_decoded_while_it_loads(folder: Path, inputs: Inputs, apart: Apart) -> None:
    config = GGUFQuantizationConfig(modules_to_not_convert=("mid_block",), keep_in_fp32_modules=("conv_in",))
    model = UNet2DConditionModel.from_pretrained(folder, dtype=torch.bfloat16, quantization=config)
    left = set(packed_in(UNet2DConditionModel.from_pretrained(folder))) - set(packed_in(model))
    assert left and all(path.startswith(("mid_block.", "conv_in")) for path in left)
    assert (model.conv_in.weight.dtype, model.get_submodule(f"{ATTENTION}.to_q").weight.dtype) == (
        torch.float32,
        torch.bfloat16,
    )


def test_layers_compute_in_the_dtype_asked_for(folder: Path, inputs: Inputs, exact: Tensor, apart: Apart) -> None:
    low = UNet2DConditionModel.from_pretrained(folder, quantization={"compute_dtype": "bfloat16"})
    said = low(*inputs)
    assert said.dtype == torch.float32
    assert 0.003 < apart(said, exact) < 0.05
    assert low.get_submodule(f"{ATTENTION}.to_q").weight.dtype == torch.bfloat16
    half = UNet2DConditionModel.from_pretrained(folder, dtype=torch.float16)
    assert half.dtype == torch.float16 and packed_in(half)


def test_moving_and_casting_a_packed_model_leaves_its_bytes(folder: Path) -> None:
    model = UNet2DConditionModel.from_pretrained(folder).to(torch.float16)
    packed = packed_in(model)[f"{ATTENTION}.to_q"]
    assert packed.blocks.dtype == torch.uint8 and model.dtype == torch.float16
    meta = model.to("meta")
    assert packed_in(meta)[f"{ATTENTION}.to_q"].blocks.is_meta


def test_gguf_weights_can_be_quantized_anew(folder: Path, inputs: Inputs, exact: Tensor, apart: Apart) -> None:
    pytest.importorskip("bitsandbytes", reason="pip install bitsandbytes")
    config = json.loads((folder / "config.json").read_text())
    with on_meta():
        model = UNet2DConditionModel.from_config(config)
    nf4 = read_quantization("nf4")
    assert nf4 is not None
    load_quantized(model, GGUFFile(folder / GGUF), nf4)
    assert not packed_in(model)
    assert 0.02 < apart(model(*inputs), exact) < 0.16


def test_a_component_of_a_gguf_folder_loads_and_says_so(folder: Path, inputs: Inputs) -> None:
    spec = ComponentSpec(type_hint=("diffusers", "UNet2DConditionModel"), pretrained_model_name_or_path=str(folder))
    manager = ComponentsManager()
    model = manager.load(spec)
    assert packed_in(model)
    named = spec.using(quantization={"quant_method": "gguf", "compute_dtype": "bfloat16"})
    assert manager.load(named) is not model


def test_a_file_that_does_not_fit_is_refused_by_names(folder: Path, plain: UNet2DConditionModel) -> None:
    with pytest.raises(LoadError, match="stored as GGUFQuantizationConfig"):
        UNet2DConditionModel.from_pretrained(folder, quantization="nf4")
    config = GGUFQuantizationConfig(modules_to_not_convert=("mid_blok",))
    with pytest.raises(ConfigError, match="no module named 'mid_blok'"):
        UNet2DConditionModel.from_pretrained(folder, quantization=config)
    write_folder(plain, folder, lambda name, tensor: tensor[:-1] if name == "conv_in.weight" else tensor)
    with pytest.raises(LoadError, match=r"conv_in.weight is \[95, 8, 3, 3\] in .*diffusion_pytorch_model.gguf, wanted"):
        UNet2DConditionModel.from_pretrained(folder)


def test_a_single_gguf_file_in_its_authors_layout_loads_packed(gguf: Any, tmp_path: Path) -> None:
    """Flux as its authors name it: a fused qkv is cut and a modulation swapped while they are packed."""
    plain = FluxTransformer2DModel(
        num_layers=1, num_single_layers=1, num_attention_heads=1, joint_attention_dim=64, pooled_projection_dim=32
    ).eval()
    write_checkpoint(tmp_path / "flux.safetensors", "flux", {"transformer": plain})
    pack = pack_with(gguf, "Q8_0")
    theirs = {name: pack(name, tensor) for name, tensor in load_file(tmp_path / "flux.safetensors").items()}
    write_gguf(tmp_path / "flux.gguf", theirs, architecture="flux")
    assert any("qkv.weight" in name for name in theirs)

    spec = component_of(tmp_path / "flux.gguf", Access(), None)
    assert spec.type is FluxTransformer2DModel
    model = ComponentsManager().load(spec)
    packed = packed_in(model)
    assert set(packed) == {n.removesuffix(".weight") for n, p in plain.named_parameters() if p.ndim == 2}
    for path, weight in packed.items():
        plain.get_submodule(path).weight = nn.Parameter(weight.dequantize())
    given: dict[str, Any] = {
        "hidden_states": torch.randn(1, 16, 64),
        "encoder_hidden_states": torch.randn(1, 5, 64),
        "pooled_projections": torch.randn(1, 32),
        "timestep": torch.tensor([0.5]),
        "img_ids": torch.zeros(16, 3),
        "txt_ids": torch.zeros(5, 3),
    }
    assert torch.equal(model(**given), plain(**given))


def test_a_single_gguf_file_of_a_u_net_loads_packed(
    gguf: Any, plain: UNet2DConditionModel, inputs: Inputs, exact: Tensor, apart: Apart, tmp_path: Path
) -> None:
    """Kernels of 3x3 have no whole blocks in a row: they lie flat in the file, beside their shape."""
    write_checkpoint(tmp_path / "unet.safetensors", "sd1", {"unet": plain})
    pack = pack_with(gguf, "Q5_0")
    theirs = {name: pack(name, tensor) for name, tensor in load_file(tmp_path / "unet.safetensors").items()}
    write_gguf(tmp_path / "unet.gguf", theirs, architecture="sd1")
    spec = component_of(tmp_path / "unet.gguf", Access(), ("diffusers", "UNet2DConditionModel"))
    spec = spec.using(config=plain.to_config())  # its heads are not those of the family
    model = ComponentsManager().load(spec)
    kinds = {type(model.get_submodule(path)) for path in packed_in(model)}
    assert kinds == {GGUFLinear, GGUFConv2d}
    assert apart(model(*inputs), exact) < BOUNDS["Q5_0"]
