"""Several downloads at once, that end at once when one fails or the user has had enough."""

import queue
import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")
_PATIENCE = 2.0  # seconds that those which are told to stop have for cleaning up


class Stopped(Exception):
    """What a piece of work raises that was told to stop."""


def run_parallel(do: Callable[[T, threading.Event], object], items: Iterable[T], number: int = 4) -> None:
    """Do something with each item, `number` at a time. `do` gets an event and is to raise `Stopped` when it is set.

    It is set by the first error and by Ctrl-C, which are raised here without waiting for the others to end: a pool of
    `concurrent.futures` waits, and a checkpoint takes minutes.
    """
    work, ended = queue.SimpleQueue[T](), queue.SimpleQueue[BaseException | None]()
    stop = threading.Event()
    count = 0
    for item in items:
        work.put(item)
        count += 1

    def run() -> None:
        while not stop.is_set():
            try:
                item = work.get_nowait()
            except queue.Empty:
                return
            try:
                do(item, stop)
            except BaseException as error:
                ended.put(error)
            else:
                ended.put(None)

    threads = [threading.Thread(target=run, daemon=True) for _ in range(min(number, count))]
    for thread in threads:
        thread.start()
    try:
        for _ in range(count):
            if (error := ended.get()) is not None:
                raise error
    except BaseException:
        stop.set()
        for thread in threads:
            thread.join(_PATIENCE / len(threads))
        raise
