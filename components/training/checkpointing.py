"""Gradient checkpointing (Chen et al. 2016): blocks whose activations are computed again in the backward pass.

It is a view: a model needs no switch for it. The blocks are the members of the model's module lists.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ...graph.fields import Lazy
from ..adapters.over import OverComponent
from ..models.view_cache import ViewCache, copies
from ..models.views import as_class, combined_class, view

M = TypeVar("M", bound=nn.Module)


class CheckpointedBlock(nn.Module):
    """A block that keeps its input alone; the first of the classes that such a block inherits from."""

    def forward(self, *args: Any, **named: Any) -> Any:  # the arguments of the block's own forward
        """The output of the block."""
        if not torch.is_grad_enabled():
            return super().forward(*args, **named)
        return checkpoint(super().forward, *args, use_reentrant=False, **named)


@dataclass(frozen=True, eq=False)
class CheckpointedComponent(OverComponent):
    """A component whose blocks are checkpointed once it is loaded. It computes the same numbers."""

    views: ViewCache = field(default_factory=ViewCache, init=False, repr=False)

    def content_key(self) -> str | None:
        """The key of the component."""
        return cast("Lazy", self.base).content_key()

    def load(self) -> Any:
        """A view of the loaded component."""
        return self.views.of(self.loaded_base(), checkpointed_model)


def checkpointed(component: Any) -> Any:  # any component of a graph
    """The component with checkpointed blocks if it is a model or a lazy one; others stay as they are.

    Bind it in place of the component, in each graph through which gradients flow:
    `recipe.bind(**{name: checkpointed(component) for name, component in recipe.bindings.items()})`.
    """
    if isinstance(component, Lazy):
        is_module = isinstance(component.type, type) and issubclass(component.type, nn.Module)
        return CheckpointedComponent(component) if is_module else component
    return checkpointed_model(component) if isinstance(component, nn.Module) else component


def checkpointed_model(model: M) -> M:
    """A view of a model with checkpointed blocks. It has the parameters of the model, also after FSDP replaced them."""
    made = view(
        model,
        {
            path: as_class(combined_class(CheckpointedBlock, type(block)))
            for path, block in blocks_of(model)
            if not isinstance(block, CheckpointedBlock)
        },
    )
    for plain, twin in ((model, made), *copies(model, made)):
        twin._parameters = plain._parameters
    return made


def blocks_of(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The blocks of a model and their paths: the members of its module lists.

    A member that has a module list of its own is divided: the levels of a U-Net are no blocks, their residual blocks
    are. A single layer is no block.
    """
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        if not isinstance(child, nn.ModuleList):
            yield from blocks_of(child, f"{path}.")
            continue
        for number, member in child.named_children():
            inner = [*member.children()]
            if isinstance(member, nn.ModuleList) or any(isinstance(part, nn.ModuleList) for part in inner):
                yield from blocks_of(member, f"{path}.{number}.")
            elif inner:
                yield f"{path}.{number}", member
