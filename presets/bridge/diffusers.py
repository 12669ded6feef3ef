"""`sf.bridge`: blocks of diffusers in our graphs, and pipelines of diffusers made from ours, where it is installed."""

import inspect
import tempfile
from collections.abc import Callable, Mapping
from importlib import import_module
from types import new_class
from typing import Any, ClassVar, NamedTuple, cast

from torch import nn

from ...components.adapters.adapted import Adapted, attached_to
from ...components.adapters.merging import merged_model
from ...components.models.base import Model
from ...components.models.transformers_files import TransformersModel
from ...components.schedulers import Scheduler
from ...graph import Block, ConfigError, Graph, Lazy, LoadError, SaveError, component
from ...graph.errors import BrokenBlock
from ...graph.paths import blocks_inside, without_names
from ...graph.ports import REQUIRED, Input, Output
from ...graph.validate import value_text
from ...registry import hint_of
from ...registry import presets as families
from ..save import index_keys

_TASKS = {
    "text2image": (),
    "image2image": ("Img2Img",),
    "inpaint": ("Inpaint",),
    "fill": ("Fill",),
    "kontext": ("Kontext",),
    "kontext_inpaint": ("Inpaint", "Kontext"),
}
"""The words in the class name of a pipeline that say its task."""
_WORDS = ("Img2Img", "Inpaint", "Fill", "Kontext")
_GUIDERS = {"ClassifierFreeGuidance": False, "NoGuidance": False, "PerturbedAttentionGuidance": True}
"""The guiders that classic pipelines of diffusers have, and whether their class names have the word PAG."""


def diffusers_block(block: Any) -> Block:  # Any: of a library that is not always installed
    """Make a block of diffusers one of ours.

    Its inputs, outputs and components have the names and types that it declares. Its components are objects of
    diffusers or transformers: bind those, or `to_diffusers(ours)`. Those that it can make from a config need not be
    bound. A memo does not keep its outputs.

    Args:
        block: a `ModularPipelineBlocks`: a single step, or a sequence of them.

    Raises:
        ConfigError: another object; a step of a loop of diffusers, which is no block by itself.
        LoadError: diffusers is not installed.
    """
    base = _diffusers().ModularPipelineBlocks
    if isinstance(block, type) or not isinstance(block, base):
        what = f"the class {block.__name__}" if isinstance(block, type) else value_text(block)
        raise ConfigError(f"diffusers_block() needs an object of ModularPipelineBlocks, got {what}.")
    name = type(block).__name__
    if [*inspect.signature(type(block).__call__).parameters][1:] != ["components", "state"]:
        raise ConfigError(
            f"{name} is a step of a loop of diffusers, not a block by itself. Pass the block of the loop."
        )
    inputs, outputs = _inputs_of(block), _outputs_of(block)
    result: Any = NamedTuple(f"{name}Outputs", [(n, port.type) for n, port in outputs.items()]) if outputs else None  # pyright: ignore  its fields are known here alone
    fields = {spec.name: _field_of(spec) for spec in block.expected_components}
    configs = {spec.name: (Any, spec.default) for spec in block.expected_configs}

    def body(namespace: dict[str, Any]) -> None:
        namespace["__doc__"] = f"{name} of diffusers. {block.description.strip()}"
        namespace["no_file"] = "is made of a block of diffusers, which no graph file can name. Make the graph in Python"
        namespace["__annotations__"] = {n: kind for n, (kind, _) in (fields | configs).items()}
        namespace |= {n: default for n, (_, default) in (fields | configs).items() if default is not REQUIRED}
        namespace["__annotations__"] |= {"pure": ClassVar[bool], "no_file": ClassVar[str]}
        namespace["pure"] = False
        namespace["__call__"] = _call(block, inputs, result, tuple(fields), tuple(configs))

    made = new_class(name, (Block,), {"name": f"diffusers.{name}"}, body)
    return cast(Block, made())


def _call(
    block: Any, inputs: Mapping[str, "_Taken"], result: Any, components: tuple[str, ...], configs: tuple[str, ...]
) -> Callable[..., Any]:
    """The `__call__` of the block class: it runs the block of diffusers on a state with these inputs."""

    def call(self: Block, **values: Any) -> Any:
        pipeline = block.init_pipeline()
        held = {name: getattr(self, name) for name in components}
        pipeline.update_components(**{name: value for name, value in held.items() if value is not None})
        pipeline.register_to_config(**{name: getattr(self, name) for name in configs})
        state = _diffusers("modular_pipelines").PipelineState()
        for name, value in values.items():
            if inputs[name].gathers:
                for part, one in value.items():
                    state.set(part, one, name)
            else:
                state.set(name, value, inputs[name].kind)
        _, state = pipeline.blocks(pipeline, state)
        if result is None:
            return None
        lacking = [name for name in result._fields if name not in state.values]
        if lacking:
            raise BrokenBlock(f"{type(block).__name__} of diffusers did not set its output {', '.join(lacking)}.")
        return result(**{name: state.get(name) for name in result._fields})

    receiver = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    named = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, annotation=taken.port.type,
            default=inspect.Parameter.empty if taken.port.required else taken.port.default,
        )
        for name, taken in inputs.items()
    ]  # fmt: skip
    call.__signature__ = inspect.Signature([receiver, *named], return_annotation=result)  # type: ignore[attr-defined]
    call.__annotations__ = {**{name: taken.port.type for name, taken in inputs.items()}, "return": result}
    return call


class _Taken(NamedTuple):
    """An input of a block of diffusers."""

    port: Input
    kind: str | None
    """The `kwargs_type` of diffusers: a group of values by which other blocks find it."""
    gathers: bool = False
    """Whether it takes all values of a group, as a mapping."""


def _inputs_of(block: Any) -> dict[str, _Taken]:
    found: dict[str, _Taken] = {}
    for param in block.inputs:
        kind = Any if param.type_hint is None else param.type_hint
        if param.name:
            port = Input(kind) if param.required else Input(kind | None if kind is not Any else kind, param.default)
            found[param.name] = _Taken(port, param.kwargs_type)
        elif param.kwargs_type:
            found[param.kwargs_type] = _Taken(Input(Mapping[str, Any], {}), None, gathers=True)
    return found


def _field_of(spec: Any) -> tuple[Any, Any]:
    """The type and the field of a component. diffusers can make some of a config where none is bound."""
    kind = spec.type_hint or Any
    return (
        (kind | None, component(default=None)) if spec.default_creation_method == "from_config" else (kind, component())
    )


def _outputs_of(block: Any) -> dict[str, Output]:
    return {p.name: Output(Any if p.type_hint is None else p.type_hint) for p in block.outputs}


def to_diffusers(ours: Any) -> Any:  # Any: a graph or a component; an object of another library
    """Make an object of diffusers or transformers: a pipeline for a bound preset graph, a model for one of our models.

    Weights are copied, so that changes there, such as `fuse_lora`, change nothing here. Adapters of a component are
    merged into the copy. A pipeline has the class that
    its family and task have there; settings of blocks are arguments of its call there.

    Args:
        ours: a graph of a preset with its components, or a component.

    Raises:
        ConfigError: a graph that is no preset or whose task, guider, adapters or components have no place in a
            pipeline of diffusers; a quantized model; an object that diffusers does not have.
        LoadError: diffusers is not installed.
    """
    if not isinstance(ours, Graph):
        return _object(ours)
    if ours.adapters:
        raise ConfigError("This graph has adapters. Merge them first: sf.bridge.to_diffusers(pipe.merged()).")
    kept = {name: value for name, value in ours.bindings.items() if name in ours.components and value is not None}
    cls = _class_of(ours, kept)
    _check_blocks(ours)
    keys = {"requires_safety_checker": False, **index_keys(ours)}
    arguments: dict[str, Any] = {}
    for name, parameter in list(inspect.signature(cls.__init__).parameters.items())[1:]:
        if name in kept:
            arguments[name] = _object(kept[name], name)
        elif name in keys:
            arguments[name] = keys[name]
        elif parameter.default is parameter.empty:
            arguments[name] = None
    return cls(**arguments)


def _class_of(graph: Graph, components: Mapping[str, Any]) -> Any:
    """The pipeline class of diffusers for the family, the task, the guider and the components of a graph."""
    family, task = graph.preset or ("", "")
    if family not in families or task not in _TASKS:
        known = f"of the tasks {', '.join(_TASKS)}"
        raise ConfigError(f"Needs a graph of a preset {known}, got {graph.preset or 'a graph of your own'}.")
    guiders = {type(b).__name__ for _, b in blocks_inside(graph) if type(b).__module__.startswith("sfumato.blocks.gui")}
    if other := sorted(guiders - set(_GUIDERS)):
        raise ConfigError(
            f"Pipelines of diffusers have no {' or '.join(other)}. Choose the guider "
            f"{' or '.join(_GUIDERS)} first: pipe.using(guider='ClassifierFreeGuidance')."
        )
    perturbed = any(_GUIDERS[name] for name in guiders)
    module, found = _diffusers(), families[family]
    names = [
        name for name in (*found.classes, *found.pag_classes)
        if "Modular" not in name and ("PAG" in name) == perturbed
        and tuple(sorted(word for word in _WORDS if word in name)) == tuple(sorted(_TASKS[task]))
    ]  # fmt: skip
    if family.endswith("kontext"):
        names = [name for name in found.classes if "Modular" not in name]
    for name in names:
        cls = getattr(module, name, None)
        if cls is not None and set(components) <= set(inspect.signature(cls.__init__).parameters):
            return cls
    raise ConfigError(
        f"diffusers has no pipeline for {family} {task} with the components {', '.join(components)}. Bind fewer, or "
        "convert single components: sf.bridge.to_diffusers(component)."
    )


def _check_blocks(graph: Graph) -> None:
    """ConfigError for blocks, other than the guider, that the graph of the preset does not have at their places."""
    family, task = graph.preset or ("", "")
    plain = families[family].make(task, graph.adapted_bindings, **index_keys(graph))
    ours, theirs = _kinds(graph), _kinds(plain)
    changed = [f"{path} ({ours[path].__name__})" for path in ours if theirs.get(path) is not ours[path]]
    changed += [f"{path} (taken out)" for path in theirs if path not in ours]
    if changed:
        raise ConfigError(
            f"Pipelines of diffusers have fixed steps, and this graph has others: {', '.join(changed)}. Pass the graph "
            "of the preset, or convert single components: sf.bridge.to_diffusers(component)."
        )


def _kinds(graph: Graph) -> dict[str, type]:
    """The classes of the blocks in a graph by path, without guiders."""
    found = {".".join(path): type(without_names(block)[0]) for path, block in blocks_inside(graph) if path}
    return {path: kind for path, kind in found.items() if not kind.__module__.startswith("sfumato.blocks.guiders")}


def _object(value: Any, name: str = "") -> Any:
    """The object of diffusers or transformers for a component of ours."""
    where = f"{name}: " if name else ""
    value = _with_adapters_merged(value, where)
    value = value.load() if isinstance(value, Lazy) else value
    hint = hint_of(type(value))
    if hint is None or hint[0] not in ("diffusers", "transformers"):
        raise ConfigError(f"{where}diffusers has no class for {value_text(value)}.")
    library = _diffusers() if hint[0] == "diffusers" else import_module("transformers")
    cls = getattr(library, hint[1], None)
    if cls is None:
        raise ConfigError(f"{where}the installed {hint[0]} has no {hint[1]}.")
    if isinstance(value, Scheduler):
        return cls.from_config(value.to_config())
    if isinstance(value, Model):
        if value.quantization is not None:
            raise ConfigError(f"{where}is quantized, which diffusers stores in another way. Load it without.")
        weights = {key: tensor.clone() for key, tensor in value.state_dict().items()}
        return _model(cls, value, weights, where)
    with tempfile.TemporaryDirectory() as folder:  # small files: a tokenizer, a feature extractor
        try:
            value.save_pretrained(folder)
        except SaveError as error:
            raise ConfigError(f"{where}{error}") from error
        return cls.from_pretrained(folder)


def _with_adapters_merged(value: Any, where: str) -> Any:  # a component
    """A copy of a component with adapters, whose weights have them added; other components as they are."""
    attached = attached_to(value) if isinstance(value, nn.Module) else None
    adapted = value if attached is None else attached.adapted
    if not isinstance(adapted, Adapted):
        return value
    if adapted.embeddings:
        raise ConfigError(
            f"{where}has words with embeddings, which are no weights of a published model. Convert it without them, "
            "and load them into the pipeline: pipeline.load_textual_inversion(file)."
        )
    return merged_model(adapted.component, adapted)


def _model(cls: Any, ours: Model[Any], weights: Mapping[str, Any], where: str) -> Any:
    config = ours.to_config()
    if isinstance(ours, TransformersModel):
        made, report = cls.from_pretrained(
            None, config=cls.config_class(**config), state_dict=weights, dtype=ours.dtype, output_loading_info=True
        )
        differ = sorted({*report["missing_keys"], *report["unexpected_keys"]})
    else:
        from accelerate import init_empty_weights

        with init_empty_weights():
            made = cls.from_config(config)
        answer = made.load_state_dict(weights, strict=False, assign=True)
        differ = sorted({*answer.missing_keys, *answer.unexpected_keys})
    if differ:
        raise ConfigError(f"{where}the {cls.__name__} of diffusers has other tensors: {', '.join(differ[:5])}.")
    return made.eval()


def _diffusers(module: str = "") -> Any:
    try:
        return import_module(f"diffusers.{module}".rstrip("."))
    except ImportError as error:
        raise LoadError("The bridge needs diffusers, which is not installed. Run: pip install diffusers") from error
