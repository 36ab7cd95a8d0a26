"""Show the progress of long steps: a bar on a terminal, whole lines elsewhere (several jobs share one log). No torch."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

from tqdm import tqdm

Progress = Callable[[int], object]  # called with a number of bytes that were read or written
EVERY = 5.0  # seconds between two lines


class _Lines:
    """Turn tqdm's carriage returns into lines."""

    def write(self, text: str) -> None:
        if text.strip():
            print(text.strip(), file=sys.stderr, flush=True)

    def flush(self) -> None:
        sys.stderr.flush()


def bar(what: str, total: int, unit: str = "it") -> tqdm:
    """Return a progress bar with rate and time left on stderr; where that is no terminal, a line every few seconds."""
    scale = unit == "B"
    if sys.stderr.isatty():
        return tqdm(total=total, desc=what, unit=unit, unit_scale=scale, file=sys.stderr, dynamic_ncols=True)
    return tqdm(total=total, desc=what, unit=unit, unit_scale=scale, file=_Lines(), mininterval=EVERY, ncols=100, ascii=True)


def steps(what: str, total: int) -> Callable[[int, float], None]:
    """Return a callback for (step, loss) of a training that moves a bar."""
    shown = bar(what, total)

    def advance(step: int, loss: float) -> None:
        shown.set_postfix_str(f"loss {loss:.3f}", refresh=False)
        shown.update(1)
        if step + 1 == total:
            shown.close()

    return advance


class Passes:
    """One bar in bytes over several passes over the same files, in a `with`; called with a number of bytes, by any thread."""

    def __init__(self, total: int) -> None:
        """Expect `total` bytes over all passes, read and written."""
        self._bar, self._lock = bar("read", total, "B"), threading.Lock()

    def __call__(self, count: int) -> None:
        """Move the bar by a number of bytes."""
        with self._lock:
            self._bar.update(count)

    def begin(self, what: str) -> None:
        """Name the pass that begins."""
        with self._lock:
            self._bar.set_description(what, refresh=False)

    def print(self, text: str) -> None:
        """Print whole lines on stdout, above the bar if it is on the same terminal."""
        with self._lock:
            tqdm.write(text)

    def __enter__(self) -> Passes:
        """Show the bar."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End the bar; at 100 % if all went well, since what was read and written then is the whole."""
        if kind is None:
            self._bar.total = self._bar.n
        self._bar.close()


def no_progress(count: int) -> None:
    """Show no progress."""
