"""A workflow as a graph with a block for each of its nodes: any number of samplers, and holes."""

from collections.abc import Mapping
from typing import Any

from ....blocks.control.prompt_parts import AddMaskedPrompt, AddPrompt
from ....blocks.decode.images import DecodeLatents, FinishImages
from ....blocks.image.encode import EncodePixels
from ....blocks.image.read import ReadImage, ReadMask
from ....blocks.image.resize import ResizeLatents
from ....blocks.latents.continued import ReuseLatents
from ....blocks.text.zero import ZeroConditioning
from ....graph import Block, Graph, named
from ....graph.errors import GraphFileError
from ....registry import printable
from .files import Files
from .hole import Hole
from .parts import Parts
from .reading import Known, outputs_of
from .run_blocks import BlockNode
from .stages import stage_graph
from .values import (
    Cond,
    Decoded,
    Encoded,
    Enlarged,
    Model,
    Out,
    Picture,
    PictureMask,
    Sampled,
    Several,
    Stage,
    Value,
)
from .wiring import Port, Wiring, identifier
from .workflow import Link, Node

FLOWS = ("IMAGE", "MASK", "LATENT", "CONDITIONING", "STRING", "INT", "FLOAT", "BOOLEAN", "VIDEO", "AUDIO", "*")
"""ComfyUI's types of values that flow in a run. Values of other types are parts of models and samplers."""
_TEXTS = ("prompt", "prompt_2", "prompt_3")


class _Types:
    """The names and types of the outputs of a workflow's nodes."""

    def __init__(self, known: Known) -> None:
        self.known = known

    def _as_setting(self, link: Link) -> str | None:
        """A model or a part of a sampler as text, such as "LoadModel(name='x')"; None for what flows in a run."""
        node = self._node_of(link)
        kinds = [kind for _, kind in outputs_of(self.known, node)]
        if link.output >= len(kinds) or kinds[link.output] in FLOWS:
            return None
        parts: list[str] = []
        for name in node.inputs:
            value, inner = self.known.input(node, name), node.links.get(name)
            text = repr(value) if inner is None or _plain(value) else self._as_setting(inner)
            if text is None:
                return None
            parts.append(f"{name}={text}")
        return f"{node.type}({', '.join(parts)})"

    def _node_of(self, link: Link) -> Node:
        node = self.known.workflow.nodes.get(link.node)
        if node is None:
            raise GraphFileError(f"A link reads the node {printable(link.node)}, which the workflow does not have.")
        return node

    def _output_name(self, node: Node, place: int) -> str:
        """The name of an output of a hole."""
        names = _port_names(outputs_of(self.known, node))
        if not 0 <= place < len(names):
            raise GraphFileError(f"A link reads output {place} of the node {node.place}, which has {len(names)}.")
        return names[place]

    def _kind(self, value: Value, link: Link) -> str:
        match value:
            case Picture() | Decoded():
                return "IMAGE"
            case PictureMask():
                return "MASK"
            case Sampled():
                return "LATENT"
            case Cond() | Several():
                return "CONDITIONING"
            case Out() if self.known.blocks.get(value.node) is not None:
                return value.kind
            case Out():
                return self._own_kind(self.known.workflow.nodes[value.node], value.output)
            case _:
                return self._own_kind(self._node_of(link), link.output)

    def _own_kind(self, node: Node, place: int) -> str:
        """The type of an output of a hole. Prompts are those of the family that reads them."""
        self._output_name(node, place)  # it refuses a place that the node does not have
        kind = outputs_of(self.known, node)[place][1]
        value = self.known.values.get(Link(node.id, place))
        family = getattr(value, "family", "")
        return f"CONDITIONING {family}" if kind == "CONDITIONING" and family in Parts.FAMILIES else kind


class Explicit(_Types):
    """Builds the graph of a workflow from what is known of it."""

    def __init__(self, known: Known, files: Files, settings: Mapping[str, Any], notes: list[str]) -> None:
        super().__init__(known)
        self.notes = notes
        self.wiring, self.parts = Wiring(), Parts(files, settings, notes)
        self.blocks: dict[str, str] = {}
        """The name in the graph of each node of the workflow that is a block of its own."""
        self._made: dict[object, Port] = {}
        self._slots: list[str] = []

    def graph(self) -> Graph:
        """The graph of all pictures that the workflow saves."""
        outputs: list[str] = []
        for node, value in self.known.saved:
            name = "images" if not outputs else f"images_{len(outputs) + 1}"
            link = self.known.workflow.nodes[node].links
            if value is None and not link:
                raise GraphFileError(f"The node {self.known.workflow.nodes[node].place} has no picture to save.")
            port = self.image(value) if value is not None else self._producer(next(iter(link.values())))
            finish = FinishImages() if not outputs else named(FinishImages(), images=name)
            self.blocks[node] = self.wiring.add("finish", finish, {name: port})
            outputs.append(name)
        slots = {"guider": tuple(self._slots)} if self._slots else {}
        return self.parts.bound(self.wiring.graph(tuple(outputs), slots))

    # ------------------------------------------------------------------------------------------------- pictures
    def image(self, value: Value) -> Port:
        """The output that gives the pixels of a picture."""
        match value:
            case Picture(node):
                read = ReadImage(multiple=1)
                bases = {"height": "read_height", "width": "read_width"}
                return self._once(value, node, "load_image", read, "pixels", {}, {"image": value}, bases)
            case Decoded(node, latents, vae, tile):
                block = self.parts.with_vae(DecodeLatents(tile=tile), vae, self._model_of(latents))
                return self._once(value, node, "decode", block, "images", {"latents": self.latents(latents)}, {})
            case _:
                return self.port(value)

    def mask(self, value: Value) -> Port:
        """The output that gives a mask."""
        if not isinstance(value, PictureMask):
            return self.port(value)
        bases = {"height": "read_height", "width": "read_width"}
        read = ReadMask(multiple=1, binarize=False)
        return self._once(value, "", "load_mask", read, "mask", {}, {"mask_image": value}, bases)

    # ------------------------------------------------------------------------------------------------- latents
    def latents(self, value: Value) -> Port:
        """The output that gives latents."""
        match value:
            case Sampled(stage):
                return self._stage(stage)
            case Encoded(image, vae):
                block = self.parts.with_vae(EncodePixels(), vae, self._model_of(None))
                return self._once(value, "", "encode_image", block, "image_latents", {"images": self.image(image)}, {})
            case Enlarged(node, latents, method, by, size):
                width, height = (0, 0) if size is None else (size[0] // 8, size[1] // 8)
                kind: Any = method if method in ("nearest-exact", "bilinear", "area", "bicubic") else "bicubic"
                if kind != method:
                    self.notes.append(f"latents are enlarged by {kind!r}; {method!r} is not here")
                block = ResizeLatents(factor=by or 1.0, width=width, height=height, method=kind)
                return self._once(
                    value, node, "enlarge", block, "image_latents", {"latents": self.latents(latents)}, {}
                )
            case _:
                return self.port(value)

    def _stage(self, stage: Stage) -> Port:
        if (key := ("stage", stage.node)) in self._made:
            return self._made[key]
        model = stage.guider.model
        made = stage_graph(stage, self.parts, self.notes, first=not self._slots)
        links: dict[str, Port] = {}
        if "positive" in made.graph.inputs:
            links["positive"] = self.cond(stage.guider.positive, made.encoder)
        if "negative" in made.graph.inputs and stage.guider.negative is not None:
            links["negative"] = self.cond(stage.guider.negative, made.encoder, negative=True)
        for port, prompt in (("prompt_parts", stage.guider.positive), ("negative_parts", stage.guider.negative)):
            if port in made.graph.inputs and isinstance(prompt, Several):
                links[port] = self._parts(prompt, made.encoder, negative=port == "negative_parts")
        if "image_latents" in made.graph.inputs:
            links["image_latents"] = self._as_start(stage.latents)
        literals: dict[str, Value] = {}
        for port, value in made.inputs.items():
            if isinstance(value, Decoded | Out):
                links[port] = self.image(value)
            else:
                literals[port] = value
        block = self.parts.named_for(made.graph, model, stage.node)
        name = self.wiring.add("sample", block, links, literals)
        self.blocks[stage.node] = name
        self._slots.append(f"{name}.denoise.guider")
        self._made[key] = Port(name, "latents")
        return self._made[key]

    def _as_start(self, value: Value) -> Port:
        """The output that gives latents which a sampler starts from."""
        port = self.latents(value)
        if not isinstance(value, Sampled | Out):
            return port
        return self._once(("start", port), "", "reuse", ReuseLatents(), "image_latents", {"latents": port}, {})

    # ------------------------------------------------------------------------------------------------- prompts
    def cond(self, value: Value, encoder: Block, *, negative: bool = False) -> Port:
        """The output that gives an encoded prompt, the first of several. encoder: of the preset's graph."""
        if isinstance(value, Several):
            return self.cond(value.parts[0].prompt, encoder, negative=negative)
        if not isinstance(value, Cond):
            return self.port(value)
        key = ("cond", value.node)
        if key not in self._made:
            block, output = self.parts.encoder(encoder, value.clip)
            prefix = "negative_" if negative else ""
            bases = {text: f"{prefix}{text}" for text in _TEXTS}
            links = {name: self.port(text) for name, text in value.texts.items() if isinstance(text, Out)}
            literals = {name: text for name, text in value.texts.items() if not isinstance(text, Out)}
            name = self.wiring.add("negative" if negative else "positive", block, links, literals, bases)
            self.blocks[value.node] = name
            self._made[key] = Port(name, output)
        if not value.zeroed:
            return self._made[key]
        zero = ZeroConditioning()
        return self._once(("zero", value.node), "", "zero", zero, "conditioning", {"conditioning": self._made[key]}, {})

    def _parts(self, several: Several, encoder: Block, *, negative: bool) -> Port:
        """The output that gives all of several prompts."""
        made: Port | None = None
        for part in several.parts:
            links = {"conditioning": self.cond(part.prompt, encoder, negative=negative)}
            links |= {} if made is None else {"prompt_parts": made}
            common: dict[str, Any] = {"weight": part.strength, "start": part.start, "stop": part.stop}
            if part.mask is not None:
                links["prompt_mask"] = self.mask(part.mask)
                block: Block = AddMaskedPrompt(**common)
                if part.area is not None:
                    self.notes.append("a prompt has an area and a mask, and its area is left out")
            else:
                block = AddPrompt(**common, area=part.area, factor=8 if part.in_pixels else 0)
            made = Port(self.wiring.add("part", block, links), "prompt_parts")
        assert made is not None
        return made

    # ------------------------------------------------------------------------------------------------- own nodes
    def port(self, value: Value) -> Port:
        """The output of a node that is a block of its own: one of the table, or a hole."""
        if not isinstance(value, Out):
            raise GraphFileError(
                f"The workflow has {printable(repr(value))[:60]} where it needs the output of a node. Draw the link."
            )
        node = self.known.workflow.nodes[value.node]
        entry = self.known.blocks.get(value.node)
        if entry is None:
            return Port(self._hole(node), self._output_name(node, value.output))
        if value.node not in self.blocks:
            self._own(node, *entry)
        names = entry[0].outputs or tuple(entry[1].signature.outputs)
        return Port(self.blocks[value.node], names[value.output])

    def _own(self, node: Node, entry: BlockNode, block: Block) -> None:
        links: dict[str, Port] = {}
        literals: dict[str, Value] = {}
        for theirs in node.inputs:
            ours = entry.inputs.get(theirs, theirs)
            if ours in block.signature.inputs:
                value = self.known.input(node, theirs)
                if isinstance(node.inputs[theirs], Link) and not _plain(value):
                    links[ours] = self._any(value, node.links[theirs])
                elif value is not None:
                    literals[ours] = value
        self.blocks[node.id] = self.wiring.add(node.type, block, links, literals)

    def _hole(self, node: Node) -> str:
        """A block with the ports of a node, and the names of ComfyUI in small letters."""
        if node.id in self.blocks:
            return self.blocks[node.id]
        links: dict[str, Port] = {}
        takes: list[tuple[str, str]] = []
        texts: list[tuple[str, str]] = []
        for theirs in node.inputs:
            value, link = self.known.input(node, theirs), node.links.get(theirs)
            text = str(value) if link is None or _plain(value) else self._as_setting(link)
            if text is not None or link is None:
                texts.append((theirs, text or ""))
                continue
            port = identifier(theirs)
            links[port] = self._any(value, link)
            takes.append((port, self._kind(value, link)))
        outputs = outputs_of(self.known, node)
        gives = tuple(zip(_port_names(outputs), (self._own_kind(node, i) for i in range(len(outputs))), strict=True))
        fate, text = self.known.fates.get(node.id, ("hole", ""))
        reason = f"the family {text} is not here" if fate == "family" else text or "a hole reads it"
        hole = Hole(
            node=node.type, title=node.title, takes=tuple(takes), gives=gives, settings=tuple(texts), reason=reason
        )
        name = self.wiring.add(node.type, hole, links)
        self.blocks[node.id] = name
        return name

    def _any(self, value: Value, link: Link) -> Port:
        """The output that gives a value of any kind; of one that no block gives, the node itself as a hole."""
        match value:
            case Picture() | Decoded():
                return self.image(value)
            case PictureMask():
                return self.mask(value)
            case Out():
                return self.port(value)
            case Cond() if (encoder := self.parts.any_encoder(value.clip, self._models())) is not None:
                return self.cond(value, encoder)
            case Sampled():
                return self.latents(value)
            case _:
                return self._producer(link)

    def _producer(self, link: Link) -> Port:
        node = self._node_of(link)
        return Port(self._hole(node), self._output_name(node, link.output))

    def _model_of(self, latents: Value) -> Model | None:
        """The model that made latents; of others, the first of the workflow."""
        if isinstance(latents, Sampled):
            return latents.stage.guider.model
        return next(iter(self._models()), None)

    def _models(self) -> list[Model]:
        return [value for value in self.known.values.values() if isinstance(value, Model)]

    def _once(
        self, key: object, node: str, wanted: str, block: Block, output: str, links: Mapping[str, Port],
        literals: Mapping[str, Value], bases: Mapping[str, str] | None = None,
    ) -> Port:  # fmt: skip
        """The output of a node that is added at most once for a key."""
        found = repr(key)
        if found not in self._made:
            name = self.wiring.add(wanted, block, links, literals, bases)
            self._made[found] = Port(name, output)
            if node:
                self.blocks[node] = name
        return self._made[found]


def _plain(value: Value) -> bool:
    return value is None or isinstance(value, str | int | float | bool | list | dict)


def _port_names(outputs: tuple[tuple[str, str], ...]) -> list[str]:
    """Names of ports for the outputs of a node, each once."""
    made: list[str] = []
    for place, (name, kind) in enumerate(outputs):
        plain = identifier(name or kind or f"output_{place}")
        made.append(plain if plain not in made else f"{plain}_{place}")
    return made
