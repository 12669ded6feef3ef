"""What the tests of trained components share: tiny models, short trainings, and the same with diffusers and PEFT."""

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

import torch
from torch import Tensor, nn

import sfumato as sf
from sfumato import Graph
from sfumato.components.training.trained import Trained

TINY_UNET: Mapping[str, Any] = {
    "block_out_channels": [16, 32], "layers_per_block": 1, "norm_num_groups": 4, "cross_attention_dim": 24,
    "attention_head_dim": 2, "sample_size": 8,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
}  # fmt: skip


@dataclass(frozen=True)
class Steps:
    """The losses of some steps of AdamW, and the weights after them."""

    losses: Sequence[float]
    weights: Mapping[str, Tensor]


def preset(**components: Any) -> Graph:
    """A preset of Stable Diffusion with these components."""
    return sf.load("sd", **components)


def unet_inputs(number: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The latents, time, prompt and target of a step."""
    made = torch.Generator().manual_seed(number)
    latents, target = (torch.randn(2, 4, 8, 8, generator=made) for _ in range(2))
    return latents, torch.tensor([number * 37 % 1000] * 2), torch.randn(2, 5, 24, generator=made), target


def unet_loss(model: Callable[..., Any], number: int) -> Tensor:
    """The loss of a step of a U-Net, ours or theirs."""
    latents, time, prompt, target = unet_inputs(number)
    out = model(latents, time, prompt)
    return nn.functional.mse_loss(getattr(out, "sample", out), target)


def optimized(
    model: Callable[..., Any], parameters: Mapping[str, nn.Parameter], count: int,
    *, lr: float = 1e-2, loss: Callable[[Callable[..., Any], int], Tensor] = unet_loss,
) -> Steps:  # fmt: skip
    """Steps of AdamW on a model. Random numbers of dropout are those of torch's generator from seed 0."""
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(parameters.values(), lr=lr)
    losses: list[float] = []
    for number in range(count):
        value = loss(model, number)
        value.backward()  # pyright: ignore[reportUnknownMemberType]  torch's own annotation
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(value.detach()))
    return Steps(losses, {name: parameter.detach().clone() for name, parameter in parameters.items()})


def view_of(trained: Trained, component: str = "unet") -> nn.Module:
    """The view of a component that a recipe binds, loaded."""
    bound = trained.bindings()[component]
    return cast("nn.Module", bound if isinstance(bound, nn.Module) else bound.load())


def trained_steps(trained: Trained, count: int, *, lr: float = 1e-2) -> Steps:
    """Steps on what is trained of the U-Net."""
    named = {name.partition(".")[2]: parameter for name, parameter in trained.named_parameters()}
    return optimized(view_of(trained), named, count, lr=lr)


def fill(trained: Trained, seed: int = 0, size: float = 0.05) -> None:
    """Put random numbers in place of the initial ones, as after some steps."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * size)


def diffusers_unet(weights: nn.Module) -> Any:  # untyped
    """The U-Net of diffusers with the weights of one of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = cast("Any", import_module("diffusers")).UNet2DConditionModel(**TINY_UNET)
    made.load_state_dict(weights.state_dict())
    return made.requires_grad_(False)


PEFT_NAMES: Mapping[str, str] = {
    "lora_A.default.weight": "down", "lora_B.default.weight": "up", "lora_magnitude_vector.default.weight": "magnitude",
    "hada_w1_a.default": "a1", "hada_w1_b.default": "b1", "hada_w2_a.default": "a2", "hada_w2_b.default": "b2",
    "lokr_w1.default": "left", "lokr_w2.default": "right.0", "lokr_w2_a.default": "right.0",
    "lokr_w2_b.default": "right.1",
}  # fmt: skip
"""The ends of the names of PEFT's parameters, and those of ours."""


def in_peft(base: nn.Module, trained: Trained, config: Any) -> tuple[Any, Mapping[str, nn.Parameter]]:
    """The model of diffusers with PEFT's layers, which have the numbers of ours; its parameters by our names."""
    theirs = diffusers_unet(base)
    theirs.add_adapter(config)
    ours = {name.removeprefix("unet."): parameter for name, parameter in trained.named_parameters()}
    found: dict[str, nn.Parameter] = {}
    for name, parameter in theirs.named_parameters():
        if parameter.requires_grad:
            end = next(end for end in PEFT_NAMES if name.endswith(f".{end}"))
            path = name.removesuffix(end) + PEFT_NAMES[end]
            found[path if path in ours else name.removesuffix(end) + f"inner.{PEFT_NAMES[end]}"] = parameter
    assert found.keys() == ours.keys()
    with torch.no_grad():
        for name, parameter in ours.items():
            found[name].copy_(parameter.reshape(found[name].shape))
    return theirs.train(), {name: found[name] for name in ours}


def digest(model: nn.Module) -> str:
    """A hash of all weights, packed ones included."""
    found = hashlib.sha256()
    for name, tensor in sorted({**dict(model.named_parameters()), **dict(model.named_buffers())}.items()):
        for plain in _plain(tensor):
            found.update(name.encode() + plain.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _plain(tensor: Any) -> list[Tensor]:  # packed ones of any library
    """The plain tensors that a packed one is made of."""
    if hasattr(tensor, "__tensor_flatten__"):
        return [plain for name in tensor.__tensor_flatten__()[0] for plain in _plain(getattr(tensor, name))]
    return [tensor]
