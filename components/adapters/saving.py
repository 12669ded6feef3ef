"""Save patches in the layouts that other programs read."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...graph.errors import SaveError
from ...graph.saving import saving_file
from ...graph.structure import Structure
from ...registry import did_you_mean
from ..storage.fits import shown_names
from ..storage.weights import write_safetensors
from .embedding_layouts import BUNDLE, tensors_of
from .known_models import names_in, place_published
from .layouts import LAYOUTS, OF_OUR_LAYERS, Layout, Unfit, kind_text, layouts_for, matrices, parts_of
from .names import DENOISERS, ModelNames, Target
from .patch_set import PatchSet
from .patches import Additive, LowRank, Patch
from .pieces import concatenated, fused, split
from .placing import Placed, place
from .weight_patches import Rotation
from .widening import wide_shape


def save_patches(
    content: PatchSet,
    file: str | Path,
    layout: Layout,
    *,
    name: str,
    strength_of: Callable[[str], float],
    pipe: Structure | None = None,
) -> Path:
    """Write patches to a safetensors file; see `Adapter.save`.

    Args:
        content: the patches.
        file: the path.
        layout: of the file.
        name: that of the adapter.
        strength_of: the strength for a component.
        pipe: the graph whose matrices they change; None for that of a published family.
    """
    tensors, header = saved_form(content, file, layout, name=name, strength_of=strength_of, pipe=pipe)
    with saving_file(file) as draft:
        write_safetensors(tensors, draft, header)
    return Path(file)


def saved_form(
    content: PatchSet,
    file: str | Path,
    layout: Layout,
    *,
    name: str,
    strength_of: Callable[[str], float],
    pipe: Structure | None = None,
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file of patches by key, and its header; see `save_patches`. file: the path, for errors."""
    if layout not in LAYOUTS:
        raise SaveError(f"{file}: has no layout {layout!r}. {did_you_mean(str(layout), LAYOUTS)}")
    if pipe is None:
        found, known = place_published(content, name)
    else:
        known = names_in(pipe.bindings)
        found = place(content, known, name)
    if found.absent:
        raise SaveError(
            f"{file}: the graph has no model for {len(found.absent)} of the patches ({shown_names(found.absent)}), so "
            "their names in the file are not known. Pass pipe= with that model."
        )
    if layout == "peft" and content.embeddings:
        words = ", ".join(one.token for one in content.embeddings)
        raise SaveError(
            f"{file}: has embeddings ({words}), which the layout 'peft' cannot express. Save it with layout='kohya' or "
            "layout='comfy', in OneTrainer's keys."
        )
    writer = _Writer(str(file), layout)
    for component, placed in found.placed.items():
        writer.add(component, placed, known[component], strength_of(component))
    return {**writer.tensors(), **_bundle(content)}, writer.header(name, known)


def _bundle(content: PatchSet) -> dict[str, Tensor]:
    """The embeddings of an adapter, in OneTrainer's keys."""
    return {
        f"{BUNDLE}{one.token}.{key}": tensor for one in content.embeddings for key, tensor in tensors_of(one).items()
    }


@dataclass(frozen=True)
class _Saved:
    """A patch under its name in the file."""

    component: str
    name: str
    patch: Patch
    parts: Mapping[str, Tensor]


class _Writer:
    def __init__(self, file: str, layout: Layout) -> None:
        self.file = file
        self.layout: Layout = layout
        self.saved: list[_Saved] = []

    def add(self, component: str, placed: Sequence[Placed], names: ModelNames, strength: float) -> None:
        """Add the patches of a component, with its strength in their scales."""
        known = matrices(self.layout, component, names)
        whole: list[tuple[str, Placed]] = []
        pieces: dict[str, list[Patch]] = {}
        columns: dict[str, int] = {}
        for item in placed:
            item = replace(item, patch=self._at_strength(item, strength))
            name, target = known[item.target.layers[0]]
            if target == item.target and not isinstance(item.patch, LowRank):
                whole.append((name, item))
                continue
            made = split(item, [names.shapes[layer][0] for layer in item.target.layers])
            if made is None:
                raise self._fused(item, names)
            for layer, patch in zip(item.target.layers, made, strict=True):
                pieces.setdefault(layer, []).append(patch)
                columns[layer] = max(columns.get(layer, 0), item.columns)
        for name, item in whole:
            shape = wide_shape(names.source_shape(item.target), item.columns)
            self._add(component, name, item.patch, shape, item.body, wider=item.columns > 0)
        for name, target in dict.fromkeys(known[layer] for layer in pieces):
            patches = [self._single(pieces.get(layer, ()), name) for layer in target.layers]
            sizes = [names.shapes[layer][0] for layer in target.layers]
            patch = _transposed(patches, target) or fused(patches, sizes, swap=target.how == "halves swapped")
            if patch is None:
                raise self._fused(Placed(target, next(p for p in patches if p is not None), name), names)
            wider = columns.get(target.layers[0], 0)
            self._add(component, name, patch, wide_shape(names.source_shape(target), wider), name, wider=wider > 0)

    def _add(self, component: str, name: str, patch: Patch, shape: torch.Size, body: str, *, wider: bool) -> None:
        try:
            parts = parts_of(patch, self.layout, shape)
        except Unfit:
            way = _way(layouts_for(patch, shape)) or "Save pipe.merged() as a model."
            raise SaveError(
                f"{self.file}: the layout {self.layout!r} cannot express {kind_text(patch)} ({body}). {way}"
            ) from None
        if wider and self.layout == "comfy":  # ComfyUI widens a matrix only where the file says so
            parts = {**parts, "reshape_weight": torch.tensor(shape)}
        self.saved.append(_Saved(component, name, patch, parts))

    def _at_strength(self, item: Placed, strength: float) -> Patch:
        if strength == 1.0:
            return item.patch
        if isinstance(item.patch, Additive):
            bias = None if item.patch.bias is None else item.patch.bias.float() * strength
            return replace(item.patch, scale=item.patch.scale * strength, bias=bias)
        raise SaveError(
            f"{self.file}: the change of {item.body} depends on its matrix, and a file cannot have it at the strength "
            f"{strength:g}. Save the adapter at strength 1."
        )

    def _single(self, patches: Sequence[Patch], name: str) -> Patch | None:
        """One patch in place of several on one layer."""
        if len(patches) < 2:
            return next(iter(patches), None)
        low = [patch for patch in patches if isinstance(patch, LowRank) and patch.middle is None]
        if len(low) < len(patches):
            raise SaveError(f"{self.file}: has several patches for {name}, which are not all LoRA. Save them apart.")
        return concatenated(low)

    def _fused(self, item: Placed, names: ModelNames) -> SaveError:
        known = layouts_for(item.patch, names.source_shape(item.target))
        ways = [layout for layout in known if (layout in OF_OUR_LAYERS) != (self.layout in OF_OUR_LAYERS)]
        layers = ", ".join(item.target.layers)
        return SaveError(
            f"{self.file}: {item.body} is in another division of the matrices of {layers} than the layout "
            f"{self.layout!r}, and its kind cannot be divided. {_way(ways)}"
        )

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by key. Each has memory of its own, as the format demands."""
        return {
            f"{saved.name}.{end}": tensor.detach().clone().contiguous()
            for saved in self.saved
            for end, tensor in saved.parts.items()
        }

    def header(self, name: str, known: Mapping[str, ModelNames]) -> dict[str, str]:
        """The entries of the header that other programs read."""
        header = {"format": "pt"}
        if self.layout == "peft":
            stated: dict[str, Any] = {}
            for component in dict.fromkeys(saved.component for saved in self.saved):
                own = [saved for saved in self.saved if saved.component == component]
                stated |= {f"{component}.{key}": value for key, value in self._config(component, own).items()}
            return header | {"lora_adapter_metadata": json.dumps(stated, sort_keys=True)}
        ranks = [saved.patch.rank for saved in self.saved if saved.patch.rank]
        alphas = [float(saved.parts["alpha"]) for saved in self.saved if saved.patch.rank and "alpha" in saved.parts]
        if ranks:
            dim, alpha = _commonest(ranks), _commonest(alphas or [0.0])
            header |= {"ss_network_dim": str(dim), "ss_network_alpha": f"{alpha:.9g}"}
        plain = all("lora_up.weight" in saved.parts for saved in self.saved)
        header["ss_network_module"] = "networks.lora" if plain else "lycoris.kohya"
        header |= {"modelspec.sai_model_spec": "1.0.0", "modelspec.title": name}
        if architecture := architecture_of(known):
            header |= {
                "modelspec.architecture": f"{architecture}/lora",
                "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
            }
        return header

    def _config(self, component: str, saved: Sequence[_Saved]) -> dict[str, Any]:
        """The config of PEFT for a component. Scales are in the tensors, so alpha is the rank everywhere.

        PEFT compares the ends of paths, so they are without `text_model.`, which transformers 5 does not have.
        """
        paths = {one.name.removeprefix(f"{component}.").removeprefix("text_model."): one for one in saved}
        config: dict[str, Any] = {"target_modules": sorted(paths)}
        ranks = {path: rank for path, one in paths.items() if (rank := one.patch.rank)}
        if ranks:
            r = _commonest(ranks.values())
            others = {path: rank for path, rank in sorted(ranks.items()) if rank != r}
            config |= {"peft_type": "LORA", "r": r, "lora_alpha": r, "rank_pattern": others, "alpha_pattern": others}
            config["use_dora"] = any("lora_magnitude_vector" in one.parts for one in saved)
            config["lora_bias"] = any("lora_B.bias" in one.parts for one in saved)
        terms = {one.patch.terms for one in saved if isinstance(one.patch, Rotation) and not one.patch.halved}
        if len(terms) > 1:
            raise SaveError(
                f"{self.file}: the OFT patches of {component} have series of different lengths. Save them apart."
            )
        for count in terms:
            config |= {"use_cayley_neumann": count > 0} | ({"num_cayley_neumann_terms": count} if count else {})
        return config


def _transposed(patches: Sequence[Patch | None], target: Target) -> Patch | None:
    """The patch of a matrix that the authors store transposed; None for all others."""
    (first, *_) = patches
    if target.how != "transposed" or first is None:
        return None
    made = split(Placed(target, first), [0])
    return made[0] if made else None


def _way(layouts: Iterable[str]) -> str:
    named = " or ".join(f"layout={layout!r}" for layout in layouts)
    return f"Save it with {named}." if named else ""


def _commonest(values: Iterable[Any]) -> Any:  # numbers
    return Counter(values).most_common(1)[0][0]


def architecture_of(known: Mapping[str, ModelNames]) -> str:
    """The name of the family in Stability's modelspec; "" for others."""
    for component in DENOISERS:
        if (names := known.get(component)) is None:
            continue
        match names.class_name:
            case "FluxTransformer2DModel":
                return "flux-1-dev"
            case "SD3Transformer2DModel":
                return "stable-diffusion-3-medium"
            case "UNet2DConditionModel" if "add_embedding.linear_1" in names.shapes:
                return "stable-diffusion-xl-v1-base"
            case "UNet2DConditionModel":
                widths = {shape[1] for layer, shape in names.shapes.items() if layer.endswith("attn2.to_k")}
                return {768: "stable-diffusion-v1", 1024: "stable-diffusion-v2-512"}.get(next(iter(widths), 0), "")
            case _:
                return ""
    return ""
