"""The order of an epoch: a function of the seed and the epoch, whatever the batches, processes and threads."""

from collections import Counter
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sfumato.presets.training.data import Buckets, Captions, TrainingData, load_data
from sfumato.presets.training.data.draws import Draws
from sfumato.presets.training.data.order import plan, rounds, steps_of
from sfumato.presets.training.data.samples import Batch

SIZES = st.lists(st.sampled_from([(64, 64), (32, 128), (128, 32), (48, 80)]), max_size=60)
COUNTS = st.integers(1, 4)
SEEDS = st.integers(0, 2**63)


@given(SIZES, COUNTS, COUNTS, COUNTS, SEEDS)
def test_buckets_use_each_sample_exactly_once_an_epoch(
    sizes: list[tuple[int, int]], batch: int, accumulation: int, processes: int, seed: int
):
    each = [plan(sizes, batch, accumulation, processes, p, Draws((seed,))) for p in range(processes)]
    counted = [b for planned in each for b in planned if b.weight]
    assert Counter(i for b in counted for i in b.samples) == Counter(range(len(sizes)))
    assert all(1 <= len(b.samples) <= batch and len({sizes[i] for i in b.samples}) == 1 for b in counted)
    assert len({len(planned) for planned in each}) == 1  # all processes take part in each turn
    for planned in zip(*each, strict=True):
        assert len({(b.step, b.ends_step) for b in planned}) == 1
    steps = [b.step for b in each[0] if b.ends_step]
    assert steps == list(range(len(steps)))
    weights = Counter[int]()
    for b in counted:
        weights[b.step] += b.weight  # pyright: ignore[reportArgumentType]  floats in a Counter
    assert all(abs(weight - 1) < 1e-9 for weight in weights.values())


@given(SIZES, st.sampled_from([(1, 8), (8, 1), (2, 4), (4, 2)]), SEEDS)
def test_the_samples_of_a_step_do_not_depend_on_how_it_is_divided(
    sizes: list[tuple[int, int]], parts: tuple[int, int], seed: int
):
    draws, (batch, more) = Draws((seed,)), parts
    whole = [set(step) for step in steps_of(sizes, 8, draws)]
    for accumulation, processes in ((more, 1), (1, more)):
        found: dict[int, set[int]] = {}
        for process in range(processes):
            for b in plan(sizes, batch, accumulation, processes, process, draws):
                found.setdefault(b.step, set()).update(b.samples)
        assert [found[step] for step in range(len(found))] == whole


@given(SIZES, st.integers(1, 12))
def test_steps_are_full_but_for_one(sizes: list[tuple[int, int]], rows: int):
    lengths = sorted(map(len, steps_of(sizes, rows, Draws((0,)))), reverse=True)
    assert all(length == rows for length in lengths[:-1])


@given(st.integers(1, 30), st.sampled_from([0.1, 0.5, 1.0, 1.7, 2.0, 3.0]), st.integers(0, 9), SEEDS)
def test_repeats_use_all_pictures_equally_often(count: int, repeats: float, epochs: int, seed: int):
    uses = Counter[int]()
    for epoch in range(epochs):
        once = rounds(count, repeats, epoch, Draws((seed,)))
        if repeats == int(repeats):
            assert once == dict.fromkeys(range(count), int(repeats))
        uses.update(once)
    every = [uses[i] for i in range(count)]
    assert sum(every) == int(epochs * repeats * count) and max(every) - min(every) <= 1


# ------------------------------------------------------------------------------------------------ batches
def rows(count: int) -> list[dict[str, object]]:
    """Pictures of several shapes, each of a colour of its own."""
    shapes = [(40, 40), (20, 60), (60, 20)]
    return [
        {"image": Image.new("RGB", shapes[i % 3], (i, 0, 0)), "text": f"number {i}, red, round", "file_name": str(i)}
        for i in range(count)
    ]


def data(count: int = 14) -> TrainingData:
    captions = Captions(dropout=0.2, shuffle=True, tag_dropout=0.2, keep=1)
    return load_data(rows(count), size=Buckets(32, step=8), crop="random", flip=0.5, captions=captions)


def chosen(pictures: TrainingData, epoch: int, batch: int = 1, more: int = 1, processes: int = 1) -> dict[str, object]:
    """All that an epoch chose at random about each picture, by name. more: batches of a step."""
    made = [
        pictures.batches(batch, accumulation=more, processes=processes, process=p, seed=5).epoch(epoch)
        for p in range(processes)
    ]
    return {s.name: (s.index, s.placement, s.prompt, s.seed) for e in made for b in e for s in b.samples}


@settings(max_examples=20)
@given(st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), st.integers(0, 3))
def test_what_is_chosen_for_a_picture_does_not_depend_on_its_batch(
    batch_size: int, accumulation: int, processes: int, epoch: int
):
    pictures = data(9)
    assert chosen(pictures, epoch, batch_size, accumulation, processes) == chosen(pictures, epoch)


def test_epochs_differ_and_repeat():
    pictures = data()
    first, second = chosen(pictures, 0), chosen(pictures, 1)
    assert first != second and first.keys() == second.keys()
    assert chosen(pictures, 1) == second


def summary(batches: Sequence[Batch]) -> list[object]:
    return [(b.number, b.names, b.inputs["pixels"].tolist(), b.inputs["prompt"]) for b in batches]


def test_a_resume_goes_on_in_the_middle_of_an_epoch_whatever_the_number_of_threads():
    epoch = data().batches(3, seed=2).epoch(1)
    whole = summary(list(epoch.load(workers=0)))
    for workers in (0, 1, 3):
        assert summary(list(epoch.load(2, workers=workers, inputs=("pixels", "prompt")))) == whole[2:]
    assert summary([epoch[2]]) == whole[2:3] and summary(epoch[-1:]) == whole[-1:]


def test_without_shuffling_pictures_keep_their_order():
    epoch = load_data(rows(7), size=8).batches(3, shuffle=False).epoch(0)
    assert [b.names for b in epoch] == [("0", "1", "2"), ("3", "4", "5"), ("6",)] and epoch.steps == 3


def test_a_process_without_samples_takes_part_with_weight_0():
    made = [load_data(rows(5), size=8).batches(2, processes=2, process=p).epoch(0) for p in range(2)]
    weights = [[batch.weight for batch in epoch] for epoch in made]
    assert weights == [[1.0, 0.5], [0.0, 0.5]] and len({epoch.steps for epoch in made}) == 1


def test_seeds_are_those_of_the_sample():
    by_name = {s.name: s.seed for b in data().batches(1, seed=1).epoch(0) for s in b.samples}
    again = {s.name: s.seed for b in data().batches(4, seed=1).epoch(0) for s in b.samples}
    assert by_name == again and len(set(by_name.values())) == 14
    assert all(0 <= seed < 2**63 for seed in by_name.values())
