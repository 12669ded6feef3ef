"""The order of an epoch: samples in optimizer steps, and the batches of each process in a step."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

from .draws import Draws


@dataclass(frozen=True)
class Planned:
    """A batch of an epoch before its pictures are read. samples: their numbers. For the rest see `Batch`."""

    samples: tuple[int, ...]
    step: int
    ends_step: bool
    weight: float


def steps_of(sizes: Sequence[Hashable], rows: int, draws: Draws | None) -> list[list[int]]:
    """The samples of each optimizer step. Each sample is in exactly one.

    A step has samples of one size as long as there are enough. What is left of all sizes fills further steps.

    Args:
        sizes: of each sample.
        rows: the samples of a step; one step may have fewer.
        draws: for the order; None keeps the order of the samples.
    """
    order = range(len(sizes)) if draws is None else draws.at("order").order(len(sizes))
    groups: dict[Hashable, list[int]] = {}
    for sample in order:
        groups.setdefault(sizes[sample], []).append(sample)
    whole = [g[i : i + rows] for g in groups.values() for i in range(0, len(g) - len(g) % rows, rows)]
    left = list(chain.from_iterable(g[len(g) - len(g) % rows :] for g in groups.values()))
    steps = [*whole, *(left[i : i + rows] for i in range(0, len(left), rows))]
    if draws is None:
        return sorted(steps)
    return [steps[i] for i in draws.at("steps").order(len(steps))]


def batches_of(step: Sequence[int], sizes: Sequence[Hashable], rows: int) -> list[tuple[int, ...]]:
    """The samples of a step as batches of one size, each of at most `rows`, as equal as they can be."""
    groups: dict[Hashable, list[int]] = {}
    for sample in step:
        groups.setdefault(sizes[sample], []).append(sample)
    return [part for group in groups.values() for part in _split(group, -(-len(group) // rows))]


def _split(group: Sequence[int], parts: int) -> list[tuple[int, ...]]:
    bounds = [len(group) * i // parts for i in range(parts + 1)]
    return [tuple(group[a:b]) for a, b in pairwise(bounds)]


def plan(
    sizes: Sequence[Hashable], batch_size: int, accumulation: int, processes: int, process: int, draws: Draws | None
) -> list[Planned]:
    """The batches of one process in an epoch.

    In each step all processes have equally many. A process that has fewer takes a batch with weight 0.
    """
    planned: list[Planned] = []
    for number, step in enumerate(steps_of(sizes, batch_size * accumulation * processes, draws)):
        batches = batches_of(step, sizes, batch_size)
        turns = -(-len(batches) // processes)
        for turn in range(turns):
            place = turn * processes + process
            samples = batches[place] if place < len(batches) else batches[0][:1]
            weight = len(samples) / len(step) if place < len(batches) else 0.0
            planned.append(Planned(samples, number, turn == turns - 1, weight))
    return planned


def rounds(count: int, repeats: float, epoch: int, draws: Draws) -> Mapping[int, int]:
    """How often an epoch uses each of `count` pictures.

    Uses go through all pictures before they begin again, in another order each time. So after any number of epochs
    the pictures have been used equally often, give or take one.
    """
    first, last = int(epoch * repeats * count), int((epoch + 1) * repeats * count)
    uses: dict[int, int] = {}
    for turn in range(first // count, -(-last // count)):
        whole = first <= turn * count and last >= (turn + 1) * count
        order = range(count) if whole else draws.at("round", turn).order(count)
        for place in range(max(first - turn * count, 0), min(last - turn * count, count)):
            uses[order[place]] = uses.get(order[place], 0) + 1
    return uses
