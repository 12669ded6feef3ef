"""Names and texts from files on a terminal: printed without control characters, whatever the channel."""

import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from huggingface_hub.utils import enable_progress_bars
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

import sfumato as sf
from sfumato.components.memory.summary import Held, render
from sfumato.components.storage.hub import _bar
from sfumato.graph.compare import Diff
from sfumato.graph.errors import GraphFileError, InputError, Problem, SfumatoError, WireError
from sfumato.graph.ports import ALONE
from sfumato.presets.cli.app import app
from sfumato.presets.cli.messages import CommandError, print_json, print_note, print_text, reported_errors
from sfumato.presets.cli.progress import Progress
from sfumato.presets.inspection import InspectedComponent, Inspection
from sfumato.presets.push import Upload
from sfumato.registry import UnknownName, printable, printable_lines
from sfumato.registry.log import LOG

HOSTILE = (
    "fox\nerror: all is well",
    "\x1b[31mred\x1b]8;;http://example.com\x07link\x1b]8;;\x07",
    "\r\x08\x7f\x9b31m\x85",
    "a\u202eb\u2066c\u2069\u200b\u200d\ufeff",
    "line\u2028separator\u2029",
    "half \ud800 pair",
    "[red]markup[/red] [link=http://example.com]x[/link] {task} %s",
    "\U000e0041tag\x00",
)
hostile = st.sampled_from(HOSTILE) | st.text(st.characters(), max_size=40)


def check(text: str) -> None:
    """That a text has lines of printable characters only, and that all can be written as UTF-8."""
    assert all(line.isprintable() for line in text.split("\n")), ascii(text)
    assert not any(line.startswith("error: all is well") for line in text.split("\n"))
    text.encode()


# ------------------------------------------------------------------------------------------------ the function
@given(hostile)
def test_a_printable_text_stays_as_it_is(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable() and printable(shown) == shown
    assert (shown == text) == text.isprintable()


@given(hostile, hostile)
def test_lines_are_kept_where_they_are_indented(head: str, row: str) -> None:
    shown = printable_lines(f"{head}\n  {row}")
    check(shown)
    assert printable_lines(shown) == shown
    assert shown == "\n  ".join([printable_lines(head), printable_lines(row)])


def test_a_name_of_a_megabyte_is_shortened_in_the_middle() -> None:
    text = str(sf.LoadError(f"{'a' * 10**6}.safetensors: is missing."))
    assert len(text) < 2100 and text.startswith("aaa") and "letters) …" in text and text.endswith("is missing.")


# ---------------------------------------------------------------------------------------------------------- the library
ERRORS: dict[str, Callable[[str], Exception]] = {
    "LoadError": sf.LoadError,
    "WireError": lambda text: WireError([Problem("x", text, text), Problem("y", "there", text)]),
    "InputError": lambda text: InputError(Problem("x", text, text)),
    "GraphFileError": lambda text: GraphFileError.of(text, [Problem("x", text, text), Problem("y", text, text)]),
    "UnknownName": UnknownName,
    "Problem": lambda text: SfumatoError(str(Problem("x", text, text))),
}


@pytest.mark.parametrize("name", ERRORS)
@given(text=hostile)
def test_the_text_of_an_error_has_no_control_characters(name: str, text: str) -> None:
    check(str(ERRORS[name](text)))


@given(hostile)
def test_tables_have_no_control_characters(text: str) -> None:
    part = InspectedComponent(text, text, text, text, 1, 1, missing=(text,))
    for missing in ((), (text, str(WireError([Problem("x", text, text)] * 2)))):
        check(str(Inspection(text, text, text, text, (text,), (part,), missing, text, text)))
    check(render("manager", [Held(text, text, text, text, text, text, text, 1, loaded=True, used_by=(text,))]))
    check(str(Upload(text, {text: 1}, {text: text})))
    check(str(Diff((text,), (text,), (text,), ((text, text, text),), (text,))))
    check(str(sf.ComponentSpec.model_construct(pretrained_model_name_or_path=text, subfolder=text)))


@given(hostile)
def test_warnings_and_the_log_have_no_control_characters(text: str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ALONE.note(text)
    check(str(caught[0].message))
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    LOG.addHandler(handler)
    try:
        LOG.warning("%s: %s", text, text)
    finally:
        LOG.removeHandler(handler)
    check(stream.getvalue())


def test_the_bars_of_downloads_have_no_control_characters() -> None:
    enable_progress_bars()  # other tests turn them off, and that is for the whole process
    for text in HOSTILE:
        stream = io.StringIO()
        bar = _bar(threading.Event(), text, 100)(desc=text, file=stream, total=10, disable=False, mininterval=0)
        bar.update(5)
        bar.set_description(f"{text}, again")
        bar.refresh()
        shown = stream.getvalue().replace("\r", "")  # the bar begins its line anew
        bar.close()
        check(shown.replace("\x1b[A", ""))
        assert printable(text) in shown


# ---------------------------------------------------------------------------------------------------------- the command
def printed(capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    out, err = capsys.readouterr()
    check(out)
    check(err)
    return out, err


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("text", HOSTILE)
def test_every_channel_of_the_command_is_printable(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_text(text, text)
    for kind in ("note", "warning", "error"):
        print_note(kind, text)
    printed(capsys)
    errors = (CommandError(text), ValueError(text), OSError(text), FileNotFoundError(2, text, text), UnknownName(text))
    for error in (*errors, sf.LoadError(text), MemoryError(text)):
        for debug in (False, True):
            with pytest.raises(typer.Exit), reported_errors(debug=debug):
                raise error
            assert printed(capsys)[1]
    with reported_errors():
        warnings.warn(text, UserWarning, stacklevel=1)
        LOG.info("%s", text)
        logging.getLogger("transformers.of.test").warning("a model of type %s", text)
    assert printed(capsys)[1].count("\n") == 2


@given(st.recursive(hostile, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(hostile, inner, max_size=3)))
@example({"\ud800": "\u202e\x7f\x9b\U000e0041"})
def test_json_is_printable_and_reads_back_as_it_was(data: Any) -> None:
    runner = CliRunner()
    with runner.isolation() as (out, *_):
        print_json(data)
        text = out.getvalue().decode()
    check(text)
    assert json.loads(text) == data or "\\ud" in text  # two halves, one after the other, are one character in JSON


def test_commands_print_in_one_place() -> None:
    folder = Path(__file__).parents[2] / "presets" / "cli"
    printing = re.compile(r"typer\.s?echo\((?!context\.get_help)|\bprint\(|\.print_exc\(|Console\(\)\.print")
    found = [path.name for path in folder.glob("*.py") if printing.search(path.read_text())]
    assert found == ["messages.py"]


def commands(text: str, folder: Path) -> list[list[str]]:
    (folder / "graph.json").write_text(json.dumps({"format": "sfumato.graph/1", "graph": {text: 1}}))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": text, text: [text, text]}))
    found = [[command, text] for command in ("show", "check", "inspect")]
    found += [["run", "a fox", *more] for more in (
        ["--model", text], ["--image", text], ["--set", text], ["--set", f"{text}={text}"], ["--scheduler", text],
        ["--guider", text], ["--device", text], ["--dtype", text], ["--task", text], ["-o", f"{text}.xyz"],
        [f"--{text}"], ["--seed", text], ["--graph", text],
    )]  # fmt: skip
    found += [[text], ["show", str(folder)], ["inspect", str(folder)], ["check", str(folder / "graph.json")]]
    return [command for command in found if "\0" not in "".join(command) or command[0] == "run"]


@pytest.mark.parametrize("text", HOSTILE[:2])
def test_a_command_line_with_hostile_names_prints_no_control_characters(text: str, tmp_path: Path) -> None:
    for command in commands(text, tmp_path):
        for more in ([], ["--json"]):
            result = CliRunner().invoke(app, [*command, *more], prog_name="sfumato")
            assert result.exit_code in (1, 2), command
            check(result.stdout)
            check(result.stderr)
            if more:
                json.loads(result.stdout)


def test_markup_in_the_bar_of_a_run_is_shown_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SFUMATO_PROGRESS", raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress() as progress:
        shown_bar: Any = progress._shown
        for text in HOSTILE:
            progress.stage(text)
            screen = Console(file=io.StringIO(), width=200)
            screen.print(shown_bar._bar.get_renderable())
            shown = screen.file.getvalue()  # type: ignore[attr-defined]
            check(shown)
            assert printable(text).strip() in shown


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "latin-1"])
def test_the_installed_command_prints_in_every_encoding(encoding: str) -> None:
    """Errors of this program too, which Python itself would print with their control characters."""
    code = "from sfumato.presets.cli import main; import sys; sys.argv = ['sfumato', *sys.argv[1:]]; main()"
    raising = f"""
import sfumato.presets.names as names
def fail():
    raise RuntimeError("\\x1b[31m\\u72d0\\ud800")
names.names = fail
{code}"""
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    program, words = {
        "ascii": (code, ["inspect", "\x1b[31m狐\u202e"]), "latin-1": (code, ["check", "狐", "--json"]),
        "utf-8": (raising, ["presets"]),
    }[encoding]  # fmt: skip
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, env=environment)
    assert done.returncode == 1, done.stderr
    assert b"UnicodeEncodeError" not in done.stderr
    for stream in (done.stdout, done.stderr):
        check(stream.decode("utf-8" if encoding == "ascii" else encoding))  # click writes UTF-8 in place of ASCII
