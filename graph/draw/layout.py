"""A layered drawing, top to bottom (Sugiyama et al. 1981): ranks, dummy nodes, barycenters, then positions.

The label of a link is a node of its own, in a rank between those of the boxes. So nothing overlaps.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

Point = tuple[float, float]

_GAP_X = 22.0  # between neighbours in a rank
_GAP_Y = 18.0  # between ranks, where lines bend
_SWEEPS = 24


@dataclass(frozen=True)
class Size:
    """A box: its extent to the left and right of where lines attach, its height, and the width for lines."""

    left: float
    right: float
    height: float
    face: float = 0.0


@dataclass(frozen=True)
class Link:
    """A line from one box to another, with the size of its label (0 by 0: no label)."""

    source: str
    target: str
    width: float = 0.0
    height: float = 0.0


@dataclass(frozen=True)
class Layout:
    """All positions: `boxes` by the top of their line of attachment, `routes` and `labels` by link."""

    boxes: Mapping[str, Point]
    bands: Mapping[str, tuple[float, float]]  # top and bottom of the rank that a box is in
    routes: Sequence[Sequence[Point]]
    labels: Sequence[Point]
    width: float
    height: float


@dataclass(eq=False)
class _Item:
    rank: int
    size: Size
    box: str = ""
    x: float = 0.0
    up: list["_Item"] = field(default_factory=list["_Item"])
    down: list["_Item"] = field(default_factory=list["_Item"])

    @property
    def weight(self) -> float:
        return 1.0 if self.box else 4.0  # long lines are kept straight first


def place(boxes: Mapping[str, Size], links: Sequence[Link], last: Collection[str] = ()) -> Layout:
    """Lay out boxes. Every link must go from an earlier box to a later one. Those in `last` get the last rank."""
    if not boxes:
        return Layout({}, {}, [], [], 0.0, 0.0)
    ranks = _ranks(list(boxes), links)
    end = max(ranks.values())
    ranks |= dict.fromkeys(last, end)
    items = {name: _Item(2 * ranks[name], size, name) for name, size in boxes.items()}
    chains: list[list[_Item]] = []
    everything = list(items.values())
    for link in links:
        a, b = items[link.source], items[link.target]
        chain = [_Item(r, Size(4, 4, 0)) for r in range(a.rank + 1, b.rank)]
        if chain and link.width:
            half = link.width / 2 + 4
            chain[-1].size = Size(half, half, link.height)
        chains.append(chain)
        for upper, lower in zip([a, *chain], [*chain, b], strict=True):
            upper.down.append(lower)
            lower.up.append(upper)
        everything += chain
    rows = _ordered(everything)
    _align(rows)
    return _measured(rows, items, links, chains)


def _ranks(names: Sequence[str], links: Sequence[Link]) -> dict[str, int]:
    """Ranks by longest paths. Then boxes with many outgoing lines move down, so that lines are short."""
    gives, takes = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    for link in links:
        gives[link.source].append(link.target)
        takes[link.target].append(link.source)
    rank: dict[str, int] = {}
    for name in names:
        rank[name] = max((rank[s] + 1 for s in takes[name]), default=0)
    for name in reversed(names):
        if gives[name] and len(set(gives[name])) >= len(set(takes[name])):
            rank[name] = min(rank[t] for t in gives[name]) - 1
    used = {r: i for i, r in enumerate(sorted(set(rank.values())))}
    return {name: used[r] for name, r in rank.items()}


def _ordered(everything: Sequence[_Item]) -> list[list[_Item]]:
    rows: list[list[_Item]] = [[] for _ in range(max(item.rank for item in everything) + 1)]
    for item in everything:
        rows[item.rank].append(item)
    best, fewest = [list(row) for row in rows], _crossings(rows)
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        for r in range(len(rows)) if down else reversed(range(len(rows))):
            row, near = rows[r], rows[max(r - 1, 0) : r + 2]
            at = {id(item): i for beside in near for i, item in enumerate(beside)}

            def middle(item: _Item, at: dict[int, int] = at, down: bool = down) -> float:
                beside = item.up if down else item.down
                return sum(at[id(n)] for n in beside) / len(beside) if beside else at[id(item)]

            row.sort(key=middle)
        if (now := _crossings(rows)) < fewest:
            best, fewest = [list(row) for row in rows], now
    return best


def _crossings(rows: Sequence[Sequence[_Item]]) -> int:
    count = 0
    for upper, lower in pairwise(rows):
        at = {id(item): i for i, item in enumerate(lower)}
        ends = [sorted(at[id(n)] for n in item.down) for item in upper]
        flat = [(i, e) for i, row in enumerate(ends) for e in row]
        count += sum(1 for k, (i, e) in enumerate(flat) for j, f in flat[k + 1 :] if j > i and f < e)
    return count


def _align(rows: Sequence[Sequence[_Item]]) -> None:
    """Move each item as near to the middle of its neighbours as its row allows."""
    for row in rows:
        x = 0.0
        for item in row:
            item.x = x + item.size.left
            x += item.size.left + item.size.right + _GAP_X
    for sweep in range(4 * _SWEEPS):
        last = sweep >= _SWEEPS
        for row in rows if sweep % 2 == 0 else reversed(rows):
            ideals: list[tuple[float, float]] = []
            for item in row:
                beside = [*item.up, *item.down] if last else item.up if sweep % 2 == 0 else item.down
                weights = [n.weight * item.weight for n in beside]
                middle = sum(n.x * w for n, w in zip(beside, weights, strict=True)) / sum(weights) if beside else item.x
                ideals.append((middle, sum(weights) or 0.1))
            _settle(row, ideals)


def _settle(row: Sequence[_Item], ideals: Sequence[tuple[float, float]]) -> None:
    """Least squares under "no overlap": pool adjacent violators (Barlow et al. 1972)."""
    offset = 0.0
    offsets: list[float] = []
    blocks: list[tuple[float, float, int]] = []  # mean, weight, how many
    for i, (item, (middle, weight)) in enumerate(zip(row, ideals, strict=True)):
        offset += (row[i - 1].size.right + _GAP_X + item.size.left) if i else 0.0
        offsets.append(offset)
        block = (middle - offset, weight, 1)
        while blocks and blocks[-1][0] > block[0]:
            mean, heavy, count = blocks.pop()
            total = heavy + block[1]
            block = ((mean * heavy + block[0] * block[1]) / total, total, count + block[2])
        blocks.append(block)
    means = [mean for mean, _, count in blocks for _ in range(count)]
    for item, mean, shift in zip(row, means, offsets, strict=True):
        item.x = mean + shift


def _measured(
    rows: Sequence[Sequence[_Item]],
    items: Mapping[str, _Item],
    links: Sequence[Link],
    chains: Sequence[Sequence[_Item]],
) -> Layout:
    left = min(item.x - item.size.left for row in rows for item in row)
    right = max(item.x + item.size.right for row in rows for item in row)
    bands: list[tuple[float, float]] = []
    y = 0.0
    for row in rows:
        height = max((item.size.height for item in row), default=0.0)
        bands.append((y, y + height))
        y += height + _GAP_Y
    faces = _faces(items, links, chains)
    routes: list[list[Point]] = []
    labels: list[Point] = []
    for i, (link, chain) in enumerate(zip(links, chains, strict=True)):
        a, b = items[link.source], items[link.target]
        points = [(faces[i, "out"] - left, bands[a.rank][1])]
        for k, item in enumerate(chain):
            after = chain[k + 1] if k + 1 < len(chain) else None
            to = (after.x - left if after else faces[i, "in"] - left, bands[item.rank + 1][0])
            if not item.size.height and item.rank % 2 and _free(points[-1], to, rows[item.rank], item, left, bands):
                continue  # one long bend reads better than two short ones
            points += [(item.x - left, bands[item.rank][0]), (item.x - left, bands[item.rank][1])]
        routes.append([*points, (faces[i, "in"] - left, bands[b.rank][0])])
        top, bottom = bands[chain[-1].rank] if chain else (0.0, 0.0)
        labels.append((chain[-1].x - left if chain else 0.0, (top + bottom) / 2))
    where = {name: (item.x - left, bands[item.rank][0]) for name, item in items.items()}
    return Layout(
        where, {n: bands[i.rank] for n, i in items.items()}, routes, labels, right - left, bands[-1][1]
    )  # fmt: skip


def _free(
    start: Point, end: Point, row: Sequence[_Item], own: _Item, left: float, bands: Sequence[tuple[float, float]]
) -> bool:
    """Whether a bend from one rank of boxes to the next crosses no label between them."""
    top, bottom = bands[own.rank]
    for k in range(25):
        t = k / 24
        y = start[1] + (end[1] - start[1]) * (1.5 * t * (1 - t) + t**3)
        if top - 2 <= y <= bottom + 2:
            x = start[0] + (end[0] - start[0]) * (3 * t * t - 2 * t**3) + left
            if any(i.size.height and i.x - i.size.left - 4 <= x <= i.x + i.size.right + 4 for i in row):
                return False
    return True


def _faces(
    items: Mapping[str, _Item], links: Sequence[Link], chains: Sequence[Sequence[_Item]]
) -> dict[tuple[int, str], float]:
    """Where each line meets its boxes: side by side along the face, in the order of their other ends."""
    meets = defaultdict[tuple[str, str], list[tuple[float, int]]](list)
    for i, (link, chain) in enumerate(zip(links, chains, strict=True)):
        a, b = items[link.source], items[link.target]
        meets[link.source, "out"].append(((chain[0] if chain else b).x, i))
        meets[link.target, "in"].append(((chain[-1] if chain else a).x, i))
    found: dict[tuple[int, str], float] = {}
    for (name, side), lines in meets.items():
        item = items[name]
        step = item.size.face / (len(lines) + 1)
        for k, (_, i) in enumerate(sorted(lines)):
            found[i, side] = item.x - item.size.face / 2 + step * (k + 1)
    return found
