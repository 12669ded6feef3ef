"""Trust in code: by default none may run, and then only the bytes that the user trusted."""

import difflib
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ....graph import json_text
from ....graph.code import hash_of
from ....graph.errors import LoadError, SaveError
from ....graph.saving import saving_file
from ....registry import printable
from ...storage.files import write_text
from .reading import Code
from .requirements import check_requirements

OFF = "SFUMATO_DISABLE_REMOTE_CODE"
_MAX_LINES = 120  # of a difference that is shown


@dataclass(frozen=True)
class Trust:
    """The argument `trust_remote_code` of `sf.load`, parsed."""

    given: bool = False
    """Whether code may run."""
    isolated: bool = False
    """Whether it runs in a separate process."""
    digest: str | None = None
    """If set, only code of this hash may run."""


def trust_of(value: bool | str) -> Trust:
    """Parse `trust_remote_code`: True, False, "isolated", "sha256:…", or the last two. LoadError otherwise."""
    if isinstance(value, bool):
        return Trust(value)
    words = value.split() if isinstance(value, str) else [repr(value)]  # pyright: ignore[reportUnnecessaryIsInstance]  a user's value
    digests = [word for word in words if re.fullmatch(r"sha256:[0-9a-f]{64}", word)]
    if not words or len(digests) > 1 or {*words} - {"isolated", *digests}:
        raise LoadError(
            f"trust_remote_code={value!r}: needs True, 'isolated', 'sha256:' with the 64 digits of the code's hash, or "
            "both words: 'isolated sha256:…'."
        )
    return Trust(True, "isolated" in words, digests[0] if digests else None)


def check(code: Code, trust: Trust) -> None:
    """Refuse code that may not run, and remember code that may.

    Raises:
        LoadError: code that is not trusted, that the environment forbids, that changed since it was trusted, or that
            needs missing packages. The error lists the files.
    """
    if os.environ.get(OFF, "0").lower() not in ("", "0", "false", "no"):
        raise LoadError(f"{code.named}: has its own code, and {OFF} forbids to run it.\n{listing(code)}")
    if not trust.given:
        raise LoadError(
            f"{code.named}: has its own code, which is not run by default.\n{listing(code)}\n"
            "  If you have read it and trust it:   trust_remote_code=True\n"
            f'  This exact code, now and later:     trust_remote_code="{code.source.digest}"\n'
            '  In a separate process:              trust_remote_code="isolated"'
        )
    if trust.digest is not None:
        if trust.digest != code.source.digest:
            before = _remembered(code.where, trust.digest)
            unknown = "The code of that hash was never trusted on this machine, so its text is unknown."
            raise LoadError(
                f"{code.named}: trust_remote_code names other code. Nothing was run.\n{listing(code)}\n"
                + _changes(code, before, unknown)
                + f'\n  To trust the present code:   trust_remote_code="{code.source.digest}"'
            )  # fmt: skip
    else:
        _check_recorded(code)
        _check_unchanged(code)
    check_requirements(code.named, code.requirements)
    _remember(code)


def _check_recorded(code: Code) -> None:
    if not code.recorded:
        return
    changed = {n: sha for n, sha in code.source.sha256.items() if code.recorded.get(n) != sha}
    if changed:
        raise LoadError(
            f"{code.named}: its code differs from what its graph.json was saved with: {', '.join(changed)}. "
            "Nothing was run.\n"
            + _changes(code, code.recorded, "The saved text is unknown on this machine.")
            + f'\n  If the change is intended:   trust_remote_code="{code.source.digest}", then save the graph again'
        )


def _check_unchanged(code: Code) -> None:
    known = _known(code.where)
    if known and code.source.sha256 not in known:
        raise LoadError(
            f"{code.named}: its code has changed since you trusted it. Nothing was run.\n"
            + _changes(code, known[-1], "Its old text was removed.")
            + f'\n  To trust the new code:   trust_remote_code="{code.source.digest}"'
            f"\n  The record of your trust:   {_record(code.where)}"
        )


# ------------------------------------------------------------------------------------------------ texts
def listing(code: Code, verb: str = "would run") -> str:
    """The files that run or would run, with their hashes, imports and blocks, as a table for people."""
    rows: list[tuple[str, str, str, str]] = []
    for name, text in sorted(code.source.files.items()):
        made = code.source.imports[name]
        words = [*made.outside, *(f"./{other}" for other in made.inside)]
        more = f"; and calls {', '.join(made.calls)}, which may run more" if made.calls else ""
        imports = f"imports {', '.join(words) or 'nothing'}{more}"
        rows.append((name, _bytes(len(text.encode())), f"sha256 {code.source.sha256[name][:16]}…", imports))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = [f"    {row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]}  {row[3]}" for row in rows]
    blocks = ", ".join(f"{name} ({address})" for name, address in code.auto_map.items())
    packages = ", ".join(f"{name}{spec}" for name, spec in code.requirements.items())
    verb = "runs" if (verb, len(rows)) == ("run", 1) else verb
    count = "1 file" if len(rows) == 1 else f"{len(rows)} files"
    head = f"  {count} {verb}, for the block{'s' if len(code.auto_map) > 1 else ''} {blocks}:"
    needs = [f"  It needs {packages}."] if packages else []
    return "\n".join(map(printable, [head, *lines, *needs, f"  To read: {code.place}"]))


def _bytes(size: int) -> str:
    return f"{size} B" if size < 1000 else f"{size / 1000:.1f} kB"


def _changes(code: Code, before: Mapping[str, str] | None, otherwise: str) -> str:
    """The differences between trusted and present text, file by file. `before` has the hash of each trusted file."""
    if before is None:
        return f"  {otherwise}"
    lines: list[str] = []
    for name in sorted({*before, *code.source.files}):
        if before.get(name) == code.source.sha256.get(name):
            continue
        old = _text(before[name]) if name in before else ""
        if old is None:
            lines.append(f"  {name}: {otherwise}")
            continue
        new = code.source.files.get(name, "")
        made = difflib.unified_diff(
            old.splitlines(), new.splitlines(), f"{name} (trusted)", f"{name} (now)", lineterm=""
        )
        lines += [f"    {line.expandtabs(4)}" for line in made]
    cut = [f"    … {len(lines) - _MAX_LINES} more lines; read {code.place}"] if len(lines) > _MAX_LINES else []
    return "\n".join(map(printable, [*lines[:_MAX_LINES], *cut]))


# ------------------------------------------------------------------------------------------------ the record
def trust_folder() -> Path:
    """The folder of trusted code: below `SFUMATO_HOME`, else below `sfumato` in the user's cache folder."""
    own = os.environ.get("SFUMATO_HOME")
    return Path(own or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "sfumato")).expanduser() / "trusted"


def _record(where: str) -> Path:
    return trust_folder() / "by_source" / f"{hashlib.sha256(where.encode()).hexdigest()[:32]}.json"


def _known(where: str) -> list[dict[str, str]]:
    """The trusted states of a source, oldest first: each the hash of every file."""
    try:
        record = json_text.read(_record(where), "config_bytes")
        return [{str(name): str(sha) for name, sha in files.items()} for files in record["trusted"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LoadError(f"{_record(where)}: cannot be read ({error}). Remove it to trust {where} again.") from None


def _remembered(where: str, digest: str) -> dict[str, str] | None:
    return next((files for files in _known(where) if hash_of(files) == digest), None)


def _text(sha256: str) -> str | None:
    """The trusted text of this hash; None if it was removed or changed."""
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        return None
    try:
        data = (trust_folder() / "files" / f"{sha256}.txt").read_bytes()
    except OSError:
        return None
    return data.decode() if hashlib.sha256(data).hexdigest() == sha256 else None


def _remember(code: Code) -> None:
    """Save the text of the code, and record it as the last trusted state of its source."""
    known = [files for files in _known(code.where) if files != code.source.sha256]
    try:
        for name, sha in code.source.sha256.items():
            if _text(sha) is None:
                with saving_file(trust_folder() / "files" / f"{sha}.txt") as draft:
                    draft.write_bytes(code.source.files[name].encode())
        record = {"source": code.where, "revision": code.revision, "trusted": [*known, code.source.sha256]}
        write_text(_record(code.where), json.dumps(record, indent=1) + "\n")
    except SaveError as error:
        raise LoadError(
            f"{trust_folder()}: trusted code cannot be saved there. {error} Or set SFUMATO_HOME to another folder."
        ) from None
