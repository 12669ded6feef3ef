"""The `parameters` text ("infotext"): a prompt, a negative prompt and settings; read and written."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ....graph import UnfitValue
from ....graph.limits import AboveLimit, check_limit

_PAIR = re.compile(r'(\w[\w \-/]{0,99}):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
_LEAST_PAIRS = 3
"""A last line with fewer pairs is part of the prompt."""
_NEGATIVE = "Negative prompt:"
_OBJECTS = ("Hashes", "Civitai resources", "Civitai metadata")


@dataclass(frozen=True)
class Infotext:
    """A prompt, a negative prompt, and settings in their order, as texts."""

    prompt: str = ""
    negative: str = ""
    settings: Mapping[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def of(cls, text: str) -> "Infotext":
        """Read a text: lines of the prompt, lines of the negative prompt, and a last line of settings.

        The last line has settings if it has three pairs "Key: value" or more. A value in quotes is a JSON string. Of
        equal keys the last counts.

        Raises:
            UnfitValue: a text that is longer than the limit `record_bytes`.
        """
        try:
            check_limit("record_bytes", len(text))
        except AboveLimit as error:
            raise UnfitValue(f"The text {error}") from None
        *lines, last = text.strip().split("\n")
        last, objects = _without_objects(last)
        pairs = [*_PAIR.findall(last), *objects.items()]
        if len(pairs) < _LEAST_PAIRS:
            lines, pairs = text.strip().split("\n"), []
        parts: dict[bool, list[str]] = {False: [], True: []}
        is_negative = False
        for line in map(str.strip, lines):
            if line.startswith(_NEGATIVE):
                is_negative, line = True, line.removeprefix(_NEGATIVE).strip()
            parts[is_negative].append(line)
        prompt, negative = ("\n".join(parts[which]).strip() for which in (False, True))
        return cls(prompt, negative, {key.strip(): _unquoted(value) for key, value in pairs})

    def __str__(self) -> str:
        """The text, which `of` reads."""
        lines = [self.prompt] if self.prompt else []
        if self.negative:
            lines.append(f"{_NEGATIVE} {self.negative}")
        return "\n".join([*lines, ", ".join(f"{key}: {_quoted(value)}" for key, value in self.settings.items())])


def _without_objects(line: str) -> tuple[str, dict[str, str]]:
    """The line without the settings that are JSON objects or lists, as Civitai adds them, and these settings."""
    found: dict[str, str] = {}
    for key in _OBJECTS:
        start = line.find(f"{key}: ")
        begin = start + len(key) + 2
        if start >= 0 and line[begin : begin + 1] in ("{", "["):
            try:
                _, end = json.JSONDecoder().raw_decode(line, begin)
            except (ValueError, RecursionError):
                continue
            found[key] = line[begin:end]
            line = line[:start].rstrip(", ") + line[end:]
    return line, found


def _quoted(value: str) -> str:
    plain = value == value.strip() and not any(sign in value for sign in ',:\n"') and value
    return value if plain else json.dumps(value, ensure_ascii=False)


def _unquoted(value: str) -> str:
    """The value of a setting. One in quotes that is no JSON is taken as it is."""
    value = value.strip()
    if len(value) < 2 or value[0] != '"' or value[-1] != '"':
        return value
    try:
        read = json.loads(value, strict=False)
    except ValueError:
        return value
    return read if isinstance(read, str) else value
