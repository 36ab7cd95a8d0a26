"""Errors of a download and the retries after those that may pass: exponential backoff with jitter, and Retry-After."""

from __future__ import annotations

import random
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TypeVar, cast

from tqdm import tqdm

from nan_merge.core.errors import UserError
from nan_merge.core.escape import visible

T = TypeVar("T")
PROGRESS = 1 << 20  # bytes of one attempt that reset the count of attempts
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)  # HTTP statuses that may pass


@dataclass(frozen=True)
class RetryPolicy:
    """Limits of the retries: `attempts` in a row without progress; waits and timeouts in seconds."""

    attempts: int = 6
    first_wait: float = 1.0  # before the second attempt; doubled before each further one
    longest_wait: float = 60.0
    longest_retry_after: float = 900.0  # a server that asks for more ends the retries
    connect_timeout: float = 10.0
    read_timeout: float = 30.0  # between two pieces of an answer
    answer_timeout: float = 300.0  # for an answer up to its content
    pace_time: float = 60.0  # in which an attempt receives at least `pace_bytes`
    pace_bytes: int = 60 << 10


RETRY_POLICY = RetryPolicy()


class TransientError(Exception):
    """An error that may pass: retried after at least `wait` seconds, counted as `weight` attempts."""

    def __init__(self, reason: str, wait: float = 0.0, weight: int = 1) -> None:
        super().__init__(reason)
        self.wait, self.weight = wait, weight


class NoHost(TransientError):
    """The name of a host cannot be resolved; tried once more, since a name server may be slow."""

    def __init__(self, host: str, reason: str) -> None:
        super().__init__(f"the host {host} cannot be found ({reason}): no network here, or a wrong address", weight=3)


class Offline(UserError):
    """The retries ended with a NoHost."""


class PermanentError(UserError):
    """An error that no retry removes; `code` is the X-Error-Code of a hub, `Changed`, or the HTTP status."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class Pace:
    """Gives up an attempt that receives content too slowly: a server that sends a byte now and then never times out."""

    def __init__(self) -> None:
        self._start, self._count = time.monotonic(), 0

    def received(self, count: int) -> None:
        """Add a number of bytes; TransientError if the last `pace_time` seconds brought fewer than `pace_bytes`."""
        self._count += count
        seconds = time.monotonic() - self._start
        if seconds >= RETRY_POLICY.pace_time:
            if self._count < RETRY_POLICY.pace_bytes:
                raise TransientError(f"only {self._count:,} bytes in {seconds:,.0f} s")
            self._start, self._count = time.monotonic(), 0


def within(call: Callable[[], T]) -> T:
    """Return the result of a call; TransientError if it takes longer than `answer_timeout`.

    The call then goes on in a thread that does not keep the process alive.
    """
    outcome: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()

    def work() -> None:
        try:
            outcome.put((call(), None))
        except BaseException as error:
            outcome.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        value, error = outcome.get(timeout=RETRY_POLICY.answer_timeout)
    except Empty:
        raise TransientError(f"no complete answer in {RETRY_POLICY.answer_timeout:,.0f} s") from None
    if error is not None:
        raise error
    return cast(T, value)


def with_retries(what: str, attempt: Callable[[], T], reached: Callable[[], int] = lambda: 0, attempts: int | None = None) -> T:
    """Return the result of `attempt`, called again after a TransientError, at most `attempts` times (default: the policy's).

    `reached` returns the bytes received so far; an attempt that adds `PROGRESS` bytes resets the count. Raises UserError
    after the last attempt, and for a Retry-After above the limit.
    """
    failed, before = 0, reached()
    while True:
        try:
            return attempt()
        except TransientError as error:
            if reached() - before >= PROGRESS:
                failed, before = 0, reached()
            failed += error.weight
            if error.wait > RETRY_POLICY.longest_retry_after:
                raise UserError(f"{what}: {error}, retry after {error.wait:,.0f} s; run again then") from None
            if failed >= (attempts or RETRY_POLICY.attempts) and isinstance(error, NoHost):
                raise Offline(f"{what}: {error}; connect or correct it, and run again") from None
            if failed >= (attempts or RETRY_POLICY.attempts):
                raise UserError(f"{what}: {error}; given up, run again to resume (the bytes received are kept)") from None
            backoff = min(RETRY_POLICY.first_wait * 2.0 ** (failed - 1), RETRY_POLICY.longest_wait)
            wait = error.wait + backoff * random.uniform(0.5, 1)
            log(f"{what}: {error}; next attempt in {wait:.0f} s")
            time.sleep(wait)


def resolution_failed(error: BaseException) -> str | None:
    """Return the reason if an error goes back to a name that cannot be resolved, else None."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, socket.gaierror):
        cause = cause.__cause__ or cause.__context__
    return None if cause is None else str(cause.strerror)


def status_error(what: str, status: int, headers: Mapping[str, str], code: str = "") -> TransientError | PermanentError:
    """Return the error of an HTTP status; `code` stands in where the headers (keys in lower case) have no X-Error-Code."""
    if status in TRANSIENT:
        return TransientError(f"HTTP status {status}", retry_after(headers))
    code = headers.get("x-error-code") or code
    return PermanentError(f"{what}: HTTP status {status}{f' ({code})' if code else ''}", code or str(status))


def retry_after(headers: Mapping[str, str]) -> float:
    """Return the wait in seconds of Retry-After (a number or a date) or of RateLimit (its `t`); none: 0."""
    from urllib3.exceptions import InvalidHeader
    from urllib3.util import Retry

    try:
        return float(Retry().parse_retry_after(headers.get("retry-after", "")))
    except (InvalidHeader, ValueError, OverflowError):
        limit = re.search(r";\s*t\s*=\s*([0-9]{1,9})\b", headers.get("ratelimit", ""))
        return float(limit[1]) if limit else 0.0


def log(text: str) -> None:
    """Print one line on stderr, above a progress bar if there is one."""
    tqdm.write(visible(text), file=sys.stderr)
