"""Passes in parts: each row is in one of them, with all that belongs to it."""

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import sfumato as sf
from sfumato.components.conditioning import SDConditioning
from sfumato.components.models.image_attention import ImageBranch, ImageTokens
from sfumato.components.parallel.passes import Part, parts_of, rows_of_pass
from sfumato.components.taps.memory import PassMemory
from sfumato.components.types import Pass, RowSlice

STEP = sf.schedulers.DDIMScheduler().steps(2)[0]


def numbered(rows: int, *shape: int) -> Tensor:
    return torch.arange(float(rows)).view(-1, *[1] * len(shape)).expand(rows, *shape)


def a_pass(rows: int, memories: tuple[Any, ...] = ()) -> Pass:
    return Pass(numbered(rows, 1, 2, 2), STEP, SDConditioning(numbered(rows, 1, 1)), memories=memories)


REQUESTS = st.lists(
    st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=1, max_size=4), min_size=1, max_size=3
)


@given(REQUESTS, st.integers(1, 6), st.booleans())
def test_each_row_is_in_one_part_and_whole_passes_stay_whole(
    requests: list[list[tuple[int, bool]]], count: int, by_rows: bool
) -> None:
    memory = (PassMemory(None),)
    passes = [[a_pass(rows, memory if whole else ()) for rows, whole in one] for one in requests]
    parts = parts_of(passes, count, lambda request: by_rows)
    rows = [(part.request, part.number, row) for part in parts for row in range(part.start, part.stop)]
    assert rows == [
        (i, j, row) for i, one in enumerate(passes) for j, p in enumerate(one) for row in range(len(p.latents))
    ]
    processes = [part.process for part in parts]
    assert processes == sorted(processes) and processes[0] >= 0 and processes[-1] < count
    for part in parts:
        rows_of_it, whole = requests[part.request][part.number]
        assert (by_rows and not whole) or (part.start, part.stop) == (0, rows_of_it)
    loads = [sum(part.stop - part.start for part in parts if part.process == process) for process in range(count)]
    largest = 1 if by_rows and not any(whole for one in requests for _, whole in one) else 5
    assert max(loads) <= -(-sum(loads) // count) + largest - 1


def test_two_passes_of_one_row_are_for_the_first_and_the_middle_process() -> None:
    assert parts_of([[a_pass(1), a_pass(1)]], 4, lambda request: True) == [Part(0, 0, 0, 1, 0), Part(0, 1, 0, 1, 2)]


def test_rows_of_a_pass_have_all_that_belongs_to_them() -> None:
    branch: Any = ImageBranch(object(), 1.0)  # pyright: ignore[reportArgumentType]  no model is needed
    p = Pass(
        numbered(4, 1, 2, 2), STEP, SDConditioning(numbered(1, 1, 1)), channels=(numbered(4, 1, 2, 2),),
        references=(numbered(1, 1, 2, 2),), row=8,
        images=(ImageTokens(branch, (numbered(4, 3, 1), numbered(1, 3, 1))),),
        residuals=({"mid": (numbered(4, 1, 2, 2),)}, RowSlice({"mid": (numbered(9, 1, 2, 2),)}, 5, 4)),
    )  # fmt: skip
    cut = rows_of_pass(p, 1, 3)

    def first(t: Tensor) -> list[float]:
        return t.flatten(1)[:, 0].tolist()

    assert first(cut.latents) == first(cut.channels[0]) == first(cut.images[0].layers[0]) == [1, 2]
    assert [first(r["mid"][0]) for r in cut.residuals] == [[1, 2], [6, 7]]
    assert first(cut.references[0]) == first(cut.images[0].layers[1]) == first(cut.conditioning.tokens) == [0]
    assert cut.row == 9
    assert rows_of_pass(p, 0, 4) is p
