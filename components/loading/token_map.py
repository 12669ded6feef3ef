"""Words of a text that a tokenizer reads as ids of their own: those of embeddings (textual inversion)."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

from ...graph.errors import UnfitValue
from ...registry import did_you_mean

_NAMED = "embedding:"
"""ComfyUI's prefix of an embedding's name in a prompt: "embedding:name", also with the end of a file's name."""
_ENDS = r"(?:\.(?:safetensors|pt|bin))?"


class TokenMap:
    """Words, and the ids that each of them is read as. Letters of either case are the same.

    A word is not found inside a longer one: "art" is not in "party".
    """

    def __init__(self, tokens: Mapping[str, Sequence[int]], names: Mapping[str, Sequence[int]]) -> None:
        """Make a map.

        Args:
            tokens: ids by word.
            names: ids by the name that stands after "embedding:"; no ids where this tokenizer's encoder has none.
        """
        self.tokens = {word: tuple(ids) for word, ids in tokens.items()}
        self.names = {word: tuple(ids) for word, ids in names.items()}

    @cached_property
    def _finder(self) -> "tuple[re.Pattern[str], list[tuple[int, ...]]]":
        """A pattern with a group for each name and word, the longest first, and the ids of each group.

        One more group at the end finds a name that is not known.
        """
        names = sorted(self.names, key=len, reverse=True)
        words = sorted(self.tokens, key=len, reverse=True)
        groups = [f"({_NAMED}{_whole(name)}{_ENDS}{_edge(name[-1])})" for name in names]
        groups += [f"({_whole(word)})" for word in words]
        groups.append(rf"(?<!\w){_NAMED}([^\s,:()\[\]{{}}|]+)")
        ids = [*(self.names[name] for name in names), *(self.tokens[word] for word in words)]
        return re.compile("|".join(groups), re.IGNORECASE), ids

    def parts(self, text: str) -> Iterator[str | tuple[int, ...]]:
        """The text in parts: plain text, and the ids of words of this map.

        Raises:
            UnfitValue: "embedding:name" with a name that is not known.
        """
        pattern, ids = self._finder
        at = 0
        for match in pattern.finditer(text):
            if match.start() > at:
                yield text[at : match.start()]
            number = match.lastindex or 0
            if number > len(ids):
                raise UnfitValue(_unknown(match[number], list(self.names)))
            yield ids[number - 1]
            at = match.end()
        if at < len(text):
            yield text[at:]

    @cached_property
    def _words(self) -> Mapping[int, str]:
        return {ids[0]: word for word, ids in self.tokens.items() if ids}

    def word_of(self, index: int) -> str:
        """The word whose first id this is; "" for the ids after it."""
        return self._words.get(index, "")


def _unknown(name: str, known: Sequence[str]) -> str:
    way = did_you_mean(name, known) if known else f"Write adapters=[sf.load_embedding({f'{name}.safetensors'!r})]."
    return f"The prompt names {_NAMED}{name}, and the graph has no embedding of that name. {way}"


def _whole(word: str) -> str:
    """A pattern for a word that is no part of a longer one."""
    before = r"(?<!\w)" if _is_letter(word[0]) else ""
    return f"{before}{re.escape(word)}{_edge(word[-1])}"


def _edge(letter: str) -> str:
    return r"(?!\w)" if _is_letter(letter) else ""


def _is_letter(letter: str) -> bool:
    return letter.isalnum() or letter == "_"


NO_TOKENS = TokenMap({}, {})
"""The map of a tokenizer without embeddings."""
