"""Five-line fakes that the tests of the language share."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

from sfumato.graph import (
    ANY_SPACE,
    Block,
    Event,
    Graph,
    LatentSpace,
    Lazy,
    Loop,
    Memory,
    Port,
    Running,
    component,
    knob,
)

CALLS: list[str] = []
"""What ran, in order; a test clears it first."""


class X(NamedTuple):
    x: int


class Y(NamedTuple):
    y: int


class Z(NamedTuple):
    z: int


class XY(NamedTuple):
    x: int
    y: int


class Text(NamedTuple):
    text: str


class Add(Block):
    """x + n"""

    n: int = 1

    def __call__(self, x: int) -> X:
        CALLS.append(f"add {self.n}")
        return X(x + self.n)


class AddItem(Block):
    def __call__(self, x: int, item: int) -> X:
        CALLS.append(f"item {item}")
        return X(x + item)


class MakeX(Block):
    def __call__(self, seed: int = 3) -> X:
        CALLS.append("make x")
        return X(seed)


class MakeY(Block):
    def __call__(self, seed: int = 3) -> Y:
        CALLS.append("make y")
        return Y(seed * 10)


class XToY(Block):
    def __call__(self, x: int) -> Y:
        CALLS.append("x to y")
        return Y(x * 2)


class YToZ(Block):
    def __call__(self, y: int) -> Z:
        CALLS.append("y to z")
        return Z(y + 1)


class Sum(Block):
    def __call__(self, x: int, y: int) -> Z:
        CALLS.append("sum")
        return Z(x + y)


class Say(Block):
    def __call__(self, z: int) -> Text:
        return Text(str(z))


class Scale(Block):
    """A knob."""

    factor: float = knob(2.0)

    def __call__(self, x: int) -> Y:
        return Y(int(x * self.factor))


class Tool:
    def __init__(self, by: int = 1) -> None:
        self.by = by

    def apply(self, x: int) -> int:
        return x * self.by


class SharpTool(Tool): ...


class UseTool(Block):
    tool: Tool = component()

    def __call__(self, x: int) -> Y:
        return Y(self.tool.apply(x))


class MayUseTool(Block):
    tool: Tool | None = component(default=None)

    def __call__(self, x: int) -> Y:
        return Y(x if self.tool is None else self.tool.apply(x))


class Counted(NamedTuple):
    x: int
    seen: Memory[int]


class Count(Block):
    """Adds how often it ran before in this loop."""

    def __call__(self, x: int, item: int, seen: Memory[int] = 0) -> Counted:
        return Counted(x + seen, seen + 1)


class Effect(Block):
    """Gives nothing."""

    def __call__(self, x: int) -> None:
        CALLS.append(f"effect {x}")


class Boom(Block):
    def __call__(self, x: int) -> Y:
        raise ValueError("boom")


class Notes(Block):
    def __call__(self, x: int, running: Running) -> Y:
        running.note("look here")
        return Y(x)


class Checks(Block):
    """Stops in the middle if it is told to."""

    def __call__(self, x: int, item: int, running: Running) -> X:
        running.check()
        return X(x + item)


Predict = Callable[[int], int]


class Predicted(NamedTuple):
    predict: Predict


class MakePredict(Block):
    def __call__(self, y: int) -> Predicted:
        CALLS.append("make predict")

        def predict(x: int) -> int:
            return x * y

        return Predicted(predict)


class CallPredict(Block):
    def __call__(self, predict: Predict, x: int, item: int) -> X:
        return X(predict(x) % 1000 + item)


class Cached(NamedTuple):
    predict: Predict
    past: Memory[Any]  # a Cell while the turn runs, then what it holds


Latents = Annotated[int, Port("latents", space=ANY_SPACE)]


class Latent(NamedTuple):
    latents: Latents


class Spaced:
    """A component that knows its latent space."""

    def __init__(self, space: LatentSpace) -> None:
        self.space = space


class Encoder(Spaced): ...


class Decoder(Spaced): ...


class Encode(Block):
    encoder: Encoder = component()

    def __call__(self, x: int) -> Latent:
        return Latent(x)


class Step(Block):
    def __call__(self, latents: Latents, item: int) -> Latent:
        return Latent(latents + item)


class Decode(Block):
    decoder: Decoder = component()

    def __call__(self, latents: Latents) -> Y:
        return Y(latents)


class Handle(Lazy):
    """A component that is not loaded yet."""

    def __init__(self, made: Any, *, ready: Exception | None = None) -> None:
        self.made, self.loads, self.error = made, 0, ready

    @property
    def type(self) -> Any:
        return type(self.made)

    @property
    def space(self) -> LatentSpace | None:
        return getattr(self.made, "space", None)

    def ready(self) -> None:
        if self.error is not None:
            raise self.error

    def load(self) -> Any:
        self.loads += 1
        return self.made


SDXL = LatentSpace("sdxl", 4, 0.13025)
FLUX = LatentSpace("flux", 16, 0.3611, 0.1159)


def paths(events: Sequence[Event], kind: type[Event]) -> list[str]:
    return [event.path for event in events if isinstance(event, kind)]


def loop(**body: Block) -> Loop:
    """A body that is turned over `items`, and carries x."""
    return Loop(over="items", each="item", carry=("x",), body=Graph(body))
