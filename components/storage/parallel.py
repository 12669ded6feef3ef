"""Run several downloads at a time. All end when one fails or the user presses Ctrl-C."""

import queue
import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")
_CLEANUP_SECONDS = 2.0  # how long stopped work may take to clean up


class Stopped(Exception):
    """Raised by a piece of work that saw its stop event."""


def run_parallel(work: Callable[[T, threading.Event], object], items: Iterable[T], number: int = 4) -> None:
    """Call `work(item, stop)` for each item, `number` at a time.

    The first error and Ctrl-C set `stop` and are raised without waiting for the other calls; `work` should then raise
    `Stopped`. (A pool of `concurrent.futures` waits for them, and a checkpoint takes minutes.)
    """
    waiting, ended = queue.SimpleQueue[T](), queue.SimpleQueue[BaseException | None]()
    stop = threading.Event()
    count = 0
    for item in items:
        waiting.put(item)
        count += 1

    def run() -> None:
        while not stop.is_set():
            try:
                item = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                work(item, stop)
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
            thread.join(_CLEANUP_SECONDS / len(threads))
        raise
