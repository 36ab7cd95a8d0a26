"""Share work between threads so that neither results nor errors depend on their number. No torch."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def available() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0))


def share(items: Sequence[Item], worker: Callable[[], Callable[[Item], Result]], threads: int = 1) -> list[Result]:
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
