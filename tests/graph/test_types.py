"""Which value flows into which port: the tables of `hints`, and laws."""
# ruff: noqa: E501, UP007  a table is read in wide rows; pyright takes the rows for annotations
# pyright: reportOperatorIssue=none

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    Union,
)

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float, Shaped
from torch import Tensor

from sfumato.graph.typing import assignable, meet, type_text

if TYPE_CHECKING:
    pass  # for the protocol that cannot be read

from .hints import (
    ANY,
    HALF,
    NO,
    YES,
    A,
    Animal,
    B,
    BadLink,
    Box,
    Cat,
    F,
    Gets,
    HasSize,
    IntBox,
    Level,
    Link,
    Linked,
    LinkToInt,
    Numbers,
    Pair,
    Sized_,
    UserId,
    X,
)


def name_of(pair: tuple[Any, Any]) -> str:
    return f"{type_text(pair[0])} -> {type_text(pair[1])}"


@pytest.mark.parametrize("pair", YES, ids=name_of)
def test_flows(pair: tuple[Any, Any]) -> None:
    assert assignable(*pair)


@pytest.mark.parametrize("pair", NO, ids=name_of)
def test_does_not_flow(pair: tuple[Any, Any]) -> None:
    assert not assignable(*pair)


ALL = list({id(t): t for pair in (*YES, *NO) for t in pair}.values())


@pytest.mark.parametrize("hint", ALL, ids=type_text)
def test_every_type_flows_into_itself_and_into_object(hint: Any) -> None:
    assert assignable(hint, hint) and assignable(hint, object)


# Python itself breaks transitivity here: a list is a Sequence, a Sequence may be hashed, a list may not.
LAWFUL = [t for t in ALL if "Hashable" not in type_text(t)]


def test_the_table_is_transitive() -> None:
    into = {id(a): [b for b in LAWFUL if assignable(a, b)] for a in LAWFUL}
    wrong = [
        f"{type_text(a)} -> {type_text(b)} -> {type_text(z)}"
        for a in LAWFUL
        for b in into[id(a)] if id(b) in into
        for z in into[id(b)] if not assignable(a, z)
    ]  # fmt: skip
    assert not wrong


# ------------------------------------------------------------------------------------------------ laws
def types_() -> st.SearchStrategy[Any]:
    leaf = st.sampled_from([
        int, bool, float, str, None, object, Any, Animal, Cat, Pair, IntBox, Numbers, UserId, HasSize, Sized_, Level,
        Literal["a"], Literal["a", "b"], Literal[1], Literal[True], Float[Tensor, "b c"], Float[Tensor, "b 4"],
        Shaped[Tensor, "*b c"], Tensor, list, tuple, Callable, tuple[()],
    ])  # fmt: skip

    def more(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        pair = st.tuples(inner, inner)
        tag = st.sampled_from([A, B, X, ANY, HALF, F])
        return st.one_of(
            inner.map(lambda t: list[t]), inner.map(lambda t: Sequence[t]), inner.map(lambda t: Iterable[t]),
            inner.map(lambda t: tuple[t, ...]), inner.map(lambda t: tuple[int, *tuple[t, ...]]), inner.map(lambda t: Box[t]),
            inner.map(lambda t: type[t] if isinstance(t, type) else list[t]), inner.map(lambda t: Gets[t]),
            pair.map(lambda p: tuple[p[0], p[1]]), pair.map(lambda p: Union[p]), pair.map(lambda p: dict[p[0], p[1]]),
            pair.map(lambda p: Mapping[p[0], p[1]]), pair.map(lambda p: Callable[[p[0]], p[1]]), inner.map(lambda t: Callable[..., t]),
            st.tuples(inner, tag).map(lambda p: Annotated[p[0], p[1]]),
        )  # fmt: skip

    return st.recursive(leaf, more, max_leaves=5)


@given(types_())
def test_reflexive(a: Any) -> None:
    assert assignable(a, a)


@given(types_(), types_(), types_())
def test_transitive(a: Any, b: Any, z: Any) -> None:
    if assignable(a, b) and assignable(b, z):
        assert assignable(a, z)


@given(types_(), st.data())
def test_transitive_upwards(a: Any, data: st.DataObject) -> None:
    wide = data.draw(st.sampled_from([t for t in LAWFUL if assignable(a, t)]))
    wider = data.draw(st.sampled_from([t for t in LAWFUL if assignable(wide, t)]))
    assert assignable(a, wider)


@given(types_(), types_(), types_())
def test_union_laws(a: Any, b: Any, z: Any) -> None:
    assert assignable(Union[a, b], z) == (assignable(a, z) and assignable(b, z))
    assert assignable(a, Union[a, b]) and assignable(b, Union[a, b])
    if assignable(a, b):
        assert assignable(a, Union[b, z])


@given(types_(), types_())
def test_containers_are_covariant(a: Any, b: Any) -> None:
    flows = assignable(a, b)
    assert assignable(list[a], Sequence[b]) == flows
    assert assignable(tuple[a, ...], tuple[b, ...]) == flows
    assert assignable(Callable[[b], a], Callable[[a], b]) == flows


@given(types_(), types_())
def test_what_meets_flows_into_both(a: Any, b: Any) -> None:
    both = meet(a, b)
    assert (both is None) == (meet(b, a) is None)
    if both is not None:
        assert assignable(both, a) and assignable(both, b)


@given(types_())
def test_every_type_can_be_said_in_words(a: Any) -> None:
    assert "typing." not in type_text(a) and "<class" not in type_text(a)


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int, "int"), (None, "None"), (int | None, "int | None"), (Literal["a", 1], "'a' | 1"), (list[int], "list[int]"),
        (tuple[int, ...], "tuple[int, …]"), (tuple[()], "tuple[()]"), (Callable[[int], str], "(int) -> str"), (Callable[..., str], "(…) -> str"),
        (Callable, "Callable"), (Float[Tensor, "b c"], "Float[Tensor, 'b c']"), (Annotated[int, A], "Latents"), (Annotated[int | None, A], "Latents | None"),
        (Annotated[int, A] | None, "Latents | None"), (Annotated[int, X], "Latents[sdxl]"), (Annotated[int, HALF], "Latents[4 channels]"), (UserId, "UserId"),
        (Any, "Any"), (object, "object"), (Sequence[Annotated[int, A]], "Sequence[Latents]"), (tuple[int, *tuple[str, ...]], "tuple[int, *tuple[str, …]]"),
    ],
)  # fmt: skip
def test_types_in_words(hint: Any, words: str) -> None:
    assert type_text(hint) == words


def test_a_protocol_that_mentions_itself_is_not_remembered_under_its_assumption() -> None:
    assert not assignable(BadLink, Linked) and not assignable(LinkToInt, Linked) and assignable(Link, Linked)


def test_the_order_of_questions_does_not_matter() -> None:
    assert not assignable(Literal[1], Literal[True])
    assert assignable(Literal[True], Literal[True]) and assignable(Literal[1], Literal[1])
    assert not assignable(list[Literal[True]], list[Literal[1]])


def test_hints_that_cannot_be_hashed_are_compared_too() -> None:
    assert assignable(Annotated[int, ["a list"]], int) and not assignable(Annotated[int, {}], str)
