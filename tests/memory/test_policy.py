"""What stays where is decided by pure functions; here are their laws."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.components.memory.policy import (
    CPU,
    DISK,
    Limit,
    Move,
    OutOfBudget,
    Residency,
    eviction_order,
    moves_to_fit,
    moves_to_fit_all,
    over_budget,
)
from sfumato.components.memory.tensors import Parts, total_bytes

GPU = "cuda:0"


def fact(key: str, device: str, size: int, last_used: int = 0, **more: Any) -> Residency:
    return Residency(key, key, device, {key: size}, last_used, **more)


def limits(**most: int) -> Limit:
    return lambda device: most.get(device.partition(":")[0])


def keys(moves: Sequence[Move]) -> list[str]:
    return [f"{move.key} {move.source}->{move.target}" for move in moves]


def test_nothing_moves_if_there_is_room_or_no_budget() -> None:
    facts = [fact("a", GPU, 4), fact("b", CPU, 100)]
    assert moves_to_fit(fact("c", GPU, 6), facts, limits(cuda=10)) == ()
    assert moves_to_fit(fact("c", GPU, 600), facts, limits(cpu=10)) == ()


def test_the_least_recently_used_goes_first_and_to_the_cpu() -> None:
    facts = [fact("new", GPU, 4, last_used=3), fact("old", GPU, 4, last_used=1), fact("mid", GPU, 4, last_used=2)]
    assert keys(moves_to_fit(fact("x", GPU, 4), facts, limits(cuda=12))) == ["old cuda:0->cpu"]
    assert keys(moves_to_fit(fact("x", GPU, 7), facts, limits(cuda=12))) == ["old cuda:0->cpu", "mid cuda:0->cpu"]


def test_a_leased_component_stays_however_old() -> None:
    facts = [fact("held", GPU, 6, last_used=1, leased=True), fact("free", GPU, 4, last_used=9)]
    assert keys(moves_to_fit(fact("x", GPU, 4), facts, limits(cuda=10))) == ["free cuda:0->cpu"]
    with pytest.raises(OutOfBudget) as caught:
        moves_to_fit(fact("x", GPU, 5), facts, limits(cuda=10))
    short = caught.value
    assert (short.device, short.limit, short.needed) == (GPU, 10, 11)
    assert {f.key for f in short.remaining} == {"x", "held"}


def test_without_room_on_the_cpu_reloadable_components_are_dropped_and_others_take_their_room() -> None:
    facts = [fact("a", GPU, 4, last_used=1), fact("b", CPU, 4, last_used=0)]
    budget = limits(cuda=6, cpu=6)
    assert keys(moves_to_fit(fact("x", GPU, 4), facts, budget)) == ["a cuda:0->disk"]
    mine = [fact("mine", GPU, 4, last_used=1, reloadable=False), fact("b", CPU, 4, last_used=0)]
    assert keys(moves_to_fit(fact("x", GPU, 4), mine, budget)) == ["b cpu->disk", "mine cuda:0->cpu"]
    stuck = [fact("mine", GPU, 4, reloadable=False), fact("yours", CPU, 4, reloadable=False)]
    with pytest.raises(OutOfBudget):
        moves_to_fit(fact("x", GPU, 4), stuck, budget)


def test_a_component_takes_room_on_the_cpu_until_it_has_left() -> None:
    facts = [fact("old", GPU, 4, last_used=1), fact("x", CPU, 4)]
    assert keys(moves_to_fit(fact("x", GPU, 4), facts, limits(cuda=6, cpu=6))) == ["old cuda:0->disk"]
    assert keys(moves_to_fit(fact("x", GPU, 4), facts, limits(cuda=6, cpu=8))) == ["old cuda:0->cpu"]


def test_from_the_cpu_a_component_is_dropped() -> None:
    facts = [fact("a", CPU, 4, last_used=2), fact("mine", CPU, 4, last_used=1, reloadable=False)]
    assert keys(moves_to_fit(fact("x", CPU, 4), facts, limits(cpu=10))) == ["a cpu->disk"]


def test_components_that_share_tensors_move_together_or_not_at_all() -> None:
    a = Residency("a", "a", GPU, {"own a": 2, "shared": 4}, last_used=1)
    b = Residency("b", "b", GPU, {"own b": 2, "shared": 4}, last_used=9)
    c = fact("c", GPU, 2, last_used=5)
    assert keys(moves_to_fit(fact("x", GPU, 4), [a, b, c], limits(cuda=10))) == ["a cuda:0->cpu", "b cuda:0->cpu"]
    held = replace(b, leased=True)
    assert keys(moves_to_fit(fact("x", GPU, 2), [a, held, c], limits(cuda=10))) == ["c cuda:0->cpu"]


def test_shared_memory_counts_once() -> None:
    facts = [Residency("a", "a", GPU, {"s": 4, "a": 1}), Residency("b", "b", GPU, {"s": 4, "b": 1})]
    assert moves_to_fit(Residency("c", "c", GPU, {"s": 4, "c": 1}), facts, limits(cuda=7)) == ()
    assert over_budget({GPU: [f.parts for f in facts]}, limits(cuda=5)) == {GPU: (6, 5)}
    assert over_budget({GPU: [f.parts for f in facts]}, limits(cuda=6)) == {}


def test_a_plan_fits_all_wanted_components_together() -> None:
    facts = [fact("a", GPU, 4, last_used=1), fact("b", GPU, 4, last_used=2), fact("c", CPU, 4)]
    wanted = [replace(facts[0]), fact("c", GPU, 4)]
    assert keys(moves_to_fit_all(wanted, facts, limits(cuda=8))) == ["b cuda:0->cpu"]
    with pytest.raises(OutOfBudget):
        moves_to_fit_all([*wanted, fact("d", GPU, 4)], facts, limits(cuda=8))


def test_the_eviction_order_has_all_that_may_leave() -> None:
    facts = [fact("a", GPU, 4, last_used=2), fact("b", GPU, 4, last_used=1), fact("held", GPU, 4, leased=True)]
    assert keys(eviction_order(GPU, facts, limits(cuda=12))) == ["b cuda:0->cpu", "a cuda:0->cpu"]


# --------------------------------------------------------------------------------------------------------------- laws
places = st.sampled_from([GPU, "cuda:1", CPU])


@st.composite
def tables(draw: st.DrawFn) -> tuple[Residency, list[Residency], Limit]:
    """Components in places, some sharing a part, within budgets that they keep to; and one that is wanted."""
    shared: Parts = {"shared 0": draw(st.integers(1, 5)), "shared 1": draw(st.integers(1, 5))}
    facts: list[Residency] = []
    for i in range(draw(st.integers(0, 7))):
        parts: Parts = {f"own {i}": draw(st.integers(1, 9))}
        facts.append(
            Residency(
                f"f{i}", f"f{i}", draw(places), parts, draw(st.integers(0, 20)),
                leased=draw(st.booleans()) and draw(st.booleans()), reloadable=draw(st.booleans()),
                referenced=draw(st.integers(0, 9)) == 0,
            )
        )  # fmt: skip
    for part in shared:
        home = draw(places)
        for i, f in enumerate(facts):
            if f.device == home and draw(st.booleans()):
                facts[i] = replace(f, parts={**f.parts, part: shared[part]})
    most = {where: _used(where, facts) + draw(st.integers(0, 6)) for where in (GPU, "cuda:1", CPU)}
    target = draw(st.sampled_from([GPU, CPU]))
    wanted = Residency("wanted", "wanted", target, {"own wanted": draw(st.integers(1, 20))}, leased=True)
    if draw(st.booleans()):
        most.pop(draw(st.sampled_from([CPU, "cuda:1"])))
    return wanted, facts, most.get


def _used(where: str, facts: Sequence[Residency]) -> int:
    return total_bytes(f.parts for f in facts if f.device == where)


def decided(wanted: Residency, facts: Sequence[Residency], limit: Limit) -> tuple[Move, ...] | OutOfBudget:
    try:
        return moves_to_fit(wanted, facts, limit)
    except OutOfBudget as short:
        return short


def after(moves: Sequence[Move], facts: Sequence[Residency]) -> list[Residency]:
    targets = {move.key: move.target for move in moves}
    return [replace(f, device=targets.get(f.key, f.device)) for f in facts]


@settings(max_examples=300)
@given(tables())
def test_after_the_moves_every_budget_holds(table: tuple[Residency, list[Residency], Limit]) -> None:
    wanted, facts, limit = table
    moves = decided(wanted, facts, limit)
    if isinstance(moves, OutOfBudget):
        return
    end = after(moves, facts)
    for where in (GPU, "cuda:1", CPU):
        most = limit(where)
        assert most is None or _used(where, [*end, wanted]) <= most


@settings(max_examples=300)
@given(tables())
def test_leased_components_never_move_and_added_objects_are_never_dropped(
    table: tuple[Residency, list[Residency], Limit],
) -> None:
    wanted, facts, limit = table
    moves = decided(wanted, facts, limit)
    if isinstance(moves, OutOfBudget):
        return
    named = {f.key: f for f in facts}
    assert not [m for m in moves if named[m.key].stays]
    assert not [m for m in moves if m.target == DISK and not named[m.key].reloadable]
    assert len({m.key for m in moves}) == len(moves)
    assert all(m.source != m.target and m.bytes == total_bytes([named[m.key].parts]) for m in moves)


@settings(max_examples=300)
@given(tables())
def test_no_move_is_needless(table: tuple[Residency, list[Residency], Limit]) -> None:
    """Without its last step, the wanted one would not fit."""
    wanted, facts, limit = table
    moves = decided(wanted, facts, limit)
    if isinstance(moves, OutOfBudget):
        return
    if not moves:
        return
    most = limit(wanted.device)
    assert most is not None
    leaving = [m for m in moves if m.source == wanted.device]
    last = leaving[-1]
    family = {f.key for f in facts if f.parts.keys() & next(g for g in facts if g.key == last.key).parts.keys()}
    earlier = [m for m in moves if m.key not in family]
    assert len(family) > 1 or _used(wanted.device, [*after(earlier, facts), wanted]) > most


@settings(max_examples=300)
@given(tables())
def test_out_of_budget_is_raised_only_after_all_that_may_leave_has_left(
    table: tuple[Residency, list[Residency], Limit],
) -> None:
    wanted, facts, limit = table
    short = decided(wanted, facts, limit)
    if not isinstance(short, OutOfBudget):
        return
    assert short.needed > short.limit == limit(wanted.device)
    if limit(CPU) is None and wanted.device != CPU:  # the CPU takes all, so only what is fixed, or tied to it, stays
        for f in short.remaining:
            kin = [g for g in facts if g.device == f.device and g.parts.keys() & f.parts.keys()]
            assert f is wanted or any(g.stays or _tied(g, facts) for g in kin)


def _tied(one: Residency, facts: Sequence[Residency]) -> bool:
    """Whether it shares with one that shares with one that is fixed."""
    near = [f for f in facts if f.device == one.device and f.parts.keys() & one.parts.keys()]
    return any(g.stays for f in near for g in facts if g.device == one.device and g.parts.keys() & f.parts.keys())
