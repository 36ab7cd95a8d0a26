"""Try again what may work later, and only that: waits that double, with jitter, and those that a server asks for. No torch."""

from __future__ import annotations

import email.utils
import random
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from tqdm import tqdm

from nan_merge.core.errors import UserError

T = TypeVar("T")
PROGRESS = 1 << 20  # bytes that make an attempt count as progress
PASSING = (408, 425, 429, 500, 502, 503, 504)  # answers that may be others later


@dataclass(frozen=True)
class RetryPolicy:
    """How long to try: attempts in a row without progress; waits and timeouts in seconds."""

    attempts: int = 6
    first: float = 1.0  # the wait before the second attempt; every further one is twice as long
    longest: float = 60.0
    asked: float = 900.0  # the longest wait that a server may ask for
    connect: float = 10.0
    read: float = 30.0


RETRY_POLICY = RetryPolicy()


class TransientError(Exception):
    """What another attempt may mend, after `wait` seconds if the server asks for that; it counts as `weight` attempts."""

    def __init__(self, reason: str, wait: float = 0.0, weight: int = 1) -> None:
        super().__init__(reason)
        self.wait, self.weight = wait, weight


class PermanentError(UserError):
    """What no other attempt mends; `status` is that of the answer, `code` a hub's word for the reason."""

    def __init__(self, message: str, status: int = 0, code: str = "") -> None:
        super().__init__(message)
        self.status, self.code = status, code


def with_retries(what: str, attempt: Callable[[], T], reached: Callable[[], int] = lambda: 0) -> T:
    """Return what `attempt` returns, called again as long as it raises TransientError and patience lasts.

    `reached` counts the bytes that have arrived: an attempt that brings many starts the count of attempts anew. Raises
    UserError at the end of patience; everything but TransientError passes.
    """
    spent, before = 0, reached()
    while True:
        try:
            return attempt()
        except TransientError as trouble:
            if reached() - before >= PROGRESS:
                spent, before = 0, reached()
            spent += trouble.weight
            if trouble.wait > RETRY_POLICY.asked:
                raise UserError(f"{what}: {trouble}, and asks for {trouble.wait:,.0f} s; run again then") from None
            if spent >= RETRY_POLICY.attempts:
                kept = "what has arrived is kept, run again later to go on"
                raise UserError(f"{what}: {trouble}, again and again; {kept}") from None
            doubled = min(RETRY_POLICY.first * 2.0 ** (spent - 1), RETRY_POLICY.longest)
            wait = trouble.wait + doubled * random.uniform(0.5, 1)
            log(f"{what}: {trouble}; once more in {wait:.0f} s")
            time.sleep(wait)


def failure(what: str, status: int, headers: Mapping[str, str]) -> TransientError | PermanentError:
    """Return the error that an answer's status stands for; `headers` are looked up in lower case."""
    if status in PASSING:
        return TransientError(f"the server answers {status}", asked_wait(headers))
    code = headers.get("x-error-code", "")
    return PermanentError(f"{what}: the server answers {status}{f' ({code})' if code else ''}", status, code)


def asked_wait(headers: Mapping[str, str]) -> float:
    """Return the seconds that a server asks to wait: Retry-After as a number or a date, or the `t` of RateLimit; else 0."""
    after = headers.get("retry-after", "").strip()
    if after.isdigit():
        return float(after)
    try:
        when = email.utils.parsedate_to_datetime(after)
    except ValueError:
        limit = re.search(r";\s*t\s*=\s*(\d+)", headers.get("ratelimit", ""))
        return float(limit[1]) if limit else 0.0
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


def log(text: str) -> None:
    """Print one line on stderr, above a progress bar if there is one."""
    tqdm.write(text, file=sys.stderr)
