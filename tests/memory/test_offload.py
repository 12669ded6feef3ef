"""Models whose weights come as they are asked for: the same numbers, in less memory, for every way in."""

import copy
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sfumato as sf
from sfumato.components.manager import ComponentsManager
from sfumato.components.memory.offload import Offload, prepare_weights, streaming_bytes, view_for
from sfumato.components.memory.offloaded import OffloadedTensor, WeightStream
from sfumato.components.memory.tensors import blocks_of, parts_of, tensors_of, total_bytes
from sfumato.components.models.autoencoder_kl import AutoencoderKL
from sfumato.components.models.clip import CLIPTextModel
from sfumato.components.models.unet_2d_condition import UNet2DConditionModel
from sfumato.components.taps.apply import apply_taps
from sfumato.components.taps.perturb import Identity
from sfumato.components.taps.tap import Tap, Taps
from sfumato.graph.events import TurnFinished

from .conftest import EMBEDDED, GPU, Simulated, draw

CPU = torch.device("cpu")
WAYS = [
    Offload("leaves"),
    Offload("blocks"),
    Offload("blocks", blocks=3),
    Offload("blocks", prefetch=True),
    Offload("blocks", blocks=2, prefetch=True),
]


class Counted:
    """Carries copies and knows what of them is alive, so that a test measures what a device would hold."""

    def __init__(self) -> None:
        self.alive: list[tuple[weakref.ref[Tensor], int]] = []
        self.peak = self.carried = 0

    def __call__(self, tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
        made = torch.empty_like(tensor, device=device, dtype=dtype).copy_(tensor)
        self.alive = [(ref, size) for ref, size in self.alive if ref() is not None] + [(weakref.ref(made), made.nbytes)]
        self.carried += made.nbytes
        self.peak = max(self.peak, self.held)
        return made

    @property
    def held(self) -> int:
        return sum(size for ref, size in self.alive if ref() is not None)


def seen(model: nn.Module, way: Offload, carry: Counted | None = None) -> tuple[Any, WeightStream]:
    """A view of a model, and its stream."""
    stream = WeightStream(CPU, count=way.blocks, prefetch=way.prefetch, copy=carry or Counted())
    return view_for(model, way, stream, "float32"), stream


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    return UNet2DConditionModel.from_pretrained(EMBEDDED / "unet", dtype=torch.float32)


@pytest.fixture(scope="module")
def inputs(unet: UNet2DConditionModel) -> tuple[Tensor, float, Tensor]:
    generator = torch.Generator().manual_seed(0)
    width = unet.config.cross_attention_dim
    assert isinstance(width, int)
    return torch.randn(2, 8, 8, 8, generator=generator), 300.0, torch.randn(2, 16, width, generator=generator)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_streamed_unet_gives_the_same_bits_and_stays_below_its_estimate(
    unet: UNet2DConditionModel, inputs: tuple[Tensor, float, Tensor], way: Offload
) -> None:
    carry = Counted()
    view, stream = seen(unet, way, carry)
    for _ in range(3):  # from the second on the order of groups is known
        assert torch.equal(view(*inputs), unet(*inputs))
    assert 0 < carry.peak <= streaming_bytes(unet, way, "float32") < total_bytes([parts_of(unet)])
    stream.clear()
    assert carry.held == 0
    whole = total_bytes([parts_of(unet)])
    # each weight once a pass; at the end of the last, what the next one would begin with
    assert 3 * whole <= carry.carried <= 3 * whole + streaming_bytes(unet, way, "float32")


def test_every_method_works_and_the_view_reports_its_device() -> None:
    vae = AutoencoderKL.from_pretrained(EMBEDDED / "vae", dtype=torch.float32)
    text = CLIPTextModel.from_pretrained(EMBEDDED / "text_encoder", dtype=torch.float32)
    z = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    for way in WAYS:
        view, _ = seen(vae, way)
        pixels = view.decode(z)
        assert torch.equal(pixels, vae.decode(z))
        assert torch.equal(view.encode(pixels).mean, vae.encode(pixels).mean)
        ids = torch.arange(12)[None]
        tower, _ = seen(text, way)  # its forward reads a weight of a child, past the child's own forward
        assert torch.equal(tower(ids).last_hidden_state, text(ids).last_hidden_state)
        assert (view.device, view.dtype, view.space, view.config) == (vae.device, vae.dtype, vae.space, vae.config)
        assert type(view) is AutoencoderKL and [n for n, _ in view.named_parameters()] == [
            n for n, _ in vae.named_parameters()
        ]


def test_an_offloaded_model_reports_the_device_and_not_where_it_is_stored() -> None:
    model = nn.Linear(3, 2).half().requires_grad_(False)
    view = view_for(model, Offload("leaves"), WeightStream(torch.device("meta")), "float16")
    assert {p.device.type for p in view.parameters()} == {"meta"}
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    assert view(torch.ones(1, 3, device="meta", dtype=torch.float16)).device.type == "meta"


def test_the_model_itself_is_not_changed(unet: UNet2DConditionModel, inputs: tuple[Tensor, float, Tensor]) -> None:
    before = {name: (id(p), p.data_ptr()) for name, p in unet.named_parameters()}
    view, _ = seen(unet, Offload("blocks", prefetch=True))
    view(*inputs)
    assert {name: (id(p), p.data_ptr()) for name, p in unet.named_parameters()} == before
    assert not any(isinstance(t, OffloadedTensor) for t in tensors_of(unet))


def test_views_of_the_view_compose(unet: UNet2DConditionModel, inputs: tuple[Tensor, float, Tensor]) -> None:
    taps = Taps((Tap(Identity()),))
    for way in WAYS:
        view, _ = seen(unet, way)
        assert torch.equal(apply_taps(view, taps, (8, 8))(*inputs), apply_taps(unet, taps, (8, 8))(*inputs))


def test_threads_share_one_view(unet: UNet2DConditionModel, inputs: tuple[Tensor, float, Tensor]) -> None:
    view, _ = seen(unet, Offload("blocks", prefetch=True))
    x, _, context = inputs
    times = [float(t) for t in range(0, 800, 100)]
    wanted = [unet(x, t, context) for t in times]
    gate = threading.Barrier(4)

    def work(i: int) -> bool:
        with torch.no_grad():
            if i < 4:
                gate.wait(20)
            return torch.equal(view(x, times[i], context), wanted[i])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(8)))


def test_the_group_that_followed_in_the_last_pass_is_prefetched() -> None:
    layers = nn.ModuleList(nn.Linear(4, 4, bias=False) for _ in range(4)).requires_grad_(False)
    order: list[int] = []

    def carry(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
        order.append(next(i for i, layer in enumerate(layers) if layer.weight is tensor))
        return tensor.clone()

    stream = WeightStream(CPU, prefetch=True, copy=carry)
    view = view_for(nn.Sequential(layers), Offload("blocks", prefetch=True), stream, "float32")

    def run(seen: nn.Module) -> list[int]:
        order.clear()
        x = torch.ones(1, 4)
        for layer in next(seen.children()).children():
            x = layer(x)
        return list(order)

    assert run(view) == [0, 1, 2, 3]
    assert run(view) == [0, 1, 2, 3, 0]  # at the end of a pass comes what the next begins with
    assert run(view) == [1, 2, 3, 0]
    pairs = view_for(nn.Sequential(layers), Offload("blocks"), WeightStream(CPU, count=2, copy=carry), "float32")
    assert run(pairs) == [0, 1, 2, 3]
    assert run(pairs) == [0, 1, 2, 3]


def test_large_blocks_are_split_into_blocks() -> None:
    def stage(*widths: int) -> nn.Module:
        return nn.ModuleDict({"layers": nn.ModuleList(nn.Linear(w, w, bias=False) for w in widths)})

    model = nn.ModuleDict({"stages": nn.ModuleList([stage(2, 2), stage(20, 20, 20), stage(3)])})
    found = list(blocks_of(model, lambda m: sum(p.numel() for p in m.parameters())))
    assert [sum(p.numel() for p in block.parameters()) for block in found] == [8, 400, 400, 400, 9]


def test_an_offloaded_weight_is_read_only_and_its_copy_is_plain() -> None:
    view, _ = seen(nn.Linear(3, 2).requires_grad_(False), Offload("leaves"))
    with pytest.raises(TypeError, match=r"would change a weight of an offloaded model, which is read-only\."):
        view.weight.mul_(2)
    plain = copy.deepcopy(view).double()  # what an autoencoder that overflows in half precision is run as
    assert type(plain.weight) is not OffloadedTensor and plain.weight.dtype == torch.float64
    assert torch.equal(plain.weight.float(), view.weight + 0)


def test_tied_weights_are_copied_once() -> None:
    model = nn.ModuleDict({"a": nn.Linear(3, 3, bias=False), "b": nn.Linear(3, 3, bias=False)}).requires_grad_(False)
    model["b"].weight = model["a"].weight
    view, _ = seen(model, Offload("leaves"))
    assert view["a"].weight is view["b"].weight


# ---------------------------------------------------------------------------------------------------- narrower storage
@pytest.mark.parametrize("way", ["model", "blocks", "leaves"])
def test_weights_kept_in_float8_change_results_by_their_rounding_and_no_more(
    unet: UNet2DConditionModel, inputs: tuple[Tensor, float, Tensor], way: Any
) -> None:
    rule = Offload(way, storage="float8_e4m3fn")
    mine = copy.deepcopy(unet)
    prepare_weights(mine, rule, "cpu")
    assert total_bytes([parts_of(mine)]) < 0.27 * total_bytes([parts_of(unet)])
    view, _ = seen(mine, rule)
    assert view.dtype == torch.float32
    rounded = copy.deepcopy(unet)
    for module in rounded.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.weight = nn.Parameter(module.weight.to(torch.float8_e4m3fn).float(), requires_grad=False)
    got, wanted = view(*inputs), unet(*inputs)
    assert torch.equal(got, rounded(*inputs))
    assert 0 < (got - wanted).norm() / wanted.norm() < 0.05  # 3 bits of mantissa


def test_norms_biases_and_embeddings_keep_their_dtype() -> None:
    text = CLIPTextModel.from_pretrained(EMBEDDED / "text_encoder", dtype=torch.float32)
    prepare_weights(text, Offload(storage="float8_e4m3fn"), "cpu")
    kept = {name for name, p in text.named_parameters() if p.dtype == torch.float8_e4m3fn}
    assert kept and all(name.endswith(".weight") and "norm" not in name and "embedding" not in name for name in kept)


def test_quantized_tensors_are_moved_as_a_whole_or_not_at_all() -> None:
    class Packed(Tensor):
        pass

    model = nn.Linear(2, 2)
    packed: Any = torch.ones(2, 2).as_subclass(Packed)  # Any: torch says that only parameters lie there
    model._parameters["weight"] = packed
    with pytest.raises(sf.ConfigError, match=r"Linear: \.?weight is a Packed, which cannot be stored in another way"):
        prepare_weights(model, Offload("leaves"), "cpu")


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"by": "group"}, "by: needs 'model', 'blocks' or 'leaves'\\. Got 'group'"),
        ({"by": "blocks", "blocks": 0}, "blocks: needs 1 or more\\. Got 0"),
        ({"prefetch": True}, "prefetch: needs by='blocks', since it copies the next blocks\\. Got by='model'"),
        (
            {"storage": "int8"},
            "storage: needs a floating dtype of torch such as 'float8_e4m3fn' or 'bfloat16'\\. Got 'int8'",
        ),
        ({"storage": "fp9"}, "Got 'fp9'"),
    ],
)
def test_invalid_offload_settings_are_refused(settings: Any, text: str) -> None:
    with pytest.raises(sf.ConfigError, match=text):
        ComponentsManager().offload("unet", **settings)


# ---------------------------------------------------------------------------------------------------- through a manager
@pytest.mark.parametrize("way", ["blocks", "leaves"])
def test_pictures_are_the_same_and_the_device_holds_a_fraction(
    five: list[Path], pictures: list[Tensor], simulated: Simulated, way: Any
) -> None:
    manager = ComponentsManager({"cuda": "4MB"}, device="cuda", mover=simulated)
    manager.offload("*", by=way)
    for folder, picture in zip(five[:2], pictures, strict=False):
        assert torch.equal(draw(sf.load(folder, manager=manager)), picture)
    assert 0 < simulated.peak[GPU] <= 4_000_000 < 10_000_000 < manager.bytes
    assert {row.where for row in manager.summary() if row.bytes} == {"cpu"}


def test_each_run_has_its_own_copies_of_a_streamed_component_and_frees_them(
    five: list[Path], simulated: Simulated
) -> None:
    model = UNet2DConditionModel.from_pretrained(five[0] / "unet", dtype=torch.float32)
    part = streaming_bytes(model, Offload("blocks"), "float32")
    manager = ComponentsManager({"cuda": part * 3 // 2}, device="cuda", mover=simulated)
    manager.offload("unet", by="blocks")
    manager.offload("text_encoder|vae", by="leaves")
    handle: Any = sf.load(five[0], manager=manager).bindings["unet"]
    draw(sf.load(five[0], manager=manager))
    assert [where for copy_, where, _ in simulated._copies if copy_() is not None] == []
    with (
        manager.lease([handle], owner="first"),
        pytest.raises(sf.LoadError, match="memory for first"),
        manager.lease([handle], owner="second"),
    ):
        pass


def test_offload_applies_to_loaded_and_to_later_components(five: list[Path], pictures: list[Tensor]) -> None:
    manager = ComponentsManager()
    pipes = [sf.load(folder, manager=manager) for folder in five[:2]]
    assert torch.equal(draw(pipes[0]), pictures[0])
    manager.offload("unet", storage="float8_e4m3fn")
    changed = [draw(pipe) for pipe in pipes]
    for picture, before in zip(changed, pictures, strict=False):
        assert 0 < (picture - before).abs().mean() < 0.2
    assert {r.dtype for r in manager.summary() if r.name == "unet"} == {"float32 kept in float8_e4m3fn"}
    run = pipes[0].stream(prompt="a fish", num_inference_steps=2)
    next(event for event in run if isinstance(event, TurnFinished))
    with pytest.raises(sf.ConfigError, match=r"unet is in use by sd\.text2image:denoise\. Change it when that run has"):
        manager.offload("unet", by="model")
    run.close()
    manager.offload("unet", by="model")
    assert torch.equal(draw(pipes[0]), pictures[0])


def test_an_added_object_is_streamed_but_not_stored_in_another_dtype(unet: UNet2DConditionModel) -> None:
    manager = ComponentsManager()
    handle = manager.add("mine", unet)
    manager.offload("mine", by="leaves")
    assert any(isinstance(p, OffloadedTensor) for p in handle.load().parameters())
    with pytest.raises(sf.ConfigError, match=r"mine was added by hand, so its weights cannot be stored in another"):
        manager.offload("mine", storage="float8_e4m3fn")
    manager.offload("mine", by="model")
    assert handle.load() is unet
