"""What it costs to run a block that does nothing: our runner beside Haystack's and Hamilton's, in pairs of one run.

A chain of n blocks `x -> x + 1`, the same chain eight graphs deep, and a loop of n turns. The peers are extras:
`pip install "sfumato[bench]"`. Ratios are medians of pairs, so that a busy machine slows both sides of each.
With `--against FOLDER` the other side is another checkout of this repository, and calls are measured too.
"""

import gc
import statistics
import sys
import time
import types
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

from checkouts import HERE, Worker, compare, other_checkout, serve
from rich import box
from rich.console import Console
from rich.table import Table

import sfumato as sf

SIZES = (10, 100, 1000)
PAIRS = 7
TARGET = 20.0  # microseconds a block


class X(NamedTuple):
    x: int


class Add(sf.Block):
    """x + 1"""

    def __call__(self, x: int) -> X:
        return X(x + 1)


class AddItem(sf.Block):
    """x + item"""

    def __call__(self, x: int, item: int) -> X:
        return X(x + item)


Runner = Callable[[], object]


@cache
def ours(n: int) -> Runner:
    """A chain of n blocks."""
    graph = sf.Graph({f"n{i}": Add() for i in range(n)}, outputs=("x",))
    assert graph(x=0).x == n
    return lambda: graph(x=0)


@cache
def nested(n: int) -> Runner:
    """The same chain, eight graphs deep."""
    graph = sf.Graph({f"n{i}": Add() for i in range(n)})
    for _ in range(8):
        graph = sf.Graph(inner=graph)
    assert graph(x=0).x == n
    return lambda: graph(x=0)


@cache
def loop(n: int) -> Runner:
    """n turns of a loop of one block."""
    graph = sf.Graph(loop=sf.Loop(over="items", each="item", carry=("x",), body=sf.Graph(add=AddItem())))
    items = [1] * n
    assert graph(x=0, items=items).x == n
    return lambda: graph(x=0, items=items)


def plain(n: int) -> Runner:
    """The calls alone, in a Python loop: what no runner can save."""
    block = Add()

    def run() -> int:
        x = 0
        for _ in range(n):
            x = block(x=x).x
        return x

    return run


def haystack(n: int) -> Runner:
    """Haystack's pipeline of n components."""
    from haystack import Pipeline, component  # pyright: ignore[reportMissingImports]  an extra

    class Plus:
        def run(self, x: int) -> dict[str, int]:
            return {"x": x + 1}

    made: Any = component(component.output_types(x=int)(Plus.run) and Plus)
    pipe: Any = Pipeline()
    for i in range(n):
        pipe.add_component(f"n{i}", made())
        if i:
            pipe.connect(f"n{i - 1}.x", f"n{i}.x")
    assert pipe.run({"n0": {"x": 0}})[f"n{n - 1}"]["x"] == n

    def run() -> object:
        return pipe.run({"n0": {"x": 0}})

    return run


def hamilton(n: int) -> Runner:
    """Hamilton's driver over n functions."""
    from hamilton import ad_hoc_utils, driver  # pyright: ignore[reportMissingImports]  an extra

    functions: list[Any] = []
    for i in range(1, n + 1):
        scope: dict[str, Any] = {}
        exec(f"def n{i}(n{i - 1}: int) -> int:\n    return n{i - 1} + 1\n", scope)
        functions.append(scope[f"n{i}"])
    module: types.ModuleType = ad_hoc_utils.create_temporary_module(*functions, module_name=f"chain{n}")
    made: Any = driver.Builder().with_modules(module).build()
    last = f"n{n}"
    sys.setrecursionlimit(max(sys.getrecursionlimit(), 10 * n + 1000))  # its executor recurses along the chain
    assert made.execute([last], inputs={"n0": 0})[last] == n

    def run() -> object:
        return made.execute([last], inputs={"n0": 0})

    return run


def microseconds(run: Runner, clock: Callable[[], float] = time.perf_counter) -> float:
    """One timing, repeated until it is long enough for the clock."""
    times = 1
    while True:
        began = clock()
        for _ in range(times):
            run()
        took = clock() - began
        if took > 0.02:
            return took / times * 1e6
        times *= 4


def paired(mine: Runner, other: Runner) -> tuple[float, float, float]:
    """Median of ours, of theirs, and of the ratios of pairs."""
    pairs: list[tuple[float, float]] = []
    for i in range(PAIRS):
        gc.collect()
        late = microseconds(other) if i % 2 else None  # who goes first changes from pair to pair
        own = microseconds(mine)
        pairs.append((own, microseconds(other) if late is None else late))
    return (
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
        statistics.median(b / a for a, b in pairs),
    )


@cache
def call(**swaps: str) -> Runner:
    """A call of the embedded model up to its first node: sorting, overlay, checks and run order, and no model."""
    pipe = sf.load("emoji")
    return lambda: pipe.stream(prompt="a fox", seed=7, **swaps)


def cpu(run: Runner) -> float:
    """One timing in microseconds of the CPU."""
    return microseconds(run, time.process_time)


MEASURES: dict[str, Callable[[], float]] = {
    **{f"a block of a chain of {n}": lambda n=n: cpu(ours(n)) / n for n in SIZES},
    "a block, 8 graphs deep": lambda: cpu(nested(100)) / 100,
    "a turn of a loop": lambda: cpu(loop(100)) / 100,
    "a call": lambda: cpu(call()),
    "a call with another guider": lambda: cpu(call(guider="none")),
    "a call with another scheduler": lambda: cpu(call(scheduler="euler_a")),
}


def main() -> None:
    """Print what the arguments ask for."""
    if sys.argv[1:] == ["--serve"]:
        return serve(MEASURES)
    if other := other_checkout(sys.argv[1:]):
        workers = {checkout: Worker(__file__, checkout) for checkout in (HERE, other)}
        compare("overhead", "µs", list(MEASURES), lambda name, checkout: workers[checkout](name), other, 15)
        for worker in workers.values():
            worker.close()
        return None
    return beside_peers()


def beside_peers() -> None:
    """Print the cost of a block, and how many times as long each peer takes."""
    console = Console()
    peers: dict[str, Callable[[int], Runner]] = {"plain calls": plain}
    for name, package, make in (("Haystack", "haystack-ai", haystack), ("Hamilton", "sf-hamilton", hamilton)):
        try:
            peers[f"{name} {version(package)}"] = make
        except PackageNotFoundError:
            console.print(f"{name} is not installed: pip install {package}")
    table = Table(box=box.SIMPLE, title=f"cost of a block that does nothing, Python {sys.version.split()[0]}")
    for heading in ("what", "n", "ours, µs", "beside", "theirs, µs", "theirs / ours"):
        table.add_column(heading, justify="left" if heading in ("what", "beside") else "right")
    worst = 0.0
    for what, make in (("chain", ours), ("8 graphs deep", nested), ("loop", loop)):
        for n in SIZES:
            for name, other in peers.items() if what == "chain" else [("plain calls", plain)]:
                mine, theirs, ratio = paired(make(n), other(n))
                worst = max(worst, mine / n)
                table.add_row(what, str(n), f"{mine / n:.1f}", name, f"{theirs / n:.1f}", f"{ratio:.2f}")
    console.print(table)
    console.print(f"worst of ours: {worst:.1f} µs a block; at most {TARGET:g} were promised")


if __name__ == "__main__":
    main()
