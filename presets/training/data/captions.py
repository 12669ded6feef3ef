"""`Captions`: how the caption of a picture changes from epoch to epoch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ....graph.errors import ConfigError
from .draws import Draws


@dataclass(frozen=True)
class Captions:
    """How captions change. Each choice depends on the seed, the epoch and the picture alone.

    Args:
        dropout: the share of captions that are replaced by "", for classifier-free guidance.
        shuffle: whether tags are put in another order.
        tag_dropout: the share of tags that are left out.
        keep: so many tags at the beginning stay where they are.
        separator: the text between tags.
        trigger: words that are put before each caption, as its first tag. Shuffling and tag dropout leave them there.
        lines: the use of a caption with several lines: "join" makes one line of them, "choose" takes one of them.

    Raises:
        ConfigError: a setting out of its range.
    """

    dropout: float = 0.0
    shuffle: bool = False
    tag_dropout: float = 0.0
    keep: int = 0
    separator: str = ","
    trigger: str = ""
    lines: Literal["join", "choose"] = "join"

    def __post_init__(self) -> None:
        for name in ("dropout", "tag_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}: needs a share from 0 to 1, got {getattr(self, name)}.")
        if self.keep < 0:
            raise ConfigError(f"keep: needs 0 tags or more, got {self.keep}.")
        if not self.separator.strip() and (self.shuffle or self.tag_dropout):
            raise ConfigError(f"separator: needs a mark between tags such as ',', got {self.separator!r}.")
        if self.lines not in ("join", "choose"):
            raise ConfigError(f"lines: needs 'join' or 'choose', got {self.lines!r}.")

    def text(self, captions: Sequence[str], draws: Draws) -> str:
        """The caption of a picture in an epoch. captions: alternatives, one of which is taken."""
        if draws.at("dropout").number() < self.dropout:
            return ""
        choices = [choice for caption in captions for choice in self._choices(caption)] or [""]
        chosen = choices[draws.at("choice").below(len(choices))]
        if not (self.shuffle or self.tag_dropout or self.trigger):
            return chosen
        mark = self.separator.strip()
        tags = [tag.strip() for tag in chosen.split(mark)] if self.shuffle or self.tag_dropout else [chosen]
        first, rest = tags[: self.keep], [tag for tag in tags[self.keep :] if tag]
        if self.shuffle:
            rest = [rest[i] for i in draws.at("shuffle").order(len(rest))]
        kept = [tag for i, tag in enumerate(rest) if draws.at("tag", i).number() >= self.tag_dropout]
        return f"{mark} ".join(tag for tag in (self.trigger, *first, *kept) if tag)

    def _choices(self, caption: str) -> Sequence[str]:
        lines = [stripped for line in caption.splitlines() if (stripped := line.strip())]
        return lines if self.lines == "choose" else [" ".join(lines)]
