"""Show progress on stderr: a bar on a terminal, otherwise one line every few seconds (jobs share log files)."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable

from tqdm import tqdm

from nan_merge.core.errors import tell
from nan_merge.core.escape import one_line, visible

Progress = Callable[[int], object]  # called with the number of bytes just read or written
EVERY = 5.0  # seconds between two lines


class _Lines:
    """A stream for tqdm that prints whole lines instead of carriage returns."""

    def write(self, text: str) -> None:
        if text.strip():
            tell(text.strip())

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.flush()


def bar(label: str, total: int, unit: str = "it", quiet: bool = False) -> tqdm:
    """Return a progress bar over `total` units with rate and remaining time; unit "B" is scaled to kB, MB, ..."""
    shown = {"total": total, "desc": one_line(label), "unit": unit, "unit_scale": unit == "B", "disable": quiet}
    if sys.stderr.isatty():
        return tqdm(**shown, file=sys.stderr, dynamic_ncols=True)
    return tqdm(**shown, file=_Lines(), mininterval=EVERY, ncols=100, ascii=True)


def steps(label: str, total: int) -> Callable[[int, float], None]:
    """Return a callback (step, loss) for a training loop of `total` steps that advances a progress bar."""
    shown = bar(label, total)

    def advance(step: int, loss: float) -> None:
        shown.set_postfix_str(f"loss {loss:.3f}", refresh=False)
        shown.update(1)
        if step + 1 == total:
            shown.close()

    return advance


class Passes:
    """One progress bar in bytes over several passes over files; a context manager, thread-safe."""

    def __init__(self, total: int, quiet: bool = False) -> None:
        """Start at 0 of `total` bytes, read and written in all passes together; `quiet` shows nothing."""
        self._bar, self._lock = bar("read", total, "B", quiet), threading.Lock()

    def __call__(self, count: int) -> None:
        """Advance the bar by a number of bytes."""
        with self._lock:
            self._bar.update(count)

    def begin(self, label: str) -> None:
        """Label the bar with the pass that begins."""
        with self._lock:
            self._bar.set_description(label, refresh=False)

    def print(self, text: str) -> None:
        """Print lines to stdout, above the bar if both share a terminal."""
        with self._lock, contextlib.suppress(OSError):
            tqdm.write(visible(text))
            sys.stdout.flush()

    def __enter__(self) -> Passes:
        """Show the bar."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close the bar, at 100 % without an error: the expected total is an estimate."""
        if kind is None:
            self._bar.total = self._bar.n
        self._bar.close()


def no_progress(count: int) -> None:
    """Ignore progress: the default callback."""
