"""Changes of attention: functions of queries, keys and values."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from ...graph.errors import UnfitValue
from ..models.attention import AttentionCore
from ..models.levels import Size, level_size
from ..models.views import combined_class, shallow_copy
from .change import Change
from .place import Forward, Kind, Part, Place, required

Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""Attention as a function of queries, keys, values and a mask."""


@dataclass(frozen=True)
class AttentionCall:
    """The facts about an attention that a change of it may read.

    at: the layer. tokens: the number of queries. start: how many tokens of the prompt are before those of the picture.
    mask: added to the scores, or None. usual: the attention without this change. found: the forward; None where the
    model is called by itself.
    """

    at: Place
    tokens: int
    start: int
    mask: Tensor | None
    usual: Attend
    found: Forward | None

    @property
    def path(self) -> str:
        """The path of the attention in the model."""
        return self.at.path

    @property
    def kind(self) -> Kind:
        """Whether tokens of the picture attend to each other, to the prompt, or to both at once ("joint")."""
        return self.at.kind or "self"

    @property
    def forward(self) -> Forward:
        """The forward that runs: the rows of each pass with its role, the step, and the memory of the call."""
        return required(self.found)

    @property
    def picture(self) -> slice:
        """The queries of the picture. In joint attention the prompt's are before them, those of references after."""
        if self.at.patch is None:
            return slice(0, self.tokens)
        height, width = self.at.size
        return slice(self.start, self.start + height // self.at.patch * (width // self.at.patch))

    @property
    def size(self) -> Size:
        """The height and width of the picture, in tokens of this layer."""
        if self.at.patch is None:
            return level_size(self.tokens, self.at.size)
        return self.at.size[0] // self.at.patch, self.at.size[1] // self.at.patch

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Compute attention as without this change, with other queries, keys or values, `b heads n d`.

        There may be more keys than before, if there is no mask.
        """
        return self.usual(q, k, v, self.mask)

    def map(self, q: Tensor, k: Tensor) -> Tensor:
        """Compute the map softmax(q kᵀ / √d + mask), `b heads n m`. Its product with v is attention."""
        scores = q @ k.transpose(2, 3) * q.shape[3] ** -0.5
        return (scores if self.mask is None else scores + self.mask).softmax(dim=3)


class AttentionChange(Change, abstract=True):
    """A change of attention: `attend`, a function of queries, keys and values.

    part: which attention it changes: "self" (joint attention too), "cross", or all "attention".
    """

    part: ClassVar[Part] = "self"

    @classmethod
    def _lacking(cls) -> str:
        wrote = cls.attend is not AttentionChange.attend or cls.queries is not AttentionChange.queries
        return "" if wrote else "attend"

    def attend(self, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall) -> Tensor:
        """Compute attention.

        Args:
            q: queries, `b heads n d`, after norms and rotary positions. Rows are those of all passes of the forward.
            k: keys, `b heads m d`.
            v: values, `b heads m d`. Do not write into keys and values: those of a prompt serve all steps.
            call: the layer, the forward, and attention as without this change.

        Returns:
            `b heads n d`.
        """
        return call.attend(q, k, v)

    def queries(self, q: Tensor, call: AttentionCall) -> Tensor:
        """Return the queries to use, before norms and rotary positions: of the image alone where streams are joined."""
        return q

    def replaced(self, layer: nn.Module, at: Place) -> nn.Module:
        """Return the attention with this change, around the changes that it has already."""
        own = getattr(layer, "changes", ())
        kind = type(layer) if own else combined_class(ChangedAttention, type(layer))
        twin = shallow_copy(layer, kind)
        twin.__dict__["changes"] = (*own, (self, at))
        return twin


class ChangedAttention(AttentionCore):
    """Attention with changes, the first innermost."""

    changes: tuple[tuple[AttentionChange, Place], ...]

    def queries(self, q: Tensor, start: int = 0) -> Tensor:
        """Return the queries to use, `b heads n d`."""
        q = super().queries(q, start)
        for change, at in self.changes:
            made = change.queries(q, AttentionCall(at, q.shape[2], start, None, _no_attention, at.current.found))
            q = _fitting(made, q.shape, change, "queries", at)
        return q

    def scaled_dot_product(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, start: int = 0) -> Tensor:
        """Compute attention with all changes."""

        def attend_inside(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, depth: int) -> Tensor:
            if depth == 0:
                return super(ChangedAttention, self).scaled_dot_product(q, k, v, mask, start)
            change, at = self.changes[depth - 1]

            def usual(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
                return attend_inside(q, k, v, mask, depth - 1)

            made = change.attend(q, k, v, AttentionCall(at, q.shape[2], start, mask, usual, at.current.found))
            return _fitting(made, (*q.shape[:3], v.shape[3]), change, "attend", at)

        return attend_inside(q, k, v, mask, len(self.changes))


def _fitting(
    made: Any, shape: Sequence[int], change: AttentionChange, method: str, at: Place
) -> Tensor:  # Any: a user's
    """What a change returned. UnfitValue for another shape, which torch would repeat over rows, or no tensor."""
    if isinstance(made, Tensor) and tuple(made.shape) == tuple(shape):
        return made
    got = f"the shape {tuple(made.shape)}" if isinstance(made, Tensor) else type(made).__name__
    raise UnfitValue(
        f"{type(change).__name__}.{method} must return a tensor of the shape {tuple(shape)} for {at.path}. Got {got}."
    )


def _no_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    raise NotImplementedError("queries() runs before attention. Write attend().")
