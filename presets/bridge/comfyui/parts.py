"""The components of a graph with several models: their names, and what is bound to them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from ....graph import Block, Graph, named
from ... import sdxl
from ...settings import SDXLSettings
from .families import OURS
from .files import Files
from .pipelines import as_comfy, nets_of, opened, with_adapters, with_guider, with_nets, with_taps
from .sampling import chosen, with_scheduler
from .values import Clip, Control, Model, Stage, Vae

_DENOISERS = ("unet", "transformer")
_NETS = ("controlnet", "ip_adapter", "image_encoder", "feature_extractor")


class Parts:
    """Names the components of each model: those of the first as in a preset, of others with a number."""

    FAMILIES: ClassVar[tuple[str, ...]] = OURS

    def __init__(self, files: Files, settings: Mapping[str, Any], notes: list[str]) -> None:
        self.files, self.settings, self.notes = files, settings, notes
        self._bindings: dict[str, Any] = {}
        self._numbers: dict[tuple[str, str], str] = {}
        self._adapted: dict[tuple[Any, ...], None] = {}
        self._loras: list[tuple[Model, Clip]] = []

    # ------------------------------------------------------------------------------------------------- names
    def _suffix(self, kind: str, key: str) -> str:
        """ "" for the first of a kind, then "_of_2" and so on."""
        if (kind, key) not in self._numbers:
            count = sum(k == kind for k, _ in self._numbers) + 1
            self._numbers[kind, key] = "" if count == 1 else f"_of_{count}"
        return self._numbers[kind, key]

    def with_vae(self, block: Block, vae: Vae, model: Model | None) -> Block:
        """The block with the component name of that autoencoder, which is used with a model."""
        suffix = self._suffix("vae", repr(vae.file))
        if f"vae{suffix}" not in self._bindings and (path := self.files.find(vae.file)) is not None:
            self._bindings[f"vae{suffix}"] = self._vae(path, model)
        return named(block, vae=f"vae{suffix}") if suffix else block

    def _vae(self, path: Path, model: Model | None) -> Any:  # a handle
        from ...load import default_manager
        from ...lookup import component_by_path

        spec = component_by_path("vae", path, None if model is None else self.files.find(model.file))
        return (self.settings.get("manager") or default_manager()).handle(spec, name="vae")

    def named_for(self, graph: Graph, model: Model, node: str) -> Block:
        """A sampler's graph with component names of its own, and its bindings kept for the whole."""
        suffix, own = self._suffix("model", repr((model.file, model.loras))), self._suffix("stage", node)
        names = {name: f"{name}{suffix}" for name in _DENOISERS if name in graph.components and suffix}
        names |= {"scheduler": f"scheduler{own}"} if own else {}
        names |= {name: f"{name}{own}" for name in graph.components if name.startswith(_NETS) and own}
        for name, bound in graph.bindings.items():
            if name in graph.components and name != "vae":
                self._bindings[names.get(name, name)] = bound
        plain = graph.with_bindings({})
        return named(plain, **names) if names else plain

    def encoder(self, block: Block, clip: Clip) -> tuple[Block, str]:
        """A preset's encoder with the component names of these text encoders, and the name of its output."""
        suffix = self._suffix("clip", repr(clip.files))
        (output,) = block.signature.outputs
        names = {name: f"{name}{suffix}" for name in block.signature.components} if suffix else {}
        return (named(block, **names) if names else block), output

    # ------------------------------------------------------------------------------------------------- presets
    def preset(self, model: Model, clip: Clip | None, task: str, controls: Sequence[Control] = ()) -> Graph:
        """The preset's graph for a model, with ComfyUI's rules; bound where the files were found."""
        clip = clip or Clip((model.file,), model.family)
        if self.files.find(model.file) is None and model.family == "sdxl" and "refiner" in model.file.name.lower():
            settings = SDXLSettings(text_encoders=1, requires_aesthetics_score=True)
            graph = {"text2image": sdxl.text2image, "image2image": sdxl.image2image}[task](settings)
        else:
            graph = opened(model, clip, None, task, self.files, self.settings, **nets_of(model, controls, self.files))
        graph = with_nets(graph, model, controls)
        self._keep_encoders(graph, clip)
        if model.loras:
            self._loras.append((model, clip))
        return as_comfy(graph, clip, model)

    def _keep_encoders(self, graph: Graph, clip: Clip) -> None:
        suffix = self._suffix("clip", repr(clip.files))
        for name, bound in graph.bindings.items():
            if name.startswith(("text_encoder", "tokenizer")):
                self._bindings.setdefault(f"{name}{suffix}", bound)

    def scheduled(self, graph: Graph, stage: Stage) -> Graph:
        """The graph with the sampler and the guider of a stage."""
        model = stage.guider.model
        scheduler = chosen(stage.sampler, stage.sigmas, model.family)
        self.notes += scheduler.notes
        graph = with_guider(with_scheduler(graph, "scheduler", scheduler.name, model), model)
        return with_taps(graph, model)

    def any_encoder(self, clip: Clip, models: Sequence[Model]) -> Block | None:
        """The encoder of prompts of the first model of the clip's family; None if there is none."""
        model = next((one for one in models if one.family == clip.family and one.family in OURS), None)
        return None if model is None else self.preset(model, clip, "text2image").nodes["positive"]

    def bound(self, graph: Graph) -> Graph:
        """The whole graph with all bindings, and the adapters of its only model."""
        known = {name: bound for name, bound in self._bindings.items() if name in graph.components}
        graph = graph.bind(known)
        models = {repr(model.loras): (model, clip) for model, clip in self._loras}
        if len(models) > 1:
            self.notes.append("several models have different adapters, and none is applied. Pass adapters=")
            return graph
        for model, clip in models.values():
            graph = with_adapters(graph, model.family, model.loras, clip.loras, self.files, self.notes)
        return graph
