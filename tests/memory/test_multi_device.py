"""Models that lie on several devices give the bits of one, whatever of them lies where."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

import sfumato as sf
from sfumato.components.device_map import DeviceMap
from sfumato.components.memory.multi_device import RemoteTensor, as_local, split_view
from sfumato.components.memory.splitting import split_by_paths
from sfumato.components.memory.tensors import blocks_of, own_tensors
from sfumato.components.storage.weights import move
from sfumato.components.taps.apply import apply_taps
from sfumato.components.taps.perturb import Drop, Identity
from sfumato.components.taps.tap import Tap, Taps

from .simulated import ONE, TWO, Move, devices

HOME = torch.device(ONE)


@pytest.fixture(autouse=True)
def moves() -> Iterator[list[Move]]:
    with devices() as found:
        yield found


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


UNET: dict[str, Any] = {
    "block_out_channels": [16, 32], "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"], "cross_attention_dim": 24, "attention_head_dim": 4,
    "norm_num_groups": 8,
}  # fmt: skip
FLUX: dict[str, Any] = {
    "in_channels": 16, "num_layers": 2, "num_single_layers": 3, "attention_head_dim": 16, "num_attention_heads": 2,
    "joint_attention_dim": 24, "pooled_projection_dim": 20, "axes_dims_rope": [4, 6, 6],
}  # fmt: skip
SD3: dict[str, Any] = {
    "sample_size": 16, "patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 3, "attention_head_dim": 8,
    "num_attention_heads": 4, "joint_attention_dim": 24, "caption_projection_dim": 32, "pooled_projection_dim": 20,
    "pos_embed_max_size": 12, "qk_norm": "rms_norm", "dual_attention_layers": [0],
}  # fmt: skip
PIXART: dict[str, Any] = {
    "sample_size": 8, "num_layers": 3, "attention_head_dim": 12, "num_attention_heads": 4, "cross_attention_dim": 48,
    "caption_channels": 32, "use_additional_conditions": False,
}  # fmt: skip
TOWER: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 3, "num_attention_heads": 4,
}  # fmt: skip
TEXT: dict[str, Any] = {
    **TOWER, "max_position_embeddings": 20, "vocab_size": 100, "projection_dim": 16, "bos_token_id": 98,
    "eos_token_id": 99,
}  # fmt: skip
KL: dict[str, Any] = {
    "block_out_channels": [16, 32], "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2, "norm_num_groups": 8,
}  # fmt: skip
UNET_ASKED = {"sample": noise(2, 4, 8, 8), "timestep": torch.tensor([7, 501]), "encoder_hidden_states": noise(2, 5, 24)}
FLUX_ASKED: dict[str, Any] = {
    "hidden_states": noise(2, 12, 16), "encoder_hidden_states": noise(2, 5, 24), "pooled_projections": noise(2, 20),
    "timestep": torch.tensor([0.9, 0.3]), "txt_ids": torch.zeros(5, 3),
    "img_ids": torch.cartesian_prod(torch.zeros(1), torch.arange(3.0), torch.arange(4.0)),
}  # fmt: skip
SD3_ASKED: dict[str, Any] = {
    "hidden_states": noise(2, 4, 8, 10), "encoder_hidden_states": noise(2, 5, 24), "pooled_projections": noise(2, 20),
    "timestep": torch.tensor([900.0, 3.5]),
}  # fmt: skip
PIXART_ASKED: dict[str, Any] = {
    "hidden_states": noise(2, 4, 8, 12), "encoder_hidden_states": noise(2, 7, 32), "timestep": torch.tensor([3.5, 900]),
    "encoder_attention_mask": torch.cat([torch.ones(2, 4), torch.zeros(2, 3)], 1),
}  # fmt: skip
WORDS = torch.randint(3, 90, (2, 9), generator=torch.Generator().manual_seed(0))
MODELS: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "unet": ("UNet2DConditionModel", UNET, "forward", UNET_ASKED),
    "flux": ("FluxTransformer2DModel", FLUX, "forward", FLUX_ASKED),
    "flux, steered": (
        "FluxTransformer2DModel", FLUX, "forward",
        {**FLUX_ASKED, "controlnet_block_samples": [noise(2, 12, 32)],
         "controlnet_single_block_samples": [noise(2, 12, 32)] * 2},
    ),
    "sd3": ("SD3Transformer2DModel", SD3, "forward", SD3_ASKED),
    "sd3, steered": (
        "SD3Transformer2DModel", SD3, "forward", {**SD3_ASKED, "block_controlnet_hidden_states": [noise(2, 20, 32)]},
    ),
    "pixart": ("PixArtTransformer2DModel", PIXART, "forward", PIXART_ASKED),
    "control net": (
        "ControlNetModel",
        {**{k: v for k, v in UNET.items() if k[:2] != "up"}, "conditioning_embedding_out_channels": [8, 8, 8, 8]},
        "forward", {**UNET_ASKED, "controlnet_cond": noise(2, 3, 64, 64)},
    ),
    "flux's control net": (
        "FluxControlNetModel", {**FLUX, "num_single_layers": 1}, "forward",
        {**FLUX_ASKED, "controlnet_cond": noise(2, 12, 16)},
    ),
    "sd3's control net": (
        "SD3ControlNetModel", {**SD3, "num_layers": 2}, "forward", {**SD3_ASKED, "controlnet_cond": noise(2, 4, 8, 10)},
    ),
    "t2i adapter": ("T2IAdapter", {"channels": [16, 32], "num_res_blocks": 2}, "forward", {"x": noise(2, 3, 32, 32)}),
    "vae, decoding": ("AutoencoderKL", KL, "decode", {"z": noise(1, 4, 4, 4)}),
    "vae, encoding": ("AutoencoderKL", KL, "moments", {"x": noise(1, 3, 16, 16)}),
    "clip": ("CLIPTextModelWithProjection", TEXT, "forward", {"input_ids": WORDS, "output_hidden_states": True}),
    "t5": (
        "T5EncoderModel", {"vocab_size": 100, "d_model": 32, "d_kv": 8, "d_ff": 37, "num_layers": 3, "num_heads": 4},
        "forward", {"input_ids": WORDS, "attention_mask": torch.cat([torch.ones(2, 6), torch.zeros(2, 3)], 1)},
    ),
    "clip's eye": (
        "CLIPVisionModelWithProjection", {**TOWER, "image_size": 32, "patch_size": 8, "projection_dim": 16}, "forward",
        {"pixel_values": noise(2, 3, 32, 32)},
    ),
}  # fmt: skip


def made(name: str) -> tuple[nn.Module, Callable[[nn.Module], list[Tensor]]]:
    """A seeded model whose weights all matter, and a question to it, whose answer is told as tensors of the CPU."""
    kind, config, way, asked = MODELS[name]
    generator = torch.Generator().manual_seed(0)
    model: nn.Module = getattr(sf.models, kind).from_config(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.15)

    def ask(model: nn.Module) -> list[Tensor]:
        given = tree_map_only(Tensor, lambda t: t.to(ONE), asked)
        found = tensors_in(getattr(model, way)(**given))
        assert {t.device for t in found} == {HOME}
        return [t.to("cpu") for t in found]

    return model, ask


def tensors_in(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        assert type(value).__name__ == "There", "answers are plain tensors"
        return [value]
    inside = vars(value).values() if hasattr(value, "__dataclass_fields__") else value
    return [t for one in inside if not isinstance(one, bool | None) for t in tensors_in(one)]


def cut_into(model: nn.Module, paths: list[str]) -> DeviceMap:
    """Every second one of these modules on the second device."""
    places = {"": ONE, **dict.fromkeys(paths[1::2], TWO), **dict.fromkeys(paths[::2], ONE)}
    cut = split_by_paths("model", model, places, torch.float32)
    assert isinstance(cut, DeviceMap)
    return cut


def by_block(model: nn.Module) -> list[str]:
    paths = {id(module): path for path, module in model.named_modules()}
    return [paths[id(block)] for block in blocks_of(model, lambda m: sum(p.numel() for p in m.parameters()))]


def by_layer(model: nn.Module) -> list[str]:
    return [path for path, module in model.named_modules() if path and next(own_tensors(module), None) is not None]


@pytest.mark.parametrize("parts", [by_block, by_layer])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_on_two_devices_gives_the_bits_of_one(name: str, parts: Callable[[nn.Module], list[str]]) -> None:
    model, ask = made(name)
    whole = copy.deepcopy(model)
    move(whole, lambda path: ONE)
    cut = cut_into(model, parts(model))
    move(model, cut.device_of)
    view = split_view(model, cut)
    assert {str(p.device) for p in model.parameters()} == {ONE, TWO}
    answers = ask(whole)
    assert all(torch.equal(a, b) for a, b in zip(ask(view), answers, strict=True))
    assert all(t.abs().max() > 0 for t in answers)
    if parts is by_block:
        with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
            ask(model)  # the model itself knows nothing of it


def test_modules_that_pop_from_a_list_which_others_fill() -> None:
    model, ask = made("unet")
    whole = copy.deepcopy(model)
    move(whole, lambda path: ONE)
    cut = split_by_paths("unet", model, {"": ONE, "down_blocks.1": TWO, "up_blocks.1": TWO}, torch.float32)
    assert isinstance(cut, DeviceMap)
    move(model, cut.device_of)
    assert all(torch.equal(a, b) for a, b in zip(ask(split_view(model, cut)), ask(whole), strict=True))


@pytest.mark.parametrize("change", [Identity(), Drop(), Drop(dropout=0.4)], ids=str)
def test_views_of_a_split_model_keep_its_devices(change: Any) -> None:
    model, _ = made("unet")
    whole = copy.deepcopy(model)
    move(whole, lambda path: ONE)
    cut = cut_into(model, by_block(model))
    move(model, cut.device_of)
    taps = Taps((Tap(change),))
    asked = {name: t.to(ONE) for name, t in UNET_ASKED.items()}
    answers = [apply_taps(m, taps, (8, 8))(**asked).to("cpu") for m in (split_view(model, cut), whole)]
    assert torch.equal(*answers)
    assert not torch.equal(answers[0], whole(**asked).to("cpu"))


def test_a_split_view_keeps_its_class_and_reports_the_main_device() -> None:
    model, _ = made("unet")
    before = [type(module) for module in model.modules()]
    cut = cut_into(model, by_block(model))
    move(model, cut.device_of)
    view: Any = split_view(model, cut)
    assert isinstance(view, type(model)) and type(view).__name__ == type(model).__name__
    assert view.device == HOME and view.to_config() == model.to_config()  # type: ignore[operator]  # a Model
    assert [name for name, _ in view.named_parameters()] == [name for name, _ in model.named_parameters()]
    view(**{name: t.to(ONE) for name, t in UNET_ASKED.items()})
    assert [type(module) for module in model.modules()] == before
    assert not any(isinstance(p, RemoteTensor) for p in model.parameters())


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2), requires_grad=False)
        self.inner = nn.ModuleList([nn.Identity()])  # it has modules, so its weights are its own affair

    def forward(self, x: Tensor, stack: list[Tensor]) -> Tensor:
        stack.append(x)
        return x * self.weight


class Chain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Layer() for _ in range(5)])

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        stack: list[Tensor] = []
        for layer in self.layers:
            x = layer(x, stack)
        return x, stack


def test_nothing_is_copied_between_two_modules_on_one_device(moves: list[Move]) -> None:
    model = Chain()
    cut = split_by_paths("chain", model, {"layers": TWO, "layers.0": ONE, "layers.4": ONE}, torch.float32)
    assert isinstance(cut, DeviceMap)
    move(model, cut.device_of)
    view, x = split_view(model, cut), torch.ones(2).to(ONE)
    moves.clear()
    _, stack = view(x)
    assert [move[:2] for move in moves[:2]] == [(ONE, TWO), (TWO, ONE)]
    assert len(stack) == 5 and {t.device for t in stack} == {HOME}  # what modules put on a list, too
    assert len(moves) == 2 + 3  # the three that were put there on the second device come with the answer


def test_remote_tensors_are_read_on_the_device_of_the_arguments_and_written_where_they_are_stored() -> None:
    there = torch.arange(4.0).to(TWO)
    x, y = as_local(there, HOME), torch.full((4,), 10.0).to(ONE)
    assert isinstance(x, RemoteTensor) and x.device == HOME
    assert isinstance(x * 2, RemoteTensor) and isinstance(torch.cat([x, x[:1]]), RemoteTensor)  # all of it is there
    total = x + y
    assert type(total).__name__ == "There" and total.to("cpu").tolist() == [10, 11, 12, 13]
    first = x[:2]
    first += y[:2]
    assert there.to("cpu").tolist() == [10, 11, 2, 3]  # a part of it, as a part of any tensor
    x.mul_(torch.ones(4).to(ONE))  # what is written into stays where it is, wherever the rest lies
    x += y
    assert there.to("cpu").tolist() == [20, 21, 12, 13]
    x -= y
    y.add_(x)
    assert y.to("cpu").tolist() == [20, 21, 12, 13]
    assert type(x.to("cpu")) is Tensor and torch.zeros_like(x, device="cpu").device.type == "cpu"
    assert type(copy.deepcopy(x)).__name__ == "There"


def test_gradients_flow_through_tensors_copied_to_the_main_device() -> None:
    with torch.enable_grad():
        x = torch.ones(2, requires_grad=True)
        assert as_local(x * 2, torch.device("meta")).device.type == "meta" and as_local(x, x.device) is x
