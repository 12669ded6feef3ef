"""How long the values of a run live, and where the latent spaces of a graph meet."""

import gc
import weakref
from typing import Any, NamedTuple

import pytest

from sfumato.graph import Block, Graph, Loop, Switch, WireError, named
from sfumato.graph.events import BlockStarted

from .fakes import (
    FLUX,
    SDXL,
    Decode,
    Decoder,
    Encode,
    Encoder,
    Step,
    X,
    XToY,
)


# ------------------------------------------------------------------------------------------------ values die
class Big:
    pass


class Bigs(NamedTuple):
    big: Big


class MakeBig(Block):
    def __call__(self) -> Bigs:
        big = Big()
        ALIVE.append(weakref.ref(big))
        return Bigs(big)


class ReadBig(Block):
    def __call__(self, big: Big) -> X:
        return X(1)


ALIVE: list[Any] = []


@pytest.mark.parametrize(
    "graph",
    [
        Graph(make=MakeBig(), read=ReadBig(), last=XToY(), outputs=("y",)),
        Graph(inner=Graph(make=MakeBig(), outputs=("big",)), read=ReadBig(), last=XToY(), outputs=("y",)),
        Graph(inner=Graph(make=MakeBig(), read=ReadBig(), outputs=("x",)), last=XToY(), outputs=("y",)),
        Graph(pick=Switch(on="mode", cases={"a": Graph(make=MakeBig())}), read=ReadBig(), last=XToY(), outputs=("y",)),
    ],
    ids=["plain", "from a nested graph", "inside a nested graph", "from a switch"],
)
def test_a_value_dies_after_its_last_reader(graph: Graph) -> None:
    ALIVE.clear()
    run = graph.stream(**({"mode": "a"} if "mode" in graph.inputs else {}))
    for event in run:
        if event == BlockStarted("last"):
            gc.collect()
            assert [ref() for ref in ALIVE] == [None]
    assert run.outputs.y == 2


# ------------------------------------------------------------------------------------------------ spaces
def spaced(denoise: Block | None = None) -> Graph:
    body = Graph(step=Step())
    middle = denoise or Loop(over="items", each="item", carry=("latents",), body=body)
    return Graph(encode=Encode(), denoise=middle, decode=Decode())


@pytest.mark.parametrize(
    "middle",
    [
        None,
        named(Step(), item="k"),
        Graph(inner=Graph(step=Step())),
        named(
            Loop(over="items", each="item", carry=("latents",), body=Graph(a=Step(), b=Graph(c=Step()))), items="steps"
        ),
        Switch(on="mode", cases={"a": Graph(step=Step())}, default=Graph(step=Step(), more=Step())),
    ],
    ids=["loop", "named", "nested", "named loop", "switch"],
)
def test_latent_spaces_meet_along_the_edges(middle: Block | None) -> None:
    graph = spaced(middle)
    assert graph.bind(encoder=Encoder(SDXL), decoder=Decoder(SDXL))
    with pytest.raises(WireError, match=r"decode \(decoder\)  works in the latent space flux"):
        graph.bind(encoder=Encoder(SDXL), decoder=Decoder(FLUX))
    with pytest.raises(WireError, match="space"):
        graph.bind(encoder=Encoder(SDXL)).bind(decoder=Decoder(FLUX))


def test_spaces_that_do_not_meet_may_differ() -> None:
    two = Graph(
        encode=Encode(),
        decode=Decode(),
        e2=named(Encode(), encoder="encoder2"),
        d2=named(Decode(), decoder="decoder2", y="w"),
    )
    assert two.bind(encoder=Encoder(SDXL), decoder=Decoder(SDXL), encoder2=Encoder(FLUX), decoder2=Decoder(FLUX))


def test_a_space_told_by_halves_fits() -> None:
    from sfumato.graph import LatentSpace

    assert spaced().bind(encoder=Encoder(LatentSpace(channels=4)), decoder=Decoder(SDXL))
    assert spaced().bind(encoder=Encoder(LatentSpace("other name", 4)), decoder=Decoder(SDXL))
    with pytest.raises(WireError, match="16 channels"):
        spaced().bind(encoder=Encoder(LatentSpace(channels=16)), decoder=Decoder(SDXL))
