"""A checkpoint in one file: its family, its parts as component specs, and the tensors of one part."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from ....graph.errors import LoadError
from ....registry import did_you_mean
from ...quantization.four_bit import FourBitState
from ...spec import ComponentSpec
from ...storage.hub import Access
from ...storage.tensors import PICKLES, Shape
from ..index import Index
from ..open_tensors import open_tensors
from . import latent_diffusion
from .configs import config_of
from .parts import Part, parts_of
from .tables import Renamed, Row, ties
from .whole_tensors import WholeTensors

FAMILIES = Path(__file__).parent / "families"
_VOCABULARIES = {"clip": ("CLIPTokenizer", "clip_tokenizer"), "t5": ("T5TokenizerFast", "t5_tokenizer")}
"""The tokenizers that this package includes: the published class, and the folder beside this file."""
ENDS = (".safetensors", ".gguf", *PICKLES)

_WITHOUT_FAMILY: Mapping[str, tuple[str, tuple[str, str], Mapping[str, Any]]] = {
    # A file of one model: the name of its part, its class, and the config keys that its shapes do not tell.
    "controlnet": ("controlnet", ("diffusers", "ControlNetModel"), {}),
    "vae": ("vae", ("diffusers", "AutoencoderKL"), {}),
    # T5 of Flux and SD 3. Other T5 models are not published in one file.
    "t5": (
        "t5",
        ("transformers", "T5EncoderModel"),
        {"layer_norm_epsilon": 1e-06, "relative_attention_max_distance": 128},
    ),
}
_LAYOUT_TEXTS = {
    "original": "the layout of its authors",
    "diffusers": "diffusers' layout",
    "transformers": "transformers' layout",
    "llama.cpp": "the names of llama.cpp",
}


@dataclass(frozen=True)
class Checkpoint:
    """A file of weights, with the models that its tensors belong to."""

    file: Path
    shapes: Mapping[str, Shape]
    """By name of the tensor."""
    parts: tuple[Part, ...]
    """Its models."""
    family: str | None
    """The name of the family's file in `families/`; None without a denoiser of a known family."""
    refused: Mapping[str, str] = field(default_factory=dict[str, str])
    """The packing of each tensor that cannot be read."""
    four_bit: Mapping[str, FourBitState] = field(default_factory=dict[str, FourBitState])
    """The state of each weight in bitsandbytes' four bits."""

    @property
    def family_facts(self) -> Mapping[str, Any]:
        """What is fixed for the family: classes, configs, scheduler, tokenizers. Empty without a family."""
        return facts_of(self.family) if self.family else {}

    def models(self) -> dict[str, Part]:
        """The parts, by the names of the family's pipeline."""
        if not self.family:
            return {_WITHOUT_FAMILY[part.kind][0]: part for part in self.parts if part.kind in _WITHOUT_FAMILY}
        towers = sorted((part for part in self.parts if part.kind == "clip"), key=lambda part: part.width)
        by_kind = {part.kind: part for part in self.parts}
        found: dict[str, Part] = {}
        for name, model in self.family_facts["models"].items():
            kind = model["kind"]
            part = by_kind.get(kind)
            if kind == "clip" or (kind == "open_clip" and part is None):
                part = towers.pop(0) if towers else None
            if part is not None:
                found[name] = part
        return found

    def config(self, name: str) -> dict[str, Any]:  # a config.json
        """The config of a part, by its shapes and its family."""
        part = self._named(name)
        library, class_name = self.hint(name)
        named = {"_class_name": class_name} if library == "diffusers" else {}
        if not self.family:
            return {**named, **config_of(part, {**_WITHOUT_FAMILY[part.kind][2], **_heads(part)})}
        return {**named, **config_of(part, self.family_facts["models"][name]["config"]), **self._exceptions(name)}

    def part(self, name: str) -> Part:
        """A part by its name. LoadError if the file has none, or if its packing cannot be read."""
        part = self._named(name)
        if packed := [kind for tensor, kind in self.refused.items() if tensor.startswith(part.prefix)]:
            raise LoadError(
                f"{self.file}: {len(packed)} weights of its {name} are packed as {packed[0]}, which cannot be read "
                "from a single file. Use float16, bfloat16, float8, bitsandbytes' four bits, or a GGUF file."
            )
        return part

    def _named(self, name: str) -> Part:
        models = self.models()
        if name not in models:
            raise LoadError(f"{self.file}: {self.describe()}, and no {name}. {did_you_mean(name, models)}")
        return models[name]

    def hint(self, name: str) -> tuple[str, str]:
        """The published class of a part."""
        if not self.family:
            return _WITHOUT_FAMILY[self._named(name).kind][1]
        library, class_name = self.family_facts["models"][name]["class"]
        return library, class_name

    def quantization(self, name: str) -> dict[str, Any]:  # a key of a config.json
        """The `quantization_config` of a part whose weights are in four bits; {} for others."""
        prefix = self._named(name).prefix
        states = [state for tensor, state in self.four_bit.items() if tensor.startswith(prefix)]
        if not states:
            return {}
        config = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": states[0].kind}
        return {"quantization_config": {**config, "bnb_4bit_use_double_quant": any(state.nested for state in states)}}

    def describe(self) -> str:
        """A phrase for texts: "holds unet, vae of sd1 in …"."""
        if not self.parts:
            return "holds no known model"
        # Text towers have transformers' names with a denoiser of any layout.
        parts = [part for part in self.parts if part.layout != "transformers"] or self.parts
        layouts = " and ".join(dict.fromkeys(_LAYOUT_TEXTS[part.layout] for part in parts))
        names = list(self.models()) or [part.kind for part in self.parts]
        return f"holds {', '.join(names)}{f' of {self.family}' if self.family else ''} in {layouts}"

    def _exceptions(self, name: str) -> dict[str, Any]:
        """Config keys in which single checkpoints of a family differ."""
        if self.family == "sd2" and name == "unet" and self.predicts_velocity:
            return {"sample_size": 96}
        return {}

    @property
    def predicts_velocity(self) -> bool:
        """Whether an SD 2 or SDXL U-Net was trained on velocity.

        Fine-tunes have an empty tensor `v_pred`. Stability's SD 2 files have no mark; of those, only the 768 pixel one
        has a large spread in the shift of its last norm (ComfyUI's rule, verified on the published files).
        """
        if "v_pred" in self.shapes:
            return True
        unet = self.models().get("unet")
        name = "output_blocks.11.1.transformer_blocks.0.norm1.bias"
        if self.family != "sd2" or unet is None or name not in unet.shapes:
            return False
        tensor = open_tensors([self.file], allow_pickle=True).read(unet.prefix + name)
        return bool(tensor.float().std(unbiased=False) > 0.09)

    def scheduler(self) -> dict[str, Any]:  # a scheduler_config.json
        """The published scheduler of the family."""
        config = dict(self.family_facts["scheduler"])
        if self.predicts_velocity:
            config["prediction_type"] = "v_prediction"
        if "ztsnr" in self.shapes:
            config["rescale_betas_zero_snr"] = True
        if self.family == "flux" and not self.config("transformer")["guidance_embeds"]:
            return {"_class_name": config["_class_name"], "num_train_timesteps": 1000, "shift": 1.0}  # schnell
        return config


def open_checkpoint(file: Path, access: Access) -> Checkpoint:
    """Recognise the models of a file. Its header is read once until the file changes. LoadError if it is damaged."""
    try:
        state = file.stat()
    except OSError as error:
        raise LoadError(f"{file}: there is no such file ({error.strerror}).") from None
    return _opened(file, state.st_mtime_ns, state.st_size, access.allow_pickle)


@lru_cache(maxsize=64)
def _opened(file: Path, _changed: int, _size: int, allow_pickle: bool) -> Checkpoint:
    tensors = WholeTensors(open_tensors([file], allow_pickle=allow_pickle))
    shapes = dict(tensors.shapes())
    parts = tuple(parts_of(shapes))
    return Checkpoint(file, shapes, parts, _family_of(parts), tensors.refused, tensors.states)


def _family_of(parts: tuple[Part, ...]) -> str | None:
    by_kind = {part.kind: part for part in parts}
    for kind in ("flux", "sd3"):
        if kind in by_kind:
            return kind
    if (unet := by_kind.get("unet")) is None:
        return None
    shapes = unet.original
    context = next((s[1] for n, s in shapes.items() if n.endswith("attn2.to_k.weight")), 0)
    if "label_emb.0.0.weight" in shapes:
        only_open_clip = "open_clip" in by_kind and "clip" not in by_kind
        return "sdxl_refiner" if only_open_clip or context == 1280 else "sdxl"
    return "sd2" if "open_clip" in by_kind or ("clip" not in by_kind and context == 1024) else "sd1"


@lru_cache
def facts_of(name: str) -> Mapping[str, Any]:
    """The file of a family in `families/`, as JSON."""
    return json.loads((FAMILIES / f"{name}.json").read_text(encoding="utf-8"))


def _heads(part: Part) -> dict[str, Any]:
    """How a control net divides its channels into heads, by the width of the text that it reads."""
    context = next((s[1] for n, s in part.shapes.items() if n.endswith("attn2.to_k.weight")), 0)
    return {} if part.kind != "controlnet" else {"attention_head_dim": 8} if context == 768 else {"head_size": 64}


def index_of(file: Path, access: Access, other: Index | None = None) -> Index:
    """The pipeline of a file, as an index of its components.

    Args:
        file: a file of weights.
        access: how it may be read.
        other: the index of a folder or repo (`config=`): its configs replace the derived ones, and its components are
            used if the file has none.

    Raises:
        LoadError: a file that is damaged, or that is not a whole pipeline.
    """
    found = open_checkpoint(file, access)
    if not found.family:
        raise LoadError(
            f"{file}: {found.describe()}, which is not a whole pipeline. Load one component with "
            "sf.load_component(file, 'ClassName'), or list the content with sf.inspect(file)."
        )
    components: dict[str, ComponentSpec | None] = {}
    if other is None:
        scheduler = found.scheduler()
        hint = ("diffusers", str(scheduler["_class_name"]))
        components["scheduler"] = ComponentSpec(type_hint=hint, config=scheduler)
        for name, tokenizer in found.family_facts["tokenizers"].items():
            class_name, folder = _VOCABULARIES[tokenizer["kind"]]
            components[name] = ComponentSpec(
                type_hint=("transformers", class_name),
                pretrained_model_name_or_path=str(FAMILIES.parent / folder),
                config=tokenizer.get("config"),
            )
    else:
        components |= other.components
    for name in found.models():
        replaced = other.components.get(name) if other else None
        components[name] = part_spec(found, name, replaced)
    class_name = other.class_name if other else found.family_facts["class_name"]
    return Index(file, class_name, None, components, other.config if other else found.family_facts["keys"])


def component_of(file: Path, access: Access, hint: tuple[str, str] | None, name: str = "") -> ComponentSpec:
    """The spec of one component of a file.

    Args:
        file: a file of weights.
        access: how it may be read.
        hint: its class; None takes the only part.
        name: its part ("vae"); "" takes the one part of the class.

    Raises:
        LoadError: no such part, or several that fit.
    """
    found = open_checkpoint(file, access)
    models = found.models()
    if not name:
        fitting = [part for part in models if hint is None or found.hint(part)[1] == hint[1]]
        if len(fitting) != 1:
            wanted = hint[1] if hint else "a file of one model"
            raise LoadError(f"{file}: {found.describe()}; needs {wanted}. Pass subfolder={next(iter(models), '')!r}.")
        (name,) = fitting
    spec = part_spec(found, name).with_access(access)
    return spec.using(type_hint=hint) if hint else spec


def part_spec(found: Checkpoint, name: str, other: ComponentSpec | None = None) -> ComponentSpec:
    """The spec of one part. `other` is a spec whose config is used in place of the derived one."""
    return ComponentSpec(
        type_hint=other.type_hint if other else found.hint(name),
        pretrained_model_name_or_path=str(found.file),
        subfolder=name,
        config={**(other.read_config() if other else found.config(name)), **found.quantization(name)},
    )


def tensors_in(spec: ComponentSpec, model: Any) -> Renamed:  # a model of ours
    """The tensors of a part of a file, by the names of our model."""
    file = Path(str(spec.pretrained_model_name_or_path))
    part = open_checkpoint(file, spec.access).part(spec.subfolder)
    tensors = WholeTensors(open_tensors([file], allow_pickle=spec.access.allow_pickle))
    if part.layout in ("diffusers", "transformers"):
        kept = {name.removeprefix(part.prefix) for name in part.names()}
        plain = {name: shape for name, shape in part.shapes.items() if name in kept}
        return Renamed(tensors, ties(plain, (), part.prefix), plain)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    return Renamed(tensors, ties(wanted, _rows(part, model.to_config()), part.prefix), wanted, part.names())


def _rows(part: Part, config: Mapping[str, Any]) -> "list[Row] | tuple[Row, ...]":
    match part.kind:
        case "unet":
            return latent_diffusion.unet(config)
        case "controlnet":
            return latent_diffusion.controlnet(config)
        case "vae":
            return latent_diffusion.vae(config)
        case _:
            return tuple(part.rows())
