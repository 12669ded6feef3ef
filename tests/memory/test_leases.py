"""Leases are granted whole, in the order they were asked for, and nobody waits for ever."""

import gc
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest

from sfumato.components.memory.leases import Lease, Leases
from sfumato.graph.errors import Cancelled, LoadError

ROOM = 10


def lack(held: Sequence[Sequence[str]]) -> str:
    """Components are "name:size", and one name is held once however many leases it has."""
    needed = sum(int(size) for _, size in {tuple(one.split(":")) for each in held for one in each})
    return f"{needed} of {ROOM}." if needed > ROOM else ""


@pytest.fixture
def ended() -> list[str]:
    return []


@pytest.fixture
def leases(ended: list[str]) -> Leases[str]:
    return Leases(lack, lambda lease: ended.append(lease.owner))


def eventually(true: Callable[[], bool]) -> bool:
    """For what another thread is about to do."""
    end = time.monotonic() + 20
    while not true() and time.monotonic() < end:
        time.sleep(0.002)
    return true()


def asks(leases: Leases[str], *held: str, order: list[str]) -> threading.Thread:
    """Ask in a thread of its own, write down when it is granted, and give it back."""

    def work() -> None:
        with leases.acquire(held, held[0]):
            order.append(held[0])

    before = len(leases._queue)
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert eventually(lambda: len(leases._queue) > before or not thread.is_alive())
    return thread


def test_leases_that_fit_together_are_granted_and_shared_components_count_once(leases: Leases[str]) -> None:
    with leases.acquire(["a:6", "t:3"], "first"), leases.acquire(["b:1", "t:3"], "second"):
        assert [lease.owner for lease in leases.active()] == ["first", "second"]
    assert leases.active() == []


def test_a_lease_that_can_never_fit_is_refused_at_once(leases: Leases[str]) -> None:
    with pytest.raises(LoadError, match=r"^12 of 10\.$"):
        leases.acquire(["a:12"], "me")
    assert leases.active() == []


def test_a_lease_that_does_not_fit_now_waits_until_it_does(leases: Leases[str]) -> None:
    order: list[str] = []
    held = leases.acquire(["a:6"], "me")
    thread = asks(leases, "b:6", order=order)
    assert order == []
    held.release()
    thread.join(20)
    assert order == ["b:6"]


def test_first_come_first_served_so_that_large_ones_are_not_starved(leases: Leases[str]) -> None:
    order: list[str] = []
    held = leases.acquire(["a:6"], "me")
    threads = [asks(leases, want, order=order) for want in ("large:10", "small:1", "mid:5")]
    assert order == []  # "small" would fit beside "a", and stands behind "large"
    held.release()
    for thread in threads:
        thread.join(20)
    assert order == ["large:10", "small:1", "mid:5"]


def test_a_thread_that_holds_something_goes_first(leases: Leases[str]) -> None:
    """The one in line may be waiting for what it holds."""
    order: list[str] = []
    held = leases.acquire(["a:6"], "outer")
    thread = asks(leases, "large:10", order=order)
    with leases.acquire(["b:4"], "inner"):
        order.append("inner")
    held.release()
    thread.join(20)
    assert order == ["inner", "large:10"]


def test_a_thread_that_blocks_itself_gets_an_error_that_names_the_run_to_close(leases: Leases[str]) -> None:
    with (
        leases.acquire(["a:6"], "sd.text2image:denoise"),
        pytest.raises(LoadError, match=r"11 of 10\. This thread holds memory for sd\.text2image:denoise: finish that"),
    ):
        leases.acquire(["b:5"], "me")


def test_two_threads_that_hold_and_want_more_do_not_wait_for_each_other(leases: Leases[str]) -> None:
    """Each alone would fit; the one that would close the circle gets an error, and the other goes on."""
    gate = threading.Barrier(2)
    told: list[str] = []
    done: list[str] = []

    def work(name: str) -> None:
        with leases.acquire([f"{name}:5"], name):
            gate.wait(20)
            try:
                with leases.acquire([f"{name} more:4"], f"{name} more"):
                    done.append(name)
            except LoadError as error:
                told.append(str(error))

    threads = [threading.Thread(target=work, args=(name,), daemon=True) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert len(told) == len(done) == 1
    assert "All other threads that hold memory wait for more, too." in told[0]


def test_one_that_waits_can_be_stopped(leases: Leases[str]) -> None:
    stop, raised = threading.Event(), list[Exception]()

    def work() -> None:
        try:
            leases.acquire(["b:6"], "b", stop)
        except Cancelled as error:
            raised.append(error)

    with leases.acquire(["a:6"], "a"):
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        assert eventually(lambda: len(leases._queue) == 1)
        stop.set()
        leases.wake()
        thread.join(20)
    assert len(raised) == 1 and leases._queue == []


def test_a_lease_that_nothing_refers_to_is_released_by_the_garbage_collector(leases: Leases[str]) -> None:
    """A run that was left half way lies in a circle with its generator."""

    class Run:
        def __init__(self) -> None:
            self.lease = leases.acquire(["a:6"], "left behind")
            self.me = self

        def __del__(self) -> None:
            self.lease.release()

    gc.disable()
    try:
        Run()
        assert len(leases.active()) == 1
        with leases.acquire(["b:6"], "me"):
            assert [lease.owner for lease in leases.active()] == ["me"]
    finally:
        gc.enable()


def test_a_lease_ends_once(leases: Leases[str], ended: list[str]) -> None:
    first, second = leases.acquire(["a:3"], "first"), leases.acquire(["a:3"], "second")
    first.release()
    first.release()
    assert [lease.owner for lease in leases.active()] == ["second"]
    second.release()
    assert ended == ["first", "second"]


def test_many_threads_never_hold_more_than_there_is_and_all_get_their_turn(leases: Leases[str]) -> None:
    worst: list[int] = []

    def work(seed: int) -> int:
        random = Random(seed)
        for _ in range(30):
            held = [f"{random.choice('abcdef')}:{random.choice((2, 3, 5))}" for _ in range(random.randint(1, 2))]
            with leases.acquire(held, str(seed)):
                mine = {one for lease in leases.active() for one in lease.components}
                worst.append(sum(int(one.split(":")[1]) for one in mine))
        return seed

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(work, range(8), timeout=60)) == list(range(8))
    assert max(worst) <= ROOM
    assert leases.active() == [] and leases._queue == []


def test_a_lease_is_a_context(leases: Leases[str]) -> None:
    with leases.acquire(["a:1"], "me") as lease:
        assert isinstance(lease, Lease) and lease.components == ("a:1",)
    assert leases.active() == []
