"""Run work in threads; results and errors do not depend on the number of threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from typing import TypeVar

from nan_merge.core.errors import tell

_thread = threading.local()
PATIENCE = 1.0  # seconds after an interruption until it is said what is waited for
Item = TypeVar("Item")
Result = TypeVar("Result")


class MemoryBudget:
    """Limit the memory that threads hold together: `hold` blocks until the requested bytes are free."""

    def __init__(self, total: int) -> None:
        self.total, self._free, self._changed = total, total, threading.Condition()

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Wait until `size` bytes (at most the total) are free and hold them during the `with` block."""
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
    """Return the number of processors available to this process."""
    return len(os.sched_getaffinity(0))


def stop_if_interrupted() -> None:
    """End the work of this thread of `parallel_map` after Ctrl-C; long work calls it between its steps."""
    if (interrupted := getattr(_thread, "interrupted", None)) is not None and interrupted.is_set():
        raise KeyboardInterrupt


def parallel_map(items: Sequence[Item], worker: Callable[[], Callable[[Item], Result]], threads: int = 1) -> list[Result]:
    """Return work(item) for every item, in order; each thread calls `worker` once to get its own `work`.

    Threads take items in order; where the system allows fewer threads, fewer run. After an error no further item is taken,
    running items are finished, and the error of the first failed item is raised, so the same error is raised for any number
    of threads.
    """
    results: dict[int, Result] = {}
    errors: dict[int, BaseException] = {}
    waiting: Iterator[tuple[int, Item]] = iter(enumerate(items))
    lock, stop, interrupted = threading.Lock(), threading.Event(), threading.Event()

    def run() -> None:
        _thread.interrupted = interrupted
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

    running: list[Future[None]] = []
    threads = min(threads, len(items))
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            try:
                with suppress(RuntimeError):  # can't start new thread
                    running.extend(pool.submit(run) for _ in range(threads))
                for each in running:
                    each.result()
            except BaseException as error:  # Ctrl-C: the threads end first
                stop.set()
                if isinstance(error, KeyboardInterrupt):
                    interrupted.set()
                    if wait(running, PATIENCE).not_done:
                        tell("interrupted: waiting for the end of the computations that are running")
                raise
    if not running:
        run()
    if errors:
        raise errors[min(errors)]
    return [results[number] for number in range(len(items))]
