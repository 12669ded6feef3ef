"""A checkpoint in one file: its family, its parts as component specs, and the tensors of one part."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from ....graph.errors import LoadError
from ....registry import did_you_mean
from ...quantization.four_bit import FourBitState
from ...spec import AUTO_CLASSES, ComponentSpec
from ...storage.files import read_json
from ...storage.fits import shown_names
from ...storage.hub import Access
from ...storage.tensors import PICKLES, Shape, Tensors
from ..index import Index
from ..open_tensors import open_tensors
from . import latent_diffusion
from .configs import config_of
from .family import SINGLES, TOWERS, family_of, is_larger, numbered
from .look_alikes import LookAlike, look_alikes
from .marks import Marks, loose_names, read_header, read_marks
from .parts import Part
from .recognition import incomplete, parts_of
from .several_files import Halves, files_of, open_whole, shard_text
from .small_models import with_shortcut
from .tables import Renamed, Row, ties
from .whole_tensors import WholeTensors

FAMILIES = Path(__file__).parent / "families"
_VOCABULARIES = {"clip": ("CLIPTokenizer", "clip_tokenizer"), "t5": ("T5TokenizerFast", "t5_tokenizer")}
"""The tokenizers that this package includes: the published class, and the folder beside this file."""
ENDS = (".safetensors", ".gguf", *PICKLES)
_FAMILY_NAMES = "SD 1, SD 2, SDXL, its refiner, SD 3 and Flux"
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
    marks: Marks = field(default_factory=Marks)
    """The marks in the file beside its weights."""
    foreign: str = ""
    """Two sentences about a file of another kind: what it looks like, and what to do. "" for other files."""
    other_half: Path | None = None
    """The second file of a model in two files."""

    @property
    def family_facts(self) -> Mapping[str, Any]:
        """The facts that the family fixes: classes, configs, scheduler, tokenizers. Empty without a family."""
        return facts_of(self.family) if self.family else {}

    def models(self) -> dict[str, Part]:
        """The parts, by the names of the family's pipeline."""
        if not self.family:
            return numbered(self.parts)
        towers = sorted((part for part in self.parts if part.kind == "clip"), key=lambda part: part.width)
        by_kind = {part.kind: part for part in self.parts}
        wanted = self.family_facts["models"]
        if len(towers) == 1 and "text_encoder_2" in wanted and is_larger(towers[0], by_kind):
            towers = [None, *towers]  # the first tower is missing
        found: dict[str, Part] = {}
        for name, model in wanted.items():
            kind = model["kind"]
            part = by_kind.get(kind)
            if kind == "clip" or (kind == "open_clip" and part is None):
                part = towers.pop(0) if towers else None
            if part is not None:
                found[name] = part
        return found

    def config(self, name: str, base: Mapping[str, Any] | None = None) -> dict[str, Any]:  # each a config.json
        """The config of a part, by its shapes, its family and the marks of the file.

        `base` has the keys that shapes do not show, for a file without a family: those of a pipeline that it is for.
        """
        part = self._named(name)
        library, class_name = self.hint(name)
        named = {"_class_name": class_name} if library == "diffusers" else {}
        if not self.family:
            config = {**named, **config_of(part, {**SINGLES[part.kind].config, **(base or {})})}
            return with_shortcut(config, self.file.name) if part.kind == "ip_adapter" else config
        config = {**named, **config_of(part, self.family_facts["models"][name]["config"]), **self._exceptions(name)}
        return self.marks.autoencoder(config) if part.kind == "vae" else config

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
            single, part = SINGLES[self._named(name).kind], self._named(name)
            projected = part.kind in ("clip", "open_clip") and any("text_projection" in key for key in part.shapes)
            return single.library, single.classes[-1 if projected else 0]
        library, class_name = self.family_facts["models"][name]["class"]
        return library, class_name

    def serves(self, name: str, class_name: str) -> bool:
        """Whether a class reads a part. A text tower is read with and without its projection."""
        own = self.hint(name)[1]
        return class_name == own or (class_name in TOWERS and own in TOWERS)

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
        return f"holds {', '.join(self.models())}{f' of {self.family}' if self.family else ''} in {layouts}"

    def report(self) -> str:
        """`describe`, with the tensors that belong to no model, and known files that it looks like."""
        loose = loose_names(self.shapes, tuple(part.prefix for part in self.parts)) if self.parts else []
        more = f", and {len(loose)} tensors of no known model: {shown_names(loose)}" if loose else ""
        return f"{self.describe()}{more}{f'. {self.foreign}' if self.foreign else ''}"

    def _exceptions(self, name: str) -> dict[str, Any]:
        """Config keys in which single checkpoints of a family differ."""
        if name != "unet":
            return {}
        if self.marks.side is not None and self.marks.side % 8 == 0:
            return {"sample_size": self.marks.side // 8}
        return {"sample_size": 96} if self.family == "sd2" and self.predicts_velocity else {}

    @property
    def predicts_velocity(self) -> bool:
        """Whether an SD 2 or SDXL U-Net was trained on velocity.

        Fine-tunes have an empty tensor `v_pred`, or say it in the header. Stability's SD 2 files have no mark; of
        those, only the 768 pixel one has a large spread in the shift of its last norm (ComfyUI's rule, verified on the
        published files).
        """
        if self.marks.velocity or self.marks.states_prediction:
            return self.marks.velocity
        unet = self.models().get("unet")
        name = "output_blocks.11.1.transformer_blocks.0.norm1.bias"
        if self.family != "sd2" or unet is None or name not in unet.shapes:
            return False
        tensor = open_tensors([self.file], allow_pickle=True).read(unet.prefix + name)
        return bool(tensor.float().std(unbiased=False) > 0.09)

    def scheduler(self) -> dict[str, Any]:  # a scheduler_config.json
        """The published scheduler of the family, changed by the marks of the file."""
        config = dict(self.family_facts["scheduler"])
        if self.family == "flux" and not self.config("transformer")["guidance_embeds"]:
            return {"_class_name": config["_class_name"], "num_train_timesteps": 1000, "shift": 1.0}  # schnell
        if "unet" not in self.family_facts["models"]:
            return config
        return replace(self.marks, velocity=self.predicts_velocity).scheduler(config)


def open_checkpoint(file: Path, access: Access) -> Checkpoint:
    """Recognise the models of a file. Its header is read once until the file changes. LoadError if it is damaged."""
    files = files_of(file)
    try:
        states = tuple((state.st_mtime_ns, state.st_size) for state in (path.stat() for path in files))
    except OSError as error:
        raise LoadError(f"{file}: there is no such file ({error.strerror}).") from None
    return _opened(files, states, access.allow_pickle)


@lru_cache(maxsize=64)
def _opened(files: tuple[Path, ...], _states: tuple[tuple[int, int], ...], allow_pickle: bool) -> Checkpoint:
    stored = open_whole(files, allow_pickle=allow_pickle)
    found = checkpoint_of(files[0], stored, read_header(files[0]))
    return replace(found, other_half=files[1]) if isinstance(stored, Halves) else found


def checkpoint_of(file: Path, stored: Tensors, header: Mapping[str, str]) -> Checkpoint:
    """Recognise the models of a file with these tensors and these entries of its header."""
    tensors = WholeTensors(stored)
    shapes = dict(tensors.shapes())
    recognised = parts_of(shapes)
    parts, unfit = _fitting(recognised)
    marks = read_marks(file, shapes, tensors.read, header)
    likes = look_alikes(shapes, parts, recognised)
    not_read = {kind for like in likes for kind in like.instead_of}
    kept = tuple(part for part in parts if part.kind not in not_read)
    shard = shard_text(file)
    family = None if shard or any(like.alone for like in likes) else family_of(kept)
    foreign = shard or ("" if family and not not_read else _foreign(likes, unfit, shapes, kept, marks))
    return Checkpoint(file, shapes, kept, family, tensors.refused, tensors.states, marks, foreign)


def _fitting(parts: Iterable[Part]) -> tuple[list[Part], str]:
    """The parts whose configs follow from their shapes; and the fault of the first of the others, or ""."""
    fitting: list[Part] = []
    wrong = ""
    for part in parts:
        try:
            config_of(part, {})
            fitting.append(part)
        except LoadError as error:
            wrong = wrong or f"a damaged or unusual {part.kind}: {error}"
    return fitting, wrong


def _foreign(
    likes: Sequence[LookAlike], unfit: str, shapes: Mapping[str, Shape], parts: Sequence[Part], marks: Marks
) -> str:
    """Sentences about models in a file that this package does not read, and what to do; "" without any."""
    advice = " ".join(dict.fromkeys(like.advice for like in likes))
    what = " and ".join(like.what for like in likes) or unfit
    if not what and (what := incomplete(shapes, parts)):
        advice = "If it is one shard of several, pass the folder with all of them. Otherwise download it again."
    stated = f" Its header says {marks.architecture!r}." if marks.architecture and (what or not parts) else ""
    return f"It looks like {what}.{stated} {advice}".strip() if what else stated.strip()


@lru_cache
def facts_of(name: str) -> Mapping[str, Any]:
    """The file of a family in `families/`, as JSON."""
    return read_json(FAMILIES / f"{name}.json")


def tokenizer_specs(facts: Mapping[str, Any]) -> Mapping[str, ComponentSpec]:
    """The tokenizers of a family, of which this package has the vocabularies."""
    made: dict[str, ComponentSpec] = {}
    for name, tokenizer in facts["tokenizers"].items():
        class_name, folder = _VOCABULARIES[tokenizer["kind"]]
        made[name] = ComponentSpec(
            type_hint=("transformers", class_name),
            pretrained_model_name_or_path=str(FAMILIES.parent / folder),
            config=tokenizer.get("config"),
        )
    return made


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
        text = f"{found.describe()}, which is not a whole pipeline" if found.parts else found.describe()
        raise LoadError(f"{file}: {text}. {_way_out(found)}")
    components: dict[str, ComponentSpec | None] = {}
    if other is None:
        scheduler = found.scheduler()
        hint = ("diffusers", str(scheduler["_class_name"]))
        components["scheduler"] = ComponentSpec(type_hint=hint, config=scheduler)
        components |= tokenizer_specs(found.family_facts)
    else:
        components |= other.components
    for name in found.models():
        replaced = other.components.get(name) if other else None
        components[name] = part_spec(found, name, replaced)
    class_name = other.class_name if other else found.family_facts["class_name"]
    return Index(file, class_name, None, components, other.config if other else found.family_facts["keys"])


def component_of(
    file: Path,
    access: Access,
    hint: tuple[str, str] | None,
    name: str = "",
    base: Mapping[str, Any] | None = None,  # a config.json
) -> ComponentSpec:
    """The spec of one component of a file.

    Args:
        file: a file of weights.
        access: how it may be read.
        hint: its class; None takes the only part.
        name: its part ("vae"); "" takes the one part of the class.
        base: the config keys that its shapes do not show, for a file without a family.

    Raises:
        LoadError: no such part, or several that fit.
    """
    found = open_checkpoint(file, access)
    models = found.models()
    if shard := shard_text(file):
        raise LoadError(f"{file}: {shard}")
    if not name:
        fitting = [part for part in models if hint is None or found.serves(part, hint[1])]
        if len(fitting) != 1:
            wanted = hint[1] if hint else "a file of one model"
            raise LoadError(f"{file}: {found.describe()}; needs {wanted}. {_way_out(found)}")
        (name,) = fitting
    spec = part_spec(found, name, base=base).with_access(access)
    return spec.using(type_hint=hint) if hint else spec


def completed(spec: ComponentSpec) -> ComponentSpec:
    """The spec with class, part and config, if it names a single file of weights without them; else the same spec.

    Raises:
        LoadError: the file has no such part, or several that fit.
    """
    if spec.config is not None or (file := spec.file) is None or not file.name.endswith(ENDS):
        return spec
    named = None if spec.type_hint and spec.type_hint[1] in AUTO_CLASSES else spec.type_hint
    made = component_of(file, spec.access, named, spec.subfolder)
    return made.using(dtype=spec.dtype, quantization=spec.quantization)


def _way_out(found: Checkpoint) -> str:
    """Advice on a file that does not have the wanted models."""
    if found.foreign:
        return found.foreign
    if models := found.models():
        name = next(iter(models))
        return f"Load one component: sf.load_component(file, {found.hint(name)[1]!r}, subfolder={name!r})."
    return f"Known families are {_FAMILY_NAMES}. Pass a file of one of them, or a folder with a model_index.json."


def part_spec(
    found: Checkpoint, name: str, other: ComponentSpec | None = None, *, base: Mapping[str, Any] | None = None
) -> ComponentSpec:
    """The spec of one part. The config of `other` replaces the derived one; for `base`, see `Checkpoint.config`."""
    return ComponentSpec(
        type_hint=other.type_hint if other else found.hint(name),
        pretrained_model_name_or_path=str(found.file),
        subfolder=name,
        config={**(other.read_config() if other else found.config(name, base)), **found.quantization(name)},
    )


def tensors_in(spec: ComponentSpec, model: Any) -> Renamed:  # a model of ours
    """The tensors of a part of a file, by the names of our model."""
    file = Path(str(spec.pretrained_model_name_or_path))
    part = open_checkpoint(file, spec.access).part(spec.subfolder)
    tensors = WholeTensors(open_whole(files_of(file), allow_pickle=spec.access.allow_pickle))
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
