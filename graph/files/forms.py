"""The form of a graph file as pydantic models. Files are checked against it, and the JSON schema is made from it."""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Discriminator, Field, JsonValue, Tag

FORMAT = 2
"""The version of the form. It changes when a reader of the old one could misread a new file.

2: blocks have the names of the redesigned `blocks` folder, and containers have `config` and `graphs` like any block.
"""

FILE_NAME = "graph.json"

_KINDS = ("Named", "Graph")

Config = Annotated[dict[str, JsonValue], Field(description="The block's fields that are not components, by name.")]


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ComponentForm(_Form):
    """A component: an entry as in `modular_model_index.json`, or only `type_hint` and `config` for one saved inline.

    A path that begins with "." starts at the folder of this file.
    """

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    type_hint: Annotated[list[str], Field(min_length=2, max_length=2, examples=[["diffusers", "AutoencoderKL"]])] | None
    pretrained_model_name_or_path: str | None = None
    subfolder: str | None = None
    revision: str | None = None
    variant: str | None = None
    dtype: str | None = None
    config: dict[str, JsonValue] | None = None


Components = Annotated[dict[str, ComponentForm | None], Field(description="Bound components, by name.")]


class AdapterForm(_Form):
    """An adapter on the models that the graph binds, and its strengths; see `Adapter`. With a token, an embedding."""

    name: str
    file: Annotated[str, Field(description='A path that begins with "." starts at the folder of this file.')]
    strength: float = 1.0
    by_component: dict[str, float] = {}
    blocks: dict[str, float] = {}
    window: Annotated[list[float], Field(min_length=2, max_length=2)] = [0.0, 1.0]
    curve: list[Annotated[list[float], Field(min_length=2, max_length=2)]] = []
    token: str | None = None


class EdgeForm(_Form):
    """An edge. `from` is "node.output", or "inputs.name" for an input of the graph; `to` is "node.input"."""

    source: Annotated[str, Field(alias="from", pattern=r"^[^.]+\.[^.]+$")]
    target: Annotated[str, Field(alias="to", pattern=r"^[^.]+\.[^.]+$")]
    how: Annotated[
        Literal["ruled", "pinned"],
        Field(description="ruled: made by the wiring rule; a reader checks it. pinned: chosen with graph.wire."),
    ]


class GraphForm(_Form):
    """Named blocks in order, joined by edges."""

    preset: Annotated[list[str], Field(min_length=2, max_length=2, description="Family and task.")] | None = None
    outputs: Annotated[list[str], Field(description="The outputs of a call. Empty: the last value of every name.")]
    nodes: Annotated[list["StepForm"], Field(description="In running order.")]
    edges: list[EdgeForm]
    slots: dict[str, list[str]] = {}
    components: Components = {}
    adapters: Annotated[list[AdapterForm], Field(max_length=256)] = []


class BlockForm(_Form):
    """A block, by its registered name: `text.sd.EncodePrompt` for ours, `package.module.Class` for others."""

    block: Annotated[str, Field(min_length=1, json_schema_extra={"not": {"enum": list(_KINDS)}})]
    config: Config
    graphs: Annotated[
        dict[str, "GraphForm"],
        Field(description='The graphs that a container holds, by field: "body", or "cases.one" for one of several.'),
    ] = {}
    components: Components = {}


class NamedForm(_Form):
    """A block whose ports and components have other names outside: `names` maps old to new."""

    block: Literal["Named"]
    names: dict[str, str]
    of: "NodeForm"


class InnerForm(_Form):
    """A graph as a node of another."""

    block: Literal["Graph"]
    graph: GraphForm


class _Step(_Form):
    name: Annotated[str, Field(description="The node's name, unique in its graph.")]


class BlockStep(_Step, BlockForm):
    """A named block."""


class NamedStep(_Step, NamedForm):
    """A named block with other port names."""


class InnerStep(_Step, InnerForm):
    """A named graph."""


def _kind(data: Any) -> str:
    block = data.get("block") if isinstance(data, dict) else getattr(data, "block", None)
    return block if block in _KINDS else "Block"


StepForm: TypeAlias = Annotated[
    Annotated[BlockStep, Tag("Block")] | Annotated[NamedStep, Tag("Named")] | Annotated[InnerStep, Tag("Graph")],
    Discriminator(_kind),
]
NodeForm: TypeAlias = Annotated[
    Annotated[BlockForm, Tag("Block")] | Annotated[NamedForm, Tag("Named")] | Annotated[InnerForm, Tag("Graph")],
    Discriminator(_kind),
]


class CodeForm(_Form):
    """A Python file beside this one: its hash, and the repo and commit that it comes from, if any."""

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    repo: str | None = None
    revision: str | None = None


class FileForm(_Form):
    """A graph of sfumato: blocks, every edge, and the sources of components. Weights and code are in other files."""

    schema_: Annotated[str | None, Field(alias="$schema")] = None
    format: Literal[2]
    sfumato: Annotated[str, Field(description="The version of sfumato that wrote the file.")]
    auto_map: Annotated[
        dict[str, str], Field(description='Blocks whose code is beside this file: name to "file.Class".')
    ] = {}
    code: Annotated[dict[str, CodeForm], Field(description="The files of that code, by path.")] = {}
    requirements: Annotated[dict[str, str], Field(description='Required packages: {"scipy": ">=1.10"}.')] = {}
    graph: GraphForm


for _form in (GraphForm, BlockStep, NamedStep, InnerStep, BlockForm, NamedForm, InnerForm):
    _form.model_rebuild()
FileForm.model_rebuild()


def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a graph file; `docs/graph.schema.json` is a copy."""
    made = FileForm.model_json_schema(by_alias=True)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "sfumato graph file"}
    return {**head, **{key: value for key, value in made.items() if key != "title"}}
