"""Types of every kind, and which flows into which: two tables."""
# ruff: noqa: E501, F821, UP007, UP045  a table is read in wide rows; its spellings of one type are the point
# pyright: reportOperatorIssue=none, reportGeneralTypeIssues=none, reportInvalidTypeVarUse=none
# pyright takes the rows for annotations; they are values

import collections
import collections.abc as c
import enum
import functools
import types
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    Optional,
    ParamSpec,
    Protocol,
    Self,
    TypeVar,
    Union,
)

from jaxtyping import Float, Float32, Int, Integer, Num, Shaped
from torch import Tensor

from sfumato.graph.space import ANY_SPACE, LatentSpace
from sfumato.graph.typing import Port

if TYPE_CHECKING:
    from decimal import Decimal  # for the protocol that cannot be read

T = TypeVar("T")
N = TypeVar("N", bound=float)
C = TypeVar("C", int, str)
P = ParamSpec("P")
UserId = NewType("UserId", int)
BossId = NewType("BossId", UserId)


class Animal: ...


class Cat(Animal): ...


class Box(Generic[T]):
    def get(self) -> T: ...
    def put(self, item: T) -> None: ...


class IntBox(Box[int]): ...


class Grand(IntBox): ...


class Two(Animal, IntBox): ...


class Numbers(Sequence[int]): ...


class Swapped(Mapping[T, int], Generic[T]): ...


class Pair(NamedTuple):
    x: int
    y: str


class GenericPair(NamedTuple, Generic[T]):
    x: T
    y: str


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class Level(enum.IntEnum):
    LOW = 1


class HasDecode(Protocol):
    def decode(self, z: int) -> str: ...


class Decodes:
    def decode(self, z: float, tile: int = 8) -> str: ...


class DecodesInto:
    def decode(self, z: int) -> object: ...


class DecodesTwo:
    def decode(self, z: int, more: int) -> str: ...


class DecodesCat:
    def decode(self, z: Cat) -> str: ...


class DecodesBare:
    def decode(self, z):  # type: ignore[no-untyped-def]  # on purpose: a library without annotations
        return ""


class DecodesStars:
    def decode(self, *args: Any, **kwargs: Any) -> str: ...


class DecodesKeyword:
    def decode(self, z: int, *, tile: int) -> str: ...


class DecodesByAttribute:
    decode: Callable[[int], str]


class DecodesStatic:
    @staticmethod
    def decode(z: int) -> str: ...


class HasDecodeKeyword(Protocol):
    def decode(self, z: int, *, tile: int) -> str: ...


class DecodesKeywordInt:
    def decode(self, z: int, tile: int) -> str: ...


class HasSize(Protocol):
    size: int


class Sized_:
    size: bool


class SizedText:
    size: str


class SizedProperty:
    @property
    def size(self) -> int: ...


class SizedTextProperty:
    @property
    def size(self) -> str: ...


class SizedCached:
    @functools.cached_property
    def size(self) -> int: ...


class SizedValue:
    size = 3


class SizedClass:
    size: ClassVar[int] = 3


class SizedMethod:
    def size(self) -> int: ...


@dataclass(frozen=True)
class SizedData:
    size: int = 0


class HasSizeProperty(Protocol):
    @property
    def size(self) -> int: ...


class HasLen(Protocol):
    def __len__(self) -> int: ...


class Linked(Protocol):
    def next(self) -> "Linked | None": ...


class Link:
    def next(self) -> "Link": ...


class BadLink:
    def next(self) -> "LinkToInt": ...


class LinkToInt:
    def next(self) -> int: ...


class Clones(Protocol):
    def clone(self) -> Self: ...


class Sheep:
    def clone(self) -> "Sheep": ...


class SelfSheep:
    def clone(self) -> Self: ...


class Wolf:
    def clone(self) -> Cat: ...


class Gets(Protocol[T]):
    def get(self) -> T: ...


class Unreadable(Protocol):
    def pay(self, much: "Decimal") -> int: ...


class Pays:
    def pay(self, much: "Decimal") -> int: ...


class PaysText:
    def pay(self, much: "Decimal") -> str: ...


class Predicts(Protocol):
    def __call__(self, x: int) -> str: ...


class Model:
    def __call__(self, x: int, scale: float = 1.0) -> str: ...


class Slow(Model): ...


class Twice:
    def __call__(self, x: int, y: int) -> str: ...


A, B, X = Port("latents"), Port("steps"), Port("latents", space=LatentSpace("sdxl", 4, 0.13025))
ANY, HALF = Port("latents", space=ANY_SPACE), Port("latents", space=LatentSpace(channels=4))
F = Port("latents", space=LatentSpace("flux", 16, 0.3611, 0.1159))

YES: list[tuple[Any, Any]] = [
    # unions
    (int, int | None), (None, int | None), (int | None, None | int), (int | str, str | int | None),
    (Optional[int], Union[int, None]), (bool | None, int | None), (list[int | None], Sequence[int | str | None]),
    (int, Union[int, str]), (list[Cat] | None, Sequence[Animal] | None), (int | bool, int),
    # classes, the tower, the top
    (Cat, Animal), (bool, int), (int, float), (float, complex), (bool, float), (bool, complex), (Level, int),
    (Level, float), (int, object), (object, Any), (Any, object), (Any, Any), (None, object), (Pair, Any),
    (Path, object), (Color, Color), (Color, object), (list[Any], list[object]), (type(None), None),
    # containers
    (list[int], list[int]), (list[int], list), (list, list[Any]), (list, list[object]), (list, list), (list[int], Sequence[float]),
    (list[list[bool]], Sequence[Sequence[int]]), (list[int], Iterable[object]), (set[int], c.Set[int]), (str, Sequence[str]),
    (bytes, Sequence[int]), (range, Sequence[int]), (dict[str, bool], Mapping[str, int]), (dict[str, int], Iterable[str]),
    (dict[str, int], c.Collection[str]), (collections.OrderedDict[str, int], dict[str, int]),
    (collections.defaultdict[str, int], Mapping[str, int]), (collections.Counter[str], Mapping[str, int]),
    (collections.deque[int], Sequence[int]), (frozenset[int], c.Set[float]), (list[int], Hashable | Sequence[int]),
    (Numbers, Sequence[int]), (Numbers, Sequence[float]), (Numbers, Iterable[int]), (Numbers, Sequence),
    (Swapped[str], Mapping[str, int]), (c.Generator[int, None, str], Iterator[int]), (c.Iterator[int], Iterable[float]),
    # tuples
    (tuple[int, str], tuple[int, str]), (tuple[bool, str], tuple[int, object]), (tuple[int, int], tuple[int, ...]),
    (tuple[()], tuple[int, ...]), (tuple[()], tuple[()]), (tuple[()], tuple), (tuple[int, ...], tuple[float, ...]),
    (tuple[int, ...], tuple), (tuple, tuple[object, ...]), (tuple[int, str], Sequence[int | str]), (tuple[int, ...], Sequence[int]),
    (tuple[()], Sequence[int]), (tuple[int, *tuple[str, ...]], tuple[int | str, ...]),
    (tuple[int, str, str], tuple[int, *tuple[str, ...]]), (tuple[int, *tuple[str, ...]], Sequence[int | str]),
    (tuple[int, *tuple[str, ...], int], tuple[int, *tuple[object, ...]]), (tuple[int, str], tuple[int, *tuple[str, ...], str]),
    (Pair, tuple[int, str]), (Pair, tuple[object, ...]), (Pair, Sequence[int | str]), (Pair, tuple), (GenericPair[int], tuple[int, str]),
    # user generics
    (Box[int], Box[int]), (Box[bool], Box[int]), (Box[int], Box), (IntBox, Box[int]), (Grand, Box[float]), (Two, Box[int]),
    (Box, Box[Any]),
    # literals, NewType, type variables, type[X]
    (Literal["a"], Literal["a", "b"]), (Literal["a"], str), (Literal[1], float), (Literal[True], bool),
    (Literal["a", "b"], Literal["b", "a", "c"]), (Literal["a", 1], str | int), (Literal[None], None), (Literal[Color.RED], Color),
    (Literal["a"] | None, str | None), (UserId, int), (UserId, float), (UserId, UserId), (BossId, UserId), (BossId, int),
    (UserId, object), (list[BossId], Sequence[UserId]), (int, T), (T, object), (N, float), (int, N), (str, C), (C, int | str),
    (type[Cat], type[Animal]), (type[Cat], type), (type, type[Any]), (type[Cat], Callable[..., Animal]), (type[Cat], object),
    # protocols
    (Decodes, HasDecode), (DecodesBare, HasDecode), (DecodesStars, HasDecode), (DecodesByAttribute, HasDecode),
    (DecodesStatic, HasDecode), (HasDecode, HasDecode), (Sized_, HasSize), (SizedProperty, HasSize), (SizedCached, HasSize),
    (SizedValue, HasSize), (SizedClass, HasSize), (SizedData, HasSize), (SizedData, HasSizeProperty), (SizedProperty, HasSizeProperty),
    (HasSize, HasSizeProperty), (list[int], HasLen), (dict[str, int], HasLen), (str, HasLen), (Link, Linked), (Linked, Linked),
    (Sheep, Clones), (SelfSheep, Clones), (Box[int], Gets[int]), (IntBox, Gets[float]), (Box[int], Gets), (Pays, Unreadable),
    (DecodesKeyword, HasDecodeKeyword), (DecodesKeywordInt, HasDecodeKeyword), (Decodes, HasDecodeKeyword), (DecodesStars, HasDecodeKeyword),
    (list[Decodes], Sequence[HasDecode]), (Gets[bool], Gets[int]),
    # functions
    (Callable[[int], str], Callable[[int], str]), (Callable[[float], str], Callable[[int], str]),
    (Callable[[int], bool], Callable[[int], int]), (Callable[[int], str], Callable[..., str]), (Callable[[int], str], Callable),
    (Callable[..., str], Callable[..., object]), (Callable, Callable[..., object]), (Callable[[int], str], object),
    (Callable[[int], str], Hashable), (Callable[[Sequence[int]], str], Callable[[list[int]], str]), (Model, Callable[[int], str]),
    (Model, Callable[[bool], object]), (Model, Callable[[int, float], str]), (Model, Predicts), (Slow, Predicts),
    (Callable[[int], str], Predicts), (Predicts, Callable[[int], str]), (Predicts, Predicts), (types.FunctionType, Callable[[int], str]),
    (Callable[P, int], Callable[..., int]), (Callable[[], int], Callable[P, int]), (functools.partial[str], Callable[[int], str]),
    (Callable[[Callable[[int], str]], int], Callable[[Callable[[object], str]], int]),
    # arrays
    (Float[Tensor, "b c"], Float[Tensor, "x y"]), (Float[Tensor, "b 4"], Float[Tensor, "b c"]), (Float[Tensor, "b c"], Tensor),
    (Float[Tensor, "1 4"], Float[Tensor, "1 4"]), (Float[Tensor, "b c"], Shaped[Tensor, "b c"]), (Int[Tensor, "b"], Shaped[Tensor, "b"]),
    (Float32[Tensor, "b"], Float[Tensor, "b"]), (Int[Tensor, "b"], Integer[Tensor, "b"]), (Float[Tensor, "b"], Num[Tensor, "b"]),
    (Float[Tensor, "a b c"], Float[Tensor, "*d c"]), (Float[Tensor, "c"], Float[Tensor, "*d c"]), (Float[Tensor, "a b c"], Float[Tensor, "..."]),
    (Float[Tensor, ""], Float[Tensor, "..."]), (Float[Tensor, ""], Float[Tensor, ""]), (Float[Tensor, "a b 3 4"], Float[Tensor, "a *m 4"]),
    (Float[Tensor, "*b c"], Float[Tensor, "... c"]), (Float[Tensor, "a *b c"], Float[Tensor, "*b c"]), (Float[Tensor, "b rgb=3"], Float[Tensor, "b 3"]),
    (Float[Tensor, "b 3"], Float[Tensor, "b rgb=3"]), (Float[Tensor, "b 1"], Float[Tensor, "b #4"]), (Float[Tensor, "b 4"], Float[Tensor, "b #4"]),
    (Float[Tensor, "b n+1"], Float[Tensor, "b m"]), (Float[Tensor, "b c"] | None, Tensor | None), (list[Float[Tensor, "b c"]], Sequence[Tensor]),
    (Float[Tensor, "b _"], Float[Tensor, "_ c"]), (Callable[[Tensor], Float[Tensor, "b"]], Callable[[Float[Tensor, "b"]], Tensor]),
    # ports
    (Annotated[int, A], int), (Annotated[int, A], Annotated[int, A]), (Annotated[bool, A], Annotated[int, A]), (Annotated[int, A], object),
    (list[Annotated[int, A]], Sequence[Annotated[int, A]]), (list[Annotated[int, A]], Sequence[int]), (Annotated[int, A] | None, int | None),
    (Annotated[int | None, A], Annotated[int | None, A]), (Annotated[int, A], Annotated[int | str, A]), (Annotated[int, "a note"], int),
    (int, Annotated[int, "a note"]), (Annotated[int, "a note", A], Annotated[int, A]), (Annotated[Annotated[int, B], A], Annotated[int, A]),
    (Annotated[Literal["a"], A], Annotated[Literal["a", "b"], A]), (NewType("Tagged", Annotated[int, A]), Annotated[int, A]),  # type: ignore[misc]  # pyright wants a variable
    (Annotated[int, X], Annotated[int, A]), (Annotated[int, X], Annotated[int, ANY]), (Annotated[int, ANY], Annotated[int, ANY]),
    (Annotated[int, X], Annotated[int, HALF]), (Annotated[int, A], Annotated[int, ANY]), (Callable[[int], Annotated[int, A]], Callable[[Annotated[int, A]], int]),
]  # fmt: skip

NO: list[tuple[Any, Any]] = [
    (int | None, int), (int | str, int), (int, str), (int, None), (str, int | None), (list[int | None], list[int]),
    (Animal, Cat), (int, bool), (float, int), (complex, float), (object, int), (Any, int), (list[Any], list[int]), (Color, int),
    (object, None), (Any, None),
    (list, list[int]), (Sequence[int], list[int]), (list[str], Sequence[int]), (list[int], set[int]), (dict[int, str], Mapping[str, str]),
    (dict[str, int], Mapping[str, str]), (dict[str, int], Iterable[int]), (str, Sequence[int]), (str, list[str]), (Numbers, Sequence[str]),
    (Numbers, list[int]), (Swapped[str], Mapping[int, int]), (collections.defaultdict[str, int], dict[str, str]),
    (collections.Counter[str], Mapping[str, str]), (list[int], Mapping[str, int]), (list[int], Hashable),
    (tuple[int, str], tuple[str, int]), (tuple[int], tuple[int, int]), (tuple[int, int], tuple[int]), (tuple[int, ...], tuple[int]),
    (tuple[int, ...], tuple[int, int]), (tuple[int, str], tuple[int, ...]), (tuple[int], tuple[()]), (tuple[()], tuple[int]),
    (tuple, tuple[int, ...]), (tuple[int, str], Sequence[int]), (tuple[int, *tuple[str, ...]], tuple[int, ...]),
    (tuple[int, ...], tuple[()]), (tuple[()], tuple[int, *tuple[int, ...]]), (tuple[int, ...], tuple[int, *tuple[int, ...]]), (list[int], tuple[int, ...]),
    (Pair, tuple[str, int]), (tuple[int, str], Pair), (Pair, Sequence[int]), (GenericPair[str], tuple[int, str]),
    (Box[int], Box[str]), (Box, Box[int]), (IntBox, Box[str]), (Box[int], IntBox), (Two, Box[str]),
    (str, Literal["a"]), (Literal["a"], Literal["b"]), (Literal["a", "b"], Literal["a"]), (Literal[1], str), (Literal[1], Literal[True]),
    (Literal[True], Literal[1]), (Literal["1"], Literal[1]), (Literal["a"] | None, str), (int, UserId), (UserId, BossId), (UserId, str),
    (list[int], list[UserId]), (object, N), (str, N), (float, C), (T, int), (type[Animal], type[Cat]), (type, type[Cat]), (Cat, type[Cat]),
    (type[Cat], Cat), (type[Cat], Callable[..., int]),
    (DecodesInto, HasDecode), (DecodesTwo, HasDecode), (DecodesCat, HasDecode), (DecodesKeyword, HasDecode), (Animal, HasDecode),
    (SizedText, HasSize), (SizedTextProperty, HasSize), (SizedMethod, HasSize), (SizedTextProperty, HasSizeProperty), (Animal, HasSize),
    (int, HasLen), (BadLink, Linked), (LinkToInt, Linked), (Wolf, Clones), (Box[str], Gets[int]), (Gets[str], Gets[int]), (PaysText, Unreadable),
    (HasDecode, Decodes), (Sized_, HasDecode), (HasDecode | HasSize, HasSize),
    (Callable[[int], str], Callable[[float], str]), (Callable[[int], object], Callable[[int], str]), (Callable[[int], str], Callable[[], str]),
    (Callable[[], str], Callable[[int], str]), (Callable[..., str], Callable[[int], str]), (Callable, Callable[[int], str]),
    (Callable, Callable[..., str]), (Animal, Callable[[int], str]), (Twice, Callable[[int], str]), (Model, Callable[[str], str]), (Twice, Predicts),
    (Callable[[int, int], str], Predicts), (Callable[[int], str], HasDecode), (Callable[[int], str], int), (int, Callable), (Callable[P, int], Callable[..., str]),
    (Callable[[Callable[[int], str]], int], Callable[[Callable[[bool], str]], int]),
    (Float[Tensor, "b c"], Float[Tensor, "b 4"]), (Float[Tensor, "b 3"], Float[Tensor, "b 4"]), (Float[Tensor, "b"], Float[Tensor, "b c"]),
    (Float[Tensor, "b c"], Int[Tensor, "b c"]), (Shaped[Tensor, "b"], Float[Tensor, "b"]), (Float[Tensor, "b"], Float32[Tensor, "b"]),
    (Num[Tensor, "b"], Float[Tensor, "b"]), (Tensor, Float[Tensor, "b c"]), (Float[Tensor, "*b c"], Float[Tensor, "b c"]),
    (Float[Tensor, "..."], Float[Tensor, "... c"]), (Float[Tensor, "..."], Float[Tensor, ""]), (Float[Tensor, "a b 3"], Float[Tensor, "*b 4"]),
    (Float[Tensor, "a *b"], Float[Tensor, "*b 4"]), (Float[Tensor, ""], Float[Tensor, "b"]), (Float[Tensor, "b #4"], Float[Tensor, "b 4"]),
    (Float[Tensor, "b rgb=3"], Float[Tensor, "b 4"]), (Float[Tensor, "b"], int), (int, Float[Tensor, ""]), (Float[Tensor, "b"] | None, Float[Tensor, "b"]),
    (Sequence[Tensor], Sequence[Float[Tensor, "b"]]), (Float[Tensor, "b"], Float[str, "b"]), (Float[Tensor, "b"], Literal["b"]),
    (int, Annotated[int, A]), (Annotated[int, B], Annotated[int, A]), (list[int], Sequence[Annotated[int, A]]), (list[Annotated[int, B]], Sequence[Annotated[int, A]]),
    (Annotated[int, A] | None, Annotated[int, A]), (int | None, Annotated[int | None, A]), (Annotated[str, A], Annotated[int, A]), (Any, Annotated[Any, A]),
    (Annotated[Annotated[int, A], B], Annotated[int, A]), (Annotated[int, X], Annotated[int, F]), (Annotated[int, ANY], Annotated[int, X]), (Annotated[int, A], Annotated[int, X]),
    (Annotated[int, HALF], Annotated[int, X]), (Callable[[Annotated[int, A]], int], Callable[[int], int]), (UserId, Annotated[int, A]),
]  # fmt: skip
