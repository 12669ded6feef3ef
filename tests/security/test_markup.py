"""Names and texts from files in other languages: SVG, HTML, Mermaid, Markdown, YAML and Python. Each is read back."""

import ast
import re
import shlex
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from typing import Any, NamedTuple

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

import sfumato as sf
from sfumato.graph import Block, Graph, WireError, component, named
from sfumato.graph.draw.mermaid import _escaped
from sfumato.graph.draw.primitives import with_tooltip
from sfumato.presets.card import card
from sfumato.registry import printable

HOSTILE = (
    "</title></svg><script>alert(1)</script>",
    "]]>&amp;&#0;\x00\x1b[31m\x0b\ufffe\uffff\ud800",
    '"]; click n "javascript:alert(1)"\n  n --> m',
    "%%{init: {'securityLevel': 'loose'}}%%",
    "```\n---\nlicense: mit\n---\n# other",
    "`a` | b | [x](javascript:alert(1)) ![y](http://example.com/z.png) <img src=x onerror=alert(1)>",
    "'''\"); import os; os.system('x') #",
    "x: [y\n- z #\u2028\u202e\x85",
    "!!python/object/apply:os.system ['x']",
    "$(rm x); `y`; 'z'",
)
hostile = st.sampled_from(HOSTILE) | st.text(st.characters(), min_size=1, max_size=40)


class Made(NamedTuple):
    images: str


class Tool: ...


def graph_with(text: str) -> Graph:
    """A graph with the text in the places that are free: a default, and the names of its preset."""

    class Say(Block):
        tool: Tool = component()

        def __call__(self, prompt: str, say: str = text) -> Made: ...

    return Graph(say=Say(), outputs=["images"], preset=(text, text))


# ---------------------------------------------------------------------------------------------------------- drawings
class Tags(HTMLParser):
    """The elements, attributes and texts of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


@given(hostile)
@settings(max_examples=50)
def test_an_svg_is_xml_whatever_its_texts_are(text: str) -> None:
    drawn = graph_with(text).show("svg")
    root = ET.fromstring(drawn)
    assert {e.tag.rpartition("}")[2] for e in root.iter()} <= {"svg", "title", "desc", "g", "rect", "path", "text"}
    assert printable(text).split("\n")[0][:10] in ET.tostring(root, "unicode", "text")
    page = Tags()
    page.feed(graph_with(text)._repr_html_())
    assert page.tags <= {"svg", "title", "desc", "g", "rect", "path", "text"}
    assert not {name for name in page.attributes if name.startswith("on") or name in ("href", "style", "src")}
    drawn.encode()


@given(hostile)
def test_a_tooltip_reads_back_as_its_text(text: str) -> None:
    (title,) = ET.fromstring(with_tooltip("", text))
    assert title.text == "\n".join(map(printable, text.split("\n")))


_CODE = re.compile(r"#(\w+);")
_NAMES = {"quot": '"', "lt": "<", "gt": ">", "amp": "&"}


@given(hostile)
def test_a_mermaid_text_stays_between_its_quotes_and_reads_back(text: str) -> None:
    escaped = _escaped(text)
    assert not re.search(r'["<>`%\\]|&', escaped) and escaped.isprintable()
    assert _CODE.sub(lambda m: _NAMES.get(m[1]) or chr(int(m[1])), escaped) == printable(text)


@given(hostile)
@settings(max_examples=30)
def test_a_flowchart_has_as_many_lines_whatever_its_texts_are(text: str) -> None:
    lines = graph_with(text).show("mermaid").splitlines()
    assert len(lines) == len(graph_with("plain").show("mermaid").splitlines())
    assert all(line.count('"') % 2 == 0 and line.isprintable() for line in lines)


@pytest.mark.parametrize("text", HOSTILE)
def test_names_that_are_no_names_are_refused_before_they_are_drawn(text: str) -> None:
    block = graph_with("x")["say"]
    for port in ("images", "prompt", "tool"):
        with pytest.raises(WireError, match=r"needs a name for"):
            named(block, **{port: text})
    with pytest.raises(WireError):
        Graph({text: block})
    with pytest.raises(WireError, match=r"is no name for a slot"):
        Graph(say=block, slots={text: ["say"]})


# ---------------------------------------------------------------------------------------------------------- cards
def card_of(text: str, **more: Any) -> str:
    spec = sf.ComponentSpec.model_construct(
        type_hint=("diffusers", text), pretrained_model_name_or_path=text, subfolder=text, variant=text, dtype=text
    )
    return card(graph_with(text), text, {text: spec}, license=text, **more)


def parts_of(made: str) -> tuple[str, str]:
    """The front matter and the body, as the Hub divides them."""
    assert made.startswith("---\n")
    front, _, body = made.removeprefix("---\n").partition("\n---\n")
    return front, body


@given(hostile)
@example("null")
@settings(max_examples=60)
def test_the_front_matter_of_a_card_reads_back(text: str) -> None:
    front, _ = parts_of(card_of(text))
    assert front.isascii()
    assert yaml.safe_load(front) == {
        "library_name": "sfumato", "license": text, "tags": ["sfumato", "modular-diffusers", text],
    }  # fmt: skip


@given(hostile)
@settings(max_examples=60)
def test_the_program_on_a_card_is_the_program_that_is_meant(text: str) -> None:
    _, body = parts_of(card_of(text))
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(body)
    (fence,) = [token for token in tokens if token.type == "fence"]
    program = ast.parse(fence.content)
    assert [type(line).__name__ for line in program.body] == ["Import", "Assign", "Expr"]
    names = [node.value for node in ast.walk(program) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    assert names == [text, "…"]
    assert fence.content.replace("\n", "").isprintable()


@given(hostile)
@settings(max_examples=60)
def test_a_card_has_no_markup_but_its_own(text: str) -> None:
    made = card_of(text)
    assert made.replace("\n", "").isprintable()
    tokens = MarkdownIt("gfm-like", {"linkify": False, "html": True}).parse(parts_of(made)[1])
    inline = [child for token in tokens for child in token.children or ()]
    assert not [t for t in (*tokens, *inline) if t.type in ("html_block", "html_inline", "link_open", "code_block")]
    assert [t.attrs["src"] for t in inline if t.type == "image"] == ["graph.svg"]
    headings = [tokens[k + 1].children for k, token in enumerate(tokens) if token.type == "heading_open"]
    assert len(headings) == 6
    title = "".join(child.content for child in headings[0] or ())
    assert title.strip() == printable(text.rpartition("/")[2]).strip()
    assert sum(token.type == "table_open" for token in tokens) == 3


@given(hostile)
@settings(max_examples=30)
def test_links_to_code_stay_in_the_repo(text: str) -> None:
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(parts_of(card_of("fox", code=[text]))[1])
    links = [c for token in tokens for c in token.children or () if c.type == "link_open"]
    assert len(links) == 1 and not re.match(r"\w+:|//", str(links[0].attrs["href"]))


def test_the_command_on_a_card_runs_no_other_command() -> None:
    for text in HOSTILE:
        (line,) = [line for line in card_of(text).splitlines() if line.startswith("On a command line:")]
        code = re.fullmatch(r"On a command line: (`+) ?(.*?) ?\1\.", line)
        assert code and shlex.split(code[2]) == ["sfumato", "run", "…", "--model", printable(text)]


def test_ports_called_like_words_of_python_are_on_the_card_too() -> None:
    graph = Graph(say=named(graph_with("x")["say"], prompt="class", images="for"))
    (fence,) = [t for t in MarkdownIt().parse(card(graph, "fox", {})) if t.type == "fence"]
    ast.parse(fence.content)
    assert 'pipe(**{"class": ...})["for"]' in fence.content


def test_a_pipeline_in_a_hostile_folder_is_saved_and_loads(tmp_path: Any) -> None:
    folder = tmp_path / "a `b` | <c> \x1b[31m"
    pipe = sf.load("emoji")
    pipe.save_pretrained(folder)
    front, body = parts_of((folder / "README.md").read_text())
    assert yaml.safe_load(front)["pipeline_tag"] == "text-to-image" and "\x1b" not in body
    assert sf.load(folder).outputs.keys() == pipe.outputs.keys()
