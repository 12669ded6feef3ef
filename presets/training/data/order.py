"""The order of an epoch: which pictures it uses, and which of them are together in a batch."""

from collections.abc import Hashable, Mapping, Sequence

from .draws import Draws


def batches_of(sizes: Sequence[Hashable], rows: int, draws: Draws | None) -> list[tuple[int, ...]]:
    """The numbers of the samples of each batch. Each sample is in exactly one, and a batch has samples of one size.

    The samples of a size that are left for its last batch may be fewer than `rows`. With one size, k batches one after
    another are one batch of k times the rows.

    Args:
        sizes: of each sample.
        rows: the most samples of a batch.
        draws: for the order; None keeps the order of the samples.
    """
    order = range(len(sizes)) if draws is None else draws.at("order").order(len(sizes))
    place = {sample: at for at, sample in enumerate(order)}
    groups: dict[Hashable, list[int]] = {}
    for sample in order:
        groups.setdefault(sizes[sample], []).append(sample)
    batches = (tuple(group[i : i + rows]) for group in groups.values() for i in range(0, len(group), rows))
    return sorted(batches, key=lambda batch: place[batch[-1]])


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
