"""Share work between threads so that neither results nor errors depend on their number. No torch."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class MemoryBudget:
    """A number of bytes that threads hold a part of, each as long as its `with` lasts; who asks for too much waits."""

    def __init__(self, total: int) -> None:
        """Let all threads together hold `total` bytes."""
        self._free, self._changed = total, threading.Condition()

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Hold `size` bytes, at most the total, as soon as they are free."""
        with self._changed:
            self._changed.wait_for(lambda: self._free >= size)
            self._free -= size
        try:
            yield
        finally:
            with self._changed:
                self._free += size
                self._changed.notify_all()


def available_processors() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0))


def parallel_map(items: Sequence[Item], worker: Callable[[], Callable[[Item], Result]], threads: int = 1) -> list[Result]:
    """Return work(item) for every item, in order; each thread calls `worker` once for its own `work`.

    Items are handed out in order. After an error no more are handed out, those at work are finished, and the
    error of the first item that has one is raised: always the same one.
    """
    results: dict[int, Result] = {}
    errors: dict[int, BaseException] = {}
    waiting: Iterator[tuple[int, Item]] = iter(enumerate(items))
    lock, stop = threading.Lock(), threading.Event()

    def run() -> None:
        work = worker()
        while not stop.is_set():
            with lock:
                taken = next(waiting, None)
            if taken is None:
                return
            number, item = taken
            try:
                results[number] = work(item)
            except BaseException as error:
                errors[number] = error
                stop.set()

    if threads == 1:
        run()
    else:
        with ThreadPoolExecutor(threads) as pool:
            running = [pool.submit(run) for _ in range(threads)]
            try:
                for each in running:
                    each.result()
            except BaseException:  # Ctrl-C: let the threads end first
                stop.set()
                raise
    if errors:
        raise errors[min(errors)]
    return [results[number] for number in range(len(items))]
