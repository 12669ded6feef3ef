"""The settings of one text, and what became of each."""

import re
from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

from .infotext import Infotext
from .model_files import ModelFiles
from .report import Fate, Line, Report

N = TypeVar("N", int, float)
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")
_LEFT_OUT = {
    "Version": "the program that wrote the text",
    "User": "a name",
    "Init image hash": "of the picture to pass",
    "Hashes": "also in other settings",
    "Civitai resources": "for the web site",
    "Civitai metadata": "for the web site",
    "Created Date": "a date",
    "Batch size": "of the batch",
    "Batch pos": "of the batch",
    "Batch row": "the seed draws the first row; sf.replay draws this one",
}
"""Settings that change no picture."""


class Settings:
    """The settings of a text. `mark` notes what became of one; `inputs` are values for the call of the graph.

    loading: arguments of `sf.load` for further checkpoints.
    """

    def __init__(self, text: Infotext, files: ModelFiles) -> None:
        self.text, self.files = text, files
        self.values = dict(text.settings)
        self.inputs: dict[str, Any] = {}  # values of any input
        self.loading: dict[str, Any] = {}  # what sf.load takes
        self._lines: dict[str, Line] = {}

    def mark(self, setting: str, fate: Fate, text: str = "") -> None:
        """Note what became of a setting, if the text has it."""
        if setting in self.values:
            self._lines[setting] = Line(setting, self.values[setting], fate, text)

    def add(self, setting: str, value: str, fate: Fate, text: str = "") -> None:
        """Note something that is no setting of the text."""
        self._lines[setting] = Line(setting, value, fate, text)

    def is_marked(self, setting: str) -> bool:
        """Whether something is noted of a setting."""
        return setting in self._lines

    def fate(self, setting: str) -> Fate | None:
        """What became of a setting; None before anything is noted."""
        return self._lines[setting].fate if setting in self._lines else None

    def number(self, setting: str, kind: Callable[[str], N]) -> N | None:
        """The number of a setting; None if there is none, or it is none that a machine has."""
        try:
            value = kind(self.values.get(setting, ""))
            return value if abs(value) < 2**64 else None
        except (ValueError, OverflowError):
            return None

    def size(self, setting: str) -> tuple[int, int] | None:
        """The width and height of a setting ("512x768"); None if it has none."""
        found = _SIZE.fullmatch(self.values.get(setting, ""))
        return (int(found[1]), int(found[2])) if found else None

    @cached_property
    def has_second_pass(self) -> bool:
        """Whether the text is of a run with hires fix."""
        return any(name in self.values for name in ("Hires upscale", "Hires resize", "Hires upscaler"))

    @cached_property
    def is_civitai_flux(self) -> bool:
        """Whether Civitai wrote the text, of a picture of Flux."""
        return self.values.get("Sampler") == "Undefined"

    def report(self) -> Report:
        """The report, in the order of the text; settings that nothing has read are not supported."""
        for name in self.values:
            if name not in self._lines:
                self.mark(name, "note" if name in _LEFT_OUT else "not supported", _LEFT_OUT.get(name, ""))
        order = {name: place for place, name in enumerate(self.values)}
        return Report(tuple(sorted(self._lines.values(), key=lambda line: order.get(line.setting, -1))))
