"""`named`: the same block with other port and component names, so that two of a kind live side by side."""

from collections.abc import Mapping
from typing import Any, Self

from ..registry import closest
from .block import Block
from .cache import cached
from .errors import Problem, WireError
from .ports import Signature
from .validate import value_text


class Named(Block, name="Named"):
    """A block whose inputs, outputs and components go by other names outside."""

    block: Block
    names: tuple[tuple[str, str], ...]

    @property
    def signature(self) -> Signature:
        """The ports and components of the block inside, by their names outside."""
        return cached(self, "signature", self._read_signature)

    def _read_signature(self) -> Signature:
        s, names = self.block.signature, dict(self.names)
        return Signature(
            {names.get(n, n): p for n, p in s.inputs.items()},
            {names.get(n, n): p for n, p in s.outputs.items()},
            {names.get(n, n): p for n, p in s.components.items()},
        )

    def __call__(self, **values: Any) -> Any:
        """Call the block inside, with inputs by their names outside."""
        old = {b: a for a, b in self.names if a in self.block.signature.inputs}
        return self.block(**{old.get(n, n): v for n, v in values.items()})

    def to_config(self) -> dict[str, Any]:
        """The config of the block inside: a block that replaces it in a slot takes over the names."""
        return self.block.to_config()

    def children(self) -> Mapping[str, Block]:
        """The block inside, which a path does not mention."""
        return {"": self.block}

    def with_children(self, children: Mapping[str, Block]) -> Self:
        """The same names around another block."""
        return type(self)(block=children[""], names=self.names)


def named(block: Block, **names: str) -> Block:
    """`named(block, control_image="pose_image", controlnet="pose_net")`: rename inputs, outputs and components.

    An input and an output of one name are renamed together.
    """
    if not isinstance(block, Block):  # pyright: ignore[reportUnnecessaryIsInstance]  users pass anything
        text = f"needs a block, got {value_text(block)}. Write named(block, old='new')."
        raise WireError(Problem("argument", "named", text, type(block).__name__, "Block"))
    s = block.signature
    known = [*s.inputs, *s.outputs, *s.components]
    problems = [
        Problem(
            "no-name", old, f"is no input, output or component of {type(block).__name__}, so it cannot be renamed. "
            + (f"Did you mean {closest(old, known, 1)[0]!r}? " if closest(old, known, 1) else "")
            + f"There are: {', '.join(dict.fromkeys(known))}.", old, candidates=tuple(closest(old, known)),
        )
        for old in names if old not in known
    ]  # fmt: skip
    for part in (s.inputs, s.outputs, s.components):
        after = [names.get(n, n) for n in part]
        if twice := [n for n in dict.fromkeys(after) if after.count(n) > 1]:
            text = f"is the new name of two ports of {type(block).__name__}. Choose another name."
            problems += [Problem("clash", n, text) for n in twice]
    problems += [
        Problem("name", old, f"needs a name for {old!r}, got {value_text(new)}. Write named(block, {old}='new').")
        for old, new in names.items() if not is_name(new)
    ]  # fmt: skip
    if problems:
        raise WireError(problems)
    return Named(block=block, names=tuple(names.items())) if names else block


def is_name(name: object) -> bool:
    """Whether it can name a port: as a keyword of a call, and in a drawing."""
    return isinstance(name, str) and name.isidentifier()


def named_like(old: Block, new: Block) -> Block:
    """The new block with the names that the old one, which it replaces, had outside."""
    if not isinstance(old, Named) or isinstance(new, Named):
        return new
    s = new.signature
    has = {*s.inputs, *s.outputs, *s.components}
    return named(new, **{port: name for port, name in old.names if port in has})
