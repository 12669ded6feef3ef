"""Walk a workflow once: what each output stands for, and what becomes of each node."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ....graph.errors import SfumatoError
from . import table_image_prompts as table_image_prompts  # they register their nodes
from . import table_pictures as table_pictures
from .families import family_of_node, foreign
from .given import TRANSLATE, Given, Unmapped, translates
from .literals import FUNCTIONS
from .report import Fate
from .run_blocks import BLOCKS, BlockNode, kind_of
from .table_latents import LATENTS
from .table_models import UNKNOWN
from .table_prompts import IMAGES
from .values import Decoded, Model, Out, Picture, Value, family_of
from .workflow import Link, Literal, Node, Workflow

SAVES: Mapping[str, str] = {
    "SaveImage": "images",
    "SaveImageAdvanced": "images",
    "SaveAnimatedWEBP": "images",
    "Image Save": "images",
}
"""Nodes whose input the graph gives back, and the name of that input."""
SHOWS: Mapping[str, str] = {
    "PreviewImage": "images",
    "ImageCompare": "image_a",
    "MaskPreview": "mask",
    "PreviewAny": "source",
}
"""Nodes that only show something. Where nothing is saved, the graph gives back one shown picture."""
_SHORT = 80


@dataclass
class Known:
    """What is known of a workflow without a run.

    values: on each output, by node and place. fates: of each node, with a text. blocks: of nodes that are blocks of
    their own; None for a hole. saved: the pictures that the workflow saves, each with the node that saves it. kinds:
    the types of outputs, by the inputs that read them.
    """

    workflow: Workflow
    values: dict[Link, Value] = field(default_factory=dict[Link, Value])
    fates: dict[str, tuple[Fate, str]] = field(default_factory=dict[str, tuple[Fate, str]])
    blocks: dict[str, tuple[BlockNode, Any] | None] = field(default_factory=dict[str, "tuple[BlockNode, Any] | None"])
    saved: list[tuple[str, Value]] = field(default_factory=list[tuple[str, Value]])
    kinds: dict[Link, str] = field(default_factory=dict[Link, str])

    def input(self, node: Node, name: str) -> Value:
        """The value of an input; None where nothing is linked."""
        value = node.inputs.get(name)
        return self.values.get(value) if isinstance(value, Link) else value


def known_of(workflow: Workflow) -> Known:
    """Translate all nodes of a workflow, each once."""
    known = Known(workflow)
    known.kinds = _kinds(known)
    shown: list[tuple[str, Value]] = []
    for node in workflow.nodes.values():
        if node.type in SAVES:
            known.saved.append((node.id, known.input(node, SAVES[node.type])))
        elif node.type in SHOWS:
            shown.append((node.id, known.input(node, SHOWS[node.type])))
        _translate(known, node)
    known.kinds = _kinds(known)
    if not known.saved:
        pictures = [(name, value) for name, value in shown if _is_picture(value)]
        known.saved = sorted(pictures, key=lambda one: _distance(one[1]))[:1]
    return known


def _distance(value: Value) -> int:
    """How far a shown picture is from the result: 0 if it is decoded, 1 if a block makes it, 2 if it is loaded."""
    return 0 if isinstance(value, Decoded) else 2 if isinstance(value, Picture) else 1


def _translate(known: Known, node: Node) -> None:
    values = {name: known.input(node, name) for name in node.inputs}
    if node.type in SAVES or node.type in SHOWS:
        known.fates[node.id] = "mapped", ""
        passed = next(iter(values.values()), None)
        known.values[Link(node.id, 0)] = passed
        return
    family = foreign(map(family_of, values.values())) or (
        "" if node.type in TRANSLATE or node.type in BLOCKS or node.type in FUNCTIONS else family_of_node(node.type)
    )
    notes: list[str] = []
    try:
        if family and not _is_literal(node, values):
            _hole(known, node, values, "family", family)
        elif (made := _made(known, node, values, notes)) is not None:
            known.values.update({Link(node.id, place): value for place, value in enumerate(made)})
            family = foreign(map(family_of, made))
            text = "; ".join(notes)
            known.fates[node.id] = ("family", _family_text(family, made)) if family else ("mapped", text)
        else:
            _hole(known, node, values, "hole", "")
    except (Unmapped, SfumatoError, KeyError, TypeError, ValueError) as error:
        text = f"it has no input {error}" if isinstance(error, KeyError) else str(error)
        _hole(known, node, values, "hole", text.partition("\n")[0])


def _is_picture(value: Value) -> bool:
    return isinstance(value, IMAGES) and getattr(value, "kind", "IMAGE") == "IMAGE"


def _is_literal(node: Node, values: Mapping[str, Value]) -> bool:
    """Whether the node chooses or computes, whatever family its values are of."""
    return node.type == "ComfySwitchNode" and isinstance(values.get("switch"), bool)


def _made(known: Known, node: Node, values: Mapping[str, Value], notes: list[str]) -> tuple[Value, ...] | None:
    """The values on the outputs of a node; None where no table has its type."""
    if node.type.startswith("Primitive") and isinstance(values.get("value"), Out):
        return (values["value"],)
    if node.type in FUNCTIONS and all(_plain(value) for value in values.values()):
        return FUNCTIONS[node.type](values)
    passes_one = node.type in _PASSING and sum(isinstance(value, IMAGES) for value in values.values()) == 1
    if node.type in BLOCKS and not passes_one:
        return _own_block(known, node, values)
    if node.type in TRANSLATE:
        return TRANSLATE[node.type](Given(node, values, notes))
    return None


_PASSING = ("ImageStitch",)
"""Nodes with a block that pass a single picture on."""


def _plain(value: Value) -> bool:
    return value is None or isinstance(value, str | int | float | bool | list | dict)


def _own_block(known: Known, node: Node, values: Mapping[str, Value]) -> tuple[Value, ...]:
    entry = BLOCKS[node.type]
    settings: dict[str, Literal] = {name: value for name, value in values.items() if _plain(value)}
    block = entry.make(settings)
    gives = block.signature.outputs
    names = entry.outputs or tuple(gives)
    known.blocks[node.id] = entry, block
    family = next((f for f in map(family_of, values.values()) if f), "")
    made = [Out(node.id, place, kind_of(gives[name].type)) for place, name in enumerate(names)]
    return tuple(Out(o.node, o.output, o.kind, family if o.kind in _OF_A_FAMILY else "") for o in made)


_OF_A_FAMILY = ("MODEL", "CLIP", "VAE", "CONDITIONING", "LATENT", "GUIDER", "SIGMAS", "CONTROL_NET")


def _hole(known: Known, node: Node, values: Mapping[str, Value], fate: Fate, text: str) -> None:
    """Make the node a block that cannot run: its outputs are known by their types alone."""
    known.blocks[node.id] = None
    known.fates[node.id] = fate, text or f"sfumato has no block for the type {node.type}"
    family = next((f for f in map(family_of, values.values()) if f), "") if fate == "hole" else text
    for place, (_, kind) in enumerate(outputs_of(known, node)):
        # A picture, text or number is of no family: what comes after it may be here. So is nothing else of a hole.
        own = family if kind in _OF_A_FAMILY or kind == "*" else ""
        value: Value = Out(node.id, place, kind, own)
        if kind == "MODEL" and fate == "hole" and isinstance(model := values.get("model"), Model):
            value = replace(model, patches=(*model.patches, Out(node.id, place, kind, own)))
        known.values[Link(node.id, place)] = value


def outputs_of(known: Known, node: Node) -> tuple[tuple[str, str], ...]:
    """Name and type of each output. A file of the API format does not state them: there the inputs that read them say
    the type, or it is "*"."""
    if node.outputs is not None:
        return node.outputs
    kinds = {place: kind for (name, place), kind in known.kinds.items() if name == node.id}
    last = min(max(kinds, default=-1), _OUTPUTS - 1)
    return tuple((_name_of(kinds.get(place, "*"), place), kinds.get(place, "*")) for place in range(last + 1))


def _kinds(known: Known) -> dict[Link, str]:
    """The type of each output by the inputs that read it, also through nodes that only choose."""
    found: dict[Link, str] = {}
    for node in known.workflow.nodes.values():
        entry = known.blocks.get(node.id)
        for name, link in node.links.items():
            kind = _KIND_OF_INPUT.get(name, "*")
            if entry is not None and (port := entry[1].signature.inputs.get(entry[0].inputs.get(name, name))):
                kind = kind_of(port.type)
            value = known.values.get(link)
            for one in (link, Link(value.node, value.output) if isinstance(value, Out) else link):
                found[one] = found.get(one, "*") if kind == "*" else kind
    return found


def _name_of(kind: str, place: int) -> str:
    return f"output_{place}" if kind == "*" else kind.lower()


_OUTPUTS = 64
"""No node has more outputs."""
_KIND_OF_INPUT: Mapping[str, str] = {
    "model": "MODEL", "clip": "CLIP", "vae": "VAE", "positive": "CONDITIONING", "negative": "CONDITIONING",
    "conditioning": "CONDITIONING", "latent_image": "LATENT", "samples": "LATENT", "latent": "LATENT",
    "image": "IMAGE", "images": "IMAGE", "pixels": "IMAGE", "mask": "MASK", "text": "STRING", "prompt": "STRING",
    "width": "INT", "height": "INT", "seed": "INT", "noise_seed": "INT", "steps": "INT", "cfg": "FLOAT",
    "upscale_model": "UPSCALE_MODEL", "control_net": "CONTROL_NET", "clip_vision": "CLIP_VISION",
    "style_model": "STYLE_MODEL", "ipadapter": "IPADAPTER", "insightface": "INSIGHTFACE", "model_patch": "MODEL_PATCH",
    "sigmas": "SIGMAS", "sampler": "SAMPLER", "guider": "GUIDER", "noise": "NOISE",
}  # fmt: skip


def _family_text(family: str, made: tuple[Value, ...]) -> str:
    file = getattr(made[0], "file", None)
    return f"{family} ({file.name})" if family == UNKNOWN and file is not None else family


# ------------------------------------------------------------------------------------------------- nodes that choose
@translates("ComfySwitchNode")
def _switch(given: Given) -> tuple[Value, ...]:
    on = given.values.get("switch")
    if not isinstance(on, bool):
        raise Unmapped("its switch is known only in a run")
    return (given.values.get("on_true" if on else "on_false"),)


@translates("LatentBatch", "LatentSwitch")
def _same_latents(given: Given) -> tuple[Value, ...]:
    """Nodes that take several latents, with one."""
    latents = [value for value in given.values.values() if isinstance(value, LATENTS)]
    if len(latents) != 1:
        raise Unmapped(f"it joins {len(latents)} latents, for which there is no block")
    return (latents[0],)


@translates("ImageStitch", "BatchImagesNode", "ImageBatchMulti")
def _several(given: Given) -> tuple[Value, ...]:
    """Nodes that take several pictures, with one."""
    pictures = [value for value in given.values.values() if isinstance(value, IMAGES)]
    if len(pictures) != 1:
        raise Unmapped(f"it joins {len(pictures)} pictures, for which there is no block")
    return (pictures[0],)


@translates("FluxKontextImageScale")
def _kontext_size(given: Given) -> tuple[Value, ...]:
    given.note("the task 'kontext' chooses the size itself (auto_resize)")
    return (given.any_of("image", *IMAGES),)
