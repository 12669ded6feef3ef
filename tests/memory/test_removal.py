"""What is removed or moved while others use it: it goes when the last of them is done, and nobody gets it torn."""

import gc
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sfumato as sf
from sfumato import ComponentsManager
from sfumato.components.memory.policy import Residency
from sfumato.components.memory.tensors import parts_of, total_bytes
from sfumato.graph.events import TurnFinished

from .conftest import GPU, Simulated, draw
from .test_leases import eventually


def begun(folder: Path, manager: ComponentsManager) -> Any:
    """A run in the middle of its first turn's end: it has leased the U-Net."""
    run = sf.load(folder, manager=manager).stream(prompt="a fish", seed=1, num_inference_steps=1, output_type="pt")
    next(event for event in run if isinstance(event, TurnFinished))
    return run


def in_thread(work: Callable[[], Tensor]) -> tuple[threading.Thread, list[Any]]:
    made: list[Any] = []

    def caught() -> None:
        try:
            made.append(work())
        except Exception as error:  # told by the test
            made.append(error)

    thread = threading.Thread(target=caught, daemon=True)
    thread.start()
    return thread, made


@pytest.fixture(scope="module")
def unet(five: list[Path]) -> int:
    """Bytes of a U-Net in float32."""
    bound: Any = sf.load(five[0], manager=ComponentsManager()).bindings["unet"]
    return total_bytes([parts_of(bound.load())])


def test_a_run_waits_for_the_room_of_a_removed_component_that_another_uses(
    five: list[Path], pictures: list[Tensor], unet: int
) -> None:
    manager = ComponentsManager(int(unet * 1.5))
    run, other = begun(five[0], manager), sf.load(five[1], manager=manager)
    assert manager.remove("*")
    held: Any = other.bindings["unet"]
    thread, made = in_thread(held.load)
    assert eventually(lambda: len(manager._memory.leases._queue) == 1 or not thread.is_alive())
    assert made == []
    assert torch.equal(run.result().images, pictures[0])
    thread.join(60)
    assert made == [held.load()] and manager._memory.inventory.removed == {}
    assert torch.equal(draw(other), pictures[1])


def test_a_removed_component_leaves_when_its_last_lease_ends(five: list[Path], unet: int, simulated: Simulated) -> None:
    manager = ComponentsManager(mover=simulated)
    first, second = (begun(five[0], manager) for _ in range(2))
    manager.free("!unet")
    assert manager.remove("unet") and not manager.remove("unet")
    assert (manager.bytes, manager._memory.inventory.unfreed_bytes, manager.search("unet")) == (0, unet, [])
    assert "10.7 MB dropped but still in use" in repr(manager)
    first.close()
    assert manager._memory.inventory.unfreed_bytes == unet
    second.close()
    del first, second
    gc.collect()
    assert (manager.bytes, manager._memory.inventory.unfreed_bytes) == (0, 0)


def test_a_removed_component_that_is_asked_for_again_is_shared_and_stays(
    five: list[Path], pictures: list[Tensor], simulated: Simulated
) -> None:
    manager = ComponentsManager(mover=simulated)
    run = begun(five[0], manager)
    manager.remove("unet")
    assert torch.equal(draw(sf.load(five[0], manager=manager)), pictures[0])
    assert torch.equal(run.result().images, pictures[0])
    assert [handle.name for handle in manager.search("unet")] == ["unet"]
    assert manager.get("unet") is not None
    assert sum(line.startswith("read unet") for line in simulated.log) == 1


def test_a_leased_component_that_is_not_loaded_can_be_removed(five: list[Path], unet: int) -> None:
    for budget in (None, 2 * unet):
        manager = ComponentsManager(budget)
        handle: Any = sf.load(five[0], manager=manager).bindings["unet"]
        with manager.lease([handle]):
            assert not manager.remove("unet")  # nothing was held
            model = handle.load()
            assert handle.load() is model and manager.bytes == 0
        assert (manager.bytes, manager._memory.inventory.unfreed_bytes) == (0, unet)  # `model`
        del model
        assert manager._memory.inventory.unfreed_bytes == 0


def test_a_removed_object_counts_no_more_after_its_last_lease() -> None:
    manager = ComponentsManager("1MB")
    mine = nn.Linear(8, 8)
    handle = manager.add("mine", mine)
    with manager.lease([handle]):
        manager.remove("mine")
        assert handle.load() is mine and manager._memory.inventory.unfreed_bytes == 288
    assert manager._memory.inventory.unfreed_bytes == 0 and manager.get("mine") is None
    with pytest.raises(
        sf.LoadError, match=r"mine was removed from its manager\. Add it again: manager\.add\(name, obj"
    ):
        handle.load()


def test_a_component_leased_during_the_decision_stays_and_another_leaves(
    five: list[Path], unet: int, simulated: Simulated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest would leave; somebody leases it after that was decided and before it is done."""
    manager = ComponentsManager({"cuda": 2 * unet + 1}, device="cuda", mover=simulated)
    handles: list[Any] = [sf.load(folder, manager=manager).bindings["unet"] for folder in five[:3]]
    oldest = handles[0].load()
    handles[1].load()
    facts, leases = manager._memory.inventory.residents, list[Any]()

    def late() -> list[Residency]:
        found = facts()
        if not leases and len(simulated.log) == 2:
            leases.append(None)  # asking looks at the facts, too
            leases[0] = manager.lease([handles[0]], "late")
        return found

    monkeypatch.setattr(manager._memory.inventory, "residents", late)
    simulated.log.clear()
    simulated.log += ["two", "are there"]
    handles[2].load()
    leases[0].release()
    where = {row.key: row.where for row in manager.summary()}
    assert [where[handle.key] for handle in handles] == [GPU, "cpu", GPU]
    assert simulated._where[oldest] == GPU and simulated.log[2:] == [
        "move UNet2DConditionModel to cpu",
        f"read unet to {GPU}",
    ]


def test_a_move_that_fails_half_way_is_repeated(five: list[Path], unet: int, monkeypatch: pytest.MonkeyPatch) -> None:
    simulated = Simulated()
    manager = ComponentsManager({"cuda": unet + 1}, device="cuda", mover=simulated)
    handles: list[Any] = [sf.load(folder, manager=manager).bindings["unet"] for folder in five[:2]]
    model, plain = handles[0].load(), simulated.move

    def fails(component: Any, device: str) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(simulated, "move", fails)
    with pytest.raises(MemoryError):
        handles[1].load()
    monkeypatch.setattr(simulated, "move", plain)
    simulated.log.clear()
    assert handles[0].load() is model
    assert simulated.log == [f"move UNet2DConditionModel to {GPU}"]  # some of its tensors may have left
