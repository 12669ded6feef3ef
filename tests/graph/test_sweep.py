"""Sweeps: which values vary, their labels, the table, what is computed once, and what is refused."""

import sys
from typing import Any, NamedTuple

import pytest

import sfumato as sf
from sfumato.graph import Block, Graph
from sfumato.graph.sweep.axes import labels_of

from .fakes import CALLS, Add, Boom, MakeX, Scale, XToY, Y


class Joined(NamedTuple):
    text: str


class Join(Block):
    def __call__(self, words: str | list[str], times: int = 1) -> Joined:
        return Joined(" ".join([words] if isinstance(words, str) else words) * times)


CHAIN = Graph(make=MakeX(), scale=Scale())


def test_lists_and_ranges_vary_and_all_else_is_one_value() -> None:
    made = CHAIN.sweep(seed=range(3), factor=[1.0, 10.0])
    assert [cell.outputs["y"] for cell in made] == [0, 0, 1, 10, 2, 20]
    assert made.axes == {"seed": ("0", "1", "2"), "factor": ("1", "10")}
    assert made[3] == ({"seed": "1", "factor": "10"}, {"seed": 1, "factor": 10.0}, made[3].outputs, None)
    assert [cell.outputs["y"] for cell in CHAIN.sweep(seed=4, factor=2.0)] == [8]


def test_equal_parts_are_computed_once_also_in_a_later_sweep() -> None:
    CALLS.clear()
    memo = sf.memo()
    CHAIN.sweep(seed=[1, 2], factor=[1.0, 2.0, 3.0], memo=memo)
    assert CALLS == ["make x"] * 2
    CHAIN.sweep(seed=[1, 2], factor=[4.0], memo=memo)
    assert CALLS == ["make x"] * 2


def test_cells_are_found_by_labels_and_values() -> None:
    made = CHAIN.sweep(seed=[1, 2], factor=[1.0, 2.0])
    assert [cell.outputs["y"] for cell in made.at(seed=2)] == [2, 4]
    assert made.at(factor="2", seed=1)[0].outputs["y"] == 2
    assert made.at(seed=2).axes == {"factor": ("1", "2")}
    assert str(made) == "Sweep(4 cells: 2 of seed, 2 of factor)" and len(made) == 4
    with pytest.raises(sf.InputError, match=r"sed  is no axis of this sweep\. Did you mean 'seed'\?"):
        made.at(sed=1)
    with pytest.raises(sf.InputError, match=r"seed  has no '9'\. There are: 1, 2\."):
        made.at(seed=9)


def test_values_that_are_shown_alike_are_not_equal() -> None:
    texts = [f"{'a detailed photograph of a small animal in a forest, ' * 2}{end}" for end in ("red", "blue")]
    made = Graph(join=Join()).sweep(words=texts)
    assert [made.at(words=text)[0].outputs["text"] for text in texts] == texts
    near = CHAIN.sweep(seed=[1], factor=[3.0, 3.0000001])
    assert [near.at(factor=factor)[0].values["factor"] for factor in (3.0, 3.0000001)] == [3.0, 3.0000001]
    assert len({*made.axes["words"]}) == len({*near.axes["factor"]}) == 2


def test_a_list_that_is_one_value_is_put_in_a_list() -> None:
    made = Graph(join=Join()).sweep(words=[["a", "b"], "c"])
    assert [cell.outputs["text"] for cell in made] == ["a b", "c"]
    assert made.axes == {"words": ("a + b", "c")}


def test_labels_are_short_and_differ() -> None:
    guider = sf.guiders.ClassifierFreeGuidance(guidance_scale=3.0)
    labels = labels_of(["euler", None, 2.50, {"steps": 3}, guider, [], object(), object()])
    assert labels[:6] == ("euler", "none 2", "2.5", "steps=3", "ClassifierFreeGuidance(guidance_scale=3)", "none 6")
    assert len({*labels}) == len(labels)
    assert len(labels_of(["x" * 100])[0]) == 60


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"seed": []}, "seed  needs values that vary, got an empty list. Leave it out."),
        ({"seed": [1, 2, 1]}, "seed  has '1' 2 times. Pass each value once."),
        (
            {"seed": range(101), "factor": [float(n) for n in range(101)]},
            "sweep  has 10,201 combinations, and the limit",
        ),
        ({"adapters": []}, "Write adapters=[[]] for one value without adapters."),
        ({"adapters": ["a", "b"]}, "Write adapters=[[a], [b]] for two values, or adapters=[[a, b]] for one value with"),
        ({"at_once": 0}, "at_once  needs a number of runs, at least 1, got 0."),
    ],
)
def test_what_may_mean_two_things_is_refused(values: dict[str, Any], text: str) -> None:
    with pytest.raises(sf.InputError) as caught:
        CHAIN.sweep(**values)
    assert text in str(caught.value)


def test_everything_is_checked_before_anything_runs() -> None:
    CALLS.clear()
    with pytest.raises(sf.InputError) as caught:
        CHAIN.sweep(seed=[1, "two"])
    assert caught.value.__notes__ == ["  in the combination seed: two"]
    assert CALLS == []


class BoomAtTwo(Block):
    def __call__(self, x: int) -> Y:
        if x == 2:
            raise ValueError("boom")
        return Y(x)


def test_cells_of_runs_that_fail_have_their_errors() -> None:
    fails = Graph(add=Add(), some=BoomAtTwo())
    with pytest.warns(UserWarning, match=r"1 of 3 runs of the sweep failed\. Read cell\.error of each\."):
        made = fails.sweep(x=[0, 1, 2])
    assert [type(cell.error) for cell in made] == [type(None), ValueError, type(None)]
    assert [cell.outputs.get("y") for cell in made] == [1, None, 3]
    with pytest.raises(ExceptionGroup, match="2 of 2 runs failed"):
        Graph(boom=Boom()).sweep(x=[1, 2])


def test_a_grid_has_a_place_for_each_cell_and_says_what_failed() -> None:
    made = Graph(double=XToY()).sweep(x=[1, 2, 3])
    grid = made.grid()
    assert grid.width > 3 * 64 and grid.height > 64
    with pytest.raises(sf.InputError, match="columns  'y' is no axis"):
        made.grid(columns="y")


def test_a_table_of_pandas_needs_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"needs pandas\. Install it: pip install pandas"):
        CHAIN.sweep(seed=[1]).to_pandas()
