"""One manager for many pipelines: each byte once, within the budget, the same pictures, whatever happens meanwhile."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sfumato as sf
from sfumato import ComponentsManager
from sfumato.components.manager import Handle
from sfumato.components.memory.estimate import estimated_bytes
from sfumato.components.memory.tensors import parts_of, total_bytes
from sfumato.components.models.autoencoder_kl import AutoencoderKL
from sfumato.graph.events import TurnFinished

from .conftest import EMBEDDED, GPU, Simulated, draw


@pytest.fixture(scope="module")
def sizes(five: list[Path]) -> dict[str, int]:
    """Bytes of each component in float32."""
    pipe = sf.load(five[0], manager=ComponentsManager())
    held: dict[str, Handle] = {name: h for name, h in pipe.bindings.items() if isinstance(h, Handle)}
    return {name: total_bytes([parts_of(handle.load())]) for name, handle in held.items()}


def test_five_pipelines_that_share_hold_each_byte_once(
    five: list[Path], sizes: dict[str, int], pictures: list[Tensor]
) -> None:
    manager = ComponentsManager()
    pipes = [sf.load(folder, manager=manager) for folder in five]
    for pipe, picture in zip(pipes, pictures, strict=True):
        assert torch.equal(draw(pipe), picture)
    assert len({id(pipe.bindings["vae"].load()) for pipe in pipes}) == 1
    assert len({id(pipe.bindings["unet"].load()) for pipe in pipes}) == 5
    assert manager.bytes == 5 * sizes["unet"] + sizes["vae"] + sizes["text_encoder"]
    assert sum(row.loaded for row in manager.summary()) == 5 + 4


def test_bytes_are_estimated_from_headers_before_loading(five: list[Path], sizes: dict[str, int]) -> None:
    bound = sf.load(five[0]).bindings
    assert {name: estimated_bytes(bound[name].spec, "float32") for name in sizes} == sizes
    assert estimated_bytes(bound["unet"].spec, "float16") == sizes["unet"] // 2


def test_within_a_budget_pictures_are_the_same_and_the_peak_stays_below_it(
    five: list[Path], sizes: dict[str, int], pictures: list[Tensor], simulated: Simulated
) -> None:
    """A device that holds one U-Net with little else, and a CPU that holds two more: the rest is read again."""
    budget = {"cuda": sizes["unet"] + sizes["text_encoder"], "cpu": 2 * sizes["unet"]}
    manager = ComponentsManager(budget, device="cuda", mover=simulated)
    for _ in range(2):
        for folder, picture in zip(five, pictures, strict=True):
            assert torch.equal(draw(sf.load(folder, manager=manager)), picture)
    assert 0 < simulated.peak[GPU] <= budget["cuda"]
    assert 0 < simulated.peak["cpu"] <= budget["cpu"]
    assert simulated.peak[GPU] > sizes["unet"]
    assert any(line == "move UNet2DConditionModel to cpu" for line in simulated.log)
    assert sum(line.startswith("read unet") for line in simulated.log) > 5
    assert manager.bytes <= sum(budget.values())


def test_a_cpu_alone_reads_again_what_it_had_to_drop(
    five: list[Path], sizes: dict[str, int], pictures: list[Tensor], simulated: Simulated
) -> None:
    budget = max(sizes["unet"], sizes["vae"] + sizes["text_encoder"])
    manager = ComponentsManager(budget, mover=simulated)
    for folder, picture in zip(five, pictures, strict=True):
        assert torch.equal(draw(sf.load(folder, manager=manager)), picture)
    assert sizes["unet"] <= simulated.peak["cpu"] <= budget
    assert not any(line.startswith("move") for line in simulated.log)


def test_while_it_fits_nothing_is_moved_or_read_twice(
    five: list[Path], sizes: dict[str, int], simulated: Simulated
) -> None:
    manager = ComponentsManager({"cuda": sum(sizes.values())}, device="cuda", mover=simulated)
    for _ in range(3):
        draw(sf.load(five[0], manager=manager))
    assert sorted(simulated.log) == [f"read {name} to {GPU}" for name in ("text_encoder", "unet", "vae")]


def test_a_run_that_can_never_fit_names_the_largest_component_and_the_remedies(
    five: list[Path], sizes: dict[str, int]
) -> None:
    manager = ComponentsManager({"cuda": sizes["unet"] - 1}, device="cuda", mover=Simulated())
    with pytest.raises(sf.LoadError) as caught:
        draw(sf.load(five[0], manager=manager))
    text = str(caught.value)
    assert text.startswith("The memory budget of cuda:0 is ")
    assert "are needed there at once: unet " in text
    assert 'manager.offload("unet", by="blocks")' in text
    assert all(row.used_by == () for row in manager.summary())


def test_the_remedy_in_the_error_text_works(
    five: list[Path], sizes: dict[str, int], pictures: list[Tensor], simulated: Simulated
) -> None:
    manager = ComponentsManager({"cuda": sizes["unet"] - 1}, device="cuda", mover=simulated)
    manager.offload("unet", by="blocks")
    assert torch.equal(draw(sf.load(five[0], manager=manager)), pictures[0])
    assert simulated.peak[GPU] < sizes["unet"]


def test_the_plan_names_what_would_leave_and_why(five: list[Path], sizes: dict[str, int], simulated: Simulated) -> None:
    budget = {"cuda": sizes["unet"] + sizes["text_encoder"] + sizes["vae"]}
    manager = ComponentsManager(budget, device="cuda", mover=simulated)
    first = sf.load(five[0], manager=manager)
    draw(first)
    second = sf.load(five[1], manager=manager)
    unet: Any = second.bindings["unet"]
    moves = manager.plan(unet.key)
    assert [(m.name, m.target, m.reason) for m in moves] == [
        ("text_encoder", "cpu", "least recently used"),
        ("unet", "cpu", "least recently used"),
    ]
    assert [m.name for m in manager.plan()] == ["text_encoder", "unet", "vae"]
    assert {row.name: row.leaves for row in manager.summary() if row.leaves} == {"text_encoder": 1, "unet": 2, "vae": 3}
    with manager.lease("text_encoder"):
        assert [m.name for m in manager.plan()] == ["unet", "vae"]
        row = next(row for row in manager.summary() if row.name == "text_encoder")
        assert (row.used_by, row.leaves) == (("you",), 0)
    with pytest.raises(sf.LoadError, match="The memory budget of cuda:0 is "):
        manager.plan("unet|vae")
    simulated.log.clear()
    unet.load()
    assert simulated.log == ["move CLIPTextModel to cpu", "move UNet2DConditionModel to cpu", f"read unet to {GPU}"]


def test_a_lease_by_hand_keeps_components_in_place(
    five: list[Path], sizes: dict[str, int], simulated: Simulated
) -> None:
    budget = {"cuda": sizes["unet"] * 2 + sizes["vae"] + sizes["text_encoder"]}
    manager = ComponentsManager(budget, device="cuda", mover=simulated)
    pipes = [sf.load(folder, manager=manager) for folder in five]
    first: Any = pipes[0].bindings["unet"]
    with manager.lease([first], owner="me"):
        for pipe in pipes:
            draw(pipe)
        assert first.key in {row.key for row in manager.summary() if row.where == GPU}
        assert sum(line == "move UNet2DConditionModel to cpu" for line in simulated.log) == 3
    draw(pipes[1])
    assert first.key not in {row.key for row in manager.summary() if row.where == GPU}


def test_eight_threads_that_load_and_run_at_once(
    five: list[Path], sizes: dict[str, int], pictures: list[Tensor], simulated: Simulated
) -> None:
    """No weight left on meta, nothing there twice, no dead lock, and within the budget at every moment."""
    budget = {"cuda": 2 * sizes["unet"] + sizes["vae"], "cpu": 2 * sizes["unet"]}
    manager = ComponentsManager(budget, device="cuda", mover=simulated)
    gate = threading.Barrier(8)

    def work(number: int) -> bool:
        gate.wait(20)
        same = True
        for turn in range(2):
            which = (number + 2 * turn) % 5
            same = same and torch.equal(draw(sf.load(five[which], manager=manager)), pictures[which])
        return same

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8), timeout=120))
    assert simulated.peak[GPU] <= budget["cuda"]
    assert simulated.peak["cpu"] <= budget["cpu"]
    assert not any(p.is_meta for model in list(simulated._where) for p in model.parameters())
    assert all(row.used_by == () for row in manager.summary())


def test_eight_threads_without_a_budget_read_each_component_once(
    five: list[Path], pictures: list[Tensor], simulated: Simulated
) -> None:
    manager = ComponentsManager(mover=simulated)
    gate = threading.Barrier(8)

    def work(number: int) -> bool:
        gate.wait(20)
        return torch.equal(draw(sf.load(five[number % 5], manager=manager)), pictures[number % 5])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8), timeout=120))
    assert len(simulated.log) == len(set(simulated.log)) + 4  # five U-Nets, one text tower, one autoencoder
    assert len(simulated.log) == 7


@pytest.mark.parametrize("budget", [None, "30MB"])
def test_a_component_removed_during_a_run_stays_until_the_run_ends(
    five: list[Path], pictures: list[Tensor], budget: str | None
) -> None:
    manager = ComponentsManager(budget)
    pipe = sf.load(five[0], manager=manager)
    run = pipe.stream(prompt="a fish", seed=1, num_inference_steps=1, output_type="pt")
    next(event for event in run if isinstance(event, TurnFinished))
    assert manager.remove("*")
    assert len(manager) == 0
    assert "dropped but still in use" in repr(manager)
    assert torch.equal(run.result().images, pictures[0])
    assert "dropped" not in repr(manager)
    assert [row.class_name for row in manager.summary() if row.loaded] == ["AutoencoderKL"]


@pytest.mark.parametrize("way", ["cancel", "error", "forget"])
def test_a_run_that_ends_early_releases_its_leases(
    five: list[Path], sizes: dict[str, int], pictures: list[Tensor], way: str
) -> None:
    manager = ComponentsManager(sizes["unet"] + sizes["vae"])
    pipe = sf.load(five[0], manager=manager)
    run = pipe.stream(prompt="a fish", seed=1, num_inference_steps=4)
    next(event for event in run if isinstance(event, TurnFinished))
    assert [r.used_by for r in manager.summary() if r.class_name == "UNet2DConditionModel"] == [
        ("sd.text2image:denoise",)
    ]
    if way == "cancel":
        run.cancel()
        with pytest.raises(sf.Cancelled):
            run.result()
    elif way == "error":
        bad = pipe.stream(prompt="a fish", seed=1, num_inference_steps=2, latents=torch.full((1, 3, 8, 8), 1.0))
        run.close()
        with pytest.raises(Exception, match="channels"):
            bad.result()
    else:
        del run
    assert torch.equal(draw(sf.load(five[1], manager=manager)), pictures[1])  # it takes the room of the first
    assert all(row.used_by == () for row in manager.summary())


def test_an_unfinished_run_of_this_thread_is_an_error_and_not_waited_for(
    five: list[Path], sizes: dict[str, int]
) -> None:
    manager = ComponentsManager(sizes["unet"] + sizes["vae"])
    run = sf.load(five[0], manager=manager).stream(prompt="a fish", seed=1, num_inference_steps=4)
    next(event for event in run if isinstance(event, TurnFinished))
    with pytest.raises(sf.LoadError, match=r"This thread holds memory for sd\.text2image:denoise: finish that run, or"):
        draw(sf.load(five[1], manager=manager))
    run.close()
    draw(sf.load(five[1], manager=manager))


def test_a_dropped_component_that_is_still_referenced_counts_and_is_not_read_twice(
    five: list[Path], sizes: dict[str, int], simulated: Simulated
) -> None:
    manager = ComponentsManager(sizes["unet"] + sizes["text_encoder"] + sizes["vae"] + 1000, mover=simulated)
    pipes = [sf.load(folder, manager=manager) for folder in five[:2]]
    mine: Any = pipes[0].bindings["unet"].load()
    with pytest.raises(sf.LoadError, match=r"at once: unet 10\.7 MB, unet \(dropped, still in use\) 10\.7 MB"):
        draw(pipes[1])  # dropping the first frees nothing, since `mine` is still there
    assert pipes[0].bindings["unet"].load() is mine
    assert sum(line.startswith("read unet") for line in simulated.log) == 1
    manager.free()
    del mine
    draw(pipes[1])


def test_an_added_object_is_moved_and_never_dropped(
    five: list[Path], sizes: dict[str, int], pictures: list[Tensor], simulated: Simulated
) -> None:
    manager = ComponentsManager({"cuda": sizes["unet"] + 1}, device="cuda", mover=simulated)
    vae = AutoencoderKL.from_pretrained(EMBEDDED / "vae")
    handle = manager.add("mine", vae)
    pipe = sf.load(five[0], manager=manager).bind(vae=handle)
    for _ in range(2):
        assert torch.equal(draw(pipe), pictures[0])
    assert "move AutoencoderKL to cuda:0" in simulated.log and "move AutoencoderKL to cpu" in simulated.log
    assert handle.load() is vae
    manager.free()
    assert manager.get("mine") is vae and simulated._where[vae] == "cpu"
    assert {row.name for row in manager.summary() if row.bytes} == {"mine"}


def test_free_drops_components_that_are_not_leased(five: list[Path], sizes: dict[str, int]) -> None:
    manager = ComponentsManager()
    draw(sf.load(five[0], manager=manager))
    assert manager.free("vae") == sizes["vae"]
    with manager.lease("text_encoder"):
        assert manager.free() == sizes["unet"]
    assert manager.bytes == sizes["text_encoder"]
    assert manager.free() == sizes["text_encoder"]


@pytest.mark.parametrize(
    ("budget", "text"),
    [
        (
            "8 pounds",
            r"budget of cpu: needs bytes as a number, or a text such as '8GB' or '512MiB'\. Got '8 pounds'\.",
        ),
        (-1, r"budget of cpu: needs bytes as a number, or a text .*\. Got -1\."),
        (
            {"gpu": "8GB"},
            r"budget: torch knows no device 'gpu'\. Write 'cuda' for an NVIDIA or AMD GPU, 'mps' for a Mac",
        ),
    ],
)
def test_an_invalid_budget_is_refused(budget: Any, text: str) -> None:
    with pytest.raises(sf.ConfigError, match=text):
        ComponentsManager(budget)
