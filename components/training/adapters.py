"""Train adapters: LoRA and its relatives, on frozen models of any kind, quantized ones included."""

from collections.abc import Callable, Mapping, Sequence
from math import sqrt
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from ...graph.errors import ConfigError, SaveError
from ...graph.fields import Lazy
from ...graph.graph import Graph
from ...graph.saving import saving_file
from ...graph.structure import Structure
from ...registry import did_you_mean, models
from ..adapters.adapter import Adapter
from ..adapters.known_models import names_in
from ..adapters.layers import weight_of
from ..adapters.layouts import Layout
from ..adapters.names import DENOISERS
from ..adapters.over import config_of, type_of
from ..adapters.patch_set import NamedPatch, PatchSet
from ..adapters.reading import adapter_of, read_adapter
from ..adapters.saving import architecture_of, saved_form
from ..storage.building import on_meta
from ..storage.weights import write_safetensors
from .component import TrainedComponent
from .headers import BASE_VERSIONS, hashes
from .patch_parameters import (
    HadamardParameters,
    Initialization,
    KroneckerParameters,
    LowRankParameters,
    MagnitudeParameters,
    PatchParameters,
    PatchSettings,
    trained,
)  # fmt: skip
from .paths import names_text, nested, target_layers
from .trained import NO_BINDINGS, NO_HEADER, ParameterGroup, Trained

AdapterKind = Literal["lora", "dora", "loha", "lokr"]
Targets = Sequence[str] | Mapping[str, Sequence[str]]


class TrainedAdapter(Trained):
    """An adapter in training; `train_adapter` makes it.

    Its modules have the names of the components and of their layers: `unet.….attn1.to_k.down`.
    """

    def __init__(
        self,
        pipe: Structure,
        layers: Mapping[str, Mapping[str, PatchParameters]],
        *,
        name: str,
        layout: Layout,
        dtype: torch.dtype,
        up_lr_factor: float,
    ) -> None:
        super().__init__()
        self.name, self.dtype, self.up_lr_factor = name, dtype, up_lr_factor
        self.layout: Layout = layout
        self._pipe, self.layers = pipe, layers
        for component, own in layers.items():
            self.add_module(component, nested(own))

    def bindings(self, over: Mapping[str, Any] = NO_BINDINGS) -> Mapping[str, Any]:
        """The components with trained layers; see `Trained.bindings`."""
        found = {**self._pipe.adapted_bindings, **over}
        return {
            component: TrainedComponent(found[component], {path: trained(own) for path, own in layers.items()})
            for component, layers in self.layers.items()
        }

    def groups(self) -> Sequence[ParameterGroup]:
        """One group for each component, or two with LoRA+ (Hayou et al. 2024); see `Trained.groups`."""
        found: list[ParameterGroup] = []
        for component, layers in self.layers.items():
            plain, fast = list[nn.Parameter](), list[nn.Parameter]()
            for own in layers.values():
                for name, parameter in own.named_parameters():
                    is_fast = self.up_lr_factor != 1.0 and name in own.fast()
                    (fast if is_fast else plain).append(parameter)
            found += [ParameterGroup(component, tuple(plain))] if plain else []
            found += [ParameterGroup(component, tuple(fast), self.up_lr_factor)] if fast else []
        return found

    def adapter(self) -> Adapter | None:
        """The adapter as `sf.load_adapter` reads it from the saved file; None while it changes nothing."""
        if all(own.patch().is_empty for layers in self.layers.values() for own in layers.values()):
            return None
        tensors, header = self._form(self.name, self.layout)
        return adapter_of(tensors.items(), name=self.name, source=self.name, header=header)

    def attached(self, pipe: Graph) -> Graph:
        """The preset with the adapter; see `Trained.attached`."""
        adapter = self.adapter()
        return pipe if adapter is None else pipe.with_adapters(adapter)

    def save(self, path: str | Path, *, layout: Layout | None = None, header: Mapping[str, str] = NO_HEADER) -> Path:
        """Write the adapter to a safetensors file; see `Trained.save`."""
        if Path(path).suffix != self.suffix:
            raise SaveError(f"{path}: needs a name that ends with {self.suffix}. Other programs go by it.")
        tensors, own = self._form(str(path), layout or self.layout)
        family = BASE_VERSIONS.get(architecture_of(names_in(self._pipe.bindings)))
        entries = {**own, **({"ss_base_model_version": family} if family else {}), **header}
        with saving_file(path) as draft:
            write_safetensors(tensors, draft, {**entries, **hashes(tensors, entries)})
        return Path(path)

    def load(self, path: str | Path) -> Adapter:
        """The adapter of a saved file; see `Trained.load`."""
        return read_adapter(Path(path), name=Path(path).stem, source=str(path))

    def use_layout(self, layout: Layout) -> None:
        """Take a layout for the saved file, and so for what `attached` draws; see `Trained.use_layout`."""
        try:
            self._form("layout", layout, lambda tensor: torch.ones(()).expand(tensor.shape))
        except SaveError as error:
            raise ConfigError(str(error)) from None
        self.layout = layout

    def _form(
        self, file: str, layout: Layout, numbers: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[dict[str, Tensor], dict[str, str]]:
        """The tensors and the header of the file. numbers: makes other tensors than those of now."""
        content = self._content(numbers or self._copied)
        return saved_form(content, file, layout, name=self.name, strength_of=lambda _: 1.0, pipe=self._pipe)

    def _content(self, numbers: Callable[[Tensor], Tensor]) -> PatchSet:
        return PatchSet(self.name, tuple(
            NamedPatch(f"{component}.{path}", own.kind, own.patch().mapped(numbers))
            for component, layers in self.layers.items()
            for path, own in layers.items()
        ))  # fmt: skip

    def _copied(self, tensor: Tensor) -> Tensor:
        """A tensor in the dtype of the file. Later steps do not change it."""
        return tensor.detach().to("cpu", self.dtype, copy=True)


def train_adapter(
    pipe: Structure,
    components: Sequence[str] | None = None,
    kind: AdapterKind = "lora",
    *,
    rank: int = 4,
    alpha: float | None = None,
    rslora: bool = False,
    targets: Targets | None = None,
    dropout: float = 0.0,
    initialization: Initialization = "kaiming",
    seed: int = 0,
    factor: int = -1,
    up_lr_factor: float = 1.0,
    name: str = "trained",
    layout: Layout | None = None,
    dtype: torch.dtype = torch.float32,
) -> TrainedAdapter:
    """Train an adapter on components of a graph. The components stay as they are, also quantized ones.

    Args:
        pipe: the graph; its components need not be loaded.
        components: names of a denoiser and of text encoders; None for the denoiser alone.
        kind: "lora" (Hu et al. 2021), "dora" (Liu et al. 2024), "loha" (Hyeon-Woo et al. 2022) or "lokr" (Yeh et al.
            2024). Only "dora" loads the components, for the norms of their matrices.
        rank: of each patch.
        alpha: the scale times the rank; None for the rank, so that the scale is 1.
        rslora: divide alpha by the square root of the rank (Kalajdzievski 2023).
        targets: names of layers, their ends, or patterns with `*`; or these by component. None for those of
            diffusers' training scripts.
        dropout: the share of numbers of a layer's input that the patch does not see in training.
        initialization: of `down`, as in PEFT: "kaiming" (uniform) or "gaussian" (of deviation 1 / rank).
        seed: of the initial numbers.
        factor: of LoKr, the sides of its small matrix; -1 for about the square root of those of the matrix.
        up_lr_factor: the learning rate of `up` is so many times that of `down` (LoRA+).
        name: of the adapter.
        layout: of the saved file; None for "peft", or for LoHa and LoKr "kohya" or "lycoris".
        dtype: of the saved file.

    Raises:
        ConfigError: no such component, targets that match no layer, numbers out of range, or a layout that cannot
            express the kind.
    """
    known = names_in(pipe.bindings)
    chosen = [n for n in known if n in DENOISERS] if components is None else list(components)
    if wrong := [n for n in chosen if n not in known]:
        raise ConfigError(
            f"components: the graph has no model {names_text(map(repr, wrong))} that adapters change. It has "
            f"{names_text(known)}."
        )
    if not chosen:
        raise ConfigError(f"components: the graph has no denoiser. Pass components=; it has {names_text(known)}.")
    if kind not in _KINDS:
        raise ConfigError(f"kind: has no adapter {kind!r}. {did_you_mean(kind, _KINDS)}")
    _check(rank, alpha, dropout, up_lr_factor)
    scale = (rank if alpha is None else alpha) / (sqrt(rank) if rslora else rank)
    settings = PatchSettings(rank, scale, dropout, initialization, factor)
    generator = torch.Generator().manual_seed(seed)
    own = targets if isinstance(targets, Mapping) else dict.fromkeys(chosen, targets)
    if lost := [component for component in own if component not in chosen]:
        raise ConfigError(f"targets: {names_text(lost)} is not trained. Name it in components=.")
    layers: dict[str, dict[str, PatchParameters]] = {}
    for component in chosen:
        bound = pipe.bindings[component]
        shapes = _shapes(bound)
        paths = target_layers(list(shapes), own.get(component), component, type_of(bound).__name__)
        layers[component] = {path: _KINDS[kind](shapes[path], settings, generator) for path in paths}
        if kind == "dora":
            model = cast("nn.Module", bound.load() if isinstance(bound, Lazy) else bound)
            layers[component] = {
                path: MagnitudeParameters(inner, weight_of(model.get_submodule(path)), settings)
                for path, inner in layers[component].items()
            }
    layout = layout or _layout(pipe, kind)
    made = TrainedAdapter(pipe, layers, name=name, layout=layout, dtype=dtype, up_lr_factor=up_lr_factor)
    made.use_layout(layout)
    return made


_KINDS: Mapping[str, Callable[[torch.Size, PatchSettings, torch.Generator], PatchParameters]] = {
    "lora": LowRankParameters, "dora": LowRankParameters, "loha": HadamardParameters, "lokr": KroneckerParameters,
}  # fmt: skip


def _layout(pipe: Structure, kind: AdapterKind) -> Layout:
    """The layout that most programs read. Kohya's has the fused matrices of transformers, and LoHa does not split."""
    if kind in ("lora", "dora"):
        return "peft"
    return "kohya" if "unet" in pipe.bindings else "lycoris"


def _check(rank: int, alpha: float | None, dropout: float, up_lr_factor: float) -> None:
    if type(rank) is not int or rank < 1:
        raise ConfigError(f"rank: needs a whole number of 1 or more. Got {rank!r}.")
    if alpha is not None and not 0 < alpha < float("inf"):
        raise ConfigError(f"alpha: needs a number above 0. Got {alpha!r}.")
    if not 0 < up_lr_factor < float("inf"):
        raise ConfigError(f"up_lr_factor: needs a number above 0. Got {up_lr_factor!r}.")
    if not 0 <= dropout < 1:
        raise ConfigError(f"dropout: needs a share from 0 to below 1. Got {dropout!r}.")


def _shapes(component: Any) -> Mapping[str, torch.Size]:  # a model of ours or its handle
    """The shapes of the matrices of all linear layers and convolutions of a model, by path. Loads no weights."""
    with on_meta():
        model = cast("nn.Module", models[type_of(component).__name__].from_config(config_of(component)))
    return {
        path: layer.weight.shape
        for path, layer in model.named_modules()
        if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)
    }
