"""A model is quantized while it loads, says nearly what it said before, and is saved and read back to the bit."""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sfumato.components.manager import ComponentsManager
from sfumato.components.models.attention import Attention
from sfumato.components.models.autoencoder_kl import AutoencoderKL
from sfumato.components.models.unet_2d_condition import UNet2DConditionModel
from sfumato.components.models.views import as_class, view
from sfumato.components.quantization.config import (
    BitsAndBytesConfig,
    MixedQuantization,
    TorchAoConfig,
    read_quantization,
)
from sfumato.components.quantization.method import method_for, missing_packages
from sfumato.components.spec import ComponentSpec
from sfumato.graph.errors import ConfigError, LoadError

from .conftest import PACKAGES, Alive, Inputs

Apart = Callable[[Tensor, Tensor], float]
Package = Callable[[str], Any]

# How far the U-Net's answer may move, as a share of it. Measured: 0.11, 0.17, 0.023, 0.008, 0.036, 0.02, …
BOUNDS = {
    "nf4": 0.16,
    "fp4": 0.24,
    "llm_int8": 0.04,
    "int8_weight_only": 0.016,
    "float8_weight_only": 0.06,
    "int8_dynamic_activation_int8_weight": 0.04,
    "quanto_int8": 0.016,
    "quanto_float8": 0.06,
    "quanto_int4": 0.16,
    "quanto_int2": 0.7,
}
WEIGHTS = "diffusion_pytorch_model.safetensors"


def need(package: Package, name: str) -> None:
    config = read_quantization(name)
    assert config is not None
    package(PACKAGES[config.quant_method])


def linear(model: nn.Module) -> dict[str, nn.Module]:
    return {path: module for path, module in model.named_modules() if type(module) is nn.Linear}


def quantized(model: nn.Module) -> set[str]:
    """The paths of linear layers that are held in another way."""
    return {
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and (type(module) is not nn.Linear or type(module.weight.data) is not Tensor)
    }


@pytest.mark.parametrize("name", BOUNDS)
def test_a_quantized_model_says_nearly_the_same(
    name: str, package: Package, unet: Path, inputs: Inputs, exact: Tensor, apart: Apart, tmp_path: Path
) -> None:
    need(package, name)
    model = UNet2DConditionModel.from_pretrained(unet, quantization=name)
    said = model(*inputs)
    assert BOUNDS[name] / 8 < apart(said, exact) < BOUNDS[name]  # and it is not the same: it was quantized
    assert quantized(model) == set(linear(UNet2DConditionModel.from_config(model.to_config())))
    half = UNet2DConditionModel.from_pretrained(unet, quantization=name, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    latents, time, prompt = inputs
    assert apart(half(latents.bfloat16(), time, prompt.bfloat16()), exact) < BOUNDS[name] + 0.02

    model.save_pretrained(tmp_path)
    assert (tmp_path / WEIGHTS).stat().st_size < 0.8 * sum(
        4 * p.numel() for p in UNet2DConditionModel.from_pretrained(unet).parameters()
    )
    again = UNet2DConditionModel.from_pretrained(tmp_path)
    assert again.quantization == model.quantization
    assert torch.equal(again(*inputs), said)


@pytest.mark.parametrize("name", ["nf4", "llm_int8", "int8_weight_only", "quanto_int8"])
def test_a_sharded_quantized_folder_is_read(
    name: str, package: Package, unet: Path, inputs: Inputs, tmp_path: Path
) -> None:
    need(package, name)
    model = UNet2DConditionModel.from_pretrained(unet, quantization=name)
    model.save_pretrained(tmp_path, max_shard_size="3MB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    assert torch.equal(UNet2DConditionModel.from_pretrained(tmp_path)(*inputs), model(*inputs))


@pytest.mark.filterwarnings("ignore:.Quanto(Config|Quantizer). is deprecated:FutureWarning")  # of diffusers
@pytest.mark.parametrize("name", ["int8_weight_only", "quanto_int8"])
def test_the_reference_reads_our_folders_and_we_its(
    name: str, package: Package, unet: Path, inputs: Inputs, apart: Apart, tmp_path: Path
) -> None:
    """bitsandbytes is left out: the reference wants a GPU for it."""
    need(package, name)
    diffusers = package("diffusers")
    ours = UNet2DConditionModel.from_pretrained(unet, quantization=name)
    ours.save_pretrained(tmp_path / "ours")
    theirs = diffusers.UNet2DConditionModel.from_pretrained(tmp_path / "ours", torch_dtype=torch.float32)
    assert apart(theirs(*inputs).sample, ours(*inputs)) < 1e-5
    theirs.save_pretrained(tmp_path / "theirs")
    again = UNet2DConditionModel.from_pretrained(tmp_path / "theirs")
    assert apart(again(*inputs), ours(*inputs)) < 1e-5


def test_double_quantization_is_saved_and_read_back(
    package: Package, unet: Path, inputs: Inputs, tmp_path: Path
) -> None:
    package("bitsandbytes")
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    model = UNet2DConditionModel.from_pretrained(unet, quantization=config)
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / WEIGHTS, "pt") as file:
        names = set(file.keys())
    base = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    parts = ("", ".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", ".quant_state.bitsandbytes__nf4")
    assert {f"{base}{part}" for part in parts} <= names
    assert torch.equal(UNet2DConditionModel.from_pretrained(tmp_path)(*inputs), model(*inputs))


def test_a_quantized_layer_computes_with_what_its_bytes_mean(
    package: Package, unet: Path, inputs: Inputs, apart: Apart
) -> None:
    """The CPU kernels of bitsandbytes 0.50 decode rows that are no whole blocks wrongly; ours must not."""
    bnb = package("bitsandbytes")
    for kind in ("nf4", "fp4"):
        model = UNet2DConditionModel.from_pretrained(unet, quantization=kind)
        plain = UNet2DConditionModel.from_pretrained(unet)
        for path, layer in model.named_modules():
            if isinstance(layer, bnb.nn.Linear4bit):
                weight: Any = layer.weight
                high, low = weight.data.flatten() >> 4, weight.data.flatten() & 15
                levels = weight.quant_state.code[torch.stack([high, low], 1).flatten().int()]
                decoded = (levels.view(-1, 64) * weight.quant_state.absmax[:, None]).view(weight.quant_state.shape)
                plain.get_submodule(path).weight = nn.Parameter(decoded)
        assert apart(model(*inputs), plain(*inputs)) < 1e-5, kind


@pytest.mark.parametrize("name", ["nf4", "int8_weight_only", "quanto_int4", "llm_int8"])
def test_what_is_excluded_is_not_quantized(name: str, package: Package, unet: Path, tmp_path: Path) -> None:
    need(package, name)
    config = read_quantization(name)
    assert config is not None
    excluded = config.model_copy(
        update={"modules_to_not_convert": ("mid_block", "attn2.to_out"), "keep_in_fp32_modules": ("time_embedding",)}
    )
    model = UNet2DConditionModel.from_pretrained(unet, quantization=excluded, dtype=torch.float16)
    left = set(linear(model)) - quantized(model)
    expected = {
        p
        for p in linear(UNet2DConditionModel.from_pretrained(unet))
        if p.startswith(("mid_block.", "time_embedding.")) or "attn2.to_out" in p
    }
    assert left == expected
    assert model.time_embedding.linear_1.weight.dtype == torch.float32
    assert model.mid_block is not None
    assert next(model.mid_block.parameters()).dtype == torch.float16

    model.save_pretrained(tmp_path)
    again = UNet2DConditionModel.from_pretrained(tmp_path, dtype=torch.float16)
    assert (set(linear(again)) - quantized(again), again.quantization) == (left, model.quantization)
    assert again.time_embedding.linear_1.weight.dtype == torch.float32


def test_kinds_are_mixed_by_the_names_of_modules(package: Package, unet: Path, inputs: Inputs, tmp_path: Path) -> None:
    bnb = package("bitsandbytes")
    need(package, "int8_weight_only")
    mixed = MixedQuantization(modules={"time_embedding": None, "attn*": "nf4"}, default="int8_weight_only")
    model = UNet2DConditionModel.from_pretrained(unet, quantization=mixed)
    assert type(model.time_embedding.linear_1.weight.data) is Tensor
    attention = {p for p in quantized(model) if ".attn" in p}
    assert attention and all(isinstance(model.get_submodule(p), bnb.nn.Linear4bit) for p in attention)
    others = quantized(model) - attention
    assert others and all(type(model.get_submodule(p)) is nn.Linear for p in others)
    model.save_pretrained(tmp_path)
    again = UNet2DConditionModel.from_pretrained(tmp_path)
    assert again.quantization == model.quantization
    assert torch.equal(again(*inputs), model(*inputs))


def test_the_whole_model_is_never_there_in_full_precision(package: Package, unet: Path, alive: Alive) -> None:
    """A file in float16 is loaded in float32: each tensor is cast, quantized and let go."""
    package("bitsandbytes")
    with alive:
        plain = UNet2DConditionModel.from_pretrained(unet)
    full = sum(p.nbytes for p in plain.parameters())
    assert alive.peak >= full
    only = read_quantization({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"})
    del plain
    again = Alive()
    with again:
        model = UNet2DConditionModel.from_pretrained(unet, quantization=only)
    rest = sum(p.nbytes for path, p in model.named_parameters() if path.rpartition(".")[0] not in quantized(model))
    floats = sum(4 * m.in_features * m.out_features for m in model.modules() if isinstance(m, nn.Linear))
    largest = max(4 * m.in_features * m.out_features for m in model.modules() if isinstance(m, nn.Linear))
    assert again.peak < rest + 0.25 * floats + 6 * largest < full


def test_a_view_of_a_quantized_model_shares_its_layers(package: Package, unet: Path, inputs: Inputs) -> None:
    package("bitsandbytes")
    model = UNet2DConditionModel.from_pretrained(unet, quantization="nf4")
    before = model(*inputs)

    class Identity(Attention):
        def scaled_dot_product(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, start: int = 0) -> Tensor:
            return v

    path = "mid_block.attentions.0.transformer_blocks.0.attn1"
    seen = view(model, {path: as_class(Identity)})
    assert not torch.equal(seen(*inputs), before)
    assert seen.get_submodule(f"{path}.to_q") is model.get_submodule(f"{path}.to_q")
    assert torch.equal(model(*inputs), before)


@pytest.mark.parametrize("name", ["nf4", "llm_int8", "int8_weight_only", "quanto_int8"])
def test_threads_share_a_quantized_model(name: str, package: Package, unet: Path, inputs: Inputs) -> None:
    """Also the first call of a layer changes nothing: bitsandbytes' own layers keep what they computed."""
    need(package, name)
    latents, time, prompt = inputs
    alone = UNet2DConditionModel.from_pretrained(unet, quantization=name)
    wanted = [alone(latents * k, time, prompt) for k in range(1, 5)]
    model = UNet2DConditionModel.from_pretrained(unet, quantization=name)

    def say(k: int) -> Tensor:
        with torch.no_grad():
            return model(latents * k, time, prompt)

    with ThreadPoolExecutor(4) as pool:
        for said, expected in zip(pool.map(say, [1, 2, 3, 4] * 3), wanted * 3, strict=True):
            assert torch.equal(said, expected)


def test_a_spec_with_a_quantization_is_another_component(package: Package, unet: Path) -> None:
    package("bitsandbytes")
    plain = ComponentSpec(type_hint=("diffusers", "UNet2DConditionModel"), pretrained_model_name_or_path=str(unet))
    four = plain.using(quantization="nf4")
    assert four != plain and four == plain.using(quantization=read_quantization("nf4"))
    assert ComponentSpec.from_json(four.to_json()) == four
    manager = ComponentsManager()
    assert manager.load(four) is manager.load(four)
    assert manager.load(four) is not manager.load(plain)
    assert len(quantized(manager.load(four))) > 50 and not quantized(manager.load(plain))


def test_what_has_no_weights_is_not_quantized() -> None:
    spec = ComponentSpec(
        type_hint=("diffusers", "DDIMScheduler"),
        pretrained_model_name_or_path="emoji",
        quantization="nf4",
    ).using(
        pretrained_model_name_or_path=str(Path(__file__).parents[2] / "presets/embedded/emoji"), subfolder="scheduler"
    )
    with pytest.raises(LoadError, match="a DDIMScheduler has no weights to quantize"):
        ComponentsManager().load(spec)


# -- what is refused


def test_a_package_that_is_missing_is_named_with_its_pip_line(unet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(package: str) -> bool:
        return False

    monkeypatch.setattr("sfumato.components.quantization.method._installed", nothing)
    mixed = MixedQuantization(modules={"a": "nf4"}, default="quanto_int8")
    lines = sorted(missing_packages(mixed))
    assert lines == [
        'BitsAndBytesConfig needs bitsandbytes, which is not installed: pip install "sfumato[bitsandbytes]"',
        'QuantoConfig needs optimum.quanto, which is not installed: pip install "sfumato[quanto]"',
    ]
    spec = ComponentSpec(
        type_hint=("diffusers", "UNet2DConditionModel"),
        pretrained_model_name_or_path=str(unet),
        quantization="int8_weight_only",
    )
    with pytest.raises(LoadError, match=r'needs torchao, which is not installed: pip install "sfumato\[torchao\]"'):
        ComponentsManager().handle(spec).ready()


def test_an_exclusion_that_names_nothing_is_refused(package: Package, unet: Path) -> None:
    package("bitsandbytes")
    config = BitsAndBytesConfig(load_in_4bit=True, modules_to_not_convert=("mid_blok", "attn1"))
    with pytest.raises(ConfigError, match=r"no module named 'mid_blok' \(did you mean 'mid_block'\?\)"):
        UNet2DConditionModel.from_pretrained(unet, quantization=config)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "int4_weight_only",
            r"Int4WeightOnlyConfig computes on CUDA, not on cpu; on the CPU use .*time_embedding.linear_1",
        ),
        (
            "float8_dynamic_activation_float8_weight",
            r"computes on GPUs with float8 \(compute capability 8.9\), not on cpu",
        ),
    ],
)
def test_a_kind_that_the_device_cannot_compute_is_refused(
    name: str, message: str, package: Package, unet: Path
) -> None:
    package("torchao")
    with pytest.raises(ConfigError, match=message):
        UNet2DConditionModel.from_pretrained(unet, quantization=name)


def test_groups_that_do_not_divide_a_row_and_dtypes_that_do_not_fit_are_told(package: Package) -> None:
    package("torchao")
    config = read_quantization("int4_weight_only")
    assert config is not None
    method, layer, cuda = method_for(config), nn.Linear(96, 8), torch.device("cuda")
    assert "needs dtype bfloat16, not torch.float32" in str(method.problem(layer, torch.float32, cuda))
    assert "rows of 96 are no multiple of the group size 128" in str(method.problem(layer, torch.bfloat16, cuda))
    assert method.problem(nn.Linear(256, 8), torch.bfloat16, cuda) is None


def test_torchao_configs_that_there_are_not_are_refused(package: Package, unet: Path) -> None:
    package("torchao")
    with pytest.raises(ConfigError, match="torchao has no config 'Int3WeightOnlyConfig'"):
        UNet2DConditionModel.from_pretrained(
            unet, quantization={"quant_method": "torchao", "quant_type": {"_type": "Int3WeightOnlyConfig"}}
        )


def test_an_object_of_torchao_is_taken_as_a_config(package: Package, unet: Path) -> None:
    api = package("torchao.quantization")
    config = TorchAoConfig(quant_type=api.Int8WeightOnlyConfig())
    assert config.kind == "Int8WeightOnlyConfig"
    assert quantized(UNet2DConditionModel.from_pretrained(unet, quantization=config))


def test_a_model_with_nothing_to_quantize_is_told(package: Package, tmp_path: Path) -> None:
    package("bitsandbytes")
    AutoencoderKL(block_out_channels=(32,), mid_block_add_attention=False).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="AutoencoderKL has no linear layer that"):
        AutoencoderKL.from_pretrained(tmp_path, quantization="nf4")


BROKEN: dict[str, Callable[[dict[str, Tensor], str], object]] = {
    "weight is cut": lambda t, p: t.update({f"{p}.weight": t[f"{p}.weight"][:-1].clone()}),
    "scales are missing": lambda t, p: t.pop(f"{p}.weight.absmax"),
    "too few scales": lambda t, p: t.update({f"{p}.weight.absmax": torch.ones(3)}),
    "another shape": lambda t, p: _state(t, p, shape=[8, 8]),
    "blocks of nothing": lambda t, p: _state(t, p, blocksize=0),
    "no JSON": lambda t, p: t.update({f"{p}.weight.quant_state.bitsandbytes__nf4": torch.zeros(9, dtype=torch.uint8)}),
    "a part that there is not": lambda t, p: t.update({f"{p}.weight.more": torch.ones(3)}),
}


def _state(tensors: dict[str, Tensor], path: str, **changes: Any) -> None:
    name = f"{path}.weight.quant_state.bitsandbytes__nf4"
    state = json.loads(bytes(tensors[name].tolist())) | changes
    tensors[name] = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)


@pytest.mark.parametrize("how", BROKEN)
def test_a_quantized_layer_that_does_not_fit_is_refused_by_name(
    how: str, package: Package, unet: Path, tmp_path: Path
) -> None:
    package("bitsandbytes")
    UNet2DConditionModel.from_pretrained(unet, quantization="nf4").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    path = "time_embedding.linear_1"
    BROKEN[how](tensors, path)
    save_file(tensors, tmp_path / WEIGHTS)
    with pytest.raises(LoadError, match=rf"{WEIGHTS}: {path} cannot be read as bitsandbytes: .*It has: "):
        UNet2DConditionModel.from_pretrained(tmp_path)


def test_quantized_files_without_their_config_are_refused(package: Package, unet: Path, tmp_path: Path) -> None:
    package("bitsandbytes")
    UNet2DConditionModel.from_pretrained(unet, quantization="nf4").save_pretrained(tmp_path)
    shutil.copy(unet / "config.json", tmp_path / "config.json")
    with pytest.raises(LoadError, match=r"unexpected: .*absmax"):
        UNet2DConditionModel.from_pretrained(tmp_path)
