"""Rules of a prompt's syntax: `pipe(prompt="a (red:1.3) fox", prompts="a1111")`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ...registry import prompt_rules

if TYPE_CHECKING:
    from .a1111 import A1111 as A1111
    from .comfy import Comfy as Comfy
    from .plain import Plain as Plain
    from .rules import Piece as Piece
    from .rules import PromptRules as PromptRules

_MORE = ("Piece", "PromptRules")


def __getattr__(name: str) -> Any:  # a class of rules
    if name in _MORE:
        return getattr(import_module(".rules", __name__), name)
    if name.startswith("_") or name not in prompt_rules:
        raise AttributeError(f"There are no prompt rules {name!r}. There are: {', '.join(prompt_rules)}.")
    return prompt_rules[name]


def __dir__() -> list[str]:
    return [*prompt_rules, *_MORE]
