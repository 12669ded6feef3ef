"""The order of an epoch: a function of the seed and the epoch, whatever the size of batches and the threads."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sfumato.blocks.image.place import Placement
from sfumato.graph import ConfigError
from sfumato.presets.training.data import Buckets, Captions, TrainingData, load_data
from sfumato.presets.training.data.draws import Draws
from sfumato.presets.training.data.order import batches_of, rounds
from sfumato.presets.training.data.samples import Batch

SIZES = st.lists(st.sampled_from([(64, 64), (32, 128), (128, 32), (48, 80)]), max_size=60)
SEEDS = st.integers(0, 2**63)


@given(SIZES, st.integers(1, 8), SEEDS)
def test_buckets_use_each_sample_exactly_once_an_epoch(sizes: list[tuple[int, int]], rows: int, seed: int):
    batches = batches_of(sizes, rows, Draws((seed,)))
    assert sorted(i for batch in batches for i in batch) == list(range(len(sizes)))
    assert all(len({sizes[i] for i in batch}) == 1 <= len(batch) <= rows for batch in batches)
    short = [sizes[batch[0]] for batch in batches if len(batch) < rows]
    assert len(short) == len(set(short))  # at most one batch of a size is not full


@given(st.integers(0, 40), st.integers(1, 4), st.integers(1, 4), SEEDS)
def test_batches_one_after_another_are_one_larger_batch(count: int, rows: int, more: int, seed: int):
    small = batches_of([0] * count, rows, Draws((seed,)))
    joined = [tuple(i for batch in small[k : k + more] for i in batch) for k in range(0, len(small), more)]
    assert joined == batches_of([0] * count, rows * more, Draws((seed,)))


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


def chosen(
    pictures: TrainingData, epoch: int, batch_size: int = 1, seed: int = 5
) -> dict[str, tuple[int, Placement, str | None]]:
    """All that an epoch chose at random about each picture, by name."""
    made = pictures.batches(batch_size, seed=seed).epoch(epoch)
    return {s.name: (s.index, s.placement, s.prompt) for batch in made for s in batch.samples}


def test_what_is_chosen_for_a_picture_does_not_depend_on_its_batch():
    pictures = data()
    for epoch in range(3):
        assert all(chosen(pictures, epoch, size) == chosen(pictures, epoch) for size in range(2, 6))


def test_epochs_and_seeds_differ_and_repeat():
    pictures = data()
    first, second = chosen(pictures, 0), chosen(pictures, 1)
    assert first != second and first.keys() == second.keys()
    assert chosen(pictures, 1) == second != chosen(pictures, 1, seed=6)


def summary(batches: Sequence[Batch]) -> list[object]:
    return [(b.names, b.places, loaded["pixels"].tolist(), loaded["prompt"]) for b in batches for loaded in [b.load()]]


def test_a_resume_goes_on_in_the_middle_of_an_epoch():
    whole = summary(data().batches(3, seed=2).epoch(1))
    again = data().batches(3, seed=2).epoch(1)
    assert summary(again[2:]) == whole[2:] and summary([again[-1]]) == whole[-1:]


def test_batches_that_threads_load_in_any_order_are_the_same():
    epoch = data().batches(3, seed=2).epoch(0)
    with ThreadPoolExecutor(4) as pool:
        loaded = list(pool.map(summary, [[batch] for batch in reversed(epoch)]))
    assert loaded[::-1] == [summary([batch]) for batch in epoch]


def test_without_shuffling_pictures_keep_their_order():
    epoch = load_data(rows(7), size=8).batches(3, shuffle=False).epoch(0)
    assert [b.names for b in epoch] == [("0", "1", "2"), ("3", "4", "5"), ("6",)] and epoch.number == 0


@pytest.mark.parametrize(("size", "epoch", "text"), [(0, 0, "batch_size: needs 1"), (1, -1, "epoch: needs 0 or more")])
def test_numbers_out_of_range_are_refused(size: int, epoch: int, text: str):
    with pytest.raises(ConfigError, match=text):
        data().batches(size).epoch(epoch)


def test_a_split_holds_pictures_out_and_reads_them_plainly():
    pictures = data(20)
    train, held = pictures.split(0.25, seed=3)
    names = [{s.name for b in part.batches().epoch(0) for s in b.samples} for part in (train, held)]
    assert len(held) == 5 and not names[0] & names[1] and names[0] | names[1] == {str(i) for i in range(20)}
    assert chosen(held, 0) == chosen(held, 1)
    assert {text for _, _, text in chosen(held, 0).values()} == {f"number {n}, red, round" for n in names[1]}
    assert chosen(pictures.split(0.25, seed=3)[1], 0) == chosen(held, 0) != chosen(pictures.split(0.25, seed=4)[1], 0)
    with pytest.raises(ConfigError) as caught:
        pictures.split(0.01)
    assert str(caught.value) == "validation: 0.01 of 20 pictures leaves none for one of the two parts."


def test_the_number_of_batches_is_known_without_their_order():
    epoch = data(14).batches(3).epoch(0)
    assert len(epoch) == len(list(iter(epoch)))
