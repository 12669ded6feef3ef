"""What is trained, divided over processes: FSDP of torch, by a config of accelerate.

Each process has a part of the weights, of their gradients and of the optimizer. They are whole within `whole_weights`,
in checkpoints and in saved files. Models that are not trained are whole in each process.
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ...components.training.trained import Trained
from ...graph import ConfigError

T = TypeVar("T", Tensor, Tensor | None)

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch.distributed.tensor import DTensor


_FSDP_CONFIG = """
  distributed_type: FSDP
  fsdp_config:
    fsdp_version: 2
    fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP
    fsdp_transformer_layer_cls_to_wrap: FluxTransformerBlock,FluxSingleTransformerBlock  # those of the model
    fsdp_reshard_after_forward: true  # as ZeRO stage 3; false: as stage 2"""


def is_sharded(accelerator: "Accelerator") -> bool:
    """Whether each process has a part of what is trained."""
    return accelerator.distributed_type.value == "FSDP"


def check_sharding(accelerator: "Accelerator") -> None:
    """Check the config of accelerate, and set what the trainer needs.

    Raises:
        ConfigError: FSDP of version 1, its own checkpointing of activations, or another library that divides weights.
    """
    if (kind := accelerator.distributed_type.value) in ("DEEPSPEED", "MEGATRON_LM"):
        raise ConfigError(
            f"The config of accelerate sets {kind}, whose optimizer cannot be saved in checkpoints here. Use FSDP. "
            f"Set in the config:{_FSDP_CONFIG}"
        )
    if not is_sharded(accelerator):
        return
    plugin: Any = accelerator.state.fsdp_plugin
    if plugin.fsdp_version != 2:
        raise ConfigError(
            f"The config of accelerate sets FSDP of version {plugin.fsdp_version}, whose parameters are parts of one "
            "long vector. Set fsdp_version: 2."
        )
    if plugin.activation_checkpointing:
        raise ConfigError(
            "The config of accelerate sets fsdp_activation_checkpointing, which changes the modules of a model. Remove "
            "it, and pass gradient_checkpointing=True."
        )
    plugin.cpu_ram_efficient_loading = False  # each process has loaded the weights
    plugin.mixed_precision_policy = None  # autocast has the same numbers in one process and in several


def prepare_sharding(accelerator: "Accelerator", trained: Trained) -> None:
    """Let FSDP gather all weights at once where a recipe does not call the trained modules themselves."""
    if is_sharded(accelerator) and not trained.is_called:
        plugin: Any = accelerator.state.fsdp_plugin
        plugin.auto_wrap_policy = None


def mark_forwards(module: nn.Module) -> None:
    """Let FSDP gather the weights of a block also for its keys and values, which are computed before its forward."""
    from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method

    for each in module.modules():
        if isinstance(each, FSDPModule) and hasattr(each, "keys_values"):
            register_fsdp_forward_method(each, "keys_values")


def gather(value: Any, *, keep: bool = True) -> Any:  # a value of tensors, lists and mappings
    """The value with whole tensors on the CPU in place of parts. All processes call it.

    keep: whether this process needs them; else it gets None in their place.
    """
    if _is_part(value):
        whole = _whole(value)
        return whole.cpu() if keep else None
    if isinstance(value, dict):
        return {key: gather(item, keep=keep) for key, item in cast("dict[Any, Any]", value).items()}
    if type(value) in (list, tuple):
        return type(value)(gather(item, keep=keep) for item in value)
    return value


def part_of(whole: Tensor, like: Tensor) -> Tensor:
    """The part of a whole tensor that this process has of another one; the tensor itself where that one is whole."""
    if not _is_part(like):
        return whole
    from torch.distributed.tensor import distribute_tensor

    part = cast("DTensor", like)
    return distribute_tensor(whole.to(part.device), part.device_mesh, part.placements, src_data_rank=None)


def optimizer_parts(whole: Mapping[str, Any], optimizer: Optimizer) -> dict[str, Any]:  # Any: a state dict
    """The state dict of an optimizer with the parts of this process, made of the whole one of a checkpoint."""
    numbers = [number for group in whole["param_groups"] for number in group["params"]]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Any]] = whole["state"]
    changed = {
        number: {
            name: part_of(value, like) if isinstance(value, Tensor) and value.shape == like.shape else value
            for name, value in state[number].items()
        }
        for number, like in zip(numbers, parameters, strict=True)
        if number in state
    }
    return {**whole, "state": changed}


def own_part(tensor: T) -> T:
    """The numbers that this process has of a tensor."""
    return cast("T", cast("DTensor", tensor).to_local()) if _is_part(tensor) else tensor


def as_part(own: Tensor | None, like: Tensor) -> Tensor | None:
    """The tensor of which this process has these numbers; see `own_part`."""
    if own is None or not _is_part(like):
        return own
    from torch.distributed.tensor import DTensor

    part = cast("DTensor", like)
    return DTensor.from_local(
        own, part.device_mesh, part.placements, run_check=False, shape=part.shape, stride=part.stride()
    )


def discard_gathered(module: nn.Module) -> None:
    """Free the weights that forwards have gathered, since those of the parts may change."""
    for each in module.modules():
        if hasattr(each, "reshard"):
            cast("Any", each).reshard()


@contextmanager
def freed_after_forward(module: nn.Module, accelerator: "Accelerator") -> Generator[None]:
    """Free gathered weights after each forward, also where a training keeps them until the backward pass."""
    layers = list[Any]()
    plugin: Any = accelerator.state.fsdp_plugin if is_sharded(accelerator) else None
    if plugin and plugin.reshard_after_forward is False:
        from torch.distributed.fsdp import FSDPModule

        layers = [each for each in module.modules() if each is not module and isinstance(each, FSDPModule)]
    for layer in layers:
        layer.set_reshard_after_forward(True, recurse=False)
    try:
        yield
    finally:
        for layer in layers:
            layer.set_reshard_after_forward(False, recurse=False)


@contextmanager
def whole_weights(module: nn.Module) -> Generator[None]:
    """Have the whole weights in each process. All processes enter it; it changes nothing where they are whole."""
    discard_gathered(module)
    parts = [
        (owner._parameters, name, parameter)
        for owner in module.modules()
        for name, parameter in owner._parameters.items()
        if parameter is not None and _is_part(parameter)
    ]
    try:
        for own, name, part in parts:
            own[name] = nn.Parameter(_whole(part), requires_grad=False)
        yield
    finally:
        for own, name, part in parts:
            own[name] = part


def _whole(part: Tensor) -> Tensor:
    return cast("DTensor", part.detach()).full_tensor()


def _is_part(value: object) -> bool:
    if not torch.distributed.is_available():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(value, DTensor)
