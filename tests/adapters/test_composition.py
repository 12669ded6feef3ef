"""Adapters of every kind on models stored and placed in every way, under every guidance: as a dense merged model.

The default run has each pair of two axes at least once. `SFUMATO_EVERY=1 pytest tests/adapters/test_composition.py` is
the whole product.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache
from importlib import import_module
from itertools import combinations, product
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import sfumato as sf
from sfumato import Adapter, ConfigError, Graph
from sfumato.blocks.control.controlnet import ApplyControlNet
from sfumato.blocks.control.image_prompt import ImagePrompt
from sfumato.blocks.control.taps import ApplyTap
from sfumato.components.adapters.reading import adapter_of
from sfumato.components.models.unet_2d_condition import UNet2DConditionModel
from sfumato.components.quantization.gguf.layers import packed_in

from ..memory.conftest import Simulated
from ..memory.simulated import ONE, TWO, devices
from ..quantization.test_gguf_models import pack_with, write_folder

EVERY = bool(os.environ.get("SFUMATO_EVERY"))
CONFIG: Mapping[str, Any] = {
    "in_channels": 8, "out_channels": 8, "sample_size": 8, "block_out_channels": [32, 64], "layers_per_block": 1,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "norm_num_groups": 8, "attention_head_dim": 4,
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"], "cross_attention_dim": 128,
}  # fmt: skip
LINEAR = ("to_q", "to_v", "ff.net.2")
CONV = ("conv1", "conv_in")


# ------------------------------------------------------------------------------------------------------- the axes
Tensors = dict[str, Tensor]


def drawn(*shape: int, size: float = 0.3) -> Tensor:
    return torch.randn(shape) * size


def lora(weight: Tensor) -> Tensors:
    out, *inner = weight.shape
    return {"lora_down.weight": drawn(3, *inner), "lora_up.weight": drawn(out, 3, *[1] * (len(inner) - 1))}


def loha(weight: Tensor) -> Tensors:
    out, inner = len(weight), weight[0].numel()
    halves = {f"hada_w{i}_a": drawn(out, 2) for i in (1, 2)} | {f"hada_w{i}_b": drawn(2, inner) for i in (1, 2)}
    return {**halves, "alpha": torch.tensor(2.0)}


def lokr(weight: Tensor) -> Tensors:
    out, inner, *kernel = weight.shape
    return {"lokr_w1": drawn(4, 4), "lokr_w2": drawn(out // 4, inner // 4, *kernel)}


KINDS: Mapping[str, Callable[[Tensor], Tensors]] = {
    "LoRA": lora,
    "LoCon": lora,
    "DoRA": lambda w: {**lora(w), "dora_scale": 1 + drawn(len(w), *[1] * (w.ndim - 1))},
    "LoHa": loha,
    "LoKr": lokr,
    "OFT": lambda w: {"oft_blocks": drawn(len(w) // 8, 8, 8), "alpha": torch.tensor(0.0)},
    "IA3": lambda w: {"weight": drawn(len(w)), "on_input": torch.tensor(False)},
    "full": lambda w: {"diff": drawn(*w.shape, size=0.1), "diff_b": drawn(len(w), size=0.1)},
}
STORAGES = ("float32", "bfloat16", "Q4_0", "Q8_0", "nf4", "llm_int8", "int8_weight_only", "float8")
PLACES = ("whole", "blocks", "leaves", "two devices")
GUIDANCE = ("CFG", "PAG", "control net", "tap", "image prompt")
AXES = (tuple(KINDS), STORAGES, PLACES, GUIDANCE)
NARROW = ("nf4", "llm_int8", "int8_weight_only")
REFUSED: Mapping[tuple[str, str], str] = {
    **dict.fromkeys(product(NARROW, ("blocks", "leaves")), "Quantized components are moved as a whole"),
    **dict.fromkeys(product((*NARROW, "Q4_0", "Q8_0"), ("two devices",)), "which is read as a whole, so it needs one"),
    ("float8", "two devices"): "by its device_map, so it cannot be kept",
}
"""Storages that a manager does not stream or split, with adapters or without, and its error."""


def pairwise_cover(axes: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """Rows that have each pair of values of two axes at least once. The row with the most new pairs is next."""
    rows = list(product(*axes))
    open_pairs = {pair for row in rows for pair in combinations(enumerate(row), 2)}
    chosen: list[tuple[str, ...]] = []
    while open_pairs:
        best = max(rows, key=lambda row: sum(pair in open_pairs for pair in combinations(enumerate(row), 2)))
        open_pairs -= {*combinations(enumerate(best), 2)}
        chosen.append(best)
    return chosen


# ------------------------------------------------------------------------------------------------------- the models
class Parts(NamedTuple):
    """Files that all combinations share."""

    folder: Path
    adapters: Mapping[str, Adapter]


@pytest.fixture(autouse=True, scope="module")
def every_device() -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]  a fixture
    """Simulated devices are accepted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sfumato.components.memory.mover.check_device", str)  # any function that refuses nothing
        yield


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """A folder with the tiny U-Net by storage, and an adapter of each kind."""
    folder = tmp_path_factory.mktemp("storages")
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(**CONFIG)
        unet.save_pretrained(folder / "plain")
        for kind in ("Q4_0", "Q8_0"):
            write_folder(unet, folder / kind, pack_with(pytest.importorskip("gguf"), kind))
        return Parts(folder, {name: adapter(name, make, unet) for name, make in KINDS.items()})


def adapter(kind: str, make: Callable[[Tensor], Tensors], unet: nn.Module) -> Adapter:
    """An adapter of one kind for a few layers of each type."""
    ends = LINEAR if kind == "LoRA" else (*LINEAR, *CONV)
    layers = [(name, layer) for name, layer in unet.named_modules() if name.endswith(ends)]
    tensors = {f"unet.{path}.{end}": t for path, layer in layers for end, t in made_for(kind, make, layer).items()}
    return adapter_of(tensors.items(), name=kind, source="made here")


def made_for(kind: str, make: Callable[[Tensor], Tensors], layer: Any) -> Tensors:
    made = make(layer.weight)
    if layer.bias is None:
        made.pop("diff_b", None)
    return {} if kind == "LoKr" and layer.weight.shape[1] % 4 else made


@cache
def loaded(folder: Path, storage: str, placement: str) -> Graph:
    """The embedded pipeline with the tiny U-Net, stored and placed in these ways."""
    streams = placement in ("blocks", "leaves")
    manager = sf.ComponentsManager(
        device="cuda" if streams else ONE if placement == "two devices" else "cpu",
        mover=Simulated() if streams else None,
    )
    if streams or storage == "float8":
        kept = "float8_e4m3fn" if storage == "float8" else None
        manager.offload("unet", by=placement if streams else "model", storage=kept)
    return sf.load(
        "emoji", manager=manager, dtype={"unet": "bfloat16"} if storage == "bfloat16" else None,
        unet=str(folder / (storage if storage[0] == "Q" else "plain")),
        quantization={"unet": storage} if storage in NARROW else None,
        device_map={"unet": {"": ONE, "up_blocks": TWO}} if placement == "two devices" else None,
    ).only("latents")  # fmt: skip


def dense(model: nn.Module, storage: str) -> UNet2DConditionModel:
    """A float32 model with the numbers that a stored one means, decoded by the library that packed them."""
    plain = UNet2DConditionModel(**CONFIG).requires_grad_(False).eval()
    packed = packed_in(model)
    own = dict(model.named_parameters())
    for name, tensor in plain.named_parameters():
        path = name.removesuffix(".weight")
        if path in packed and name.endswith(".weight"):
            tensor.copy_(packed[path].dequantize())
        else:
            tensor.copy_(decoded(own[name], storage).reshape(tensor.shape))
    return plain


def decoded(parameter: Any, storage: str) -> Tensor:
    """The numbers of a parameter in float32."""
    if getattr(parameter, "quant_state", None) is not None:
        functional: Any = import_module("bitsandbytes.functional")
        return functional.dequantize_4bit(parameter.data, parameter.quant_state).float()
    if type(parameter).__name__ == "Int8Params":
        return parameter.CB.float() * parameter.SCB[:, None] / 127
    if hasattr(parameter, "dequantize") and storage == "int8_weight_only" and type(parameter.data) is not Tensor:
        return parameter.dequantize().float()
    return parameter.detach().float()


def merge(model: nn.Module, adapter: Adapter) -> nn.Module:
    """The patches added to a dense model, each by its own formula."""
    for named in adapter.patches:
        layer: Any = model.get_submodule(named.body.removeprefix("unet."))
        layer.weight.data += named.patch.difference(layer.weight.detach())
        if named.patch.bias is not None:
            layer.bias.data += named.patch.bias
    return model


@cache
def conditioning() -> Mapping[str, Any]:
    """The encoded prompts, so that no text encoder runs."""
    with torch.no_grad():
        made = sf.load("emoji").only("positive", "negative")(prompt="a fish")
    return {"positive": made.positive, "negative": made.negative}


def controlled(pipe: Graph) -> Graph:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = {k: v for k, v in CONFIG.items() if k[:2] != "up" and k not in ("out_channels", "sample_size")}
        net = sf.models.ControlNetModel(**config, conditioning_embedding_out_channels=[8, 8, 8, 8])
        for parameter in net.parameters():
            parameter.data = torch.randn(parameter.shape) * 0.1
    return pipe.insert("control", ApplyControlNet(), before="denoise.guider").bind(controlnet=net.eval())


@cache
def image_adapter() -> Any:  # an ImagePromptAdapter
    """A random IP-Adapter for the tiny U-Net, which reads ready-made features of 16 numbers."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        unet = UNet2DConditionModel(**CONFIG)
        reading: list[Any] = [unet.get_submodule(path) for path in unet.numbered_attention()[1::2]]
        channels = [layer.to_q.out_features for layer in reading]
        return sf.models.ImagePromptAdapter(image_width=16, token_width=128, channels=channels).requires_grad_(False)


def latents(pipe: Graph, guidance: str, **more: Any) -> Tensor:
    call: dict[str, Any] = {**conditioning(), "seed": 3, "num_inference_steps": 1, "height": 64, "width": 64, **more}
    if guidance == "PAG":
        call["guider"] = sf.guiders.PerturbedAttentionGuidance()
    if guidance == "control net":
        pipe = controlled(pipe)
        call["control_image"] = torch.linspace(0, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)
    if guidance == "tap":
        pipe = pipe.insert("freeu", ApplyTap(change=sf.taps.FreeU(b1=1.5, b2=1.6)), before="denoise.guider")
    if guidance == "image prompt":
        pipe = pipe.insert("image", ImagePrompt(), before="denoise.guider").bind(ip_adapter=image_adapter())
        call["ip_adapter_image_embeds"] = torch.linspace(-2, 2, 16)[None]
    with torch.no_grad():
        return pipe(**call).latents.to("cpu").float()


@pytest.fixture(scope="module")
def reference(parts: Parts) -> Callable[[str, str, str | None], Tensor]:
    """What the dense model of a storage gives, with an adapter merged into it or without one."""

    @cache
    def given(storage: str, guidance: str, kind: str | None) -> Tensor:
        model = dense(loaded(parts.folder, storage, "whole").bindings["unet"].load(), storage)
        merged = merge(model, parts.adapters[kind]) if kind else model
        return latents(sf.load("emoji").only("latents").bind(unet=merged), guidance)

    return given


@pytest.mark.parametrize("row", list(product(*AXES)) if EVERY else pairwise_cover(AXES), ids=", ".join)
def test_an_adapter_gives_what_a_dense_merged_model_gives(
    row: tuple[str, ...], parts: Parts, reference: Callable[[str, str, str | None], Tensor]
) -> None:
    """Within the error that the storage has without an adapter, and 1e-5 of the range of the latents."""
    kind, storage, placement, guidance = row
    with ExitStack() as machine:
        if placement == "two devices":
            machine.enter_context(devices())
        if (text := REFUSED.get((storage, placement))) is not None:
            with pytest.raises(ConfigError, match=text):
                latents(loaded(parts.folder, storage, placement), guidance)
            return
        pipe = loaded(parts.folder, storage, placement)
        plain, ours = latents(pipe, guidance), latents(pipe, guidance, adapters=[parts.adapters[kind]])
    base, merged = (reference(storage, guidance, used) for used in (None, kind))
    own, error, effect = ((a - b).abs().max().item() for a, b in ((plain, base), (ours, merged), (merged, base)))
    assert error <= 3 * own + 1e-5 * merged.abs().max()
    assert error < effect / 4


def test_threads_with_other_guidance_and_adapters_are_bit_for_bit_the_serial_runs(parts: Parts) -> None:
    pipe = loaded(parts.folder, "float32", "whole")
    jobs = [(guidance, parts.adapters[kind]) for guidance, kind in zip(GUIDANCE * 2, KINDS, strict=False)]

    def drawn_with(job: tuple[str, Adapter]) -> Tensor:
        guidance, one = job
        return latents(pipe, guidance, adapters=[one], num_inference_steps=2)

    serial = [drawn_with(job) for job in jobs]
    with ThreadPoolExecutor(4) as pool:
        assert all(map(torch.equal, pool.map(drawn_with, jobs), serial))
    assert len({float(made.sum()) for made in serial}) == len(jobs)
