"""The pages are programs: all code in the README and in docs/ runs, and prints what its page shows.

* The ```python blocks of a page share one namespace and one empty folder.
* A ```text block right after a block of code is what that code prints; "..." in it stands for anything, and white
  space only separates. A block that ends in an error shows `ErrorName: text` as its last lines, as Python does.
* A ```console block runs its `$ sfumato …` and `$ ls …` lines in the same folder, and shows what they print.
* `<!-- not run: why -->` above a block leaves it out; `<!-- needs NAME -->` does where that package is not installed.
* `<!-- slow: why -->` above a block leaves it out unless SFUMATO_SLOW is set: `SFUMATO_SLOW=1 pytest tests/docs`.
* A picture that a page saves under the name of one in docs/images must look like it.

After a change that is meant, `SFUMATO_WRITE=1 pytest tests/docs` writes what differs, outputs and pictures, into the
pages; `git diff` then shows what a reader will see change.
"""

import contextlib
import doctest
import importlib.util
import io
import os
import re
import shlex
import shutil
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from sfumato.components.schedulers.customary_names import CURVES, SAMPLERS
from sfumato.presets.cli.app import app
from sfumato.registry import guiders, models

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
WRITING = bool(os.environ.get("SFUMATO_WRITE"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "CONTRIBUTING.md"]

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<code>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
_SKIP = re.compile(r"<!-- not run: (?P<why>[^>]+?) -->\s*\Z")
_SLOW = re.compile(r"<!-- slow: (?P<why>[^>]+?) -->\s*\Z")
_NEEDS = re.compile(r"<!-- needs (?P<package>\w+) -->\s*\Z")
PLANNED = {"components/adapters"}
"""Folders that a page names because they will be made; once they are there, they are ordinary ones."""
_SAME = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass(frozen=True)
class Code:
    """A block of a page, the line its code begins at, and the output shown right after it."""

    language: str
    text: str
    line: int
    shown: str | None
    skip: str


def codes(page: str) -> Iterator[Code]:
    """The Python and console blocks of a page."""
    fences = list(_FENCE.finditer(page))
    for i, fence in enumerate(fences):
        language = fence["language"]
        if language not in ("python", "console"):
            continue
        after = fences[i + 1] if i + 1 < len(fences) else None
        shown = None
        if after and after["language"] == "text" and not page[fence.end() : after.start()].strip():
            shown = after["code"]
        above = page[: fence.start()]
        skip, needs = _SKIP.search(above), _NEEDS.search(above)
        why = skip["why"] if skip else ""
        if (slow := _SLOW.search(above)) and not os.environ.get("SFUMATO_SLOW"):
            why = slow["why"]
        if needs and importlib.util.find_spec(needs["package"]) is None:
            why = f"{needs['package']} is not installed"
        yield Code(language, fence["code"], page[: fence.start("code")].count("\n"), shown, why)


def python(code: Code, page: Path, module: ModuleType) -> str:
    """Run a Python block and give what it prints, an error that ends it included."""
    compiled = compile("\n" * code.line + code.text, str(page), "exec")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            exec(compiled, module.__dict__)
        except Exception as error:
            if code.shown is None:
                raise
            text = "".join(traceback.format_exception_only(error))
            printed.write(re.sub(r"^[\w.]+\.(\w+)", r"\1", text))  # the class without its module
    return printed.getvalue()


def console(code: Code) -> Iterator[tuple[str, str, str]]:
    """Run the commands of a console block; for each the command, what the page shows and what it prints."""
    for part in re.split(r"^\$ ", code.text, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        words = shlex.split(command, comments=True)
        assert words[0] in ("sfumato", "ls"), f"{words[0]}: say above why it is not run: <!-- not run: why -->"
        if words[0] == "ls":
            yield command, shown, "\n".join(sorted(p.name for p in Path(*words[1:]).iterdir()))
            continue
        yield command, shown, CliRunner().invoke(app, words[1:], prog_name="sfumato").output


def agree(place: str, shown: str, printed: str) -> str:
    """What the page is to show: what it shows if that is what is printed; in writing mode, else, what is printed."""
    __tracebackhide__ = True
    if doctest.OutputChecker().check_output(shown.strip() + "\n", printed.strip() + "\n", _SAME):
        return shown
    if not WRITING:
        pytest.fail(f"{place}: the page shows\n{shown}\nand the code prints\n{printed}", pytrace=False)
    lines = [wrap(line, 100, subsequent_indent="    ", break_on_hyphens=False) or [""] for line in printed.split("\n")]
    return "\n".join(piece for line in lines for piece in line).strip("\n") + "\n"


def rewrite(page: Path, code: Code, old: str, new: str) -> None:
    """Put `new` for the first `old` from this block on."""
    if old != new:
        text = page.read_text(encoding="utf-8")
        at = text.index(code.text)
        page.write_text(text[:at] + text[at:].replace(old, new, 1), encoding="utf-8")


def looks_like(made: Path, kept: Path) -> None:
    """Two pictures differ by no more than what another machine's arithmetic makes."""
    a, b = (np.asarray(Image.open(path).convert("RGB"), dtype=np.float32) for path in (made, kept))
    assert a.shape == b.shape, f"{kept.name} is of another size than the page makes it"
    assert float(np.abs(a - b).mean()) < 4, f"{kept.name} is not what the page draws: SFUMATO_WRITE=1 pytest tests/docs"


@pytest.mark.parametrize("page", PAGES, ids=[str(p.relative_to(ROOT)) for p in PAGES])
def test_the_code_of_a_page_prints_what_the_page_shows(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = f"page_{page.stem.replace('-', '_')}"
    module = ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(models, "_table", dict(models._table))  # a page may add a model
    for code in codes(page.read_text(encoding="utf-8")):
        if code.skip:
            continue
        place = f"{page}:{code.line}"
        if code.language == "python":
            shown = code.shown or ""
            fresh = agree(place, shown, python(code, page, module))
            rewrite(page, code, f"```text\n{shown}```", f"```text\n{fresh}```")
        else:
            done = [f"$ {command}\n{agree(place, shown, printed)}" for command, shown, printed in console(code)]
            rewrite(page, code, code.text, "".join(done))
    for made in tmp_path.glob("*.png"):
        if WRITING and made.name in shown_pictures():
            shutil.copy(made, IMAGES / made.name)
        elif (IMAGES / made.name).exists():
            looks_like(made, IMAGES / made.name)


def shown_pictures() -> set[str]:
    """The names of all pictures that pages show."""
    return {name for page in PAGES for name in re.findall(r"images/([\w-]+\.png)", page.read_text(encoding="utf-8"))}


def test_every_picture_is_shown_by_a_page_and_drawn_by_one() -> None:
    """So that no picture outlives the code that made it."""
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    drawn = set(re.findall(r'save(?:fig)?\("([\w-]+\.png)"', text)) | set(re.findall(r"-o ([\w-]+\.png)", text))
    assert {p.name for p in IMAGES.glob("*.png")} == shown_pictures() <= drawn


def test_every_page_is_in_the_navigation() -> None:
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    lost = [p for p in sorted((ROOT / "docs").rglob("*.md")) if str(p.relative_to(ROOT / "docs")) not in nav]
    assert not lost


def test_every_guider_and_every_customary_name_stands_on_its_page() -> None:
    page = (ROOT / "docs" / "guiders.md").read_text(encoding="utf-8")
    assert not [name for name in guiders if f"`{name}`" not in page]
    page = (ROOT / "docs" / "schedulers.md").read_text(encoding="utf-8")
    names = [*SAMPLERS, *(f"_{curve}" for curve in CURVES)]
    assert not [name for name in names if f"`{name}`" not in page]


@pytest.mark.parametrize("page", [p for p in PAGES if p.parent.name != "decisions"], ids=lambda p: p.name)
def test_every_file_that_a_page_names_is_in_the_repository(page: Path) -> None:
    """Decisions name the files of their day; every other page those of today."""
    named = re.findall(
        r"`((?:registry|graph|components|blocks|presets|tests|docs)/[a-z0-9_./-]*)`", page.read_text("utf-8")
    )
    assert [path for path in named if (ROOT / path).exists() == (path in PLANNED)] == []


def test_the_map_has_a_row_for_every_folder() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([\w/]+)/` \|.*\| (.*?) ?\|$", page, re.MULTILINE))
    rooms = [ROOT / room for room in ("registry", "graph", "components", "blocks", "presets")]
    folders = [str(file.parent.relative_to(ROOT)) for room in rooms for file in room.rglob("__init__.py")]
    assert [folder for folder in folders if folder not in rows] == []
    files = [ROOT / folder / name for folder, cell in rows.items() for name in re.findall(r"`(.*?)`", cell)]
    assert files and [file for file in files if not file.is_file()] == []
