"""Token merging is its formula: a matrix that merges, and one that separates."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sfumato as sf
from sfumato import Graph
from sfumato.components.models.attention import BasicTransformerBlock, TransformerStyle
from sfumato.components.taps import Tap, Taps, TokenMerging
from sfumato.components.taps.apply import apply_taps
from sfumato.components.taps.merging import match_tokens, split_tokens
from sfumato.components.taps.place import Current, Forward, PassRows, Place

from ..guiders.support import noise
from ..presets.support import held

STEPS = sf.schedulers.EulerDiscreteScheduler().steps(4)


def matrices(x: Tensor, targets: list[int], count: int) -> tuple[Tensor, Tensor]:
    """The paper's text as matrices for one row of tokens `n c`: (fewer, n) merges, (n, fewer) separates."""
    sources = [i for i in range(len(x)) if i not in targets]
    unit = x / x.norm(dim=1, keepdim=True)
    into = {s: max(targets, key=lambda t, s=s: float(unit[s] @ unit[t])) for s in sources}
    merged = sorted(sources, key=lambda s: -float(unit[s] @ unit[into[s]]))[:count]
    groups = {i: [i] for i in range(len(x)) if i not in merged}
    for s in merged:
        groups[into[s]].append(s)
    merge, separate = torch.zeros(len(groups), len(x)), torch.zeros(len(x), len(groups))
    for row, members in enumerate(groups.values()):
        merge[row, members] = 1 / len(members)
        separate[members, row] = 1
    return merge, separate


@pytest.mark.parametrize("size", [(4, 4), (5, 7), (2, 6)])
@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("stride", [2, 3])
def test_merging_and_separating_is_the_formula(size: tuple[int, int], ratio: float, stride: int) -> None:
    x = noise(1, (3, size[0] * size[1], 6))
    cells = (size[0] // stride) * (size[1] // stride)
    chosen = torch.randint(stride**2, (cells,), generator=torch.Generator().manual_seed(5))
    targets = split_tokens(size, stride, chosen)[0].tolist()
    found = match_tokens(x, size, ratio, stride, chosen)
    assert len(targets) == cells
    if not cells:
        assert torch.equal(found.merge(x), x)
        return
    y = noise(2, x.shape)
    count = min(int(x.shape[1] * ratio), x.shape[1] - cells)
    for row in range(3):
        merge, separate = matrices(x[row], targets, count)
        expected = separate @ merge @ y[row]
        assert (found.separate(found.merge(y))[row] - expected).abs().max() < 1e-6
    assert found.merge(y).shape[1] == x.shape[1] - count


def test_each_cell_has_one_destination() -> None:
    target, source = split_tokens((4, 6), 2, torch.tensor([0, 1, 2, 3, 0, 3]))
    assert target.tolist() == [0, 3, 10, 19, 14, 23]
    assert sorted([*target.tolist(), *source.tolist()]) == list(range(24))
    assert split_tokens((4, 4), 2, None)[0].tolist() == [0, 2, 8, 10]


def a_block(**more: Any) -> tuple[BasicTransformerBlock, Any, Place]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        style = TransformerStyle(2, 5, linear_projection=False, only_cross_attention=False, groups=4)
        block = BasicTransformerBlock(8, style)
    current = Current()
    current.found = Forward((PassRows("positive", 0, 2),), STEPS[0])
    at = Place("b", "b", 0, None, (4, 6), None, current)
    return block, TokenMerging(**more).replaced(block, at), at


@pytest.mark.parametrize("where", [{"attention"}, {"cross"}, {"feed_forward"}, {"attention", "cross", "feed_forward"}])
def test_a_block_with_merging_is_the_formula(where: set[str]) -> None:
    on = {name: name in where for name in ("attention", "cross", "feed_forward")}
    block, merging, _ = a_block(ratio=0.4, seed=None, **on)
    x, context = noise(1, (2, 24, 8)), noise(2, (2, 3, 5))
    with torch.no_grad():
        made = merging(x, context, None)
        for row in range(2):
            found = matrices(x[row], [0, 2, 4, 12, 14, 16], int(24 * 0.4))
            eye = torch.eye(24)
            merge, separate = ({name: found[i] if on[name] else eye for name in on} for i in range(2))
            y = x[row : row + 1]
            y = separate["attention"] @ block.attn1(merge["attention"] @ block.norm1(y)) + y
            y = separate["cross"] @ block.attn2(merge["cross"] @ block.norm2(y), context[row : row + 1]) + y
            y = separate["feed_forward"] @ block.ff(merge["feed_forward"] @ block.norm3(y)) + y
            assert (made[row] - y[0]).abs().max() < 1e-5


def test_the_destinations_are_drawn_from_the_seed_by_block_and_step() -> None:
    x, context = noise(1, (2, 24, 8)), noise(2, (2, 3, 5))

    def made(seed: int | None, step: int = 0) -> Tensor:
        _, merging, at = a_block(seed=seed)
        at.current.found = Forward((PassRows("positive", 0, 2),), STEPS[step])
        with torch.no_grad():
            return merging(x, context, None)

    assert torch.equal(made(1), made(1))
    different = [made(1), made(2), made(1, step=1), made(None)]
    assert all(not torch.equal(a, b) for i, a in enumerate(different) for b in different[:i])


def test_a_row_is_as_it_is_alone() -> None:
    _, merging, _ = a_block()
    x, context = noise(1, (2, 24, 8)), noise(2, (2, 3, 5))
    with torch.no_grad():
        both = merging(x, context, None)
        assert (both[1:] - merging(x[1:], context[1:], None)).abs().max() < 1e-6


def test_without_merging_nothing_changes(emoji: Graph) -> None:
    unet = held(emoji, "unet")
    x, words = noise(1, (1, 8, 8, 8)), noise(2, (1, 5, 128))
    tapped = apply_taps(unet, Taps((Tap(TokenMerging(0)),)), (8, 8))
    with torch.no_grad():
        assert torch.equal(tapped(x, 500, words), unet(x, 500, words))


@pytest.mark.parametrize(("levels", "merged"), [(1, {32}), (2, {32, 8}), (9, {32, 8})])
def test_the_finest_levels_are_merged(emoji: Graph, levels: int, merged: set[int]) -> None:
    seen: dict[str, int] = {}
    unet = apply_taps(held(emoji, "unet"), Taps((Tap(TokenMerging(0.5, seed=None, levels=levels)),)), (8, 8))

    def look(path: str) -> Callable[..., None]:
        def add(_layer: nn.Module, args: tuple[Tensor], _out: Tensor) -> None:
            seen[path] = args[0].shape[1]

        return add

    found = ((path, module) for path, module in unet.named_modules() if path.endswith("attn1.to_q"))
    hooks = [module.register_forward_hook(look(path)) for path, module in found]
    with torch.no_grad():
        unet(noise(1, (1, 8, 8, 8)), 500, noise(2, (1, 5, 128)))
    for hook in hooks:
        hook.remove()
    assert {tokens for tokens in seen.values() if tokens not in (64, 16)} == merged


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"ratio": 1.0}, r"^TokenMerging\.ratio needs a number from 0 to below 1, got 1\.0\.$"),
        ({"stride": 0}, r"^TokenMerging needs stride and levels of 1 or more, got 0 and 1\.$"),
        ({"seed": "x"}, r"^TokenMerging\.seed takes int \| None, got 'x'\.$"),
    ],
)
def test_unfit_settings_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(sf.ConfigError, match=told):
        TokenMerging(**settings)
