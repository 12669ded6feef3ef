"""States of runs: resumed exactly, at an earlier step, with changes; what runs again, and what is refused."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import sfumato as sf
from sfumato.graph import Block, Graph, InputError, Loop, Map, Memory, Running, named
from sfumato.graph.events import TurnFinished
from sfumato.graph.memo import memo
from sfumato.graph.ports import ALONE
from sfumato.graph.resuming import resumed
from sfumato.graph.run_state import RunState
from sfumato.graph.state import History, State

from .fakes import CALLS, Y, YToZ


class Encoded(NamedTuple):
    code: int


class Encode(Block):
    def __call__(self, word: str, scale: int = 1) -> Encoded:
        CALLS.append(f"encode {word}")
        return Encoded(len(word) * scale)


class Started(NamedTuple):
    x: int
    steps: Sequence[int]


class Start(Block):
    """As in presets: the items and the first value are from one node, which also reads the encoded prompt."""

    def __call__(self, code: int, seed: int = 0, count: int = 6) -> Started:
        CALLS.append("start")
        return Started(seed * 1000, tuple(range(1, count + 1)))


class Turned(NamedTuple):
    x: int
    seen: Memory[tuple[int, ...]]


class Turn(Block):
    """Adds the code, the item and all items before it."""

    factor: int = 1

    def __call__(
        self, x: int, step: int, code: int, seen: Memory[tuple[int, ...]] = (), running: Running = ALONE
    ) -> Turned:
        CALLS.append(f"turn {step}")
        return Turned(x + self.factor * code * step + sum(seen), (*seen, step))


class Finish(Block):
    def __call__(self, x: int) -> Y:
        CALLS.append("finish")
        return Y(x)


def pipeline(**blocks: Block) -> Graph:
    denoise = Loop(over="steps", each="step", carry=("x",), body=Graph(turn=Turn()))
    nodes = {"encode": Encode(), "start": Start(), "denoise": denoise, "finish": Finish(), **blocks}
    return Graph(nodes, outputs=("y",), slots={"turn": ["denoise.turn"]})


def state_at(graph: Graph, turn: int, loop: str = "denoise", **values: Any) -> RunState:
    """The state of a run after a turn of a loop."""
    run = graph.stream(**values)
    for event in run:
        if isinstance(event, TurnFinished) and (event.path, event.turn) == (loop, turn):
            return run.pause()
    raise AssertionError("the run has no such turn")


def by_hand(*words: str, factors: Sequence[int] = (1,) * 6, seed: int = 0, forget_at: int = 0) -> int:
    """The result where each turn has the code of one word."""
    x, seen = seed * 1000, []
    for step, word, factor in zip(range(1, 7), words, factors, strict=True):
        if step == forget_at:
            seen = []
        x += factor * len(word) * step + sum(seen)
        seen.append(step)
    return x


# ------------------------------------------------------------------------------------------------ exactly
def test_a_state_is_a_value_that_later_turns_do_not_change() -> None:
    run = pipeline().stream(word="ab")
    states = [run.state for event in run if isinstance(event, TurnFinished)]
    assert [state.reached.turns["denoise"][0] for state in states] == [1, 2, 3, 4, 5, 6]
    assert {resumed(state, {}).result().y for state in states} == {run.outputs.y}
    assert repr(states[1]) == "RunState(done: encode, start, denoise: step 2)"


def test_a_resumed_run_does_nothing_twice() -> None:
    state = state_at(pipeline(), 4, word="ab")
    CALLS.clear()
    assert resumed(state, {}).result().y == by_hand(*["ab"] * 6)
    assert CALLS == ["turn 5", "turn 6", "finish"]


def test_a_resumed_run_is_stopped_and_resumed_again() -> None:
    state = state_at(pipeline(), 2, word="ab")
    for turn in (3, 5):
        run = resumed(state, {})
        next(event for event in run if isinstance(event, TurnFinished) and event.turn == turn)
        state = run.pause()
    assert resumed(state, {}).start().result().y == by_hand(*["ab"] * 6)


def test_a_run_that_has_ended_is_resumed_to_its_outputs() -> None:
    run = pipeline().start(word="ab")
    want = run.result().y
    CALLS.clear()
    assert resumed(run.state, {}).result().y == want and not CALLS


def test_the_seed_that_a_run_has_drawn_is_in_its_state() -> None:
    class Seeded(Start):
        random_without = ("seed",)

        def __call__(self, code: int, seed: int | None = None, count: int = 6) -> Started:
            return Start()(code, (seed or 0) % 10, count)

    run = pipeline(start=Seeded()).stream(word="ab")
    want = run.result().y
    assert {resumed(run.state.at(k), {"scale": 1}).result().y for k in (0, 3)} == {want}


# ------------------------------------------------------------------------------------------------ earlier steps
def test_a_branch_runs_only_the_steps_that_are_left() -> None:
    run = pipeline().stream(word="ab")
    run.result()
    for k in range(7):
        CALLS.clear()
        assert resumed(run.state.at(k), {}).result().y == run.outputs.y
        assert [*(f"turn {step}" for step in range(k + 1, 7)), "finish"] == CALLS


def test_a_step_that_is_not_kept_is_refused_with_those_that_are() -> None:
    state = state_at(pipeline(), 4, word="ab")
    assert state.steps == {"denoise": (0, 1, 2, 3, 4)}
    assert state.at(2).steps == {"denoise": (0, 1, 2)}
    for step, loop in ((5, None), (2, "other")):
        with pytest.raises(
            sf.UnfitValue, match=r"^The state has no step \d of '\w+'. It has the steps of denoise: 0 to 4\.$"
        ):
            state.at(step, loop)
    with pytest.raises(sf.UnfitValue, match=r"^The state has no step 1. It has no steps\.$"):
        pipeline().stream(word="ab").state.at(1)


def test_earlier_steps_are_kept_up_to_a_number_of_bytes() -> None:
    import numpy as np

    history = History(limit=5 * 800)
    for turn in range(12):
        history.add("loop", State(turns={"loop": (turn, {"x": np.zeros(100)})}))
        assert sum(moment.bytes for moment in history.moments) <= 4000
        assert history.moments[-1].turn == turn
    assert [moment.turn for moment in history.moments] == [6, 9, 11]
    small = History(limit=10)
    for turn in range(3):
        small.add("loop", State(turns={"loop": (turn, {"x": np.zeros(100)})}))
    assert [moment.turn for moment in small.moments] == [2]


def test_a_plain_call_keeps_no_earlier_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        pytest.fail("kept")

    monkeypatch.setattr(History, "add", fail)
    assert pipeline()(word="ab").y


# ------------------------------------------------------------------------------------------------ with changes
def test_another_prompt_is_encoded_and_the_rest_of_the_turns_see_it() -> None:
    state = state_at(pipeline(), 4, word="ab")
    CALLS.clear()
    assert resumed(state, {"word": "abcde"}).result().y == by_hand(*["ab"] * 4, *["abcde"] * 2)
    assert CALLS == ["encode abcde", "start", "turn 5", "turn 6", "finish"]


def test_a_changed_block_of_the_loop_goes_on_without_memory() -> None:
    state = state_at(pipeline(), 4, word="ab")
    CALLS.clear()
    run = resumed(state, {"turn": Turn(factor=10)})
    assert run.result().y == by_hand(*["ab"] * 6, factors=[1] * 4 + [10] * 2, forget_at=5)
    assert CALLS == ["turn 5", "turn 6", "finish"]


def test_a_node_that_has_finished_runs_again_where_a_change_reaches_it() -> None:
    run = pipeline().stream(word="ab")
    want = run.result().y
    CALLS.clear()
    assert resumed(run.state, {"word": "abcde"}).result().y == by_hand(*["abcde"] * 6) != want
    assert ["encode abcde", "start", *(f"turn {k}" for k in range(1, 7)), "finish"] == CALLS


def test_more_items_of_the_same_beginning_go_on() -> None:
    state = state_at(pipeline(), 4, word="ab", count=5)
    assert resumed(state, {"count": 6}).result().y == by_hand(*["ab"] * 4, *["ab"] * 2, forget_at=5)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"seed": 2}, r"^seed  changes 'x' at the start of denoise, which has done 4 turns\. Leave it out\. Go back"),
        ({"count": 3}, r"^denoise  has done 4 turns, and their items are other ones now\. Go back to its start"),
        ({"unknown": 3}, r"^unknown  no such input"),
        ({"word": 3}, r"^word  takes str, got 3"),
    ],
)
def test_a_change_of_what_is_done_is_refused(changes: dict[str, Any], text: str) -> None:
    state = state_at(pipeline(), 4, word="ab")
    with pytest.raises(InputError, match=text):
        resumed(state, changes).result()
    assert resumed(state.at(0), changes if "seed" in changes or "count" in changes else {}).result()


def test_a_change_that_nothing_reads_any_more_is_refused() -> None:
    graph = Graph(encode=Encode(), finish=named(Finish(), x="code"), last=YToZ(), outputs=("z",))
    run = graph.stream(word="ab")
    next(event for event in run if event.path == "last")
    with pytest.raises(InputError, match=r"^w  nothing reads it that is left to run\. Go back"):
        resumed(state_at(two_loops(), 2, "refine", word="ab", w=1), {"w": 2})
    assert resumed(run.state, {"word": "abc"}).result().z == 4, "the outputs depend on it, so its readers run again"


def two_loops() -> Graph:
    """A second loop that begins with the results of the first one, as a hires fix does."""
    first = Loop(over="steps", each="step", carry=("x",), body=Graph(turn=Turn()))
    again = named(Start2(), w="w")
    second = Loop(over="steps", each="step", carry=("x",), body=Graph(turn=Turn()))
    return Graph(
        encode=Encode(), start=Start(), denoise=first, again=again, refine=second, finish=Finish(), outputs=("y",),
        slots={"turn": ["refine.turn"], "turns": ["denoise.turn", "refine.turn"]},
    )  # fmt: skip


class Start2(Block):
    def __call__(self, x: int, code: int, w: int = 1) -> Started:
        CALLS.append("again")
        return Started(x * w, (1, 2, 3))


def test_a_second_loop_goes_on_without_the_first_one() -> None:
    state = state_at(two_loops(), 2, "refine", word="ab")
    assert state.steps == {"denoise": tuple(range(7)), "refine": (0, 1, 2)}
    exact = two_loops()(word="ab").y
    CALLS.clear()
    assert resumed(state, {}).result().y == exact and CALLS == ["turn 3", "finish"]
    for changes, calls in (
        ({"word": "abcd"}, ["encode abcd", "turn 3", "finish"]),
        ({"turn": Turn(factor=3)}, ["turn 3", "finish"]),
        ({"turns": Turn(factor=3)}, ["turn 3", "finish"]),
    ):
        CALLS.clear()
        assert resumed(state, changes).result().y != exact and calls == CALLS
    first = state.at(3, "denoise")
    CALLS.clear()
    assert resumed(first, {}).result().y == exact
    assert CALLS == ["turn 4", "turn 5", "turn 6", "again", "turn 1", "turn 2", "turn 3", "finish"]


def test_a_map_of_loops_goes_on_inside_an_element() -> None:
    loop = Loop(over="steps", each="step", carry=("x",), body=Graph(turn=Turn()))
    body = Graph(encode=Encode(), start=Start(), denoise=loop, outputs=("x",))
    graph = Graph(each=Map(over="words", each="word", body=body), outputs=("x",))
    words = ["a", "bc", "def"]
    want = [by_hand(*[word] * 6) for word in words]
    run = graph.stream(words=words)
    turns = [e for e in run if isinstance(e, TurnFinished) and e.path == "each.denoise"]
    assert len(turns) == 18 and run.outputs.x == want
    for element in range(3):
        run = graph.stream(words=words)
        seen = 0
        for event in run:
            seen += isinstance(event, TurnFinished) and event.path == "each.denoise"
            if seen == 6 * element + 4:
                break
        state = run.pause()
        CALLS.clear()
        assert resumed(state, {}).result().x == want
        assert CALLS.count("turn 1") == 2 - element and CALLS.count("turn 5") == 3 - element
        changed = resumed(state, {"scale": 10}).result().x
        assert changed[element:] == [by_hand(*["x" * 10 * len(w)] * 6) for w in words[element:]], "from its start"
        assert changed[:element] == want[:element]


# ------------------------------------------------------------------------------------------------ after an error
def test_a_block_that_fails_is_mended_and_the_run_goes_on() -> None:
    class Breaks(Block):
        def __call__(self, x: int) -> Y:
            raise ValueError("broken")

    class BreaksAt5(Turn):
        def __call__(
            self, x: int, step: int, code: int, seen: Memory[tuple[int, ...]] = (), running: Running = ALONE
        ) -> Turned:
            if step == 5:
                raise ValueError("broken")
            return super().__call__(x, step, code, seen)

    for path, broken, mended, left in (
        ("finish", Breaks(), Finish(), ["finish"]),
        ("denoise.turn", BreaksAt5(), Turn(), ["turn 5", "turn 6", "finish"]),
    ):
        run = pipeline().replace(path, broken).start(word="ab")
        with pytest.raises(ValueError, match="broken"):
            run.result()
        CALLS.clear()
        again = resumed(run.state, {}, graph=run.state.graph.replace(path, mended))
        want = by_hand(*["ab"] * 6) if path == "finish" else by_hand(*["ab"] * 6, forget_at=5)
        assert again.result().y == want and left == CALLS


# ------------------------------------------------------------------------------------------------ with a memo
def test_a_memo_tells_a_branch_from_a_plain_run() -> None:
    kept, graph = memo(), pipeline()
    run = graph.stream(word="ab", memo=kept)
    run.result()
    branch = {"word": "abcde", "memo": kept}
    mixed = by_hand(*["ab"] * 4, *["abcde"] * 2)
    assert resumed(run.state.at(4), branch).result().y == mixed
    assert graph(**branch).y == by_hand(*["abcde"] * 6), "the branch left no entry that a plain run takes"
    assert resumed(run.state.at(4), branch).result().y == mixed, "and takes none of a plain run"
    CALLS.clear()
    assert resumed(run.state.at(4), branch).result().y == mixed and CALLS == [], "but those of the same branch"
    of_branch = resumed(run.state.at(4), {"word": "abcde"})
    next(event for event in of_branch if isinstance(event, TurnFinished) and event.turn == 5)
    assert resumed(of_branch.pause(), {"memo": kept}).result().y == mixed, "a branch stays one"


def test_a_memo_tells_apart_a_branch_before_the_first_turn_of_a_second_loop() -> None:
    flat = two_loops()
    inner = Graph(again=flat["again"], refine=flat["refine"], outputs=("x",))
    graph = Graph(encode=Encode(), start=Start(), denoise=flat["denoise"], second=inner, finish=Finish())
    run, kept = graph.stream(word="ab"), memo()
    run.result()
    state, plain = run.state.at(0, "second.refine"), graph(word="abcde").y
    branch = resumed(state, {"word": "abcde", "memo": kept}).result().y
    assert branch == resumed(state, {"word": "abcde"}).result().y != plain, "its first loop had the other word"
    assert graph(word="abcde", memo=kept).y == plain, "so it left no entry that a plain run takes"
    assert resumed(state, {"word": "abcde", "memo": kept}).result().y == branch, "and takes none of a plain run"


def test_a_memo_serves_a_run_that_is_resumed_without_changes() -> None:
    kept, graph = memo(), pipeline()
    state = state_at(graph, 4, word="ab")
    want = resumed(state, {"memo": kept}).result().y
    CALLS.clear()
    assert graph(word="ab", memo=kept).y == want
    assert CALLS == []
    assert resumed(state, {"memo": kept}).result().y == want and CALLS == []


def test_a_memo_keeps_nothing_of_a_run_that_finished_early() -> None:
    kept, graph = memo(), pipeline()
    run = graph.stream(word="ab", memo=kept)
    next(event for event in run if isinstance(event, TurnFinished) and event.turn == 2)
    run.finish_now()
    assert run.result().y == 2 * 1 + (2 * 2 + 1), "two turns"
    assert graph(word="ab", memo=kept).y == by_hand(*["ab"] * 6)
    assert resumed(run.state, {"memo": kept}).result().y != graph(word="ab", memo=kept).y


# ------------------------------------------------------------------------------------------------ in folders
def test_a_state_goes_through_a_folder(tmp_path: Path) -> None:
    graph = pipeline()
    state = state_at(graph, 4, word="ab")
    assert state.save(tmp_path / "state") == tmp_path / "state"
    back = RunState.load(tmp_path / "state", graph, frozenset({"sfumato", __name__.partition(".")[0]}))
    assert back.steps == {"denoise": (4,)} and back.at(4) is back
    with pytest.raises(sf.UnfitValue, match="It has the steps of denoise: 4"):
        back.at(3)
    CALLS.clear()
    assert resumed(back, {}).result().y == by_hand(*["ab"] * 6)
    assert CALLS == ["turn 5", "turn 6", "finish"]
    assert resumed(back, {"word": "abc"}).result().y == by_hand(*["ab"] * 4, *["abc"] * 2)


def test_a_run_that_goes_on_tells_its_events_and_shows_its_bar() -> None:
    events: list[Any] = []
    state = state_at(pipeline(), 4, word="fox")
    run = resumed(state, {"on_event": events.append, "progress": True})
    assert run.call.progress is True
    assert run.result().y == resumed(state, {}).result().y
    assert [event.turn for event in events if isinstance(event, TurnFinished)] == [5, 6]
