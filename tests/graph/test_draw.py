"""Drawings: what they tell, that they are well-formed, and that nothing lies on anything else."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from itertools import combinations
from typing import Annotated, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.graph import Block, Graph, GraphError, Loop, Port, Switch, component, knob, named
from sfumato.graph.draw.layout import Link, Size, place
from sfumato.graph.draw.primitives import spans

Latents = Annotated[int, Port("latents")]
Conditioning = Annotated[int, Port("conditioning")]
Predict = Annotated[int, Port("predict")]
Step = Annotated[int, Port("step")]


class Conditioned(NamedTuple):
    conditioning: Conditioning


class Steps(NamedTuple):
    steps: Sequence[Step]


class Noise(NamedTuple):
    latents: Latents
    random: int


class Predictor(NamedTuple):
    predict: Predict


class Prediction(NamedTuple):
    prediction: float


class Images(NamedTuple):
    images: "list[str]"


class TextEncoder: ...


class UNet: ...


class Encode(Block):
    text_encoder: TextEncoder = component()

    def __call__(self, prompt: str) -> Conditioned: ...


class Schedule(Block):
    num_inference_steps: int = knob(25)

    def __call__(self) -> Steps: ...


class DrawNoise(Block):
    def __call__(self, seed: int | None = None, height: int = 512, width: int = 512) -> Noise: ...


class PredictNoise(Block):
    unet: UNet = component()

    def __call__(self) -> Predictor: ...


class Guide(Block):
    guidance_scale: float = knob(5.0)

    def __call__(
        self, predict: Predict, latents: Latents, step: Step, positive: Conditioning, negative: Conditioning
    ) -> Prediction: ...


class Advance(Block):
    def __call__(self, prediction: float, latents: Latents, step: Step, random: int) -> Noise: ...


class Decode(Block):
    tool: UNet | None = component(default=None)

    def __call__(self, latents: Latents, say: "str" = 'a "quoted" <b>[x]</b> & #1') -> Images: ...


def pipeline() -> Graph:
    return Graph(
        positive=named(Encode(), conditioning="positive"),
        negative=named(Encode(), prompt="negative_prompt", conditioning="negative"),
        schedule=Schedule(),
        noise=DrawNoise(),
        denoise=Loop(
            over="steps",
            each="step",
            carry=("latents", "random"),
            body=Graph(predict=PredictNoise(), guider=Guide(), advance=Advance()),
        ),
        decode=Decode(),
        outputs=("images",),
        slots={"guider": ["denoise.guider"]},
        preset=("fake", "text2image"),
    )


def rich() -> Graph:
    """Everything that can be drawn: pins, a switch, a graph inside, an input by another name."""
    twice = Graph(a=Decode(), b=named(Decode(), images="more"))
    pick = Switch(on="which", cases={"plain": Graph(a=Decode()), "twice": twice})
    more: dict[str, Block] = {"again": named(Graph(only=Decode()), images="more"), "pick": named(pick, images="picked")}
    graph = Graph({**pipeline().nodes, **more}, outputs=("images", "more", "picked")).bind(unet=UNet())
    return graph.wire("denoise.random", "noise.random").wire("decode.say", "inputs.words")


ALL = [Graph(), Graph(a=Encode()), pipeline(), rich(), Graph(a=pipeline(), b=named(pipeline(), images="more"))]


# ------------------------------------------------------------------------------------------------ text
def test_the_text_lists_inputs_nodes_components_and_outputs() -> None:
    text = pipeline().bind(unet=UNet()).show()
    assert text.splitlines()[0] == "Graph fake · text2image  (6 nodes, 3 components)"
    for line in (
        "  prompt               str         (required)",
        "  guidance_scale       float       = 5.0",
        "  positive  Encode  (conditioning as positive)",
        "  denoise   loop: for step in steps · carries latents, random",
        "      | predict  PredictNoise · once per loop",
        "      | guider   Guide · slot guider",
        "      |     latents         Latents       <- carried latents",
        "      |     step            Step          <- each step",
        "      |     positive        Conditioning  <- outer positive",
        "      |     unet  UNet  component, bound: UNet",
        "      latents  Latents      <- denoise.latents",
        "  images  list[str]  <- decode",
        "  unet          UNet         bound: UNet",
        "  text_encoder  TextEncoder  not bound",
        "  guider  denoise.guider",
    ):
        assert line in text.splitlines(), line


def test_the_text_marks_what_is_pinned() -> None:
    assert "<- noise.random  (pinned)" in rich().show()


@pytest.mark.parametrize("graph", ALL)
def test_the_text_fits_100_columns(graph: Graph) -> None:
    assert max(map(len, graph.show().splitlines())) <= 100


def test_an_unknown_form_of_drawing_is_refused() -> None:
    with pytest.raises(GraphError, match=r"no such form. Did you mean 'svg'\? There are: text, mermaid, svg."):
        pipeline().show("sgv")


# ------------------------------------------------------------------------------------------------ mermaid
@pytest.mark.parametrize("graph", ALL)
def test_mermaid_is_balanced_and_every_end_of_an_edge_is_a_node(graph: Graph) -> None:
    text = graph.show("mermaid")
    lines = [line.strip() for line in text.splitlines()]
    assert lines[0] == "flowchart TB"
    assert sum(line.startswith("subgraph ") for line in lines) == lines.count("end")
    made = {m[1] for line in lines if (m := re.match(r"(?:subgraph )?(\w+)[\[(]", line))}
    for line in lines:
        if m := re.match(r'(\w+) (?:-->|-\.->)(?:\|"[^"]*"\|)? (\w+)$', line):
            assert {m[1], m[2]} <= made, line
        assert line.count('"') % 2 == 0, line


def test_mermaid_escapes_what_is_its_own_syntax() -> None:
    line = next(line for line in pipeline().show("mermaid").splitlines() if "__in_say" in line)
    inside = line[line.index('["') + 2 : line.rindex('"]')]
    assert not re.search(r'["<>`]|#(?!\w+;)', inside)


# ------------------------------------------------------------------------------------------------ svg
SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("graph", ALL)
def test_the_svg_is_well_formed_and_needs_nothing_from_outside(graph: Graph) -> None:
    text = graph.show("svg")
    root = ET.fromstring(text)
    assert root.tag == f"{SVG}svg" and root.find(f"{SVG}title") is not None
    assert not {"script", "image", "use", "style", "foreignObject"} & {e.tag.removeprefix(SVG) for e in root.iter()}
    assert not re.search(r"(href|url\(|@import|\bon\w+=)", text)
    assert graph._repr_html_() == text


@pytest.mark.parametrize("graph", ALL)
def test_plain_renderers_draw_the_svg_too(graph: Graph) -> None:
    """cairosvg takes a size from a style for the drawing's, and puts a text in pieces on one place."""
    drawing = ET.fromstring(graph.show("svg"))
    assert drawing.attrib["viewBox"] == f"0 0 {drawing.attrib['width']} {drawing.attrib['height']}"
    assert min(int(drawing.attrib[side]) for side in ("width", "height")) > 0
    texts = 0
    for element in drawing.iter():
        kind = element.tag.rpartition("}")[2]
        assert kind in {"svg", "title", "desc", "g", "rect", "path", "text"}
        assert not {"style", "class", "{http://www.w3.org/XML/1998/namespace}space"} & element.attrib.keys()
        if kind == "text":
            texts += 1
            assert {"x", "y", "font-size", "fill"} <= element.attrib.keys()
            assert element.text and element.text == element.text.strip()
            assert all(ord(letter) < 0x100 or letter in "→…" for letter in element.text), "a sign that few fonts have"
    assert texts
    assert drawing.attrib["font-family"].partition(",")[0] == "Helvetica"


def test_a_text_of_two_styles_meets_where_its_parts_meet_in_every_font() -> None:
    drawn = spans([("latents", "#111111", 11, True), (" Latents", "#222222", 10, False)], 100, 0, "middle")
    first, second = ET.fromstring(f"<g>{drawn}</g>")
    assert first.attrib["text-anchor"] == "end" and "text-anchor" not in second.attrib
    assert 0 < float(second.attrib["x"]) - float(first.attrib["x"]) < 10
    assert spans([("latents", "#111111", 11, True), ("", "#222222", 10, False)], 100, 0, "middle").count("<text") == 1


def test_the_svg_shows_bound_components_full_and_others_hollow() -> None:
    root = ET.fromstring(pipeline().bind(unet=UNet()).show("svg"))
    fills: dict[str, str | None] = {}
    for group in root.iter(f"{SVG}g"):
        told, shape = group.find(f"{SVG}title"), group.find(f"{SVG}rect")
        if told is not None and (told.text or "").startswith("component") and shape is not None:
            fills[(told.text or "").split()[1].rstrip(":")] = shape.get("fill")
    assert fills["unet"] != fills["text_encoder"] == fills["tool"]


def test_the_svg_dashes_what_is_pinned() -> None:
    assert pipeline().show("svg").count("stroke-dasharray") == 1  # the legend
    assert rich().show("svg").count("stroke-dasharray") == 3


Boxes = list[tuple[float, float, float]]
boxes = st.lists(st.tuples(st.floats(20, 120), st.floats(20, 120), st.floats(20, 90)), min_size=1, max_size=9)


@given(boxes=boxes, pairs=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=16))
@settings(max_examples=100)
def test_no_box_or_label_ever_lies_on_another(
    boxes: list[tuple[float, float, float]], pairs: list[tuple[int, int]]
) -> None:
    sizes = {f"b{i}": Size(left, right, height, min(left, right)) for i, (left, right, height) in enumerate(boxes)}
    ends = {(min(p), max(p)) for p in pairs if p[0] != p[1] and max(p) < len(boxes)}
    links = [Link(f"b{a}", f"b{b}", 60, 14) for a, b in sorted(ends)]
    plan = place(sizes, links)
    areas = [
        (x - sizes[name].left, y, x + sizes[name].right, y + sizes[name].height) for name, (x, y) in plan.boxes.items()
    ]
    areas += [(x - 30, y - 7, x + 30, y + 7) for x, y in plan.labels]
    for a, b in combinations(areas, 2):
        assert a[2] <= b[0] + 1e-6 or b[2] <= a[0] + 1e-6 or a[3] <= b[1] + 1e-6 or b[3] <= a[1] + 1e-6
    for link, route in zip(links, plan.routes, strict=True):
        assert plan.boxes[link.source][1] < route[0][1] < route[-1][1] == plan.boxes[link.target][1]
    assert all(a[0] >= -1e-6 and a[2] <= plan.width + 1e-6 for a in areas)


def test_a_drawing_is_the_same_each_time() -> None:
    assert rich().show("svg") == rich().show("svg")
