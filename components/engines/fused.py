"""Layers that a model has apart, computed together: norm and activation, three projections, convolutions' memory."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from ..memory.wrapper import WrapperTensor
from ..models.autoencoder import Autoencoder
from ..models.fused_projections import fuse_projections
from ..models.resnet import ResnetBlock2D
from ..models.transformer_layers import JointAttention, NormedAttention
from ..models.views import Replacement, combined_class, shallow_copy, view
from .engine import DENOISERS, Candidate, Engine
from .group_norm import DTYPES, group_norm_silu, is_installed
from .programs import Programs


@dataclass(frozen=True)
class Fused(Engine):
    """Join operations of a model. Nothing is compiled or recorded, so the first call is fast too.

    norms: GroupNorm with SiLU of residual blocks, in two kernels of Triton; on CUDA alone. projections: queries, keys
    and values of a transformer's attention in one product. channels_last: convolutions with channels last. Joined and
    reordered weights are copies. Layers with adapters or taps run as without this engine.
    """

    name: ClassVar[str] = "fused"
    norms: bool = True
    projections: bool = False
    channels_last: bool = True

    @property
    def tolerance(self) -> float:
        """1e-4 in float32: kernels sum in another order."""
        return 1e-4

    def chosen(self, candidate: Candidate) -> bool:
        """The denoiser, and the autoencoder with its convolutions."""
        return candidate.is_model and (candidate.name in DENOISERS or issubclass(candidate.kind, Autoencoder))

    def numbers(self, model: Callable[[], nn.Module]) -> int:
        """Those of joined and reordered weights."""
        layers = model().modules()
        return sum(weight.numel() for layer in layers for weight in self._copied(layer))

    def _copied(self, layer: nn.Module) -> Iterator[Tensor]:
        if self.channels_last and type(layer) is nn.Conv2d:
            yield layer.weight
        if self.projections and isinstance(layer, NormedAttention):
            own = [layer.to_q, layer.to_k, layer.to_v]
            if isinstance(layer, JointAttention):
                own += [layer.add_q_proj, layer.add_k_proj, layer.add_v_proj]
            yield from (one.weight for one in own)

    def view(self, model: nn.Module, programs: Programs) -> nn.Module:
        """A view whose layers are computed together."""
        parameters = list(model.parameters())
        if any(isinstance(one, WrapperTensor) for one in parameters):
            programs.fall_back("its weights are not on its device, or are stored in a narrower dtype")
            return model
        changes: dict[str, Replacement] = {}
        norms = self.norms and self._has_kernel(parameters, programs)
        for path, layer in model.named_modules():
            if norms and isinstance(layer, ResnetBlock2D):
                changes[path] = _with_fused_norms
            if self.channels_last and type(layer) is nn.Conv2d:
                changes[path] = _with_channels_last
        programs.report.made += len(changes)
        return view(fuse_projections(model) if self.projections else model, changes)

    def _has_kernel(self, parameters: list[nn.Parameter], programs: Programs) -> bool:
        if not any(one.is_cuda for one in parameters):
            programs.fall_back("GroupNorm with SiLU needs a CUDA device")
        elif not is_installed():
            programs.fall_back("GroupNorm with SiLU needs the package triton")
        else:
            return True
        return False


def _with_channels_last(layer: nn.Module) -> nn.Module:
    convolution = cast("nn.Conv2d", layer)
    if not (convolution.weight.shape[1] > 1 and convolution.weight.shape[2] > 1):
        return layer  # both formats are one: a copy would change nothing
    twin = shallow_copy(convolution)
    weight = convolution.weight.detach().contiguous(memory_format=torch.channels_last)
    twin._parameters["weight"] = nn.Parameter(weight, requires_grad=convolution.weight.requires_grad)
    return twin


def _with_fused_norms(layer: nn.Module) -> nn.Module:
    return shallow_copy(layer, combined_class(FusedNorms, type(layer)))


class FusedNorms(ResnetBlock2D):
    """A residual block whose norms and activations are one computation each."""

    def norm_and_activate(self, norm: nn.GroupNorm, x: Tensor) -> Tensor:
        """Apply one of the norms and the activation: by a kernel where there is one, else one after another."""
        if not (type(norm) is nn.GroupNorm and type(self.nonlinearity) is nn.SiLU and kernel_fits(norm, x)):
            return super().norm_and_activate(norm, x)
        return group_norm_silu(x, norm.num_groups, norm.weight, norm.bias, norm.eps)


def kernel_fits(norm: nn.GroupNorm, x: Tensor) -> bool:
    """Whether the kernel computes this: it has no gradient, and a compiler fuses by itself."""
    gradient = torch.is_grad_enabled() and (x.requires_grad or norm.weight.requires_grad)
    return x.is_cuda and x.dtype in DTYPES and not gradient and not torch.compiler.is_compiling()
