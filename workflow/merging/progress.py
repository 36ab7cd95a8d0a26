"""Show the progress of long steps as whole lines, since several jobs share one terminal and one log. No torch."""

from __future__ import annotations

import sys
from collections.abc import Callable

from tqdm import tqdm

EVERY = 5.0  # seconds between two lines


class _Lines:
    """Turn tqdm's carriage returns into lines."""

    def write(self, text: str) -> None:
        if text.strip():
            print(text.strip(), file=sys.stderr, flush=True)

    def flush(self) -> None:
        sys.stderr.flush()


def bar(what: str, total: int, unit: str = "it") -> tqdm:
    """Return a progress bar that prints a line with rate and time left every few seconds."""
    scale = unit == "B"
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
